// Elements of tensors of any dtype and layout, read into arithmetic type and written back.
#pragma once

#include "../geo_sums.h"
#include "../half.h"
#include "portable.cuh"

namespace geoloss::cuda {

template <class Element, class T>
GEOLOSS_DEVICE T load(const TensorView& view, int64_t offset) {
  return static_cast<T>(static_cast<const Element*>(view.data)[offset]);
}

template <class T>
GEOLOSS_DEVICE T load_element(const TensorView& view, int64_t offset) {
  switch (view.dtype) {
    case DType::kFloat64: return load<double, T>(view, offset);
    case DType::kFloat32: return load<float, T>(view, offset);
    case DType::kFloat16: return load<Half, T>(view, offset);
    case DType::kBFloat16: return load<BFloat16, T>(view, offset);
    case DType::kBool:
    case DType::kUInt8: return load<uint8_t, T>(view, offset);
    case DType::kUInt16: return load<uint16_t, T>(view, offset);
    case DType::kUInt32: return load<uint32_t, T>(view, offset);
    case DType::kUInt64: return load<uint64_t, T>(view, offset);
    case DType::kInt8: return load<int8_t, T>(view, offset);
    case DType::kInt16: return load<int16_t, T>(view, offset);
    case DType::kInt32: return load<int32_t, T>(view, offset);
    case DType::kInt64: return load<int64_t, T>(view, offset);
  }
  return T(0);
}

template <class Element, class T>
GEOLOSS_DEVICE void store(const TensorView& view, int64_t offset, T value) {
  static_cast<Element*>(view.data)[offset] = converted<Element>(value);
}

// Of a floating dtype, as a gradient has.
template <class T>
GEOLOSS_DEVICE void store_element(const TensorView& view, int64_t offset, T value) {
  switch (view.dtype) {
    case DType::kFloat64: return store<double>(view, offset, value);
    case DType::kFloat16: return store<Half>(view, offset, value);
    case DType::kBFloat16: return store<BFloat16>(view, offset, value);
    default: return store<float>(view, offset, value);
  }
}

GEOLOSS_DEVICE int64_t offset_of(const TensorView& view, int64_t n, int64_t c, int64_t z, int64_t y,
                                 int64_t x) {
  return n * view.stride_n + c * view.stride_c + z * view.stride_z + y * view.stride_y + x * view.stride_x;
}

}  // namespace geoloss::cuda
