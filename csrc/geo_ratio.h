// Eq. 1 on the sums S [N, C, K] of volumes: the loss is a sum of fractions (n · S + n_0) / (d · S + d_0).
//
// A fraction is taken of each volume and channel, or S is pooled before: over the batch, which leaves a
// fraction per channel (batch Dice), or over the channels too (cross-entropy). Channel weights w_c multiply
// the fraction of a channel, or, where channels are pooled, the channel's share in numerator or denominator.
// The fractions of all groups are averaged, added up, or left apart.
//
// 0 / 0 is 0 and has the slope 0: a volume without valid voxels adds nothing. A sum of weight 0 is left out,
// also if it is not finite.
#pragma once

#include <cstdint>

#include "macros.h"

namespace geoloss {

enum class Pooling : int32_t { kVolume, kBatch, kAll };
enum class Reduction : int32_t { kNone, kMean, kSum };

constexpr int kMaxFractions = 16;
constexpr int kFractionIntegers = 4;  // of the operators' `fractions` argument
constexpr int kUnweighted = -1;

struct Fraction {
  Pooling pooling;
  int32_t skip;                                    // leading channels that are left out
  int32_t numerator_weights, denominator_weights;  // rows of channel_weights, or kUnweighted
  const double* numerator;                         // [K + 1], the constant last
  const double* denominator;
};

// The volumes and channels that one fraction is taken of.
struct Group {
  int64_t n_begin, n_end, c_begin, c_end;
};

GEOLOSS_INLINE int64_t group_count(const Fraction& f, int64_t N, int64_t C) {
  if (f.pooling == Pooling::kAll) return 1;
  return (C - f.skip) * (f.pooling == Pooling::kBatch ? 1 : N);
}

GEOLOSS_INLINE Group group_of(const Fraction& f, int64_t N, int64_t C, int64_t index) {
  if (f.pooling == Pooling::kAll) return {0, N, f.skip, C};
  const int64_t n = index / (C - f.skip), c = f.skip + index % (C - f.skip);
  if (f.pooling == Pooling::kBatch) return {0, N, c, c + 1};
  return {n, n + 1, c, c + 1};
}

template <class T>
GEOLOSS_INLINE double linear(const double* row, const T* sums, int64_t terms) {
  double total = 0;
  for (int64_t k = 0; k < terms; ++k) total += row[k] == 0 ? 0 : row[k] * double(sums[k]);
  return total;
}

}  // namespace geoloss
