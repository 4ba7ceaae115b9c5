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

template <class T>
GEOLOSS_SIMD Lanes<T> power(Lanes<T> base, Lanes<T> exponent) {
  for (int i = 0; i < Lanes<T>::kCount; ++i) base.v[i] = std::pow(base.v[i], exponent.v[i]);
  return base;
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

GEOLOSS_SIMD bool any(Floats::Mask condition) {
  int32_t found = 0;
  for (int i = 0; i < Floats::kCount; ++i) found |= condition[i];
  return found != 0;
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
