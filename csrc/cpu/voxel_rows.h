// The voxel-wise terms along a row: each adds a row to a sum, or its slope to a row of the gradient.
#pragma once

#include "../terms.h"
#include "simd.h"

namespace geoloss::GEOLOSS_ISA {

// The rows of one channel at (z, y). A row has W elements and is readable up to a whole number of vectors.
template <class T>
struct VoxelRow {
  const T* prediction;
  const T* target;
  const T* valid;  // 1 or 0; null where every voxel is valid
  const T* logit;
  const T* map;
};

// The voxel that the terms are written for: the lanes of a row from x on.
template <class T>
struct VoxelAt {
  const VoxelRow<T>& row;
  int64_t x;

  GEOLOSS_SIMD Lanes<T> prediction() const { return Lanes<T>::load(row.prediction + x); }
  GEOLOSS_SIMD Lanes<T> target() const { return Lanes<T>::load(row.target + x); }
  GEOLOSS_SIMD Lanes<T> valid() const { return row.valid ? Lanes<T>::load(row.valid + x) : constant(1); }
  GEOLOSS_SIMD Lanes<T> logit() const { return Lanes<T>::load(row.logit + x); }
  GEOLOSS_SIMD Lanes<T> map() const { return Lanes<T>::load(row.map + x); }
  GEOLOSS_SIMD Lanes<T> constant(double value) const { return Lanes<T>(static_cast<T>(value)); }
};

// Adds value(x) of the row's W voxels to `sum`, lane by lane.
template <class T, class Value>
GEOLOSS_SIMD void add_row(int64_t width, Lanes<T>* sum, Value value) {
  Lanes<T> total = *sum;
  int64_t x = 0;
  for (; x + Lanes<T>::kCount <= width; x += Lanes<T>::kCount) total += value(x);
  if (x < width) total += select(Lanes<T>::first(width - x), value(x), Lanes<T>(T(0)));
  *sum = total;
}

// A row of the gradient that terms add to, one after the other. The first to come finds it unwritten.
template <class T>
struct GradientRow {
  T* row;
  int64_t width;
  bool written = false;

  template <class Value>
  GEOLOSS_SIMD void add(Value value) {
    T* const out = row;
    const int64_t end = width;
    if (written) {
      for (int64_t x = 0; x < end; x += Lanes<T>::kCount) (Lanes<T>::load(out + x) + value(x)).store(out + x);
    } else {
      for (int64_t x = 0; x < end; x += Lanes<T>::kCount) {
        prefetch<kWrite>(out + x);
        value(x).store(out + x);
      }
    }
    written = true;
  }
};

template <class T>
struct VoxelTerm {
  const char* name;
  bool from_logit;
  void (*sum)(const VoxelRow<T>&, int64_t width, Lanes<T>* sum);
  void (*add_slope)(const VoxelRow<T>&, GradientRow<T>&, T weight);  // null: the slope is 0
};

template <class T, class Term>
void sum_voxel_row(const VoxelRow<T>& row, int64_t width, Lanes<T>* sum) {
  add_row(width, sum, [&](int64_t x) GEOLOSS_LAMBDA_INLINE { return Term::value(VoxelAt<T>{row, x}); });
}

template <class T, class Term>
void add_voxel_slope(const VoxelRow<T>& row, GradientRow<T>& gradient, T weight) {
  gradient.add([&](int64_t x) GEOLOSS_LAMBDA_INLINE { return weight * Term::slope(VoxelAt<T>{row, x}); });
}

template <class T, class Term>
constexpr VoxelTerm<T> voxel_term() {
  if constexpr (Term::kDependsOnPrediction) {
    return {Term::kName, Term::kFromLogit, sum_voxel_row<T, Term>, add_voxel_slope<T, Term>};
  } else {
    return {Term::kName, Term::kFromLogit, sum_voxel_row<T, Term>, nullptr};
  }
}

template <class T, class List>
struct VoxelTable;

template <class T, class... Terms>
struct VoxelTable<T, TermList<Terms...>> {
  static constexpr VoxelTerm<T> terms[] = {voxel_term<T, Terms>()...};
};

}  // namespace geoloss::GEOLOSS_ISA
