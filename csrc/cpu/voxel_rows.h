// The voxel-wise terms along rows: sets of terms that add rows to their sums, or their slopes to rows of the
// gradient, in one loop.
#pragma once

#include "../terms.h"
#include "rows.h"
#include "simd.h"

namespace geoloss::GEOLOSS_ISA {

// The rows of one channel. They are readable up to a whole number of vectors.
template <class T>
struct VoxelRows {
  Rows<const T> prediction;
  Rows<const T> target;
  Rows<const T> valid;  // 1 or 0; null where every voxel is valid
  Rows<const T> log_prediction;
  Rows<const T> log_complement;
  Rows<const T> map;
};

// The voxel that the terms are written for: the lanes of row y from x on.
template <class T>
struct VoxelAt {
  const VoxelRows<T>& rows;
  int64_t y, x;

  GEOLOSS_SIMD Lanes<T> prediction() const { return Lanes<T>::load(rows.prediction.at(y, x)); }
  GEOLOSS_SIMD Lanes<T> target() const { return Lanes<T>::load(rows.target.at(y, x)); }
  GEOLOSS_SIMD Lanes<T> valid() const {
    return rows.valid ? Lanes<T>::load(rows.valid.at(y, x)) : constant(1);
  }
  GEOLOSS_SIMD Lanes<T> log_prediction() const { return Lanes<T>::load(rows.log_prediction.at(y, x)); }
  GEOLOSS_SIMD Lanes<T> log_complement() const { return Lanes<T>::load(rows.log_complement.at(y, x)); }
  GEOLOSS_SIMD Lanes<T> map() const { return Lanes<T>::load(rows.map.at(y, x)); }
  GEOLOSS_SIMD Lanes<T> constant(double value) const { return Lanes<T>(static_cast<T>(value)); }
};

// Calls add(x, kept) for every vector of a row; kept(value) is 0 in the lanes past its end.
template <class T, class Add>
GEOLOSS_SIMD void add_row(int64_t width, Add add) {
  using V = Lanes<T>;
  int64_t x = 0;
  for (; x + V::kCount <= width; x += V::kCount) add(x, [](V value) GEOLOSS_LAMBDA_INLINE { return value; });
  if (x == width) return;
  const auto within = V::first(width - x);
  add(x, [&](V value) GEOLOSS_LAMBDA_INLINE { return select(within, value, V(T(0))); });
}

// A row of the gradient that terms add to, one after the other. The first to come finds it unwritten.
template <class T>
struct GradientRow {
  T* row;
  int64_t width;
  bool written;

  template <class Value>
  GEOLOSS_SIMD void add(Value value) const {
    if (written) {
      for (int64_t x = 0; x < width; x += Lanes<T>::kCount) {
        (Lanes<T>::load(row + x) + value(x)).store(row + x);
      }
    } else {
      for (int64_t x = 0; x < width; x += Lanes<T>::kCount) {
        prefetch<kWrite>(row + x);
        value(x).store(row + x);
      }
    }
  }
};

template <class T>
struct GradientRows {
  Rows<T> rows;
  Extent size;
  bool written = false;

  template <class AddToRow>
  GEOLOSS_SIMD void for_each_row(AddToRow add_to_row) {
    const GradientRows self = *this;
    for (int64_t y = 0; y < self.size.rows; ++y) {
      add_to_row(y, GradientRow<T>{self.rows.at(y), self.size.width, self.written});
    }
    written = true;
  }
};

constexpr int kMaxSetTerms = 3;

// Terms that are evaluated together. `columns` says which of all sums or weights are theirs, in turn.
template <class T>
struct VoxelTermSet {
  int count;
  TermKind kinds[kMaxSetTerms];
  terms::Variable variable;  // of their slopes
  bool reads_map;
  void (*sum)(const VoxelRows<T>&, Extent, Lanes<T>* sums, const int64_t* columns);
  // Null: the slope is 0.
  void (*add_slope)(const VoxelRows<T>&, GradientRows<T>&, const T* weights, const int64_t* columns);
};

template <class T, class... Terms>
void sum_voxel_rows(const VoxelRows<T>& voxel_rows, Extent size, Lanes<T>* sums, const int64_t* columns) {
  const VoxelRows<T> rows = voxel_rows;
  Lanes<T> totals[sizeof...(Terms)];
  for (size_t k = 0; k < sizeof...(Terms); ++k) totals[k] = sums[columns[k]];
  for (int64_t y = 0; y < size.rows; ++y) {
    add_row<T>(size.width, [&](int64_t x, auto kept) GEOLOSS_LAMBDA_INLINE {
      Lanes<T>* total = totals;
      ((*total++ += kept(Terms::value(VoxelAt<T>{rows, y, x}))), ...);
    });
  }
  for (size_t k = 0; k < sizeof...(Terms); ++k) sums[columns[k]] = totals[k];
}

template <class T, class Term>
GEOLOSS_SIMD void add_slope(const VoxelAt<T>& voxel, T weight, Lanes<T>& sum) {
  if constexpr (Term::kVariable != terms::Variable::kNothing) sum += weight * Term::slope(voxel);
}

template <class T, class... Terms>
void add_voxel_slopes(const VoxelRows<T>& voxel_rows, GradientRows<T>& gradient, const T* all_weights,
                      const int64_t* columns) {
  const VoxelRows<T> rows = voxel_rows;
  T weights[sizeof...(Terms)];
  for (size_t k = 0; k < sizeof...(Terms); ++k) weights[k] = all_weights[columns[k]];
  gradient.for_each_row([&](int64_t y, const GradientRow<T>& row) GEOLOSS_LAMBDA_INLINE {
    row.add([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      const T* weight = weights;
      Lanes<T> sum(T(0));
      (add_slope<T, Terms>({rows, y, x}, *weight++, sum), ...);
      return sum;
    });
  });
}

// Of the terms that have a slope, all have it with respect to the same variable.
template <class... Terms>
constexpr terms::Variable variable_of() {
  terms::Variable variable = terms::Variable::kNothing;
  ((variable = Terms::kVariable == terms::Variable::kNothing ? variable : Terms::kVariable), ...);
  return variable;
}

template <class T, class... Terms>
constexpr VoxelTermSet<T> voxel_term_set(TermList<Terms...>) {
  VoxelTermSet<T> set{};
  set.count = sizeof...(Terms);
  int k = 0;
  ((set.kinds[k++] = Terms::kKind), ...);
  set.variable = variable_of<Terms...>();
  set.reads_map = (reads_map(Terms::kKind) || ...);
  set.sum = sum_voxel_rows<T, Terms...>;
  if constexpr (variable_of<Terms...>() != terms::Variable::kNothing)
    set.add_slope = add_voxel_slopes<T, Terms...>;
  return set;
}

template <class T, class List>
struct VoxelTable;

// Every term can be evaluated alone; those that losses ask for together come first, as sets.
template <class T, class... Terms>
struct VoxelTable<T, TermList<Terms...>> {
  static constexpr VoxelTermSet<T> sets[] = {
      voxel_term_set<T>(TermList<terms::Intersection, terms::Prediction, terms::Target>{}),
      voxel_term_set<T>(TermList<terms::Intersection, terms::PredictionSquared, terms::TargetSquared>{}),
      voxel_term_set<T>(TermList<Terms>{})...,
  };
};

}  // namespace geoloss::GEOLOSS_ISA
