// The CPU implementation of distance_transform: runs the passes of the kernel on torch's threads, group of
// volumes by group.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <memory>
#include <tuple>

#include "../distance_operators.h"
#include "distance_transform_kernel.h"
#include "instruction_set.h"
#include "workspace.h"

namespace geoloss::cpu {
namespace {

constexpr int64_t kGroupBytes = 4 * 1024 * 1024;  // of a group's array in between, if it has many volumes

template <class T>
const DistanceKernel& chosen_kernel() {
  return GEOLOSS_OF_INSTRUCTION_SET(distance_kernel<T>);
}

template <class U>
std::unique_ptr<U[]> uninitialised(int64_t count) {
  return std::unique_ptr<U[]>(new U[count]);
}

// Whether `kernel` could hold every distance.
bool transform_group(const DistanceParams& p, const DistanceKernel& kernel, int64_t first, int64_t volumes) {
  const int64_t voxels = volumes * p.D * p.H * kernel.pitch(p);
  const int first_class = p.side == Side::kForeground ? 1 : 0;
  std::unique_ptr<char[]> squared[2];
  std::unique_ptr<int32_t[]> nearest[2];
  for (int i = first_class; i < 2; ++i) {
    squared[i] = uninitialised<char>(voxels * kernel.element_bytes);
    if (p.nearest) nearest[i] = uninitialised<int32_t>(voxels);
  }
  const auto present = uninitialised<bool>(volumes * p.D * 2);
  const DistancePlanes planes{first,
                              volumes,
                              {squared[0].get(), squared[1].get()},
                              {nearest[0].get(), nearest[1].get()},
                              present.get()};

  torch::stable::parallel_for(0, volumes * p.D, 1, [&](int64_t begin, int64_t end) {
    const Workspace workspace(kernel.workspace(p));
    kernel.planes(p, planes, begin, end, workspace.get());
  });
  std::atomic<bool> fits{true};
  torch::stable::parallel_for(0, volumes * p.H, 1, [&](int64_t begin, int64_t end) {
    const Workspace workspace(kernel.workspace(p));
    if (!kernel.rows(p, planes, begin, end, workspace.get())) fits = false;
  });
  return fits;
}

void transform(const DistanceParams& p) {
  const bool cubic = p.spacing[0] == p.spacing[1] && p.spacing[1] == p.spacing[2];
  const bool single_is_exact = cubic && p.D * p.D + p.H * p.H + p.W * p.W < (1 << 24);
  const DistanceKernel& wide = single_is_exact ? chosen_kernel<float>() : chosen_kernel<double>();
  const DistanceKernel& kernel = cubic ? chosen_kernel<uint16_t>() : wide;

  const int64_t volumes = p.N * p.C;
  const int64_t bytes = p.D * p.H * kernel.pitch(p) * static_cast<int64_t>(kernel.element_bytes);
  const int64_t group = bytes < kGroupBytes ? kGroupBytes / bytes : 1;
  for (int64_t first = 0; first < volumes; first += group) {
    const int64_t count = first + group < volumes ? group : volumes - first;
    if (!transform_group(p, kernel, first, count)) transform_group(p, wide, first, count);
  }
}

Tensor distance_transform(const Tensor& mask, const Numbers& spacing, int64_t side, double without_boundary,
                          ScalarType dtype) {
  return distance_transform_by(transform, mask, spacing, side, without_boundary, dtype);
}

std::tuple<Tensor, Tensor> distance_transform_with_indices(const Tensor& mask, const Numbers& spacing,
                                                           int64_t side, double without_boundary,
                                                           ScalarType dtype) {
  return distance_transform_with_indices_by(transform, mask, spacing, side, without_boundary, dtype);
}

}  // namespace
}  // namespace geoloss::cpu

STABLE_TORCH_LIBRARY_IMPL(geoloss, CPU, m) {
  m.impl("distance_transform", TORCH_BOX(&geoloss::cpu::distance_transform));
  m.impl("distance_transform_with_indices", TORCH_BOX(&geoloss::cpu::distance_transform_with_indices));
}
