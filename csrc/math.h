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
  GEOLOSS_INLINE Scalar exponential(Scalar x) { return std::exp(x); }                            \
  GEOLOSS_INLINE Scalar logarithm(Scalar x) { return std::log(x); }                              \
  GEOLOSS_INLINE Scalar logarithm_1p(Scalar x) { return std::log1p(x); }

GEOLOSS_SCALAR_FUNCTIONS(float)
GEOLOSS_SCALAR_FUNCTIONS(double)
#undef GEOLOSS_SCALAR_FUNCTIONS

// A GPU divides and takes roots in software; its estimates are good to 1 or 2 ulp.
GEOLOSS_INLINE float reciprocal_square_root(float x) {
#if defined(__CUDA_ARCH__)
  return rsqrtf(x);
#else
  return 1 / std::sqrt(x);
#endif
}
GEOLOSS_INLINE double reciprocal_square_root(double x) { return 1 / std::sqrt(x); }

// x < 2^126.
GEOLOSS_INLINE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1.0f, x);
#else
  return 1 / x;
#endif
}

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
