// Four voxels of a row at once: one access of up to 16 bytes where the row is aligned, element by element
// where it is not or where the row ends.
#pragma once

#include "elements.cuh"

namespace geoloss::cuda {

constexpr int kVector = 4;

// A vector as it lies in memory. It is decoded only when its values are needed, so that the load can be under
// way for long.
template <int kWords>
struct alignas(4 * kWords) Words {
  uint32_t word[kWords];
};

template <class Element>
using WordsOf = Words<kVector * sizeof(Element) / 4>;

template <class Element>
GEOLOSS_DEVICE void set_element(WordsOf<Element>& words, int i, const Element& element) {
  if constexpr (sizeof(Element) == 4) {
    words.word[i] = bit_cast<uint32_t>(element);
  } else if constexpr (sizeof(Element) == 2) {
    words.word[i / 2] |= static_cast<uint32_t>(bit_cast<uint16_t>(element)) << 16 * (i % 2);
  } else {
    words.word[0] |= static_cast<uint32_t>(bit_cast<uint8_t>(element)) << 8 * i;
  }
}

template <class Element>
GEOLOSS_DEVICE float element_of(const WordsOf<Element>& words, int i) {
  if constexpr (sizeof(Element) == 4) {
    return static_cast<float>(bit_cast<Element>(words.word[i]));
  } else if constexpr (sizeof(Element) == 2) {
    return static_cast<float>(bit_cast<Element>(static_cast<uint16_t>(words.word[i / 2] >> 16 * (i % 2))));
  } else {
    return static_cast<float>(bit_cast<Element>(static_cast<uint8_t>(words.word[0] >> 8 * i)));
  }
}

// A vector of a row, and those behind it in the following planes. Past the end of the row its last element is
// repeated.
struct VectorColumn {
  const TensorView& view;
  char* here;
  int count;     // elements of the row from here on
  bool aligned;  // `count` is at least kVector, and every plane's vector is aligned

  GEOLOSS_DEVICE void advance(int element_size) { here += view.stride_z * element_size; }

  // offset: in elements, to another channel's vector
  template <class Element>
  GEOLOSS_DEVICE WordsOf<Element> load_aligned(int64_t offset) const {
    return *reinterpret_cast<const WordsOf<Element>*>(reinterpret_cast<const Element*>(here) + offset);
  }

  template <class Element>
  GEOLOSS_DEVICE WordsOf<Element> load(int64_t offset) const {
    if (aligned) return load_aligned<Element>(offset);
    const Element* const elements = reinterpret_cast<const Element*>(here) + offset;
    WordsOf<Element> words{};
#pragma unroll
    for (int i = 0; i < kVector; ++i) set_element(words, i, elements[i < count ? i : count - 1]);
    return words;
  }

  template <class Element>
  GEOLOSS_DEVICE void store_aligned(int64_t offset, const float (&values)[kVector]) const {
    WordsOf<Element> words{};
#pragma unroll
    for (int i = 0; i < kVector; ++i) set_element(words, i, converted<Element>(values[i]));
    *reinterpret_cast<WordsOf<Element>*>(reinterpret_cast<Element*>(here) + offset) = words;
  }

  template <class Element>
  GEOLOSS_DEVICE void store(int64_t offset, const float (&values)[kVector]) const {
    if (aligned) return store_aligned<Element>(offset, values);
    Element* const elements = reinterpret_cast<Element*>(here) + offset;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      if (i < count) elements[i] = converted<Element>(values[i]);
    }
  }
};

GEOLOSS_INLINE int size_of(DType dtype) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUInt8:
    case DType::kInt8: return 1;
    case DType::kFloat16:
    case DType::kBFloat16:
    case DType::kUInt16:
    case DType::kInt16: return 2;
    case DType::kFloat32:
    case DType::kUInt32:
    case DType::kInt32: return 4;
    default: return 8;
  }
}

// Whether every vector of the tensor that starts at a multiple of kVector along x is aligned, and none
// partial.
inline bool has_aligned_vectors(const TensorView& view, int64_t W) {
  const int64_t bytes = kVector * size_of(view.dtype);
  bool aligned = W % kVector == 0 && reinterpret_cast<uintptr_t>(view.data) % bytes == 0;
  for (const int64_t stride : {view.stride_n, view.stride_c, view.stride_z, view.stride_y}) {
    aligned = aligned && stride % kVector == 0;
  }
  return aligned;
}

GEOLOSS_DEVICE VectorColumn vector_column(const TensorView& view, bool aligned, int64_t W, int64_t n,
                                          int64_t c, int z, int y, int x) {
  char* const here = static_cast<char*>(view.data) + offset_of(view, n, c, z, y, x) * size_of(view.dtype);
  return {view, here, smaller(W - x, kVector), aligned};
}

// A vector of 8-byte elements, as floats.
GEOLOSS_DEVICE Words<4> load_wide(const VectorColumn& column) {
  TensorView elements = column.view;
  elements.data = column.here;
  Words<4> words;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    words.word[i] =
        bit_cast<uint32_t>(load_element<float>(elements, i < column.count ? i : column.count - 1));
  }
  return words;
}

// A vector of a tensor whose dtype is known at run time.
GEOLOSS_DEVICE Words<4> load_any(const VectorColumn& column) {
  Words<4> words{};
  const int size = size_of(column.view.dtype);
  if (size == 8) {
    words = load_wide(column);
  } else if (size == 4) {
    words = column.load<float>(0);
  } else if (size == 2) {
    const auto narrow = column.load<BFloat16>(0);
    words.word[0] = narrow.word[0], words.word[1] = narrow.word[1];
  } else {
    words.word[0] = column.load<uint8_t>(0).word[0];
  }
  return words;
}

template <class Element>
GEOLOSS_DEVICE void decode(const WordsOf<Element>& words, float (&values)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) values[i] = element_of<Element>(words, i);
}

template <class Element>
GEOLOSS_DEVICE void decode_front(const Words<4>& words, float (&values)[kVector]) {
  WordsOf<Element> front;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(front) / 4); ++i) front.word[i] = words.word[i];
  decode<Element>(front, values);
}

GEOLOSS_DEVICE void decode_any(const Words<4>& words, DType dtype, float (&values)[kVector]) {
  switch (dtype) {
    case DType::kFloat16: return decode_front<Half>(words, values);
    case DType::kBFloat16: return decode_front<BFloat16>(words, values);
    case DType::kBool:
    case DType::kUInt8: return decode_front<uint8_t>(words, values);
    case DType::kInt8: return decode_front<int8_t>(words, values);
    case DType::kUInt16: return decode_front<uint16_t>(words, values);
    case DType::kInt16: return decode_front<int16_t>(words, values);
    case DType::kUInt32: return decode_front<uint32_t>(words, values);
    case DType::kInt32: return decode_front<int32_t>(words, values);
    default: return decode_front<float>(words, values);  // of 8 bytes, too: see load_wide
  }
}

}  // namespace geoloss::cuda
