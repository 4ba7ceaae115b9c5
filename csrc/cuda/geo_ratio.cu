// The CUDA implementation of geo_ratio and its backward.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "on_device.h"
#include "operators.h"
#include "ratio.cuh"
#include "ratio_call.h"

namespace geoloss::cuda {
namespace {

template <class T>
void run_ratio(const RatioCall& call, const Tensor& sums, const Tensor& ratio) {
  const OnDevice device(sums);
  STD_CUDA_CHECK(launch_ratio(call.arguments(), sums.const_data_ptr<T>(), sums.size(0), sums.size(1),
                              sums.size(2), ratio.mutable_data_ptr<T>(), device.stream()));
}

template <class T>
void run_ratio_backward(const RatioCall& call, const Tensor& grad_ratio, const Tensor& sums,
                        const Tensor& grad_sums) {
  const OnDevice device(sums);
  STD_CUDA_CHECK(launch_ratio_backward(call.arguments(), grad_ratio.const_data_ptr<T>(),
                                       sums.const_data_ptr<T>(), sums.size(0), sums.size(1), sums.size(2),
                                       grad_sums.mutable_data_ptr<T>(), device.stream()));
}

}  // namespace

Tensor geo_ratio(const Tensor& sums, const OptionalTensor& channel_weights, const Integers& fractions,
                 const Numbers& weights, int64_t reduction) {
  check_sums(sums);
  const RatioCall call(sums, channel_weights, fractions, weights, reduction);
  const Tensor dense = dense_of(sums);
  const Tensor ratio = torch::stable::new_empty(sums, call.shape());
  if (ratio.numel() == 0) return ratio;
  if (sums.scalar_type() == ScalarType::Double) {
    run_ratio<double>(call, dense, ratio);
  } else {
    run_ratio<float>(call, dense, ratio);
  }
  return ratio;
}

Tensor geo_ratio_backward(const Tensor& grad_ratio, const Tensor& sums, const OptionalTensor& channel_weights,
                          const Integers& fractions, const Numbers& weights, int64_t reduction) {
  check_sums(sums);
  const RatioCall call(sums, channel_weights, fractions, weights, reduction);
  check_grad_ratio(grad_ratio, sums, call.fractions());
  const Tensor dense_grad = dense_of(grad_ratio);
  const Tensor dense = dense_of(sums);
  const Tensor grad_sums = torch::stable::new_empty(sums, {sums.size(0), sums.size(1), sums.size(2)});
  if (grad_sums.numel() == 0) return grad_sums;
  if (sums.scalar_type() == ScalarType::Double) {
    run_ratio_backward<double>(call, dense_grad, dense, grad_sums);
  } else {
    run_ratio_backward<float>(call, dense_grad, dense, grad_sums);
  }
  return grad_sums;
}

}  // namespace geoloss::cuda

STABLE_TORCH_LIBRARY_IMPL(geoloss, CUDA, m) {
  m.impl("geo_ratio", TORCH_BOX(&geoloss::cuda::geo_ratio));
  m.impl("geo_ratio_backward", TORCH_BOX(&geoloss::cuda::geo_ratio_backward));
}
