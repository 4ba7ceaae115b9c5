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

template <class Input, class Target>
cudaError_t launch_lean_march(const LaunchParams& params, bool backward, cudaStream_t stream) {
  const bool dice = params.terms.voxel_terms() == kDiceTerms;
  const auto launch = [&]<class Stencil, uint32_t kTerms>() {
    return launch_march_as<MarchTraits<Input, Target, Stencil, kTerms>>(params, backward, stream);
  };
  if (params.terms.stencil_terms()) {
    return dice ? launch.template operator()<MarchStencil, kDiceTerms>()
                : launch.template operator()<MarchStencil, kNoTerms>();
  }
  return dice ? launch.template operator()<NoStencil, kDiceTerms>()
              : launch.template operator()<NoStencil, kAnyTerms>();
}

}  // namespace detail

template <class Input>
cudaError_t launch_march(const LaunchParams& params, bool backward, cudaStream_t stream) {
  using detail::launch_lean_march;
  using detail::launch_march_as;
  const bool stencil = params.terms.stencil_terms() != 0;
  if (params.tiling.lean) {
    switch (params.tensors.target.dtype) {
      case DType::kBool:
      case DType::kUInt8: return launch_lean_march<Input, uint8_t>(params, backward, stream);
      case DType::kFloat32: return launch_lean_march<Input, float>(params, backward, stream);
      default: return launch_lean_march<Input, Input>(params, backward, stream);
    }
  }
  return stencil ? launch_march_as<MarchTraits<Input, AnyElement, MarchStencil, kAnyTerms>>(params, backward,
                                                                                            stream)
                 : launch_march_as<MarchTraits<Input, AnyElement, NoStencil, kAnyTerms>>(params, backward,
                                                                                         stream);
}

}  // namespace geoloss::cuda
