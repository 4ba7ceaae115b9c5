// Eq. 1 on the sums of one volume: Σ_j (n_j · [S, 1]) / (d_j · [S, 1]), and its slope.
//
// A fraction 0 / 0 is 0 and has the slope 0: a volume without valid voxels adds nothing. A sum of weight 0 is
// left out, also if it is not finite.
#pragma once

#include <cstdint>

#include "macros.h"

namespace geoloss {

template <class T>
GEOLOSS_INLINE T affine(const double* row, const T* sums, int64_t terms) {
  T total = static_cast<T>(row[terms]);
  for (int64_t k = 0; k < terms; ++k) total += row[k] == 0 ? T(0) : static_cast<T>(row[k]) * sums[k];
  return total;
}

// sums: [K]; numerator, denominator: [fractions, K + 1]
template <class T>
GEOLOSS_INLINE T geo_ratio(const T* sums, const double* numerator, const double* denominator,
                           int64_t fractions, int64_t terms) {
  T ratio = 0;
  for (int64_t j = 0; j < fractions; ++j) {
    const T n = affine(numerator + j * (terms + 1), sums, terms);
    const T d = affine(denominator + j * (terms + 1), sums, terms);
    ratio += n == 0 && d == 0 ? T(0) : n / d;
  }
  return ratio;
}

// grad_sums: [K]
template <class T>
GEOLOSS_INLINE void geo_ratio_slope(T grad_ratio, const T* sums, const double* numerator,
                                    const double* denominator, int64_t fractions, int64_t terms,
                                    T* grad_sums) {
  for (int64_t k = 0; k < terms; ++k) grad_sums[k] = 0;
  for (int64_t j = 0; j < fractions; ++j) {
    const double* n = numerator + j * (terms + 1);
    const double* d = denominator + j * (terms + 1);
    const T dividend = affine(n, sums, terms);
    const T divisor = affine(d, sums, terms);
    if (dividend == 0 && divisor == 0) continue;
    const T inverse = 1 / divisor;
    const T ratio = dividend * inverse;
    for (int64_t k = 0; k < terms; ++k) {
      const T share = d[k] == 0 ? T(0) : ratio * static_cast<T>(d[k]);
      grad_sums[k] += grad_ratio * (static_cast<T>(n[k]) - share) * inverse;
    }
  }
}

}  // namespace geoloss
