// From a call of the operators to kernels: which one, cut into which blocks, on which stream. Without torch.
#pragma once

#include <initializer_list>

#include "launch_march.cuh"
#include "reduce.cuh"
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
int largest_gradient_reach(TermList<Terms...>, uint32_t stencil_terms) {
  int reach = 0, bit = kVoxelTerms;
  for (const int of_term : {gradient_reach(Terms{})...}) {
    if (stencil_terms >> bit++ & 1) reach = larger(reach, of_term);
  }
  return reach;
}

}  // namespace detail

inline int tile_reach(const TermSelection& terms, bool backward) {
  if (!backward) return terms.stencil_terms() ? 1 : 0;
  return detail::largest_gradient_reach(stencil::StencilTerms{}, terms.stencil_terms());
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
  params.terms = select_terms(p);
  params.marches = std::is_same_v<T, float> && march_applies(p, params.terms, backward);
  params.tensors = params.marches ? march_along_z(p) : p;
  params.tiling =
      params.marches ? march_tiling(params.tensors, params.terms, backward) : tile_tiling<T>(params.tensors);
  return params;
}

// Of the partial sums, which a launch of the forward pass needs as workspace.
template <class T>
size_t workspace_bytes(const LaunchParams& params) {
  const GeoSumsParams& p = params.tensors;
  return static_cast<size_t>(p.N * (p.C - p.first_channel) * slot_count(params.terms) *
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

// sums: [N, C', K]; loss: [N, C'], or null, then the ratio is not looked at
template <class T>
cudaError_t launch_forward(LaunchParams params, const Ratio& ratio, void* workspace, T* sums, T* loss,
                           cudaStream_t stream) {
  const GeoSumsParams& p = params.tensors;
  params.partial_sums = workspace;
  if (params.terms.wanted) {
    const cudaError_t error = launch_pass<T>(params, false, stream);
    if (error != cudaSuccess) return error;
  }
  const auto rows = static_cast<unsigned>(p.N * (p.C - p.first_channel));
  GEOLOSS_LAUNCH(geo_sums_reduce_kernel<T>, rows, kReduceThreads, 0, stream, params, ratio, sums, loss);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_backward(const LaunchParams& params, cudaStream_t stream) {
  return launch_pass<T>(params, true, stream);
}

// The kernels take long to compile: march_*.cu and passes_*.cu do it, side by side.
extern template cudaError_t launch_march<float>(const LaunchParams&, bool, cudaStream_t);
extern template cudaError_t launch_march<Half>(const LaunchParams&, bool, cudaStream_t);
extern template cudaError_t launch_march<BFloat16>(const LaunchParams&, bool, cudaStream_t);
extern template cudaError_t launch_forward<float>(LaunchParams, const Ratio&, void*, float*, float*,
                                                  cudaStream_t);
extern template cudaError_t launch_forward<double>(LaunchParams, const Ratio&, void*, double*, double*,
                                                   cudaStream_t);
extern template cudaError_t launch_backward<float>(const LaunchParams&, cudaStream_t);
extern template cudaError_t launch_backward<double>(const LaunchParams&, cudaStream_t);

}  // namespace geoloss::cuda
