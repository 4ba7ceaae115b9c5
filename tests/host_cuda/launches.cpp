// Launches every kernel on tensors that are exactly as large as they say, under each schedule, for the
// sanitizers to watch. Fails where a result is not a number or depends on the schedule.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/distance_transform.cuh"
#include "cuda/launch.cuh"
#include "cuda/ratio.cuh"
#include "cuda_on_host.h"

namespace geoloss::cuda {
namespace {

using Terms = std::vector<Term>;
using Kind = TermKind;

Terms plain(std::initializer_list<Kind> kinds) {
  Terms terms;
  for (const Kind kind : kinds) terms.push_back({kind, 0, {}, {}});
  return terms;
}

// Along all axes, the voxels `spacing` apart along z.
Term stencil_term(Kind kind, double spacing = 1) {
  return {kind, 0, {true, true, true}, {1 / spacing, 1, 1}};
}

Terms joined(std::initializer_list<Terms> lists) {
  Terms all;
  for (const Terms& terms : lists) all.insert(all.end(), terms.begin(), terms.end());
  return all;
}

const Terms kFog{stencil_term(Kind::kFirstOrderForwardL2)};
const Terms kDice = plain({Kind::kIntersection, Kind::kPrediction, Kind::kTarget});
const Terms kCrossEntropy = plain({Kind::kCrossEntropyForeground, Kind::kCrossEntropyBackground});
const Terms kDiceAndFog = joined({kDice, kFog, plain({Kind::kCount})});
const Terms kDiceAndCrossEntropy = joined({kDice, kCrossEntropy});
const Terms kDiceCrossEntropyAndFog = joined({kDiceAndCrossEntropy, kFog});
const Terms kDiceAndSoftmaxCrossEntropy = joined({kDice, plain({Kind::kCrossEntropyForeground})});
const Terms kSmoothed =
    joined({kDice, plain({Kind::kCrossEntropyForeground, Kind::kCrossEntropyUniform}), kFog});
const Terms kDiceAndSog = joined({kDice, {stencil_term(Kind::kSecondOrder)}, plain({Kind::kCount})});
const Terms kStencils{
    stencil_term(Kind::kFirstOrderForwardL2), stencil_term(Kind::kFirstOrderForwardL2, 3),
    stencil_term(Kind::kFirstOrderForwardL1), stencil_term(Kind::kFirstOrderCentralL2Squared),
    stencil_term(Kind::kFirstOrderCentralL1), stencil_term(Kind::kSecondOrder, 0.5),
    stencil_term(Kind::kSecondOrderTwoSided), stencil_term(Kind::kSecondOrderTwoSidedSigned)};
const Terms kVoxelwise =
    joined({plain({Kind::kCount, Kind::kPredictionSquared, Kind::kTargetSquared, Kind::kAbsoluteError,
                   Kind::kSquaredError, Kind::kCrossEntropyUniform}),
            kCrossEntropy,
            {{Kind::kMapPrediction, 0, {}, {}},
             {Kind::kMapPrediction, 1, {}, {}},
             {Kind::kMapSquaredError, 1, {}, {}}}});

struct Case {
  int64_t N, C, D, H, W;
  DType input, target;
  Activation activation;
  bool masked, labels;  // both: a label is ignored, too
  Terms terms;
  int64_t misplaced = 0;  // elements between an allocation's start and the tensor's
};

// A dense tensor [N, C, D, H, W] at the end of its allocation.
class Tensor {
 public:
  Tensor(const Case& c, DType dtype, int64_t channels)
      : count_(c.N * channels * c.D * c.H * c.W),
        misplaced_(c.misplaced),
        memory_(new unsigned char[(count_ + misplaced_) * size_of(dtype)]) {
    const int64_t plane = c.H * c.W, volume = c.D * plane;
    view_ = {memory_.get() + misplaced_ * size_of(dtype),
             dtype,
             channels * volume,
             channels == 1 ? 0 : volume,
             plane,
             c.W,
             1};
    if (c.N == 1) view_.stride_n = 0;
  }

  // value() for each element
  template <class Function>
  void fill(Function value) {
    for (int64_t i = 0; i < count_; ++i) {
      switch (view_.dtype) {
        case DType::kUInt8: static_cast<uint8_t*>(view_.data)[i] = static_cast<uint8_t>(value()); break;
        case DType::kInt64: static_cast<int64_t*>(view_.data)[i] = static_cast<int64_t>(value()); break;
        default: store_element(view_, i, static_cast<double>(value()));
      }
    }
  }

  const TensorView& view() const { return view_; }

  std::vector<double> values() const {
    std::vector<double> all(count_);
    for (int64_t i = 0; i < count_; ++i) all[i] = load_element<double>(view_, i);
    return all;
  }

 private:
  int64_t count_, misplaced_;
  std::unique_ptr<unsigned char[]> memory_;
  TensorView view_;
};

template <class T>
std::unique_ptr<T[]> not_a_number(int64_t count) {
  std::unique_ptr<T[]> values(new T[count]);
  for (int64_t i = 0; i < count; ++i) values[i] = NAN;
  return values;
}

void check(cudaError_t error) {
  if (error != cudaSuccess) throw cuda_on_host::Error("cudaError_t " + std::to_string(error));
}

// Fractions of K sums in C channels, of each pooling in turn and with channel weights; without a reduction,
// of volumes alone.
template <class T>
class RatioCase {
 public:
  RatioCase(int64_t C, int64_t K, int64_t count, Reduction reduction)
      : C_(C), K_(K), reduction_(reduction), channel_weights_(new T[2 * C]) {
    for (int64_t i = 0; i < 2 * C; ++i) channel_weights_[i] = static_cast<T>(1 + 0.3 * i);
    for (int64_t k = 0; k <= K; ++k) numbers_.push_back(k % 3 == 1 ? 0 : 1 + 0.1 * k);
    const auto last = static_cast<int32_t>(C > 1);
    for (int64_t j = 0; j < count; ++j) {
      const auto pooling = static_cast<Pooling>(reduction == Reduction::kNone ? 0 : j % 3);
      const int32_t of_denominator = pooling == Pooling::kAll ? 1 : kUnweighted;
      fractions_.push_back({pooling, last, static_cast<int32_t>(j % 2) - 1 + last, of_denominator,
                            numbers_.data(), numbers_.data()});
    }
  }

  RatioArguments arguments() const {
    return {fractions_.data(), static_cast<int64_t>(fractions_.size()), reduction_, channel_weights_.get()};
  }

  // The loss and its slopes. sums: [N, C, K]
  std::vector<double> run(int64_t N, const T* sums) const {
    const Fraction& first = fractions_.front();
    const int64_t losses = reduction_ == Reduction::kNone ? group_count(first, N, C_) : 1;
    const auto loss = not_a_number<T>(losses), grad_sums = not_a_number<T>(N * C_ * K_);
    check(launch_ratio<T>(arguments(), sums, N, C_, K_, loss.get(), nullptr));
    check(launch_ratio_backward<T>(arguments(), loss.get(), sums, N, C_, K_, grad_sums.get(), nullptr));
    std::vector<double> results(loss.get(), loss.get() + losses);
    results.insert(results.end(), grad_sums.get(), grad_sums.get() + N * C_ * K_);
    return results;
  }

 private:
  int64_t C_, K_;
  Reduction reduction_;
  std::unique_ptr<T[]> channel_weights_;  // [2, C]
  std::vector<double> numbers_;
  std::vector<Fraction> fractions_;
};

template <class T>
class Launches {
 public:
  explicit Launches(const Case& c)
      : input_(c, c.input, c.C),
        target_(c, c.target, c.labels ? 1 : c.C),
        mask_(c, DType::kUInt8, 1),
        map_(c, DType::kFloat32, c.C),
        shared_map_(c, DType::kFloat16, 1),
        grad_input_(c, c.input, c.C) {
    std::mt19937 random(1);
    std::uniform_real_distribution<double> uniform(0.05, 0.95);
    input_.fill([&] { return uniform(random); });
    target_.fill([&] { return c.labels ? random() % 4 : random() % 2; });
    mask_.fill([&] { return random() % 4 != 0; });
    map_.fill([&] { return uniform(random); });
    shared_map_.fill([&] { return uniform(random); });
    p_.N = c.N, p_.C = c.C, p_.D = c.D, p_.H = c.H, p_.W = c.W;
    p_.input = input_.view(), p_.target = target_.view();
    p_.maps[0] = map_.view(), p_.maps[1] = shared_map_.view();
    if (c.masked) p_.mask = mask_.view();
    p_.label_map = c.labels && c.C > 1;
    p_.has_ignore_index = c.masked && c.labels;
    p_.ignore_index = 3;
    p_.activation = c.activation;
    p_.term_count = static_cast<int64_t>(c.terms.size());
    std::copy(c.terms.begin(), c.terms.end(), p_.terms);
  }

  // Sums, loss, the slopes of the loss with respect to the sums, and the gradient.
  std::vector<double> run() {
    const int64_t numbers = p_.N * p_.C * p_.term_count;
    const RatioCase<T> ratio(p_.C, p_.term_count, 3, Reduction::kMean);
    const auto sums = not_a_number<T>(numbers), sums_again = not_a_number<T>(numbers);
    const auto loss = not_a_number<T>(1), grad_sums = not_a_number<T>(numbers);
    const LaunchParams params = launch_params<T>(p_, false);
    const auto workspace = not_a_number<T>(static_cast<int64_t>(workspace_bytes<T>(params) / sizeof(T)));
    check(launch_forward<T>(params, workspace.get(), sums_again.get(), nullptr));
    check(launch_loss<T>(params, ratio.arguments(), workspace.get(), sums.get(), loss.get(), nullptr));
    std::vector<double> results = ratio.run(p_.N, sums.get());
    if (loss[0] < results[0] || loss[0] > results[0])
      throw cuda_on_host::Error("the loss depends on how many launches it takes");
    check(launch_ratio_backward<T>(ratio.arguments(), loss.get(), sums.get(), p_.N, p_.C, p_.term_count,
                                   grad_sums.get(), nullptr));
    grad_input_.fill([] { return NAN; });
    GeoSumsParams backward = p_;
    backward.grad_sums = grad_sums.get();
    backward.grad_input = grad_input_.view();
    check(launch_backward<T>(launch_params<T>(backward, true), nullptr));
    const std::vector<double> gradient = grad_input_.values();
    results.insert(results.end(), gradient.begin(), gradient.end());
    results.insert(results.end(), sums.get(), sums.get() + numbers);
    results.insert(results.end(), sums_again.get(), sums_again.get() + numbers);
    return results;
  }

 private:
  Tensor input_, target_, mask_, map_, shared_map_, grad_input_;
  GeoSumsParams p_{};
};

void check(const std::vector<double>& results, const std::vector<double>& expected) {
  for (size_t i = 0; i < results.size(); ++i) {
    if (!std::isfinite(results[i]))
      throw cuda_on_host::Error("result " + std::to_string(i) + " is not a number");
    if (results[i] != expected[i]) {
      throw cuda_on_host::Error("result " + std::to_string(i) + " depends on the schedule");
    }
  }
}

// launch(): results, the same under every schedule
template <class Launch>
void run_under_schedules(Launch launch) {
  using cuda_on_host::Order;
  cuda_on_host::set_schedule(Order::kForward, 0);
  const std::vector<double> expected = launch();
  check(expected, expected);
  for (const Order order : {Order::kReverse, Order::kRandom}) {
    cuda_on_host::set_schedule(order, 1);
    check(launch(), expected);
  }
}

template <class T>
void run(const Case& c) {
  Launches<T> launches(c);
  run_under_schedules([&] { return launches.run(); });
}

std::vector<Case> cases() {
  constexpr auto f64 = DType::kFloat64, f32 = DType::kFloat32, f16 = DType::kFloat16, bf16 = DType::kBFloat16,
                 u8 = DType::kUInt8, i64 = DType::kInt64;
  constexpr auto none = Activation::kNone, sigmoid = Activation::kSigmoid, softmax = Activation::kSoftmax;
  std::vector<Case> all{
      // The kernel for every option: odd sizes, of more than one tile along each axis
      {1, 1, 5, 9, 33, f32, f32, none, false, false, kStencils},
      {1, 1, 5, 9, 33, f32, u8, sigmoid, true, false, kStencils},
      {1, 2, 5, 9, 33, f16, u8, softmax, true, true, kDiceAndSog},
      {1, 2, 3, 5, 33, f64, f64, softmax, true, false, kStencils},
      {1, 1, 3, 5, 33, f64, u8, sigmoid, false, false, kDiceAndFog},
      {2, 3, 2, 3, 4, bf16, bf16, softmax, false, false, kVoxelwise},
      {2, 1, 1, 3, 7, f32, f32, sigmoid, false, false, kVoxelwise},
      {1, 1, 1, 1, 1, f32, f32, sigmoid, false, false, kStencils},
      {1, 3, 3, 9, 33, f32, u8, softmax, true, true, kDiceAndCrossEntropy},
      {1, 3, 3, 9, 33, f64, f64, none, true, false, kDiceCrossEntropyAndFog},
      // The marching kernel: several tiles along each axis, in rows of whole vectors and others; an image
      {1, 1, 36, 40, 72, f32, f32, sigmoid, false, false, kDiceAndFog},
      {1, 1, 20, 30, 71, f16, f16, none, false, false, kDiceAndFog, 1},
      {1, 1, 18, 3, 1100, bf16, u8, sigmoid, false, false, kDice},
      {1, 1, 1, 40, 35, f32, i64, sigmoid, false, false, kDiceAndFog},
  };
  // What training asks for
  for (const DType dtype : {f32, f16, bf16}) {
    for (const Terms& terms : {kFog, kCrossEntropy, kDiceAndCrossEntropy, kDiceCrossEntropyAndFog}) {
      all.push_back({1, 1, 6, 10, 64, dtype, u8, sigmoid, false, false, terms});
    }
    all.push_back({1, 1, 5, 9, 32, dtype, f32, none, false, false, kDiceCrossEntropyAndFog});
    for (const Terms& terms : {kDice, kDiceAndFog, kDiceAndSog}) {
      all.push_back({2, 1, 6, 10, 64, dtype, dtype, sigmoid, false, false, terms});
      all.push_back({1, 2, 5, 9, 32, dtype, u8, sigmoid, false, false, terms});
      all.push_back({1, 1, 5, 9, 35, dtype, dtype, none, false, false, terms, 1});
      all.push_back({1, 2, 4, 7, 36, dtype, u8, softmax, false, true, terms});
    }
  }
  for (const int64_t channels : {3, 4}) {
    all.push_back({1, channels, 18, 20, 64, f32, i64, softmax, false, true, kDiceAndFog});
    all.push_back({2, channels, 3, 9, 31, f16, u8, softmax, false, true, kDiceAndFog});
    all.push_back({2, channels, 3, 9, 31, f32, u8, softmax, false, true, kDice});
    all.push_back({1, channels, 3, 9, 32, bf16, u8, softmax, false, true, kSmoothed});
    all.push_back({1, channels, 3, 9, 32, f16, u8, softmax, false, true, kDiceAndSoftmaxCrossEntropy});
    all.push_back(
        {1, channels, 3, 9, 32, f32, u8, softmax, false, true, joined({kDiceAndSoftmaxCrossEntropy, kFog})});
  }
  return all;
}

// Distances and nearest voxels of a mask with a few sites.
template <class T>
std::vector<double> distances(const Case& c, const std::vector<uint8_t>& mask, Side side) {
  const int64_t count = static_cast<int64_t>(mask.size()), plane = c.H * c.W;
  const std::unique_ptr<float[]> distance(new float[count]);
  const std::unique_ptr<int64_t[]> nearest(new int64_t[count]);
  for (int64_t i = 0; i < count; ++i) distance[i] = NAN, nearest[i] = -2;
  DistanceParams p{};
  p.N = c.N, p.C = c.C, p.D = c.D, p.H = c.H, p.W = c.W;
  p.mask = {const_cast<uint8_t*>(mask.data()), DType::kUInt8, c.C * c.D * plane, c.D * plane, plane, c.W, 1};
  for (int axis = 0; axis < 3; ++axis) p.spacing[axis] = sizeof(T) == 4 ? 1 : 1 + 0.3 * axis;
  p.side = side;
  p.without_boundary = 100;
  p.distance = distance.get();
  p.nearest = nearest.get();
  const int64_t bytes = distance_workspace_bytes<T>(p);
  const std::unique_ptr<unsigned char[]> workspace(new unsigned char[bytes]);
  std::fill_n(workspace.get(), bytes, 0xff);
  launch_distance_transform<T>(p, workspace.get(), nullptr);
  std::vector<double> results(distance.get(), distance.get() + count);
  results.insert(results.end(), nearest.get(), nearest.get() + count);
  return results;
}

template <class T>
void run_distances(const Case& c, Side side) {
  std::mt19937 random(1);
  std::vector<uint8_t> mask(c.N * c.C * c.D * c.H * c.W);
  for (uint8_t& voxel : mask) voxel = random() % 50 != 0;
  run_under_schedules([&] { return distances<T>(c, mask, side); });
}

template <class T>
void run_ratio(int64_t N, int64_t C, int64_t K, int64_t fractions, Reduction reduction) {
  const std::unique_ptr<T[]> sums(new T[N * C * K]);
  for (int64_t i = 0; i < N * C * K; ++i) sums[i] = static_cast<T>(1 + i % 7);
  const RatioCase<T> ratio(C, K, fractions, reduction);
  run_under_schedules([&] { return ratio.run(N, sums.get()); });
}

// More groups than threads, more numbers than usual, one of everything
int64_t run_all_ratios() {
  int64_t count = 0;
  for (const auto& [N, C, K, fractions] :
       {std::array<int64_t, 4>{70, 5, 3, 3}, {2, 3, kMaxTerms, kMaxFractions}, {1, 1, 1, 1}}) {
    for (const Reduction reduction : {Reduction::kNone, Reduction::kMean, Reduction::kSum}) {
      run_ratio<float>(N, C, K, fractions, reduction);
      run_ratio<double>(N, C, K, fractions, reduction);
      count += 2;
    }
  }
  return count;
}

// Lines of more than one part, rows of more than 32 voxels, an image
int64_t run_all_distances() {
  int64_t count = 0;
  for (const auto& [N, C, D, H, W] :
       {std::array<int64_t, 5>{1, 2, 5, 9, 35}, {1, 1, 70, 3, 4}, {1, 1, 1, 66, 33}, {2, 1, 1, 1, 1}}) {
    const Case c{N, C, D, H, W, DType::kFloat32, DType::kFloat32, Activation::kNone, false, false, {}};
    for (const Side side : {Side::kForeground, Side::kBoth, Side::kSigned}) {
      run_distances<float>(c, side);
      run_distances<double>(c, side);
      count += 2;
    }
  }
  return count;
}

int run_all() {
  int64_t count = 0;
  try {
    count += run_all_distances() + run_all_ratios();
  } catch (const cuda_on_host::Error& error) {
    std::printf("distances and ratios: %s\n", error.what());
    return 1;
  }
  for (const Case& c : cases()) {
    try {
      c.input == DType::kFloat64 ? run<double>(c) : run<float>(c);
    } catch (const cuda_on_host::Error& error) {
      std::printf("case %lld: %s\n", static_cast<long long>(count), error.what());
      return 1;
    }
    ++count;
  }
  std::printf("%lld cases\n", static_cast<long long>(count));
  return 0;
}

}  // namespace
}  // namespace geoloss::cuda

int main() { return geoloss::cuda::run_all(); }
