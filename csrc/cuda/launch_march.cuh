// The marching kernel's instances for one input dtype, and the choice among them.
#pragma once

#include "march.cuh"

namespace geoloss::cuda {

namespace detail {

template <class Traits>
cudaError_t launch_march_as(const LaunchParams& params, bool backward, cudaStream_t stream) {
  const Tiling& t = params.tiling;
  const int threads = static_cast<int>(ceil_divide(t.block_columns * t.block_rows, kWarp) * kWarp);
  const size_t of_slots = kTermCount * static_cast<size_t>(threads / kWarp) * sizeof(float);
  GEOLOSS_LAUNCH((backward ? geo_sums_march_backward_kernel<Traits> : geo_sums_march_forward_kernel<Traits>),
                 static_cast<unsigned>(t.blocks()), threads,
                 exchange_bytes<Traits>(backward, threads) + of_slots, stream, params);
  return cudaGetLastError();
}

}  // namespace detail

template <class Input>
cudaError_t launch_march(const LaunchParams& params, bool backward, cudaStream_t stream) {
  const uint32_t voxel_terms = params.terms.voxel_terms();
  const bool lean = is_lean(params.tensors, params.tiling, backward);
  const auto launch = [&]<class Stencil, uint32_t kTerms, bool kLean>() {
    return detail::launch_march_as<MarchTraits<Input, Stencil, kTerms, kLean>>(params, backward, stream);
  };
  if (!params.terms.stencil_terms()) {
    if (!lean) return launch.template operator()<NoStencil, kAnyTerms, false>();
    if (voxel_terms == kDiceTerms) return launch.template operator()<NoStencil, kDiceTerms, true>();
    return launch.template operator()<NoStencil, kAnyTerms, true>();
  }
  if (lean && voxel_terms == kNoTerms) return launch.template operator()<MarchStencil, kNoTerms, true>();
  if (lean && voxel_terms == kDiceTerms) return launch.template operator()<MarchStencil, kDiceTerms, true>();
  return launch.template operator()<MarchStencil, kAnyTerms, false>();
}

}  // namespace geoloss::cuda
