// The 16-bit floating-point types as storage: read into and rounded from float.
#pragma once

#include <cstdint>
#include <cstring>

#include "macros.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace geoloss {

template <class To, class From>
GEOLOSS_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

GEOLOSS_INLINE float half_to_float(uint16_t half) {
#if defined(__CUDA_ARCH__)
  return __half2float(bit_cast<__half>(half));
#else
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  // 2^112 re-biases the exponent and normalises subnormals; infinities and NaNs need theirs filled up.
  const float value = bit_cast<float>(magnitude) * bit_cast<float>(0x77800000u);
  return bit_cast<float>(bit_cast<uint32_t>(value) | sign | (magnitude >= 0x0f800000u ? 0x7f800000u : 0u));
#endif
}

// Round to nearest, ties to even.
GEOLOSS_INLINE uint16_t float_to_half(float value) {
#if defined(__CUDA_ARCH__)
  return bit_cast<uint16_t>(__float2half_rn(value));
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t rounded = magnitude + 0x0fffu + ((magnitude >> 13) & 1u);
  const uint32_t normal = (rounded - 0x38000000u) >> 13;
  // Adding 1/2 leaves the subnormal's bits, rounded by the addition, at the bottom of the mantissa.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return static_cast<uint16_t>(sign | half);
#endif
}

// Round to nearest, ties to even; NaN stays NaN.
GEOLOSS_INLINE uint16_t float_to_bfloat16(float value) {
#if defined(__CUDA_ARCH__)
  return bit_cast<uint16_t>(__float2bfloat16_rn(value));
#else
  const uint32_t wide = bit_cast<uint32_t>(value);
  const uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (wide >> 16) | 0x40u;
  return static_cast<uint16_t>((wide & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
#endif
}

struct Half {
  uint16_t bits;
  GEOLOSS_INLINE operator float() const { return half_to_float(bits); }
  GEOLOSS_INLINE static Half from(float value) { return {float_to_half(value)}; }
};

struct BFloat16 {
  uint16_t bits;
  GEOLOSS_INLINE operator float() const { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  GEOLOSS_INLINE static BFloat16 from(float value) { return {float_to_bfloat16(value)}; }
};

template <class Destination, class T>
GEOLOSS_INLINE Destination converted(T value) {
  if constexpr (sizeof(Destination) == 2) {
    return Destination::from(static_cast<float>(value));
  } else {
    return static_cast<Destination>(value);
  }
}

}  // namespace geoloss
