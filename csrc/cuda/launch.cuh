// From a call of the operators to kernels: which one, cut into which blocks, on which stream. Without torch.
#pragma once

#include <initializer_list>

#include "reduce.cuh"
#include "tile.cuh"

namespace geoloss::cuda {

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

template <class T>
LaunchParams launch_params(const GeoSumsParams& p) {
  LaunchParams params{};
  params.tensors = p;
  params.terms = select_terms(p);
  params.tiling = tile_tiling<T>(p);
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

// sums: [N, C', K]; loss: [N, C'], or null, then the ratio is not looked at
template <class T>
cudaError_t launch_forward(LaunchParams params, const Ratio& ratio, void* workspace, T* sums, T* loss,
                           cudaStream_t stream) {
  const GeoSumsParams& p = params.tensors;
  params.partial_sums = workspace;
  if (params.terms.wanted) {
    const cudaError_t error = launch_tile<T>(params, false, stream);
    if (error != cudaSuccess) return error;
  }
  const auto rows = static_cast<unsigned>(p.N * (p.C - p.first_channel));
  GEOLOSS_LAUNCH(geo_sums_reduce_kernel<T>, rows, kReduceThreads, 0, stream, params, ratio, sums, loss);
  return cudaGetLastError();
}

// The params hold grad_sums and grad_input.
template <class T>
cudaError_t launch_backward(const LaunchParams& params, cudaStream_t stream) {
  return launch_tile<T>(params, true, stream);
}

}  // namespace geoloss::cuda
