// Sums over a block in a fixed order, and over the blocks: the same bits from run to run, without atomics.
#pragma once

#include "../geo_ratio.h"
#include "launch_params.h"
#include "portable.cuh"

namespace geoloss::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// In lane 0; every lane of the warp takes part.
template <class T>
GEOLOSS_DEVICE T warp_sum(T value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value += __shfl_down_sync(kWholeWarp, value, distance);
  }
  return value;
}

// The row of channel c of batch element n in the sums and in their gradient, [N·C', K].
GEOLOSS_DEVICE int64_t summed_row(const GeoSumsParams& p, int64_t n, int64_t c) {
  return n * (p.C - p.first_channel) + c - p.first_channel;
}

// Adds up the threads' sums of the wanted terms of channel c and writes them. of_slots: shared, [slots,
// warps]
template <class T>
GEOLOSS_DEVICE void write_partial_sums(const LaunchParams& params, const TileIndex& tile, int64_t n,
                                       int64_t c, const T (&sums)[kTermCount], T* of_slots) {
  const uint32_t wanted = params.terms.wanted;
  const int thread = threadIdx.x, warps = blockDim.x / kWarpSize, slots = slot_of(wanted, kTermCount);
  const auto add = [&](auto, auto number) GEOLOSS_LAMBDA_INLINE {
    if (!(wanted >> number & 1)) return;
    const T total = warp_sum(sums[number]);
    if (thread % kWarpSize == 0) of_slots[slot_of(wanted, number) * warps + thread / kWarpSize] = total;
  };
  for_each_voxel_term(add);
  for_each_stencil_term(add);
  __syncthreads();
  if (thread < slots) {
    T total = 0;
    for (int warp = 0; warp < warps; ++warp) total += of_slots[thread * warps + warp];
    const int64_t slot = summed_row(params.tensors, n, c) * slots + thread;
    static_cast<T*>(params.partial_sums)[slot * params.tiling.tiles_per_volume() + tile.tile] = total;
  }
  __syncthreads();
}

// Reads ∂L/∂S of the wanted terms of a channel into shared memory, [slots]. A channel that is in no sum has
// none.
template <class T>
GEOLOSS_DEVICE void read_slope_weights(const LaunchParams& params, int64_t n, int64_t c, T* weights) {
  const GeoSumsParams& p = params.tensors;
  const int term = threadIdx.x;
  if (term >= kTermCount || !(params.terms.wanted >> term & 1) || c < p.first_channel) return;
  const T* grad_sums = static_cast<const T*>(p.grad_sums) + summed_row(p, n, c) * params.terms.columns;
  T weight = 0;
  for (int k = 0; k < params.terms.columns; ++k) {
    if (params.terms.term_of_column[k] == term) weight += grad_sums[k];
  }
  weights[slot_of(params.terms.wanted, term)] = weight;
}

constexpr int kReduceThreads = 128;

// The sum of `values` [count] over the block, in every thread.
template <class T>
GEOLOSS_DEVICE double block_sum(const T* values, int64_t count) {
  __shared__ double of_warps[kReduceThreads / kWarpSize];
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += kReduceThreads) total += values[i];
  total = warp_sum(total);
  if (threadIdx.x % kWarpSize == 0) of_warps[threadIdx.x / kWarpSize] = total;
  __syncthreads();
  total = 0;
  for (int warp = 0; warp < kReduceThreads / kWarpSize; ++warp) total += of_warps[warp];
  __syncthreads();
  return total;
}

// The second stage of geo_sums, a block for each row of sums; with a ratio, geo_loss in one.
// sums: [N·C', K]; loss: [N·C'], or null
template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    geo_sums_reduce_kernel(const __grid_constant__ LaunchParams params, const __grid_constant__ Ratio ratio,
                           T* sums, T* loss) {
  __shared__ T row[kMaxTerms];
  const GeoSumsParams& p = params.tensors;
  const TermSelection& terms = params.terms;
  const int64_t tiles = params.tiling.tiles_per_volume();
  const T* const partial = static_cast<const T*>(params.partial_sums) +
                           static_cast<int64_t>(blockIdx.x) * slot_of(terms.wanted, kTermCount) * tiles;
  for (int k = 0; k < terms.columns; ++k) {
    const int term = terms.term_of_column[k];
    const double total = term == kEveryVoxel
                             ? static_cast<double>(p.D) * static_cast<double>(p.H) * static_cast<double>(p.W)
                             : block_sum(partial + slot_of(terms.wanted, term) * tiles, tiles);
    if (threadIdx.x == 0) row[k] = sums[blockIdx.x * terms.columns + k] = static_cast<T>(total);
  }
  if (threadIdx.x == 0 && loss) {
    loss[blockIdx.x] =
        geoloss::geo_ratio(row, ratio.numerator, ratio.denominator, ratio.fractions, terms.columns);
  }
}

}  // namespace geoloss::cuda
