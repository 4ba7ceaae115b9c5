// CUDA under nvcc; for any other compiler a stand-in that runs the kernels on the host, which the tests
// bring.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define GEOLOSS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define GEOLOSS_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

#else

#include "cuda_on_host.h"

#endif
