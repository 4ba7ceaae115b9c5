// How a volume is cut: tiles of planes and rows, and in a tile blocks of a few rows, which are worked on in
// one go; rings are where rows of the last planes wait.
#pragma once

#include <cstdint>

#include "rows.h"

namespace geoloss::GEOLOSS_ISA {

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows y_begin to y_end of plane z.
struct Block {
  int64_t z, y_begin, y_end;
  int64_t rows() const { return y_end - y_begin; }
  bool empty() const { return y_begin >= y_end; }
  Block at(int64_t plane) const { return {plane, y_begin, y_end}; }
};

struct Box {
  int64_t z_begin, z_end, y_begin, y_end;

  Block part_of(const Block& b) const {
    if (b.z < z_begin || b.z >= z_end) return {b.z, 0, 0};
    return {b.z, max(b.y_begin, y_begin), min(b.y_end, y_end)};
  }
};

// The last planes of a field, or its last block of rows alone. Rows are padded by a vector at either end.
template <class T>
struct Ring {
  T* first = nullptr;  // null: the field is not in a ring
  int64_t plane_mask = 0, plane_pitch = 0, row_mask = 0, row_pitch = 0;

  T* row(int64_t z, int64_t y) const {
    return first + (z & plane_mask) * plane_pitch + (y & row_mask) * row_pitch;
  }
};

// The rows of a field in all channels.
template <class T>
struct ChannelRows {
  Rows<T> first;
  int64_t pitch;  // from a channel to the next
  GEOLOSS_SIMD T* at(int64_t c, int64_t y, int64_t x) const { return first.at(y, x) + c * pitch; }
};

template <class T, class Function>
GEOLOSS_SIMD void for_each_vector(Extent size, Function function) {
  for (int64_t y = 0; y < size.rows; ++y) {
    for (int64_t x = 0; x < size.width; x += Lanes<T>::kCount) function(y, x);
  }
}

template <class T>
void clear(Rows<T> rows, Extent size) {
  for_each_vector<T>(
      size, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE { Lanes<T>(T(0)).store(rows.at(y, x)); });
}

template <class T>
void copy(Rows<const T> from, Rows<T> to, Extent size) {
  for_each_vector<T>(size, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
    prefetch<kRead>(from.at(y, x));
    Lanes<T>::load(from.at(y, x)).store(to.at(y, x));
  });
}

// Replaced where not valid, not multiplied: a NaN at an invalid voxel must not get on. Null: all are valid.
template <class T>
void leave_out(Rows<const T> valid, Rows<T> values, Extent size, T instead) {
  using V = Lanes<T>;
  if (!valid) return;
  for_each_vector<T>(size, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
    T* value = values.at(y, x);
    select(V::load(valid.at(y, x)) == V(T(0)), V(instead), V::load(value)).store(value);
  });
}

// What lies just outside the volume along x: a factor times what lies at its border.
template <class T>
void extend(Rows<T> rows, Extent size, T factor) {
  for (int64_t y = 0; y < size.rows; ++y) {
    *rows.at(y, -1) = factor * *rows.at(y, 0);
    *rows.at(y, size.width) = factor * *rows.at(y, size.width - 1);
  }
}

}  // namespace geoloss::GEOLOSS_ISA
