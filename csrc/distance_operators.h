// distance_transform around a backend's passes: argument checks, the way to plain data, and the results.
#pragma once

#include <tuple>

#include "checks.h"
#include "distance_transform.h"

namespace geoloss {

inline Side side_of(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number <= 2, "side: expected 0 (foreground), 1 (both) or 2 (signed), got ",
                  number);
  return static_cast<Side>(number);
}

inline DistanceParams distance_params(const Tensor& mask, const Numbers& spacing, int64_t side,
                                      double without_boundary, ScalarType dtype) {
  const int64_t spatial = mask.dim() - 2;
  STD_TORCH_CHECK(spatial == 2 || spatial == 3, "mask: expected [N, C, H, W] or [N, C, D, H, W], got ",
                  shape_text(mask));
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "dtype: expected float32 or float64");
  STD_TORCH_CHECK(static_cast<int64_t>(spacing.size()) == spatial, "spacing: expected ", spatial,
                  " numbers, got ", spacing.size());
  DistanceParams p{};
  p.N = mask.size(0);
  p.C = mask.size(1);
  p.D = spatial == 3 ? mask.size(2) : 1;
  p.H = mask.size(spatial);
  p.W = mask.size(spatial + 1);
  STD_TORCH_CHECK(p.H * p.W < (int64_t{1} << 31), "mask: expected planes of less than 2^31 voxels, got ",
                  shape_text(mask));
  p.mask = view_of(mask, "mask");
  for (int64_t i = 0; i < spatial; ++i) {
    STD_TORCH_CHECK(spacing[i] > 0, "spacing: expected positive numbers, got ", spacing[i]);
    p.spacing[3 - spatial + i] = spacing[i];
  }
  if (spatial == 2) p.spacing[0] = spacing[0];  // nothing is apart along z
  p.side = side_of(side);
  p.without_boundary = without_boundary;
  p.fp64 = dtype == ScalarType::Double;
  return p;
}

// passes(params): a backend's. Called unless there are no voxels.
template <class Passes>
Tensor distance_transform_by(Passes passes, const Tensor& mask, const Numbers& spacing, int64_t side,
                             double without_boundary, ScalarType dtype) {
  DistanceParams params = distance_params(mask, spacing, side, without_boundary, dtype);
  const Tensor distance = torch::stable::new_empty(mask, mask.sizes(), dtype);
  params.distance = distance.mutable_data_ptr();
  if (mask.numel() > 0) passes(params);
  return distance;
}

template <class Passes>
std::tuple<Tensor, Tensor> distance_transform_with_indices_by(Passes passes, const Tensor& mask,
                                                              const Numbers& spacing, int64_t side,
                                                              double without_boundary, ScalarType dtype) {
  const Tensor indices = torch::stable::new_empty(mask, mask.sizes(), ScalarType::Long);
  const auto passes_with_indices = [&](DistanceParams params) {
    params.nearest = indices.mutable_data_ptr<int64_t>();
    passes(params);
  };
  return {distance_transform_by(passes_with_indices, mask, spacing, side, without_boundary, dtype), indices};
}

}  // namespace geoloss
