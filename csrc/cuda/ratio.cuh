// geo_ratio and its slope: a thread per volume, a few numbers each.
#pragma once

#include "../geo_ratio.h"
#include "launch_params.h"
#include "portable.cuh"

namespace geoloss::cuda {

constexpr int kRatioThreads = 64;

// sums: [rows, K]; ratio_of_row: [rows]
template <class T>
__global__ void __launch_bounds__(kRatioThreads)
    geo_ratio_kernel(const __grid_constant__ Ratio ratio, const T* sums, int64_t rows, int64_t terms,
                     T* ratio_of_row) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRatioThreads + threadIdx.x;
  if (row >= rows) return;
  ratio_of_row[row] =
      geoloss::geo_ratio(sums + row * terms, ratio.numerator, ratio.denominator, ratio.fractions, terms);
}

// grad_ratio: [rows]; sums, grad_sums: [rows, K]
template <class T>
__global__ void __launch_bounds__(kRatioThreads)
    geo_ratio_backward_kernel(const __grid_constant__ Ratio ratio, const T* grad_ratio, const T* sums,
                              int64_t rows, int64_t terms, T* grad_sums) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRatioThreads + threadIdx.x;
  if (row >= rows) return;
  geo_ratio_slope(grad_ratio[row], sums + row * terms, ratio.numerator, ratio.denominator, ratio.fractions,
                  terms, grad_sums + row * terms);
}

inline unsigned ratio_blocks(int64_t rows) {
  return static_cast<unsigned>((rows + kRatioThreads - 1) / kRatioThreads);
}

template <class T>
cudaError_t launch_ratio(const Ratio& ratio, const T* sums, int64_t rows, int64_t terms, T* ratio_of_row,
                         cudaStream_t stream) {
  GEOLOSS_LAUNCH(geo_ratio_kernel<T>, ratio_blocks(rows), kRatioThreads, 0, stream, ratio, sums, rows, terms,
                 ratio_of_row);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_ratio_backward(const Ratio& ratio, const T* grad_ratio, const T* sums, int64_t rows,
                                  int64_t terms, T* grad_sums, cudaStream_t stream) {
  GEOLOSS_LAUNCH(geo_ratio_backward_kernel<T>, ratio_blocks(rows), kRatioThreads, 0, stream, ratio,
                 grad_ratio, sums, rows, terms, grad_sums);
  return cudaGetLastError();
}

}  // namespace geoloss::cuda
