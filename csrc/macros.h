#pragma once

#if defined(__CUDACC__)
#define GEOLOSS_INLINE __host__ __device__ __forceinline__
#define GEOLOSS_DEVICE __device__ __forceinline__
#else
#define GEOLOSS_INLINE inline __attribute__((always_inline))
#define GEOLOSS_DEVICE GEOLOSS_INLINE
#endif

// Between a lambda's parameters and its body.
#define GEOLOSS_LAMBDA_INLINE __attribute__((always_inline))
