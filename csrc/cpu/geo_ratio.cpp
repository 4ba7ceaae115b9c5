// The CPU implementation of geo_ratio and its backward: a few numbers per volume.
#include "../geo_ratio.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "operators.h"

namespace geoloss::cpu {
namespace {

template <class T>
void ratio_of_each(const Tensor& sums, const std::vector<double>& numerator,
                   const std::vector<double>& denominator, int64_t fractions, const Tensor& ratio) {
  const int64_t terms = sums.size(2);
  const T* s = sums.const_data_ptr<T>();
  T* r = ratio.mutable_data_ptr<T>();
  for (int64_t i = 0; i < ratio.numel(); ++i) {
    r[i] = geoloss::geo_ratio(s + i * terms, numerator.data(), denominator.data(), fractions, terms);
  }
}

template <class T>
void slope_of_each(const Tensor& grad_ratio, const Tensor& sums, const std::vector<double>& numerator,
                   const std::vector<double>& denominator, int64_t fractions, const Tensor& grad_sums) {
  const int64_t terms = sums.size(2);
  const T* s = sums.const_data_ptr<T>();
  const T* g = grad_ratio.const_data_ptr<T>();
  T* out = grad_sums.mutable_data_ptr<T>();
  for (int64_t i = 0; i < grad_ratio.numel(); ++i) {
    geo_ratio_slope(g[i], s + i * terms, numerator.data(), denominator.data(), fractions, terms,
                    out + i * terms);
  }
}

}  // namespace

Tensor geo_ratio(const Tensor& sums, const std::vector<double>& numerator,
                 const std::vector<double>& denominator) {
  check_sums(sums);
  const int64_t fractions = check_fractions(sums.size(2), numerator, denominator);
  const Tensor dense = dense_of(sums);
  Tensor ratio = torch::stable::new_empty(sums, {sums.size(0), sums.size(1)});
  if (sums.scalar_type() == ScalarType::Double) {
    ratio_of_each<double>(dense, numerator, denominator, fractions, ratio);
  } else {
    ratio_of_each<float>(dense, numerator, denominator, fractions, ratio);
  }
  return ratio;
}

Tensor geo_ratio_backward(const Tensor& grad_ratio, const Tensor& sums, const std::vector<double>& numerator,
                          const std::vector<double>& denominator) {
  check_sums(sums);
  const int64_t fractions = check_fractions(sums.size(2), numerator, denominator);
  check_grad_ratio(grad_ratio, sums);
  const Tensor dense_grad = dense_of(grad_ratio);
  const Tensor dense = dense_of(sums);
  Tensor grad_sums = torch::stable::new_empty(sums, {sums.size(0), sums.size(1), sums.size(2)});
  if (sums.scalar_type() == ScalarType::Double) {
    slope_of_each<double>(dense_grad, dense, numerator, denominator, fractions, grad_sums);
  } else {
    slope_of_each<float>(dense_grad, dense, numerator, denominator, fractions, grad_sums);
  }
  return grad_sums;
}

}  // namespace geoloss::cpu

STABLE_TORCH_LIBRARY_IMPL(geoloss, CPU, m) {
  m.impl("geo_ratio", TORCH_BOX(&geoloss::cpu::geo_ratio));
  m.impl("geo_ratio_backward", TORCH_BOX(&geoloss::cpu::geo_ratio_backward));
}
