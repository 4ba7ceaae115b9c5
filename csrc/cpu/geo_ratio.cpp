// The CPU implementation of geo_ratio and its backward: a few numbers per volume, added up in fp64.
#include "../geo_ratio.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "operators.h"

namespace geoloss::cpu {
namespace {

// The sums [N, C, K] and the class weights [W, C] of a call, of type T.
template <class T>
struct Ratio {
  const T* sums;
  const T* channel_weights;
  int64_t N, C, K;

  double class_weight(int row, int64_t c) const {
    return row == kUnweighted ? 1.0 : double(channel_weights[row * C + c]);
  }

  // numbers · S + the constant, of a group's volumes and channels.
  double affine(const Fraction& f, const double* numbers, int weights, const Group& group) const {
    double total = numbers[K];
    for (int64_t n = group.n_begin; n < group.n_end; ++n) {
      for (int64_t c = group.c_begin; c < group.c_end; ++c) {
        const double weight = f.pooling == Pooling::kAll ? class_weight(weights, c) : 1.0;
        total += weight * linear(numbers, sums + (n * C + c) * K, K);
      }
    }
    return total;
  }

  double numerator(const Fraction& f, const Group& group) const {
    return affine(f, f.numerator, f.numerator_weights, group);
  }
  double denominator(const Fraction& f, const Group& group) const {
    return affine(f, f.denominator, f.denominator_weights, group);
  }

  // What a group's ratio is multiplied by.
  double factor(const Fraction& f, const Group& group) const {
    return f.pooling == Pooling::kAll ? 1.0 : class_weight(f.numerator_weights, group.c_begin);
  }

  double value(const Fraction& f, const Group& group) const {
    const double dividend = numerator(f, group), divisor = denominator(f, group);
    return dividend == 0 && divisor == 0 ? 0.0 : factor(f, group) * (dividend / divisor);
  }

  // Adds grad times the slope of a group's ratio in the sums.
  void add_slope(const Fraction& f, const Group& group, double grad, double* grad_sums) const {
    const double dividend = numerator(f, group), divisor = denominator(f, group);
    if (dividend == 0 && divisor == 0) return;
    const double ratio = dividend / divisor, scale = grad * factor(f, group) / divisor;
    for (int64_t n = group.n_begin; n < group.n_end; ++n) {
      for (int64_t c = group.c_begin; c < group.c_end; ++c) {
        const bool pools = f.pooling == Pooling::kAll;
        const double top = pools ? class_weight(f.numerator_weights, c) : 1.0;
        const double bottom = pools ? class_weight(f.denominator_weights, c) : 1.0;
        double* slope = grad_sums + (n * C + c) * K;
        for (int64_t k = 0; k < K; ++k) {
          const double share = f.denominator[k] == 0 ? 0.0 : bottom * ratio * f.denominator[k];
          slope[k] += scale * (top * f.numerator[k] - share);
        }
      }
    }
  }
};

template <class T>
Ratio<T> ratio_of(const Tensor& sums, const OptionalTensor& channel_weights) {
  const T* weights = channel_weights ? channel_weights->const_data_ptr<T>() : nullptr;
  return {sums.const_data_ptr<T>(), weights, sums.size(0), sums.size(1), sums.size(2)};
}

template <class T>
void write_ratio(const Ratio<T>& ratio, const Fractions& fractions, T* result) {
  double total = 0;
  for (const Fraction& f : fractions) {
    const int64_t groups = group_count(f, ratio.N, ratio.C);
    const double share = fractions.reduction == Reduction::kMean ? 1.0 / groups : 1.0;
    for (int64_t i = 0; i < groups; ++i) {
      const double value = ratio.value(f, group_of(f, ratio.N, ratio.C, i));
      if (fractions.reduction == Reduction::kNone) result[i] += static_cast<T>(value);
      total += share * value;
    }
    if (groups == 0) total *= share;  // the mean of nothing is not a number
  }
  if (fractions.reduction != Reduction::kNone) *result = static_cast<T>(total);
}

template <class T>
void write_slope(const Ratio<T>& ratio, const Fractions& fractions, const T* grad_ratio, T* grad_sums) {
  const int64_t count = ratio.N * ratio.C * ratio.K;
  std::vector<double> slopes(count);
  for (const Fraction& f : fractions) {
    const int64_t groups = group_count(f, ratio.N, ratio.C);
    const double share = fractions.reduction == Reduction::kMean ? 1.0 / groups : 1.0;
    for (int64_t i = 0; i < groups; ++i) {
      const double grad = grad_ratio[fractions.reduction == Reduction::kNone ? i : 0];
      ratio.add_slope(f, group_of(f, ratio.N, ratio.C, i), share * grad, slopes.data());
    }
  }
  for (int64_t i = 0; i < count; ++i) grad_sums[i] = static_cast<T>(slopes[i]);
}

OptionalTensor dense_of(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(geoloss::dense_of(*tensor)) : tensor;
}

}  // namespace

Tensor geo_ratio(const Tensor& sums, const OptionalTensor& channel_weights, const Integers& fractions,
                 const Numbers& weights, int64_t reduction) {
  check_sums(sums);
  const Fractions f = fractions_of(sums, channel_weights, fractions, weights, reduction);
  const Tensor dense = geoloss::dense_of(sums);
  const OptionalTensor dense_weights = dense_of(channel_weights);
  Tensor ratio = torch::stable::new_zeros(sums, ratio_shape(f, sums));
  if (sums.scalar_type() == ScalarType::Double) {
    write_ratio(ratio_of<double>(dense, dense_weights), f, ratio.mutable_data_ptr<double>());
  } else {
    write_ratio(ratio_of<float>(dense, dense_weights), f, ratio.mutable_data_ptr<float>());
  }
  return ratio;
}

Tensor geo_ratio_backward(const Tensor& grad_ratio, const Tensor& sums, const OptionalTensor& channel_weights,
                          const Integers& fractions, const Numbers& weights, int64_t reduction) {
  check_sums(sums);
  const Fractions f = fractions_of(sums, channel_weights, fractions, weights, reduction);
  check_grad_ratio(grad_ratio, sums, f);
  const Tensor dense_grad = geoloss::dense_of(grad_ratio), dense = geoloss::dense_of(sums);
  const OptionalTensor dense_weights = dense_of(channel_weights);
  Tensor grad_sums = torch::stable::new_empty(sums, {sums.size(0), sums.size(1), sums.size(2)});
  if (sums.scalar_type() == ScalarType::Double) {
    write_slope(ratio_of<double>(dense, dense_weights), f, dense_grad.const_data_ptr<double>(),
                grad_sums.mutable_data_ptr<double>());
  } else {
    write_slope(ratio_of<float>(dense, dense_weights), f, dense_grad.const_data_ptr<float>(),
                grad_sums.mutable_data_ptr<float>());
  }
  return grad_sums;
}

}  // namespace geoloss::cpu

STABLE_TORCH_LIBRARY_IMPL(geoloss, CPU, m) {
  m.impl("geo_ratio", TORCH_BOX(&geoloss::cpu::geo_ratio));
  m.impl("geo_ratio_backward", TORCH_BOX(&geoloss::cpu::geo_ratio_backward));
}
