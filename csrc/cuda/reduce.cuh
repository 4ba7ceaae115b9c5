// Sums over a block in a fixed order, and over the blocks: the same bits from run to run, without atomics.
#pragma once

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

// Leaves the sum over each warp of what a slot's threads have in of_slots, shared, [slots, warps].
template <class T>
GEOLOSS_DEVICE void put_warp_sums(int slot, T of_thread, T* of_slots) {
  const int thread = threadIdx.x, warps = blockDim.x / kWarpSize;
  const T total = warp_sum(of_thread);
  if (thread % kWarpSize == 0) of_slots[slot * warps + thread / kWarpSize] = total;
}

// Adds up what put_warp_sums left for each slot, and writes the sums of channel c of a tile.
template <class T>
GEOLOSS_DEVICE void write_partial_sums(const LaunchParams& params, const TileIndex& tile, int64_t n,
                                       int64_t c, const T* of_slots) {
  const int thread = threadIdx.x, warps = blockDim.x / kWarpSize, slots = params.terms.slots();
  __syncthreads();
  if (thread < slots) {
    T total = 0;
    for (int warp = 0; warp < warps; ++warp) total += of_slots[thread * warps + warp];
    const int64_t slot = summed_row(params.tensors, n, c) * slots + thread;
    static_cast<T*>(params.partial_sums)[slot * params.tiling.tiles_per_volume() + tile.tile] = total;
  }
  __syncthreads();
}

// ∂L/∂S of what a slot sums in channel c, 0 for a channel that is in no sum.
template <class T>
GEOLOSS_DEVICE T slope_weight(const LaunchParams& params, int64_t n, int64_t c, int slot) {
  const GeoSumsParams& p = params.tensors;
  if (c < p.first_channel) return 0;
  const T* grad_sums = static_cast<const T*>(p.grad_sums) + summed_row(p, n, c) * params.terms.columns;
  T weight = 0;
  for (int k = 0; k < params.terms.columns; ++k) {
    if (params.terms.slot_of_column[k] == slot) weight += grad_sums[k];
  }
  return weight;
}

// Reads ∂L/∂S of a channel into shared memory, [slots].
template <class T>
GEOLOSS_DEVICE void read_slope_weights(const LaunchParams& params, int64_t n, int64_t c, T* weights) {
  const int slot = threadIdx.x;
  if (slot < params.terms.slots()) weights[slot] = slope_weight<T>(params, n, c, slot);
}

// The second stage of geo_sums: the tiles' sums, and the columns that they add up to.
template <class T>
struct PartialSums {
  const T* of_slots;       // [rows, slots, tiles]
  int64_t rows, tiles;     // rows: N·C'
  double voxels;           // of a volume
  int32_t slots, columns;  // columns: K
  int8_t slot_of_column[kMaxTerms];

  GEOLOSS_INLINE int64_t count() const { return rows * columns * tiles; }

  // The sum of one column of a row, in the warp's lane 0.
  GEOLOSS_DEVICE T sum(int64_t row, int column) const {
    const int slot = slot_of_column[column];
    if (slot == kEveryVoxel) return static_cast<T>(voxels);
    const T* const of_tiles = of_slots + (row * slots + slot) * tiles;
    double total = 0;
#pragma unroll 8
    for (int64_t i = threadIdx.x % kWarpSize; i < tiles; i += kWarpSize) total += of_tiles[i];
    return static_cast<T>(warp_sum(total));
  }

  // A warp for each sum: warp, warp + warps, ...; sums: [rows, K]
  GEOLOSS_DEVICE void write(int64_t warp, int64_t warps, T* sums) const {
    for (int64_t i = warp; i < rows * columns; i += warps) {
      const T total = sum(i / columns, static_cast<int>(i % columns));
      if (threadIdx.x % kWarpSize == 0) sums[i] = total;
    }
  }
};

template <class T>
PartialSums<T> partial_sums(const LaunchParams& params) {
  const GeoSumsParams& p = params.tensors;
  PartialSums<T> partial{};
  partial.of_slots = static_cast<const T*>(params.partial_sums);
  partial.rows = p.N * (p.C - p.first_channel);
  partial.tiles = params.tiling.tiles_per_volume();
  partial.voxels = static_cast<double>(p.D) * static_cast<double>(p.H) * static_cast<double>(p.W);
  partial.slots = params.terms.slots();
  partial.columns = params.terms.columns;
  std::copy_n(params.terms.slot_of_column, kMaxTerms, partial.slot_of_column);
  return partial;
}

constexpr int kReduceThreads = 128;

// sums: [rows, K]
template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    geo_sums_reduce_kernel(const __grid_constant__ PartialSums<T> partial, T* sums) {
  constexpr int kWarps = kReduceThreads / kWarpSize;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  partial.write(warp, static_cast<int64_t>(gridDim.x) * kWarps, sums);
}

}  // namespace geoloss::cuda
