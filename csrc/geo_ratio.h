// Eq. 1 on the sums of one volume: Σ_j (n_j · [S, 1]) / (d_j · [S, 1]), and its slope.
#pragma once

#include <cstdint>

#include "macros.h"

namespace geoloss {

template <class T>
GEOLOSS_INLINE T affine(const double* row, const T* sums, int64_t terms) {
  T total = static_cast<T>(row[terms]);
  for (int64_t k = 0; k < terms; ++k) total += static_cast<T>(row[k]) * sums[k];
  return total;
}

// sums: [K]; numerator, denominator: [fractions, K + 1]
template <class T>
GEOLOSS_INLINE T geo_ratio(const T* sums, const double* numerator, const double* denominator, int64_t fractions,
                           int64_t terms) {
  T ratio = 0;
  for (int64_t j = 0; j < fractions; ++j) {
    const int64_t row = j * (terms + 1);
    ratio += affine(numerator + row, sums, terms) / affine(denominator + row, sums, terms);
  }
  return ratio;
}

// grad_sums: [K]
template <class T>
GEOLOSS_INLINE void geo_ratio_slope(T grad_ratio, const T* sums, const double* numerator, const double* denominator,
                                    int64_t fractions, int64_t terms, T* grad_sums) {
  for (int64_t k = 0; k < terms; ++k) grad_sums[k] = 0;
  for (int64_t j = 0; j < fractions; ++j) {
    const double* n = numerator + j * (terms + 1);
    const double* d = denominator + j * (terms + 1);
    const T inverse = 1 / affine(d, sums, terms);
    const T ratio = affine(n, sums, terms) * inverse;
    for (int64_t k = 0; k < terms; ++k) {
      grad_sums[k] += grad_ratio * (static_cast<T>(n[k]) - ratio * static_cast<T>(d[k])) * inverse;
    }
  }
}

}  // namespace geoloss
