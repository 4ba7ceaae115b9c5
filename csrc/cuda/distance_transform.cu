// The CUDA implementation of distance_transform.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../distance_operators.h"
#include "distance_transform.cuh"
#include "on_device.h"
#include "operators.h"

namespace geoloss::cuda {
namespace {

template <class T>
void run_transform(const DistanceParams& params, const Tensor& mask) {
  const OnDevice device(mask);
  const Tensor workspace =
      torch::stable::new_empty(mask, {distance_workspace_bytes<T>(params)}, ScalarType::Byte);
  STD_CUDA_CHECK(launch_distance_transform<T>(params, workspace.mutable_data_ptr(), device.stream()));
}

// The passes on the device of `mask`.
auto passes_near(const Tensor& mask) {
  return [&mask](const DistanceParams& params) {
    fp32_is_exact(params) ? run_transform<float>(params, mask) : run_transform<double>(params, mask);
  };
}

}  // namespace

Tensor distance_transform(const Tensor& mask, const Numbers& spacing, int64_t side, double without_boundary,
                          ScalarType dtype) {
  return distance_transform_by(passes_near(mask), mask, spacing, side, without_boundary, dtype);
}

std::tuple<Tensor, Tensor> distance_transform_with_indices(const Tensor& mask, const Numbers& spacing,
                                                           int64_t side, double without_boundary,
                                                           ScalarType dtype) {
  return distance_transform_with_indices_by(passes_near(mask), mask, spacing, side, without_boundary, dtype);
}

}  // namespace geoloss::cuda

STABLE_TORCH_LIBRARY_IMPL(geoloss, CUDA, m) {
  m.impl("distance_transform", TORCH_BOX(&geoloss::cuda::distance_transform));
  m.impl("distance_transform_with_indices", TORCH_BOX(&geoloss::cuda::distance_transform_with_indices));
}
