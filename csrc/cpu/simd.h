// Lanes<T>: as many values of T as one register of the instruction set holds that this file is compiled for.
//
// The same kernels are compiled once per instruction set, each time into its own namespace GEOLOSS_ISA, so
// that no instantiation for AVX-512 can be linked into the baseline code path. Arithmetic is GCC's and
// Clang's vector extension; intrinsics appear only where it has no operator.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../math.h"

#if defined(__AVX512F__)
#define GEOLOSS_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define GEOLOSS_VECTOR_BYTES 32
#else
#define GEOLOSS_VECTOR_BYTES 16
#endif

#define GEOLOSS_SIMD GEOLOSS_INLINE

namespace geoloss::GEOLOSS_ISA {

enum Access { kRead, kWrite };

// For rows of tensors, to which a pipeline comes back only after other work, too irregularly for the hardware
// to fetch ahead by itself.
template <Access kAccess, class T>
GEOLOSS_SIMD void prefetch(const T* row) {
  constexpr int64_t kAhead = 1024 / sizeof(T);
  __builtin_prefetch(row + kAhead, kAccess == kWrite);
}

template <class T>
struct Register;

template <>
struct Register<float> {
  using Integer = int32_t;
  typedef float Native __attribute__((vector_size(GEOLOSS_VECTOR_BYTES)));
  typedef Integer Mask __attribute__((vector_size(GEOLOSS_VECTOR_BYTES)));
};

template <>
struct Register<double> {
  using Integer = int64_t;
  typedef double Native __attribute__((vector_size(GEOLOSS_VECTOR_BYTES)));
  typedef Integer Mask __attribute__((vector_size(GEOLOSS_VECTOR_BYTES)));
};

template <>
struct Register<uint16_t> {
  using Integer = int16_t;
  typedef uint16_t Native __attribute__((vector_size(GEOLOSS_VECTOR_BYTES)));
  typedef Integer Mask __attribute__((vector_size(GEOLOSS_VECTOR_BYTES)));
};

template <class T>
struct Lanes {
  static constexpr int kCount = GEOLOSS_VECTOR_BYTES / sizeof(T);
  using Integer = typename Register<T>::Integer;
  using Native = typename Register<T>::Native;
  using Mask = typename Register<T>::Mask;

  Native v;

  Lanes() = default;
  GEOLOSS_SIMD Lanes(Native native) : v(native) {}
  GEOLOSS_SIMD Lanes(T value) : v(Native{} + value) {}

  GEOLOSS_SIMD static Lanes load(const T* p) {
    Lanes r;
    std::memcpy(&r.v, p, sizeof(Native));
    return r;
  }
  GEOLOSS_SIMD void store(T* p) const { std::memcpy(p, &v, sizeof(Native)); }

  friend GEOLOSS_SIMD Lanes operator+(Lanes a, Lanes b) { return a.v + b.v; }
  friend GEOLOSS_SIMD Lanes operator-(Lanes a, Lanes b) { return a.v - b.v; }
  friend GEOLOSS_SIMD Lanes operator*(Lanes a, Lanes b) { return a.v * b.v; }
  friend GEOLOSS_SIMD Lanes operator/(Lanes a, Lanes b) { return a.v / b.v; }
  friend GEOLOSS_SIMD Lanes operator-(Lanes a) { return -a.v; }
  GEOLOSS_SIMD Lanes& operator+=(Lanes b) { return *this = *this + b; }
  friend GEOLOSS_SIMD Mask operator<(Lanes a, Lanes b) { return a.v < b.v; }
  friend GEOLOSS_SIMD Mask operator>(Lanes a, Lanes b) { return a.v > b.v; }
  friend GEOLOSS_SIMD Mask operator==(Lanes a, Lanes b) { return a.v == b.v; }
  friend GEOLOSS_SIMD Mask operator!=(Lanes a, Lanes b) { return a.v != b.v; }

  friend GEOLOSS_SIMD Lanes select(Mask condition, Lanes a, Lanes b) { return condition ? a.v : b.v; }

  // Each lane's left neighbour: the last lane of `previous`, then all but the last of this.
  GEOLOSS_SIMD Lanes shifted_in(Lanes previous) const {
    return shifted_in(previous, std::make_integer_sequence<int, kCount>{});
  }
  // Each lane's right neighbour: all but the first of this, then the first lane of `next`.
  GEOLOSS_SIMD Lanes shifted_out(Lanes next) const {
    return shifted_out(next, std::make_integer_sequence<int, kCount>{});
  }
  template <int... kLane>
  GEOLOSS_SIMD Lanes shifted_out(Lanes next, std::integer_sequence<int, kLane...>) const {
    return __builtin_shufflevector(v, next.v, (kLane + 1)...);
  }
  template <int... kLane>
  GEOLOSS_SIMD Lanes shifted_in(Lanes previous, std::integer_sequence<int, kLane...>) const {
    return __builtin_shufflevector(previous.v, v, (kLane + kCount - 1)...);
  }

  // The lanes below `count` are on.
  GEOLOSS_SIMD static Mask first(int64_t count) {
    Mask lane{};
    for (int i = 0; i < kCount; ++i) lane[i] = i;
    return lane < static_cast<Integer>(count);
  }

  GEOLOSS_SIMD double sum() const {
    double total = 0;
    for (int i = 0; i < kCount; ++i) total += v[i];
    return total;
  }
};

using Floats = Lanes<float>;
using Doubles = Lanes<double>;
using Words = Lanes<uint16_t>;

GEOLOSS_SIMD Floats::Mask bits(Floats x) {
  Floats::Mask r;
  std::memcpy(&r, &x.v, sizeof r);
  return r;
}

GEOLOSS_SIMD Floats from_bits(Floats::Mask x) {
  Floats r;
  std::memcpy(&r.v, &x, sizeof x);
  return r;
}

#if defined(__AVX512F__)
GEOLOSS_SIMD Floats square_root(Floats x) {
  return Floats(Floats::Native(_mm512_maskz_sqrt_ps(0xffff, x.v)));
}
GEOLOSS_SIMD Doubles square_root(Doubles x) {
  return Doubles(Doubles::Native(_mm512_maskz_sqrt_pd(0xff, x.v)));
}
GEOLOSS_SIMD Floats approximate_reciprocal_square_root(Floats x) {
  return Floats(Floats::Native(_mm512_maskz_rsqrt14_ps(0xffff, x.v)));
}
#elif defined(__AVX2__)
GEOLOSS_SIMD Floats square_root(Floats x) { return Floats(Floats::Native(_mm256_sqrt_ps(x.v))); }
GEOLOSS_SIMD Doubles square_root(Doubles x) { return Doubles(Doubles::Native(_mm256_sqrt_pd(x.v))); }
GEOLOSS_SIMD Floats approximate_reciprocal_square_root(Floats x) {
  return Floats(Floats::Native(_mm256_rsqrt_ps(x.v)));
}
#else
template <class T>
GEOLOSS_SIMD Lanes<T> square_root(Lanes<T> x) {
  for (int i = 0; i < Lanes<T>::kCount; ++i) x.v[i] = std::sqrt(x.v[i]);
  return x;
}
GEOLOSS_SIMD Floats approximate_reciprocal_square_root(Floats x) { return 1 / square_root(x); }
#endif

// One Newton step takes the hardware's 12 or 14 bits to fp32's 23. x > 0, normal.
GEOLOSS_SIMD Floats reciprocal_square_root(Floats x) {
  const Floats y = approximate_reciprocal_square_root(x);
  return y * (1.5f - 0.5f * x * y * y);
}

GEOLOSS_SIMD Doubles reciprocal_square_root(Doubles x) { return 1 / square_root(x); }

// e^x = 2^n e^r, |r| <= ln 2 / 2; the polynomial is Cephes' expf (1 ulp). 0 and infinity beyond the normal
// numbers.
GEOLOSS_SIMD Floats exponential(Floats x) {
  const auto overflows = x > 88.3762626647949f;
  const auto underflows = x < -87.3365478515625f;
  const float round_to_integer = 12582912.f;  // 1.5 · 2^23: the sum's low mantissa bits are n
  const Floats shifted = x * 1.44269504088896341f + round_to_integer;
  const Floats n = shifted - round_to_integer;
  const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  const Floats result = p * from_bits((bits(shifted) + 127) << 23);
  return select(overflows, __builtin_inff(), select(underflows, 0.f, result));
}

// log((1 + t) / (1 - t)) = 2 artanh t for |t| <= 1/3.
GEOLOSS_SIMD Floats twice_artanh(Floats t) {
  const Floats w = t * t;
  Floats p = 2.f / 15;
  p = p * w + 2.f / 13;
  p = p * w + 2.f / 11;
  p = p * w + 2.f / 9;
  p = p * w + 2.f / 7;
  p = p * w + 2.f / 5;
  p = p * w + 2.f / 3;
  return p * w * t + 2.f * t;
}

// 0 <= x <= 1: relative precision down to x -> 0.
GEOLOSS_SIMD Floats logarithm_1p(Floats x) { return twice_artanh(x / (x + 2.f)); }

GEOLOSS_SIMD Floats logarithm(Floats x) {
  const float smallest_normal = 1.17549435e-38f;
  const float two_to_23 = 8388608.f;
  const auto subnormal = x < smallest_normal;
  const Floats scaled = select(subnormal, x * two_to_23, x);
  // The exponent is split off so that the mantissa lies in [1/√2, √2).
  const auto offset = bits(scaled) - bits(Floats(0.707106781186547524f));
  const auto exponent = offset >> 23;
  const Floats mantissa = from_bits(bits(scaled) - (exponent << 23));
  const Floats n = Floats(__builtin_convertvector(exponent, Floats::Native)) +
                   select(subnormal, Floats(-23.f), Floats(0.f));
  const Floats ln_mantissa = twice_artanh((mantissa - 1.f) / (mantissa + 1.f));
  const Floats result = n * 0.693359375f + (ln_mantissa - n * 2.12194440e-4f);
  const float infinity = __builtin_inff();
  const Floats finite = select(x == infinity, infinity, result);
  return select(x > 0.f, finite, select(x == 0.f, Floats(-infinity), Floats(__builtin_nanf(""))));
}

#define GEOLOSS_PER_LANE(name, function)                                 \
  GEOLOSS_SIMD Doubles name(Doubles x) {                                 \
    for (int i = 0; i < Doubles::kCount; ++i) x.v[i] = function(x.v[i]); \
    return x;                                                            \
  }
GEOLOSS_PER_LANE(exponential, std::exp)
GEOLOSS_PER_LANE(logarithm, std::log)
GEOLOSS_PER_LANE(logarithm_1p, std::log1p)
#undef GEOLOSS_PER_LANE

}  // namespace geoloss::GEOLOSS_ISA
