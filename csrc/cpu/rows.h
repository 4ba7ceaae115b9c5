// Rows: W voxels that lie next to each other along x. They are read from a tensor of any dtype and layout
// into arithmetic type, worked on in blocks of rows that lie next to each other along y, and written back.
#pragma once

#include "../geo_sums.h"
#include "../half.h"
#include "simd.h"

namespace geoloss::GEOLOSS_ISA {

// Rows that are worked on in one go, and their W.
struct Extent {
  int64_t rows, width;
};

template <class T>
struct Rows {
  T* first;
  int64_t pitch;  // from a row to the next, in elements

  explicit operator bool() const { return first != nullptr; }
  operator Rows<const T>() const { return {first, pitch}; }
  GEOLOSS_SIMD T* at(int64_t y, int64_t x = 0) const { return first + y * pitch + x; }
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
