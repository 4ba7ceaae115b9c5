// Rows: W voxels that lie next to each other along x, read from a tensor of any dtype and layout into
// arithmetic type, and written back.
#pragma once

#include "../geo_sums.h"
#include "simd.h"

namespace geoloss::GEOLOSS_ISA {

GEOLOSS_INLINE float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  // 2^112 re-biases the exponent and normalises subnormals; infinities and NaNs need theirs filled up.
  const uint32_t scale_bits = 0x77800000u;
  float scale, value;
  std::memcpy(&scale, &scale_bits, 4);
  std::memcpy(&value, &magnitude, 4);
  value *= scale;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits |= sign | (magnitude >= 0x0f800000u ? 0x7f800000u : 0u);
  std::memcpy(&value, &bits, 4);
  return value;
}

// Round to nearest, ties to even.
GEOLOSS_INLINE uint16_t float_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t rounded = magnitude + 0x0fffu + ((magnitude >> 13) & 1u);
  const uint32_t normal = (rounded - 0x38000000u) >> 13;
  // Adding 1/2 leaves the subnormal's bits, rounded by the addition, at the bottom of the mantissa.
  float shifted;
  std::memcpy(&shifted, &magnitude, 4);
  shifted += 0.5f;
  uint32_t shifted_bits;
  std::memcpy(&shifted_bits, &shifted, 4);
  const uint32_t subnormal = shifted_bits - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return static_cast<uint16_t>(sign | half);
}

struct Half {
  uint16_t bits;
  GEOLOSS_INLINE operator float() const { return half_to_float(bits); }
  GEOLOSS_INLINE static Half from(float value) { return {float_to_half(value)}; }
};

struct BFloat16 {
  uint16_t bits;
  GEOLOSS_INLINE operator float() const {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
  // Round to nearest, ties to even; NaN keeps its top bits and stays NaN.
  GEOLOSS_INLINE static BFloat16 from(float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    const uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    const uint32_t quiet_nan = (wide >> 16) | 0x40u;
    return {static_cast<uint16_t>((wide & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded)};
  }
};

template <class Source, class T>
void load_strided(const void* data, int64_t offset, int64_t stride, int64_t width, T* __restrict__ row) {
  const Source* __restrict__ source = static_cast<const Source*>(data) + offset;
  if (stride == 1) {
    for (int64_t x = 0; x < width; ++x) row[x] = static_cast<T>(source[x]);
  } else {
    for (int64_t x = 0; x < width; ++x) row[x] = static_cast<T>(source[x * stride]);
  }
}

template <class T>
using LoadRow = void (*)(const void* data, int64_t offset, int64_t stride, int64_t width, T* row);

template <class T>
LoadRow<T> load_row(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return load_strided<double, T>;
    case DType::kFloat32: return load_strided<float, T>;
    case DType::kFloat16: return load_strided<Half, T>;
    case DType::kBFloat16: return load_strided<BFloat16, T>;
    case DType::kBool:
    case DType::kUInt8: return load_strided<uint8_t, T>;
    case DType::kUInt16: return load_strided<uint16_t, T>;
    case DType::kUInt32: return load_strided<uint32_t, T>;
    case DType::kUInt64: return load_strided<uint64_t, T>;
    case DType::kInt8: return load_strided<int8_t, T>;
    case DType::kInt16: return load_strided<int16_t, T>;
    case DType::kInt32: return load_strided<int32_t, T>;
    case DType::kInt64: return load_strided<int64_t, T>;
  }
  return nullptr;
}

template <class Destination, class T>
GEOLOSS_INLINE Destination converted(T value) {
  if constexpr (sizeof(Destination) == 2) {
    return Destination::from(static_cast<float>(value));
  } else {
    return static_cast<Destination>(value);
  }
}

template <class Destination, class T>
void store_strided(void* data, int64_t offset, int64_t stride, int64_t width, const T* __restrict__ row) {
  Destination* __restrict__ destination = static_cast<Destination*>(data) + offset;
  if (stride == 1) {
    for (int64_t x = 0; x < width; ++x) destination[x] = converted<Destination>(row[x]);
  } else {
    for (int64_t x = 0; x < width; ++x) destination[x * stride] = converted<Destination>(row[x]);
  }
}

template <class T>
using StoreRow = void (*)(void* data, int64_t offset, int64_t stride, int64_t width, const T* row);

template <class T>
StoreRow<T> store_row(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return store_strided<double, T>;
    case DType::kFloat32: return store_strided<float, T>;
    case DType::kFloat16: return store_strided<Half, T>;
    case DType::kBFloat16: return store_strided<BFloat16, T>;
    default: return nullptr;  // a gradient has its input's dtype, which is floating
  }
}

}  // namespace geoloss::GEOLOSS_ISA
