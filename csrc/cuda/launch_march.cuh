// The marching kernel's instances for one input dtype, and the choice among them.
#pragma once

#include "march.cuh"

namespace geoloss::cuda {

namespace detail {

template <class Traits>
cudaError_t launch_march_as(const LaunchParams& params, bool backward, cudaStream_t stream) {
  const Tiling& t = params.tiling;
  const int threads = static_cast<int>(ceil_divide(t.block_columns * t.block_rows, kWarp) * kWarp);
  const int rows = larger(threads / kWarp, Traits::kChannels);  // of sums by warp, or of weights by channel
  const size_t of_slots = kMarchSlots * static_cast<size_t>(rows) * sizeof(float);
  GEOLOSS_LAUNCH((backward ? geo_sums_march_backward_kernel<Traits> : geo_sums_march_forward_kernel<Traits>),
                 static_cast<unsigned>(t.blocks()), threads,
                 exchange_bytes<Traits>(backward, threads) + of_slots, stream, params);
  return cudaGetLastError();
}

template <class Input, class Target>
cudaError_t launch_lean_march(const LaunchParams& params, bool backward, cudaStream_t stream) {
  const auto launch = [&]<class Stencil, uint32_t kTerms>() {
    return launch_march_as<MarchTraits<Input, Target, Stencil, kTerms>>(params, backward, stream);
  };
  const auto launch_with = [&]<class Stencil, uint32_t kOtherTerms>() {
    switch (params.terms.plain) {
      case kDiceTerms: return launch.template operator()<Stencil, kDiceTerms>();
      case kSigmoidTraining: return launch.template operator()<Stencil, kSigmoidTraining>();
      default: return launch.template operator()<Stencil, kOtherTerms>();
    }
  };
  if (params.terms.stencils > 0) return launch_with.template operator()<MarchStencil, kNoTerms>();
  if (params.terms.plain == kCrossEntropyTerms)
    return launch.template operator()<NoStencil, kCrossEntropyTerms>();
  return launch_with.template operator()<NoStencil, kAnyTerms>();
}

template <class Input, class Stencil, int kChannels>
cudaError_t launch_any_march_with(const LaunchParams& params, bool backward, cudaStream_t stream) {
  if constexpr (kChannels > 1) {
    if (params.terms.plain == kSoftmaxTraining) {
      return launch_march_as<MarchTraits<Input, AnyElement, Stencil, kSoftmaxTraining, kChannels>>(
          params, backward, stream);
    }
  }
  return launch_march_as<MarchTraits<Input, AnyElement, Stencil, kAnyTerms, kChannels>>(params, backward,
                                                                                        stream);
}

template <class Input, int kChannels>
cudaError_t launch_any_march(const LaunchParams& params, bool backward, cudaStream_t stream) {
  if (params.terms.stencils > 0) {
    return launch_any_march_with<Input, MarchStencil, kChannels>(params, backward, stream);
  }
  return launch_any_march_with<Input, NoStencil, kChannels>(params, backward, stream);
}

}  // namespace detail

template <class Input>
cudaError_t launch_march(const LaunchParams& params, bool backward, cudaStream_t stream) {
  using detail::launch_any_march;
  using detail::launch_lean_march;
  if (params.tiling.lean) {
    switch (params.tensors.target.dtype) {
      case DType::kBool:
      case DType::kUInt8: return launch_lean_march<Input, uint8_t>(params, backward, stream);
      case DType::kFloat32: return launch_lean_march<Input, float>(params, backward, stream);
      default: return launch_lean_march<Input, Input>(params, backward, stream);
    }
  }
  switch (params.tiling.channels) {
    case 2: return launch_any_march<Input, 2>(params, backward, stream);
    case 3: return launch_any_march<Input, 3>(params, backward, stream);
    case 4: return launch_any_march<Input, 4>(params, backward, stream);
    default: return launch_any_march<Input, 1>(params, backward, stream);
  }
}

}  // namespace geoloss::cuda
