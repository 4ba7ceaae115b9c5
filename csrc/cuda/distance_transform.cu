// The CUDA implementation of distance_transform.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../distance_checks.h"
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

void transform(const DistanceParams& params, const Tensor& mask) {
  if (mask.numel() == 0) return;
  if (fp32_is_exact(params)) {
    run_transform<float>(params, mask);
  } else {
    run_transform<double>(params, mask);
  }
}

}  // namespace

Tensor distance_transform(const Tensor& mask, const std::vector<double>& spacing, const std::string& side,
                          double without_boundary, ScalarType dtype) {
  DistanceParams params = distance_params(mask, spacing, side, without_boundary, dtype);
  const Tensor distance = torch::stable::new_empty(mask, mask.sizes(), dtype);
  params.distance = distance.mutable_data_ptr();
  transform(params, mask);
  return distance;
}

std::tuple<Tensor, Tensor> distance_transform_with_indices(const Tensor& mask,
                                                           const std::vector<double>& spacing,
                                                           const std::string& side, double without_boundary,
                                                           ScalarType dtype) {
  DistanceParams params = distance_params(mask, spacing, side, without_boundary, dtype);
  const Tensor distance = torch::stable::new_empty(mask, mask.sizes(), dtype);
  const Tensor indices = torch::stable::new_empty(mask, mask.sizes(), ScalarType::Long);
  params.distance = distance.mutable_data_ptr();
  params.nearest = indices.mutable_data_ptr<int64_t>();
  transform(params, mask);
  return {distance, indices};
}

}  // namespace geoloss::cuda

STABLE_TORCH_LIBRARY_IMPL(geoloss, CUDA, m) {
  m.impl("distance_transform", TORCH_BOX(&geoloss::cuda::distance_transform));
  m.impl("distance_transform_with_indices", TORCH_BOX(&geoloss::cuda::distance_transform_with_indices));
}
