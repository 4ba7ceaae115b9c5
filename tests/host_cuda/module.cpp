// The launch layer of csrc/cuda, bound for tests: NumPy arrays in and out, without torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/distance_transform.cuh"
#include "cuda/launch.cuh"
#include "cuda/ratio.cuh"
#include "cuda_on_host.h"

namespace py = pybind11;

namespace geoloss::cuda {
namespace {

// An array of the elements' bits, and the name of the dtype that torch reads them as.
using Tensor = std::pair<py::array, std::string>;

DType dtype_of(const std::string& name) {
  static const std::vector<std::string> names = {"float64", "float32", "float16", "bfloat16", "bool",
                                                 "uint8",   "uint16",  "uint32",  "uint64",   "int8",
                                                 "int16",   "int32",   "int64"};
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) throw py::value_error("dtype: got " + name);
  return static_cast<DType>(found - names.begin());
}

// [N, C, *spatial] as [N, C, D, H, W], D = 1 in 2-D; a size of 1 is repeated.
TensorView view_of(const Tensor& tensor) {
  const auto& [array, dtype] = tensor;
  const auto stride = [&](py::ssize_t axis) { return array.strides(axis) / array.itemsize(); };
  const auto repeated = [&](py::ssize_t axis) { return array.shape(axis) == 1 ? 0 : stride(axis); };
  const py::ssize_t axes = array.ndim();
  return {const_cast<void*>(array.data()), dtype_of(dtype),  repeated(0),     repeated(1),
          axes == 5 ? stride(2) : 0,       stride(axes - 2), stride(axes - 1)};
}

// N, C, D, H, W of [N, C, *spatial]; how many axes are spatial.
template <class Params>
int64_t set_shape(Params& p, const py::array& array) {
  const int64_t spatial = array.ndim() - 2;
  p.N = array.shape(0);
  p.C = array.shape(1);
  p.D = spatial == 3 ? array.shape(2) : 1;
  p.H = array.shape(spatial);
  p.W = array.shape(spatial + 1);
  return spatial;
}

// The terms of a stream of kinds, counts, integers and of parameters, as checks.h reads them.
void read_terms(const std::vector<int64_t>& terms, const std::vector<double>& parameters, GeoSumsParams& p) {
  auto integer = terms.begin();
  auto parameter = parameters.begin();
  while (integer != terms.end()) {
    if (p.term_count == kMaxTerms) throw py::value_error("terms: too many");
    Term& term = p.terms[p.term_count++];
    term.kind = static_cast<TermKind>(*integer);
    const int64_t* const own = &*integer + 3;
    if (reads_map(term.kind)) term.map = static_cast<int32_t>(*own);
    for (int axis = 0; is_stencil(term.kind) && axis < 3; ++axis) {
      term.axis_chosen[axis] = is_first_order(term.kind) && (*own >> axis & 1);
      term.inverse_spacing[axis] = 1 / parameter[axis];
    }
    parameter += integer[2];
    integer += 3 + integer[1];
  }
}

// The arguments of geo_sums, which have to outlive it.
struct Arguments {
  GeoSumsParams params{};

  Arguments(const Tensor& input, const Tensor& target, const std::optional<Tensor>& mask,
            const std::vector<Tensor>& maps, const std::vector<int64_t>& terms,
            const std::vector<double>& parameters, int activation, std::optional<int64_t> ignore_index,
            bool include_background) {
    GeoSumsParams& p = params;
    set_shape(p, input.first);
    p.input = view_of(input);
    p.target = view_of(target);
    p.label_map = p.C > 1 && target.first.shape(1) == 1;
    if (mask) p.mask = view_of(*mask);
    if (maps.size() > kMaxMaps) throw py::value_error("maps: too many");
    std::transform(maps.begin(), maps.end(), p.maps, view_of);
    p.activation = static_cast<Activation>(activation);
    p.has_ignore_index = ignore_index.has_value();
    p.ignore_index = static_cast<double>(ignore_index.value_or(0));
    p.first_channel = include_background ? 0 : 1;
    read_terms(terms, parameters, p);
  }
};

// The arguments of geo_ratio beside the sums.
class RatioNumbers {
 public:
  RatioNumbers(std::optional<py::array> channel_weights, const std::vector<int64_t>& fractions,
               std::vector<double> weights, int reduction)
      : channel_weights_(std::move(channel_weights)),
        weights_(std::move(weights)),
        reduction_(static_cast<Reduction>(reduction)) {
    const size_t count = fractions.size() / kFractionIntegers, row = weights_.size() / count / 2;
    for (size_t j = 0; j < count; ++j) {
      const int64_t* const integers = fractions.data() + j * kFractionIntegers;
      const double* const numerator = weights_.data() + 2 * j * row;
      fractions_.push_back({static_cast<Pooling>(integers[0]), static_cast<int32_t>(integers[1]),
                            static_cast<int32_t>(integers[2]), static_cast<int32_t>(integers[3]), numerator,
                            numerator + row});
    }
  }
  RatioNumbers(const RatioNumbers&) = delete;  // the fractions point into the weights

  RatioArguments arguments() const {
    return {fractions_.data(), static_cast<int64_t>(fractions_.size()), reduction_,
            channel_weights_ ? channel_weights_->data() : nullptr};
  }

 private:
  std::optional<py::array> channel_weights_;
  std::vector<double> weights_;
  std::vector<Fraction> fractions_;
  Reduction reduction_;
};

void check(cudaError_t error) {
  if (error != cudaSuccess) throw py::value_error("cudaError_t " + std::to_string(error));
}

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// sums: [N, C', K]
template <class T>
void forward(const Arguments& arguments, Array<T> sums) {
  const LaunchParams params = launch_params<T>(arguments.params, false);
  std::vector<unsigned char> workspace(workspace_bytes<T>(params), 0xff);  // NaN
  check(launch_forward<T>(params, workspace.data(), sums.mutable_data(), nullptr));
}

template <class T>
void loss(const Arguments& arguments, const RatioNumbers& ratio, Array<T> sums, Array<T> loss) {
  const LaunchParams params = launch_params<T>(arguments.params, false);
  std::vector<unsigned char> workspace(workspace_bytes<T>(params), 0xff);  // NaN
  check(launch_loss<T>(params, ratio.arguments(), workspace.data(), sums.mutable_data(), loss.mutable_data(),
                       nullptr));
}

template <class T>
void backward(const Arguments& arguments, Array<T> grad_sums, const Tensor& grad_input) {
  GeoSumsParams tensors = arguments.params;
  tensors.grad_sums = grad_sums.data();
  tensors.grad_input = view_of(grad_input);
  check(launch_backward<T>(launch_params<T>(tensors, true), nullptr));
}

// sums: [N, C, K]; loss: one number, or one for each group
template <class T>
void ratio(const RatioNumbers& ratio, Array<T> sums, Array<T> loss) {
  check(launch_ratio<T>(ratio.arguments(), sums.data(), sums.shape(0), sums.shape(1), sums.shape(2),
                        loss.mutable_data(), nullptr));
}

template <class T>
void ratio_backward(const RatioNumbers& ratio, Array<T> grad_loss, Array<T> sums, Array<T> grad_sums) {
  check(launch_ratio_backward<T>(ratio.arguments(), grad_loss.data(), sums.data(), sums.shape(0),
                                 sums.shape(1), sums.shape(2), grad_sums.mutable_data(), nullptr));
}

template <class T>
void run_distance_transform(const DistanceParams& params) {
  std::vector<unsigned char> workspace(distance_workspace_bytes<T>(params), 0xff);  // NaN
  check(launch_distance_transform<T>(params, workspace.data(), nullptr));
}

// distance: of Out and the mask's shape; nearest: the same, int64
template <class Out>
void distance_transform(const Tensor& mask, const std::vector<double>& spacing, int side,
                        double without_boundary, Array<Out> distance, std::optional<Array<int64_t>> nearest) {
  DistanceParams p{};
  const int64_t spatial = set_shape(p, mask.first);
  p.mask = view_of(mask);
  p.spacing[0] = spacing[0];
  std::copy(spacing.begin(), spacing.end(), p.spacing + 3 - spatial);
  p.side = static_cast<Side>(side);
  p.without_boundary = without_boundary;
  p.fp64 = sizeof(Out) == 8;
  p.distance = distance.mutable_data();
  if (nearest) p.nearest = nearest->mutable_data();
  (fp32_is_exact(p) ? run_distance_transform<float> : run_distance_transform<double>)(p);
}

// A copy or a conversion would hide where the kernels write.
template <class T>
void bind(py::module_& m) {
  m.def("forward", &forward<T>, py::arg("arguments"), py::arg("sums").noconvert());
  m.def("loss", &loss<T>, py::arg("arguments"), py::arg("ratio"), py::arg("sums").noconvert(),
        py::arg("loss").noconvert());
  m.def("backward", &backward<T>, py::arg("arguments"), py::arg("grad_sums").noconvert(),
        py::arg("grad_input"));
  m.def("ratio", &ratio<T>, py::arg("ratio"), py::arg("sums").noconvert(), py::arg("loss").noconvert());
  m.def("ratio_backward", &ratio_backward<T>, py::arg("ratio"), py::arg("grad_loss").noconvert(),
        py::arg("sums").noconvert(), py::arg("grad_sums").noconvert());
  m.def("distance_transform", &distance_transform<T>, py::arg("mask"), py::arg("spacing"), py::arg("side"),
        py::arg("without_boundary"), py::arg("distance").noconvert(), py::arg("nearest").noconvert());
}

void set_schedule(const std::string& order, uint64_t seed) {
  using cuda_on_host::Order;
  if (order != "forward" && order != "reverse" && order != "random")
    throw py::value_error("order: got " + order);
  cuda_on_host::set_schedule(order == "forward"   ? Order::kForward
                             : order == "reverse" ? Order::kReverse
                                                  : Order::kRandom,
                             seed);
}

py::dict statistics() {
  const cuda_on_host::Statistics& s = cuda_on_host::statistics();
  py::dict counts;
  counts["launches"] = s.launches;
  counts["threads"] = s.threads;
  counts["barriers"] = s.barriers;
  counts["exchanges"] = s.exchanges;
  return counts;
}

}  // namespace
}  // namespace geoloss::cuda

PYBIND11_MODULE(cuda_on_host, m) {
  using namespace geoloss::cuda;
  py::register_exception<cuda_on_host::Error>(m, "Error", PyExc_RuntimeError);
  py::class_<Arguments>(m, "Arguments")
      .def(py::init<const Tensor&, const Tensor&, const std::optional<Tensor>&, const std::vector<Tensor>&,
                    const std::vector<int64_t>&, const std::vector<double>&, int, std::optional<int64_t>,
                    bool>(),
           py::keep_alive<1, 2>(), py::keep_alive<1, 3>(), py::keep_alive<1, 4>(), py::keep_alive<1, 5>());
  py::class_<RatioNumbers>(m, "RatioNumbers")
      .def(py::init<std::optional<py::array>, const std::vector<int64_t>&, std::vector<double>, int>());
  bind<float>(m);
  bind<double>(m);
  m.def("set_schedule", &set_schedule);
  m.def("statistics", &statistics);
}
