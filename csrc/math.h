// The elementary functions that terms and stencils are written in. `Value` is a scalar in CUDA and a vector
// of lanes on the CPU; a vector type brings its own overloads of the functions below the line that arithmetic
// operators cannot express, found by argument-dependent lookup.
#pragma once

#include <cmath>

#include "macros.h"

namespace geoloss {

#define GEOLOSS_SCALAR_FUNCTIONS(Scalar)                                                         \
  GEOLOSS_INLINE Scalar select(bool condition, Scalar a, Scalar b) { return condition ? a : b; } \
  GEOLOSS_INLINE Scalar square_root(Scalar x) { return std::sqrt(x); }                           \
  GEOLOSS_INLINE Scalar logarithm(Scalar x) { return std::log(x); }                              \
  GEOLOSS_INLINE Scalar logarithm_1p(Scalar x) { return std::log1p(x); }

GEOLOSS_SCALAR_FUNCTIONS(float)
GEOLOSS_SCALAR_FUNCTIONS(double)
#undef GEOLOSS_SCALAR_FUNCTIONS

#if defined(__CUDA_ARCH__)
// A GPU's estimates, one instruction each where its library's functions take about ten: e^x to |x| + 2 ulp,
// the others to 1 or 2 ulp, subnormal numbers taken for 0.
GEOLOSS_DEVICE float estimate_power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
GEOLOSS_DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
GEOLOSS_DEVICE float reciprocal_square_root(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
GEOLOSS_DEVICE float exponential(float x) { return estimate_power_of_2(x * 1.44269504088896341f); }
#else
GEOLOSS_INLINE float reciprocal_square_root(float x) { return 1 / std::sqrt(x); }
GEOLOSS_INLINE float exponential(float x) { return std::exp(x); }
#endif
GEOLOSS_INLINE double reciprocal_square_root(double x) { return 1 / std::sqrt(x); }
GEOLOSS_INLINE double exponential(double x) { return std::exp(x); }

template <class Value>
GEOLOSS_INLINE Value reciprocal(Value x) {
  return Value(1) / x;
}

// Each comparison with NaN is false, so the functions below hand a NaN on.

template <class Value>
GEOLOSS_INLINE Value maximum(Value x, Value bound) {
  return select(x < bound, bound, x);
}

template <class Value>
GEOLOSS_INLINE Value absolute(Value x) {
  return select(x < Value(0), -x, x);
}

template <class Value>
GEOLOSS_INLINE Value sign(Value x) {
  return select(x > Value(0), Value(1), select(x < Value(0), Value(-1), x));
}

// log(1 + exp(x)) without overflow.
template <class Value>
GEOLOSS_INLINE Value softplus(Value x) {
  return maximum(x, Value(0)) + logarithm_1p(exponential(-absolute(x)));
}

template <class Value>
GEOLOSS_INLINE Value sigmoid(Value x) {
  return reciprocal(Value(1) + exponential(-x));
}

}  // namespace geoloss
