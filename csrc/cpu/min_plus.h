// The lower envelope of parabolas, min over d of f[x + d] + (h d)², for many x at once.
//
// Lanes are neighbouring outputs; a step looks at the inputs at d voxels to either side of every output. The
// steps end where (h d)² is no less than the worst of the block's best, because nothing from there on can
// improve any: r steps, r being the largest distance in the block, and at most the length of the line. With
// 32 lanes of uint16 a step costs less than a cycle and a half, which no envelope with its stack of parabolas
// can match at the lengths that volumes have.
#pragma once

#include "simd.h"

namespace geoloss::GEOLOSS_ISA {

// Squared distances. uint16 counts in voxels up to 65534; its infinity absorbs every sum.
template <class T>
constexpr T kInfinity = static_cast<T>(__builtin_inff());
template <>
constexpr uint16_t kInfinity<uint16_t> = 0xffff;

constexpr int64_t kStepsAtOnce = 4;

#if defined(__AVX512F__)
GEOLOSS_SIMD Words smaller(Words a, Words b) {
  return Words::Native(_mm512_maskz_min_epu16(-1, __m512i(a.v), __m512i(b.v)));
}
GEOLOSS_SIMD Words sum(Words a, Words b) {
  return Words::Native(_mm512_adds_epu16(__m512i(a.v), __m512i(b.v)));
}
GEOLOSS_SIMD bool any_above(Words a, Words b) {
  return _mm512_cmpgt_epu16_mask(__m512i(a.v), __m512i(b.v)) != 0;
}
GEOLOSS_SIMD Floats smaller(Floats a, Floats b) { return Floats::Native(_mm512_maskz_min_ps(-1, a.v, b.v)); }
GEOLOSS_SIMD bool any_above(Floats a, Floats b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ) != 0; }
GEOLOSS_SIMD Doubles smaller(Doubles a, Doubles b) {
  return Doubles::Native(_mm512_maskz_min_pd(-1, a.v, b.v));
}
GEOLOSS_SIMD bool any_above(Doubles a, Doubles b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ) != 0; }
#elif defined(__AVX2__)
GEOLOSS_SIMD Words smaller(Words a, Words b) {
  return Words::Native(_mm256_min_epu16(__m256i(a.v), __m256i(b.v)));
}
GEOLOSS_SIMD Words sum(Words a, Words b) {
  return Words::Native(_mm256_adds_epu16(__m256i(a.v), __m256i(b.v)));
}
GEOLOSS_SIMD bool any_above(Words a, Words b) {
  const __m256i excess = _mm256_subs_epu16(__m256i(a.v), __m256i(b.v));
  return !_mm256_testz_si256(excess, excess);
}
GEOLOSS_SIMD Floats smaller(Floats a, Floats b) { return Floats::Native(_mm256_min_ps(a.v, b.v)); }
GEOLOSS_SIMD bool any_above(Floats a, Floats b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)) != 0;
}
GEOLOSS_SIMD Doubles smaller(Doubles a, Doubles b) { return Doubles::Native(_mm256_min_pd(a.v, b.v)); }
GEOLOSS_SIMD bool any_above(Doubles a, Doubles b) {
  return _mm256_movemask_pd(_mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ)) != 0;
}
#else
template <class T>
GEOLOSS_SIMD Lanes<T> smaller(Lanes<T> a, Lanes<T> b) {
  return select(a < b, a, b);
}
GEOLOSS_SIMD Words sum(Words a, Words b) {
  const Words wrapped = a + b;
  return select(wrapped < a, Words(kInfinity<uint16_t>), wrapped);
}
template <class T>
GEOLOSS_SIMD bool any_above(Lanes<T> a, Lanes<T> b) {
  const auto above = a > b;
  int64_t words[sizeof above / 8];
  std::memcpy(words, &above, sizeof above);
  int64_t any = 0;
  for (const int64_t word : words) any |= word;
  return any != 0;
}
#endif
template <class T>
GEOLOSS_SIMD Lanes<T> larger(Lanes<T> a, Lanes<T> b) {
  return select(a < b, b, a);
}

GEOLOSS_SIMD Floats sum(Floats a, Floats b) { return a + b; }
GEOLOSS_SIMD Doubles sum(Doubles a, Doubles b) { return a + b; }

template <class T, int kVectors>
GEOLOSS_SIMD bool any_above(const Lanes<T> (&values)[kVectors], T bound) {
  Lanes<T> largest = values[0];
  for (int k = 1; k < kVectors; ++k) largest = larger(largest, values[k]);
  return any_above(largest, Lanes<T>(bound));
}

// Lowers `best`, f at kVectors vectors of outputs from `f` on, to the envelope; inputs are `stride` apart.
// `steps` holds (h d)². Up to `reach` + kStepsAtOnce - 1 inputs to either side are read; those outside of the
// line hold infinity. With kOffsets, `offset` becomes d of the input that is best: the nearest one of those
// with the same sum, and of a pair the one before x.
template <bool kOffsets, int kVectors, class T>
GEOLOSS_SIMD void lower_to_envelope(const T* f, int64_t stride, const T* steps, int64_t reach,
                                    Lanes<T> (&best)[kVectors], Lanes<T> (&offset)[kVectors]) {
  using V = Lanes<T>;
  for (int64_t first = 1; first <= reach && any_above(best, steps[first]); first += kStepsAtOnce) {
    for (int64_t d = first; d < first + kStepsAtOnce; ++d) {
      const V step(steps[d]);
      for (int k = 0; k < kVectors; ++k) {
        const V before = V::load(f + k * V::kCount - d * stride);
        const V after = V::load(f + k * V::kCount + d * stride);
        const V candidate = sum(smaller(before, after), step);
        if constexpr (kOffsets) {
          const V towards = select(after < before, V(static_cast<T>(d)), V(static_cast<T>(-d)));
          offset[k] = select(candidate < best[k], towards, offset[k]);
        }
        best[k] = smaller(best[k], candidate);
      }
    }
  }
}

}  // namespace geoloss::GEOLOSS_ISA
