// The elementary functions of programs along lanes that terms and stencils do without. In float32 they are
// good to a few units in the last place, in float64 they are libm's.
#pragma once

#include "simd.h"

namespace geoloss::GEOLOSS_ISA {

#define GEOLOSS_PER_LANE(Type, name, function)                        \
  GEOLOSS_SIMD Type name(Type x) {                                    \
    for (int i = 0; i < Type::kCount; ++i) x.v[i] = function(x.v[i]); \
    return x;                                                         \
  }
GEOLOSS_PER_LANE(Doubles, exponential_m1, std::expm1)
GEOLOSS_PER_LANE(Doubles, full_logarithm_1p, std::log1p)
GEOLOSS_PER_LANE(Doubles, hyperbolic_tangent, std::tanh)
GEOLOSS_PER_LANE(Doubles, sine, std::sin)
GEOLOSS_PER_LANE(Doubles, cosine, std::cos)
#undef GEOLOSS_PER_LANE

GEOLOSS_SIMD Doubles power(Doubles base, Doubles exponent) {
  for (int i = 0; i < Doubles::kCount; ++i) base.v[i] = std::pow(base.v[i], exponent.v[i]);
  return base;
}

// a^b of floats takes b log a in double precision, of which e^(b log a) keeps float's: half of the lanes
// each.
struct Halves {
  Doubles low, high;
};

#if defined(__AVX512F__)
GEOLOSS_SIMD Halves widened(Floats x) {
  __m256 half[2];
  std::memcpy(half, &x.v, sizeof half);
  return {Doubles::Native(_mm512_maskz_cvtps_pd(0xff, half[0])),
          Doubles::Native(_mm512_maskz_cvtps_pd(0xff, half[1]))};
}
GEOLOSS_SIMD Floats narrowed(const Halves& x) {
  const __m256 half[2] = {_mm512_maskz_cvtpd_ps(0xff, x.low.v), _mm512_maskz_cvtpd_ps(0xff, x.high.v)};
  Floats whole;
  std::memcpy(&whole.v, half, sizeof half);
  return whole;
}
GEOLOSS_SIMD bool any(Floats::Mask condition) {
  return _mm512_test_epi32_mask(__m512i(condition), __m512i(condition)) != 0;
}
#elif defined(__AVX2__)
GEOLOSS_SIMD Halves widened(Floats x) {
  return {Doubles::Native(_mm256_cvtps_pd(_mm256_castps256_ps128(x.v))),
          Doubles::Native(_mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1)))};
}
GEOLOSS_SIMD Floats narrowed(const Halves& x) {
  return Floats::Native(_mm256_set_m128(_mm256_cvtpd_ps(x.high.v), _mm256_cvtpd_ps(x.low.v)));
}
GEOLOSS_SIMD bool any(Floats::Mask condition) {
  return _mm256_testz_si256(__m256i(condition), __m256i(condition)) == 0;
}
#else
GEOLOSS_SIMD Halves widened(Floats x) {
  Halves halves;
  for (int i = 0; i < Doubles::kCount; ++i) {
    halves.low.v[i] = x.v[i];
    halves.high.v[i] = x.v[i + Doubles::kCount];
  }
  return halves;
}
GEOLOSS_SIMD Floats narrowed(const Halves& x) {
  Floats whole;
  for (int i = 0; i < Doubles::kCount; ++i) {
    whole.v[i] = static_cast<float>(x.low.v[i]);
    whole.v[i + Doubles::kCount] = static_cast<float>(x.high.v[i]);
  }
  return whole;
}
GEOLOSS_SIMD bool any(Floats::Mask condition) {
  int32_t found = 0;
  for (int i = 0; i < Floats::kCount; ++i) found |= condition[i];
  return found != 0;
}
#endif

GEOLOSS_SIMD Doubles::Mask bits(Doubles x) {
  Doubles::Mask r;
  std::memcpy(&r, &x.v, sizeof r);
  return r;
}

GEOLOSS_SIMD Doubles double_from_bits(Doubles::Mask x) {
  Doubles r;
  std::memcpy(&r.v, &x, sizeof x);
  return r;
}

constexpr double kRoundToInteger =
    6755399441055744.;  // 1.5 · 2^52: the sum's low mantissa bits are the integer

// log x to 1e-10 for x > 0 that a float holds.
GEOLOSS_SIMD Doubles logarithm_of_float(Doubles x) {
  const auto offset = bits(x) - 0x3fe6a09e667f3bcdLL;  // of 1/√2: the mantissa lies in [1/√2, √2)
  const auto exponent = offset >> 52;
  const Doubles mantissa = double_from_bits(bits(x) - (exponent << 52));
  const Doubles n = double_from_bits(exponent + bits(Doubles(kRoundToInteger))) - kRoundToInteger;
  const Doubles t = (mantissa - 1.) / (mantissa + 1.);
  const Doubles w = t * t;
  Doubles p = 2. / 11;
  p = p * w + 2. / 9;
  p = p * w + 2. / 7;
  p = p * w + 2. / 5;
  p = p * w + 2. / 3;
  return n * 0.69314718055994530942 + (p * w * t + 2. * t);
}

// e^x to 1e-10 for |x| <= 700.
GEOLOSS_SIMD Doubles exponential_to_float(Doubles x) {
  const Doubles shifted = x * 1.44269504088896340736 + kRoundToInteger;
  const Doubles r = x - (shifted - kRoundToInteger) * 0.69314718055994530942;
  Doubles p = 1. / 362880;
  p = p * r + 1. / 40320;
  p = p * r + 1. / 5040;
  p = p * r + 1. / 720;
  p = p * r + 1. / 120;
  p = p * r + 1. / 24;
  p = p * r + 1. / 6;
  p = p * r + 0.5;
  p = p * r * r + r + 1.;
  return p * double_from_bits((bits(shifted) + 1023) << 52);
}

// size > 0 and finite; underflows to 0 and overflows to infinity as floats do.
GEOLOSS_SIMD Doubles power_to_float(Doubles size, Doubles exponent) {
  const Doubles y = exponent * logarithm_of_float(size);
  return exponential_to_float(select(y < -700., Doubles(-700.), select(y > 700., Doubles(700.), y)));
}

GEOLOSS_SIMD Floats power_of_size(Floats size, Floats exponent) {
  const Halves a = widened(size), b = widened(exponent);
  return narrowed({power_to_float(a.low, b.low), power_to_float(a.high, b.high)});
}

// Bases that are 0, negative or infinite, and NaN, are libm's.
GEOLOSS_SIMD Floats power(Floats base, Floats exponent) {
  const auto plain = (base > 0.f) & (base < __builtin_inff()) & (absolute(exponent) < __builtin_inff());
  Floats result = power_of_size(select(plain, base, Floats(1.f)), select(plain, exponent, Floats(0.f)));
  if (any(!plain)) {
    for (int i = 0; i < Floats::kCount; ++i) {
      if (!plain[i]) result.v[i] = std::pow(base.v[i], exponent.v[i]);
    }
  }
  return result;
}

// e^x - 1. Where |x| < ln 2 / 2 nothing cancels in the polynomial of `exponential`, without its 1.
GEOLOSS_SIMD Floats exponential_m1(Floats x) {
  Floats p = 1.9875691500e-4f;
  p = p * x + 1.3981999507e-3f;
  p = p * x + 8.3334519073e-3f;
  p = p * x + 4.1665795894e-2f;
  p = p * x + 1.6666665459e-1f;
  p = p * x + 5.0000001201e-1f;
  const Floats near_0 = p * x * x + x;
  return select(absolute(x) < 0.346573590f, near_0, exponential(x) - 1.f);
}

// log(1 + x) for x > -1, unlike `logarithm_1p`.
GEOLOSS_SIMD Floats full_logarithm_1p(Floats x) {
  const Floats near_0 = twice_artanh(x / (x + 2.f));
  const Floats sum = x + 1.f;
  const Floats lost = x - (sum - 1.f);
  const Floats finite = select(sum > 0.f, lost / sum, Floats(0.f));
  const Floats far = logarithm(sum) + select(sum < __builtin_inff(), finite, Floats(0.f));
  return select(absolute(x) < 0.29f, near_0, far);
}

// Cephes' tanhf.
GEOLOSS_SIMD Floats hyperbolic_tangent(Floats x) {
  const Floats z = x * x;
  Floats p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Floats near_0 = p * z * x + x;
  const Floats size = absolute(x);
  const Floats far = 1.f - 2.f / (exponential(size + size) + 1.f);
  return select(size < 0.625f, near_0, select(x < 0.f, -far, far));
}

// Cephes' sinf and cosf: x = j π/4 + r with even j and |r| <= π/4, for |x| <= kMaxQuarterTurns.
constexpr float kMaxQuarterTurns = 8192.f;

struct QuarterTurns {
  Floats::Mask count;
  Floats rest;
};

GEOLOSS_SIMD QuarterTurns quarter_turns(Floats size) {
  auto count = __builtin_convertvector((size * 1.27323954473516f).v, Floats::Mask);
  count += count & 1;
  const Floats turns = Floats(__builtin_convertvector(count, Floats::Native));
  const Floats rest =
      ((size - turns * 0.78515625f) - turns * 2.4187564849853515625e-4f) - turns * 3.77489497744594108e-8f;
  return {count, rest};
}

GEOLOSS_SIMD Floats sine_near_0(Floats x) {
  const Floats z = x * x;
  Floats p = -1.9515295891e-4f;
  p = p * z + 8.3321608736e-3f;
  p = p * z - 1.6666654611e-1f;
  return p * z * x + x;
}

GEOLOSS_SIMD Floats cosine_near_0(Floats x) {
  const Floats z = x * x;
  Floats p = 2.443315711809948e-5f;
  p = p * z - 1.388731625493765e-3f;
  p = p * z + 4.166664568298827e-2f;
  return p * z * z - 0.5f * z + 1.f;
}

GEOLOSS_SIMD Floats sine(Floats x) {
  const Floats size = absolute(x);
  if (any(!(size < kMaxQuarterTurns))) {
    for (int i = 0; i < Floats::kCount; ++i) x.v[i] = std::sin(x.v[i]);
    return x;
  }
  const auto [count, rest] = quarter_turns(size);
  const Floats turned = select((count & 2) != 0, cosine_near_0(rest), sine_near_0(rest));
  const auto negative = ((count & 4) != 0) ^ (x < 0.f);
  return select(negative, -turned, turned);
}

GEOLOSS_SIMD Floats cosine(Floats x) {
  const Floats size = absolute(x);
  if (any(!(size < kMaxQuarterTurns))) {
    for (int i = 0; i < Floats::kCount; ++i) x.v[i] = std::cos(x.v[i]);
    return x;
  }
  const auto [count, rest] = quarter_turns(size);
  const Floats turned = select((count & 2) != 0, sine_near_0(rest), cosine_near_0(rest));
  return select(((count & 4) != 0) ^ ((count & 2) != 0), -turned, turned);
}

}  // namespace geoloss::GEOLOSS_ISA
