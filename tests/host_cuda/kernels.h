// The launch layer of csrc/cuda, compiled apart for each arithmetic type: see kernels.cpp.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/ratio.cuh"

#define GEOLOSS_KERNELS(prefix, T)                                                                         \
  prefix template cudaError_t launch_forward<T>(LaunchParams, const Ratio&, void*, T*, T*, cudaStream_t);  \
  prefix template cudaError_t launch_backward<T>(const LaunchParams&, cudaStream_t);                       \
  prefix template cudaError_t launch_ratio<T>(const Ratio&, const T*, int64_t, int64_t, T*, cudaStream_t); \
  prefix template cudaError_t launch_ratio_backward<T>(const Ratio&, const T*, const T*, int64_t, int64_t, \
                                                       T*, cudaStream_t);

namespace geoloss::cuda {

GEOLOSS_KERNELS(extern, float)
GEOLOSS_KERNELS(extern, double)

}  // namespace geoloss::cuda
