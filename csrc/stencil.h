// The geometric part Θ·Ψ(φs, φg) of the formula: difference operators φ, norms Ψ, and their adjoints.
//
// Written for any `Value`, a scalar in CUDA and a vector of lanes on the CPU. A `Neighbourhood` holds a field
// at a voxel and at its six face neighbours, clamped at the border. A `Link` tells, for a masked volume,
// which of the differences to the neighbours count (1) and which do not (0).
#pragma once

#include "geo_sums.h"
#include "macros.h"
#include "math.h"
#include "term_list.h"

namespace geoloss::stencil {

template <class Value>
struct Neighbourhood {
  Value centre;
  Value x_previous, x_next, y_previous, y_next, z_previous, z_next;
};

// One number per spatial axis: a difference, its slope, or a scale.
template <class Value>
struct PerAxis {
  Value x, y, z;
};

// φ of FOG. `scale` is 1/h on the chosen axes and 0 on the others.
//
// A difference operator D is linear, so the gradient of a loss Σ_v Ψ((D e)_v) is D* c with the flux
// c = ∂Ψ/∂(D e), gathered from the voxel's neighbours. kBorder is what the flux just outside the volume is,
// in units of the flux at the border, so that the gather needs no special case there.

struct ForwardDifference {
  static constexpr int kReachBack = 0, kReachAhead = 1;
  static constexpr int kBorder = 0;

  template <class Value>
  GEOLOSS_INLINE static PerAxis<Value> apply(const Neighbourhood<Value>& u) {
    return {u.x_next - u.centre, u.y_next - u.centre, u.z_next - u.centre};
  }
  template <class Value>
  GEOLOSS_INLINE static PerAxis<Value> counts(const Neighbourhood<Value>& valid) {
    return {valid.centre * valid.x_next, valid.centre * valid.y_next, valid.centre * valid.z_next};
  }
  template <class Value>
  GEOLOSS_INLINE static Value adjoint(Value previous, Value centre, Value /*next*/) {
    return previous - centre;
  }
};

struct CentralDifference {
  static constexpr int kReachBack = 1, kReachAhead = 1;
  static constexpr int kBorder = -1;

  template <class Value>
  GEOLOSS_INLINE static PerAxis<Value> apply(const Neighbourhood<Value>& u) {
    const Value half = Value(0.5);
    return {half * (u.x_next - u.x_previous), half * (u.y_next - u.y_previous),
            half * (u.z_next - u.z_previous)};
  }
  template <class Value>
  GEOLOSS_INLINE static PerAxis<Value> counts(const Neighbourhood<Value>& valid) {
    return {valid.centre * valid.x_previous * valid.x_next, valid.centre * valid.y_previous * valid.y_next,
            valid.centre * valid.z_previous * valid.z_next};
  }
  template <class Value>
  GEOLOSS_INLINE static Value adjoint(Value previous, Value /*centre*/, Value next) {
    return Value(0.5) * (previous - next);
  }
};

// Ψ of FOG. The slope is 0 where the norm is 0, never NaN: equal neighbours are the normal case.

template <class Value>
GEOLOSS_INLINE Value sum_of_squares(const PerAxis<Value>& d) {
  return d.x * d.x + d.y * d.y + d.z * d.z;
}

struct L2 {
  // 1 / √square, and 0 for 0. Hardware divides far slower than it estimates and refines.
  template <class Value>
  GEOLOSS_INLINE static Value inverse(Value square) {
    const Value smallest_normal = Value(1.17549435e-38f);
    return select(square < smallest_normal, Value(0), reciprocal_square_root(square));
  }
  template <class Value>
  GEOLOSS_INLINE static Value value(const PerAxis<Value>& d) {
    const Value square = sum_of_squares(d);
    return square * inverse(square);
  }
  template <class Value>
  GEOLOSS_INLINE static PerAxis<Value> slope(const PerAxis<Value>& d) {
    const Value i = inverse(sum_of_squares(d));
    return {d.x * i, d.y * i, d.z * i};
  }
};

struct L2Squared {
  template <class Value>
  GEOLOSS_INLINE static Value value(const PerAxis<Value>& d) {
    return sum_of_squares(d);
  }
  template <class Value>
  GEOLOSS_INLINE static PerAxis<Value> slope(const PerAxis<Value>& d) {
    return {d.x + d.x, d.y + d.y, d.z + d.z};
  }
};

struct L1 {
  template <class Value>
  GEOLOSS_INLINE static Value value(const PerAxis<Value>& d) {
    return absolute(d.x) + absolute(d.y) + absolute(d.z);
  }
  template <class Value>
  GEOLOSS_INLINE static PerAxis<Value> slope(const PerAxis<Value>& d) {
    return {sign(d.x), sign(d.y), sign(d.z)};
  }
};

// φ of SOG. Self-adjoint, with clamped indices as with masked links. `scale` is 1/h².
template <class Value>
GEOLOSS_INLINE Value laplacian(const Neighbourhood<Value>& u, const PerAxis<Value>& scale) {
  return scale.x * ((u.x_next - u.centre) + (u.x_previous - u.centre)) +
         scale.y * ((u.y_next - u.centre) + (u.y_previous - u.centre)) +
         scale.z * ((u.z_next - u.centre) + (u.z_previous - u.centre));
}

template <class Value>
GEOLOSS_INLINE Value masked_laplacian(const Neighbourhood<Value>& u, const Neighbourhood<Value>& valid,
                                      const PerAxis<Value>& scale) {
  return valid.centre *
         (scale.x * (valid.x_next * (u.x_next - u.centre) + valid.x_previous * (u.x_previous - u.centre)) +
          scale.y * (valid.y_next * (u.y_next - u.centre) + valid.y_previous * (u.y_previous - u.centre)) +
          scale.z * (valid.z_next * (u.z_next - u.centre) + valid.z_previous * (u.z_previous - u.centre)));
}

template <class V>
GEOLOSS_INLINE PerAxis<V> multiply(const PerAxis<V>& a, const PerAxis<V>& b) {
  return {a.x * b.x, a.y * b.y, a.z * b.z};
}

// The stencil terms of the formula, by kind: Ψ(D e) with the error e = s - g, and |e| ψ with ψ = |Δg|, and
// + |Δs| where two-sided; kSigned leaves the bars of Δ away.

template <class Operator_, class Norm_>
struct FirstOrder {
  using Operator = Operator_;
  using Norm = Norm_;
};

template <bool kTwoSided_, bool kSigned_>
struct SecondOrder {
  static constexpr bool kTwoSided = kTwoSided_, kSigned = kSigned_;
};

struct FirstOrderForwardL2 : FirstOrder<ForwardDifference, L2> {
  static constexpr TermKind kKind = TermKind::kFirstOrderForwardL2;
};
struct FirstOrderForwardL2Squared : FirstOrder<ForwardDifference, L2Squared> {
  static constexpr TermKind kKind = TermKind::kFirstOrderForwardL2Squared;
};
struct FirstOrderForwardL1 : FirstOrder<ForwardDifference, L1> {
  static constexpr TermKind kKind = TermKind::kFirstOrderForwardL1;
};
struct FirstOrderCentralL2 : FirstOrder<CentralDifference, L2> {
  static constexpr TermKind kKind = TermKind::kFirstOrderCentralL2;
};
struct FirstOrderCentralL2Squared : FirstOrder<CentralDifference, L2Squared> {
  static constexpr TermKind kKind = TermKind::kFirstOrderCentralL2Squared;
};
struct FirstOrderCentralL1 : FirstOrder<CentralDifference, L1> {
  static constexpr TermKind kKind = TermKind::kFirstOrderCentralL1;
};
struct SecondOrderOneSided : SecondOrder<false, false> {
  static constexpr TermKind kKind = TermKind::kSecondOrder;
};
struct SecondOrderOneSidedSigned : SecondOrder<false, true> {
  static constexpr TermKind kKind = TermKind::kSecondOrderSigned;
};
struct SecondOrderTwoSided : SecondOrder<true, false> {
  static constexpr TermKind kKind = TermKind::kSecondOrderTwoSided;
};
struct SecondOrderTwoSidedSigned : SecondOrder<true, true> {
  static constexpr TermKind kKind = TermKind::kSecondOrderTwoSidedSigned;
};

using StencilTerms =
    TermList<FirstOrderForwardL2, FirstOrderForwardL2Squared, FirstOrderForwardL1, FirstOrderCentralL2,
             FirstOrderCentralL2Squared, FirstOrderCentralL1, SecondOrderOneSided, SecondOrderOneSidedSigned,
             SecondOrderTwoSided, SecondOrderTwoSidedSigned>;

}  // namespace geoloss::stencil
