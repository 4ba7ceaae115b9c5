// From a call of the operators to kernels: which one, cut into which blocks, on which stream. Without torch.
#pragma once

#include <initializer_list>

#include "launch_march.cuh"
#include "ratio.cuh"
#include "tile.cuh"

namespace geoloss::cuda {

namespace detail {

// How far from a voxel the gradient of a stencil term looks: to the flux of the neighbours, and what that
// reads.
template <class Operator, class Norm>
constexpr int gradient_reach(stencil::FirstOrder<Operator, Norm>) {
  return Operator::kReachBack + Operator::kReachAhead;
}
template <bool kTwoSided, bool kSigned>
constexpr int gradient_reach(stencil::SecondOrder<kTwoSided, kSigned>) {
  return kTwoSided ? 2 : 1;
}

template <class... Terms>
int gradient_reach_of(TermKind kind, TermList<Terms...>) {
  int reach = 0;
  ((reach = Terms::kKind == kind ? gradient_reach(Terms{}) : reach), ...);
  return reach;
}

}  // namespace detail

inline int tile_reach(const TermSelection& terms, bool backward) {
  if (!backward) return terms.stencils > 0 ? 1 : 0;
  int reach = 0;
  for (int i = 0; i < terms.requests; ++i) {
    reach = larger(reach, detail::gradient_reach_of(terms.request[i].kind, stencil::StencilTerms{}));
  }
  return reach;
}

template <class T>
Tiling tile_tiling(const GeoSumsParams& p) {
  using Shape = TileShape<T>;
  Tiling t;
  t.channels = p.activation == Activation::kSoftmax ? static_cast<int32_t>(p.C) : 1;
  t.volumes = p.N * p.C / t.channels;
  t.width = Shape::kWidth, t.height = Shape::kHeight, t.planes = Shape::kPlanes;
  t.tiles_x = static_cast<int32_t>(ceil_divide(p.W, t.width));
  t.tiles_y = static_cast<int32_t>(ceil_divide(p.H, t.height));
  t.tiles_z = static_cast<int32_t>(ceil_divide(p.D, t.planes));
  return t;
}

// `p` holds grad_sums and grad_input for the backward pass.
template <class T>
LaunchParams launch_params(const GeoSumsParams& p, bool backward) {
  LaunchParams params{};
  params.tensors = p;
  params.terms = select_terms(p);
  params.marches = std::is_same_v<T, float> && march_applies(p, params.terms, backward);
  if (params.marches) {
    march_along_z(params);
    params.tiling = march_tiling(params.tensors, params.terms, backward);
  } else {
    params.tiling = tile_tiling<T>(p);
  }
  return params;
}

// Of the partial sums, which a launch of the forward pass needs as workspace.
template <class T>
size_t workspace_bytes(const LaunchParams& params) {
  const GeoSumsParams& p = params.tensors;
  return static_cast<size_t>(p.N * (p.C - p.first_channel) * params.terms.slots() *
                             params.tiling.tiles_per_volume()) *
         sizeof(T);
}

template <class T>
cudaError_t launch_tile(const LaunchParams& params, bool backward, cudaStream_t stream) {
  const auto kernel = backward ? geo_sums_tile_backward_kernel<T> : geo_sums_tile_forward_kernel<T>;
  const int reach = tile_reach(params.terms, backward);
  const size_t shared_bytes = Box<T>::bytes(params, reach);
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  GEOLOSS_LAUNCH(kernel, static_cast<unsigned>(params.tiling.blocks()), TileShape<T>::kThreads, shared_bytes,
                 stream, params, reach);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_pass(const LaunchParams& params, bool backward, cudaStream_t stream) {
  if (!params.marches) return launch_tile<T>(params, backward, stream);
  switch (params.tensors.input.dtype) {
    case DType::kFloat16: return launch_march<Half>(params, backward, stream);
    case DType::kBFloat16: return launch_march<BFloat16>(params, backward, stream);
    default: return launch_march<float>(params, backward, stream);
  }
}

// The tiles' sums into the workspace, where there is one to be taken.
template <class T>
cudaError_t launch_partial_sums(LaunchParams& params, void* workspace, cudaStream_t stream) {
  params.partial_sums = workspace;
  return params.terms.slots() > 0 ? launch_pass<T>(params, false, stream) : cudaSuccess;
}

template <class T>
cudaError_t launch_reduce(const PartialSums<T>& partial, T* sums, cudaStream_t stream) {
  constexpr int kWarps = kReduceThreads / kWarpSize;
  const auto blocks = static_cast<unsigned>(ceil_divide(partial.rows * partial.columns, kWarps));
  GEOLOSS_LAUNCH(geo_sums_reduce_kernel<T>, blocks, kReduceThreads, 0, stream, partial, sums);
  return cudaGetLastError();
}

// sums: [N, C', K]
template <class T>
cudaError_t launch_forward(LaunchParams params, void* workspace, T* sums, cudaStream_t stream) {
  const cudaError_t error = launch_partial_sums<T>(params, workspace, stream);
  return error == cudaSuccess ? launch_reduce(partial_sums<T>(params), sums, stream) : error;
}

constexpr int64_t kMostInOneBlock = 64 * kRatioThreads;  // tiles' sums

// The forward pass and the ratio. sums: [N, C', K]; loss: see launch_ratio
template <class T>
cudaError_t launch_loss(LaunchParams params, const RatioArguments& arguments, void* workspace, T* sums,
                        T* loss, cudaStream_t stream) {
  cudaError_t error = launch_partial_sums<T>(params, workspace, stream);
  if (error != cudaSuccess) return error;
  const PartialSums<T> partial = partial_sums<T>(params);
  const int64_t N = params.tensors.N, C = partial.rows / N, K = partial.columns;
  if (partial.count() > kMostInOneBlock) {
    error = launch_reduce(partial, sums, stream);
    return error == cudaSuccess ? launch_ratio<T>(arguments, sums, N, C, K, loss, stream) : error;
  }
  return with_ratio(arguments, N, C, K, [&]<int kCapacity>(const Ratio<kCapacity>& ratio) {
    GEOLOSS_LAUNCH((geo_loss_reduce_kernel<T, kCapacity>), 1, kRatioThreads, 0, stream, partial, ratio, sums,
                   loss);
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t launch_backward(const LaunchParams& params, cudaStream_t stream) {
  return launch_pass<T>(params, true, stream);
}

// The kernels take long to compile: march_*.cu and passes_*.cu do it, side by side.
extern template cudaError_t launch_march<float>(const LaunchParams&, bool, cudaStream_t);
extern template cudaError_t launch_march<Half>(const LaunchParams&, bool, cudaStream_t);
extern template cudaError_t launch_march<BFloat16>(const LaunchParams&, bool, cudaStream_t);
extern template cudaError_t launch_forward<float>(LaunchParams, void*, float*, cudaStream_t);
extern template cudaError_t launch_forward<double>(LaunchParams, void*, double*, cudaStream_t);
extern template cudaError_t launch_loss<float>(LaunchParams, const RatioArguments&, void*, float*, float*,
                                               cudaStream_t);
extern template cudaError_t launch_loss<double>(LaunchParams, const RatioArguments&, void*, double*, double*,
                                                cudaStream_t);
extern template cudaError_t launch_backward<float>(const LaunchParams&, cudaStream_t);
extern template cudaError_t launch_backward<double>(const LaunchParams&, cudaStream_t);

}  // namespace geoloss::cuda
