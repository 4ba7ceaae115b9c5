// The stencil terms along a row: the value Θ·Ψ(φ) that a row adds to a sum, and the two steps of its
// gradient, the flux Ψ'(φ) at each voxel and the adjoint stencil that gathers it.
#pragma once

#include "../stencil.h"
#include "voxel_rows.h"

namespace geoloss::GEOLOSS_ISA {

using stencil::multiply;
using stencil::Neighbourhood;
using stencil::PerAxis;

// A field's row and the rows beside it, clamped at the border. A row has one more element at either end.
template <class T>
struct NeighbourRows {
  const T* centre;
  const T* y_previous;
  const T* y_next;
  const T* z_previous;
  const T* z_next;

  GEOLOSS_SIMD Neighbourhood<Lanes<T>> at(int64_t x) const {
    return {Lanes<T>::load(centre + x),     Lanes<T>::load(centre + x - 1), Lanes<T>::load(centre + x + 1),
            Lanes<T>::load(y_previous + x), Lanes<T>::load(y_next + x),     Lanes<T>::load(z_previous + x),
            Lanes<T>::load(z_next + x)};
  }
};

// The error straight from the tensors' own rows, for stencils that look ahead only: nothing is stored. Asked
// for x = 0, kCount, 2 kCount, ... in turn.
template <class T>
class ErrorInPlace {
 public:
  using V = Lanes<T>;

  GEOLOSS_SIMD ErrorInPlace(const NeighbourRows<T>& prediction, const NeighbourRows<T>& target, int64_t width)
      : prediction_(prediction),
        target_(target),
        width_(width),
        centre_(at_row(prediction.centre, target.centre, 0)) {}

  GEOLOSS_SIMD Neighbourhood<V> at(int64_t x) {
    const V centre = centre_;
    const int64_t next = x + V::kCount;
    centre_ = next < width_ ? at_row(prediction_.centre, target_.centre, next)
                            : V(prediction_.centre[width_ - 1] - target_.centre[width_ - 1]);
    prefetch<kRead>(prediction_.z_next + x);
    prefetch<kRead>(target_.z_next + x);
    return {centre,
            V(),
            centre.shifted_out(centre_),
            V(),
            at_row(prediction_.y_next, target_.y_next, x),
            V(),
            at_row(prediction_.z_next, target_.z_next, x)};
  }

 private:
  GEOLOSS_SIMD static V at_row(const T* prediction, const T* target, int64_t x) {
    return V::load(prediction + x) - V::load(target + x);
  }

  const NeighbourRows<T> prediction_, target_;
  const int64_t width_;
  V centre_;
};

// The fields that a term does not read are left unset.
template <class T>
struct StencilInput {
  NeighbourRows<T> prediction, target, error, valid;
  PerAxis<T> inverse_spacing;          // FOG: 0 along an axis that is not chosen
  PerAxis<T> inverse_spacing_squared;  // SOG
};

template <class T>
GEOLOSS_SIMD PerAxis<Lanes<T>> lanes(const PerAxis<T>& scale) {
  return {Lanes<T>(scale.x), Lanes<T>(scale.y), Lanes<T>(scale.z)};
}

constexpr int kMaxFluxFields = 3;

// The flux at a row and beside it. Outside the volume it is a factor times the flux at the border.
template <class T>
struct StencilFlux {
  NeighbourRows<T> field[kMaxFluxFields];
  T y_previous_factor, y_next_factor, z_previous_factor, z_next_factor;
  PerAxis<T> inverse_spacing_squared;
};

// The flux that a row hands on to the next row and to the next plane: read, then replaced by its own.
template <class T>
struct FluxCarry {
  T* along_y;
  T* along_z;
};

template <class T>
using Sum = void (*)(const StencilInput<T>&, int64_t width, Lanes<T>* sum);
template <class T>
using Sweep = void (*)(const StencilInput<T>&, const FluxCarry<T>&, GradientRow<T>&, T weight);

// The gradient takes two steps where the adjoint looks ahead, `flux` and then `gather`; where it only looks
// back, one, `sweep`.
template <class T>
struct StencilTerm {
  const char* name;
  bool on_error;  // reads the error's rows; else the prediction's and the target's
  int reach_back, reach_ahead;
  int border;  // the flux outside the volume, in units of the flux at the border
  int flux_fields;
  Sum<T> sum;
  void (*flux)(const StencilInput<T>&, int64_t width, T* const* flux);
  void (*gather)(const StencilFlux<T>&, GradientRow<T>&, T weight);
  Sweep<T> sweep;
  // The same from prediction and target in place of the error; null where that is not offered.
  Sum<T> sum_in_place;
  Sweep<T> sweep_in_place;
};

// How differences are weighted: not at all (voxels of unit size, every axis), by the voxel's size, or by that
// and by what is valid.
enum class Weighting { kUnit, kSpacing, kMask };

// FOG: Ψ(D e) with e = s - g.
template <class T, class Operator, class Norm, Weighting kWeighting>
struct FirstOrder {
  using V = Lanes<T>;

  GEOLOSS_SIMD static PerAxis<V> weighted(const StencilInput<T>& in, const PerAxis<V>& values, int64_t x) {
    if constexpr (kWeighting == Weighting::kUnit) return values;
    const auto scaled = multiply(lanes(in.inverse_spacing), values);
    if constexpr (kWeighting == Weighting::kSpacing) return scaled;
    return multiply(Operator::counts(in.valid.at(x)), scaled);
  }

  template <class Error>
  GEOLOSS_SIMD static PerAxis<V> difference(const StencilInput<T>& in, Error& error, int64_t x) {
    return weighted(in, Operator::apply(error.at(x)), x);
  }

  template <class Error>
  GEOLOSS_SIMD static PerAxis<V> flux_at(const StencilInput<T>& in, Error& error, int64_t x) {
    return weighted(in, Norm::slope(difference(in, error, x)), x);
  }

  template <class Error>
  GEOLOSS_SIMD static void sum_of(const StencilInput<T>& in, Error error, int64_t width, V* sum) {
    add_row(width, sum,
            [&](int64_t x) GEOLOSS_LAMBDA_INLINE { return Norm::value(difference(in, error, x)); });
  }
  static void sum(const StencilInput<T>& rows, int64_t width, V* sum) {
    const StencilInput<T> in = rows;
    sum_of(in, in.error, width, sum);
  }
  static void sum_in_place(const StencilInput<T>& rows, int64_t width, V* sum) {
    const StencilInput<T> in = rows;
    sum_of(in, ErrorInPlace<T>(in.prediction, in.target, width), width, sum);
  }

  static void flux(const StencilInput<T>& rows, int64_t width, T* const* flux) {
    const StencilInput<T> in = rows;
    T* const along_x = flux[0];
    T* const along_y = flux[1];
    T* const along_z = flux[2];
    for (int64_t x = 0; x < width; x += V::kCount) {
      const auto c = flux_at(in, in.error, x);
      c.x.store(along_x + x);
      c.y.store(along_y + x);
      c.z.store(along_z + x);
    }
  }

  static void gather(const StencilFlux<T>& rows, GradientRow<T>& gradient, T weight) {
    const StencilFlux<T> flux = rows;
    gradient.add([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      const auto along_x = flux.field[0].at(x), along_y = flux.field[1].at(x), along_z = flux.field[2].at(x);
      return weight * (Operator::adjoint(along_x.x_previous, along_x.centre, along_x.x_next) +
                       Operator::adjoint(flux.y_previous_factor * along_y.y_previous, along_y.centre,
                                         flux.y_next_factor * along_y.y_next) +
                       Operator::adjoint(flux.z_previous_factor * along_z.z_previous, along_z.centre,
                                         flux.z_next_factor * along_z.z_next));
    });
  }

  template <class Error>
  GEOLOSS_SIMD static void sweep_of(const StencilInput<T>& in, Error error, const FluxCarry<T>& carry,
                                    GradientRow<T>& gradient, T weight) {
    T* const along_y = carry.along_y;
    T* const along_z = carry.along_z;
    V x_before(T(0));
    gradient.add([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      const auto c = flux_at(in, error, x);
      const V none(T(0));
      const V sum = Operator::adjoint(c.x.shifted_in(x_before), c.x, none) +
                    Operator::adjoint(V::load(along_y + x), c.y, none) +
                    Operator::adjoint(V::load(along_z + x), c.z, none);
      x_before = c.x;
      c.y.store(along_y + x);
      c.z.store(along_z + x);
      return weight * sum;
    });
  }
  static void sweep(const StencilInput<T>& rows, const FluxCarry<T>& carry, GradientRow<T>& gradient,
                    T weight) {
    const StencilInput<T> in = rows;
    sweep_of(in, in.error, carry, gradient, weight);
  }
  static void sweep_in_place(const StencilInput<T>& rows, const FluxCarry<T>& carry, GradientRow<T>& gradient,
                             T weight) {
    const StencilInput<T> in = rows;
    sweep_of(in, ErrorInPlace<T>(in.prediction, in.target, gradient.width), carry, gradient, weight);
  }

  static constexpr StencilTerm<T> term(const char* name) {
    StencilTerm<T> term{};
    term.name = name;
    term.on_error = true;
    term.reach_back = Operator::kReachBack;
    term.reach_ahead = Operator::kReachAhead;
    term.sum = sum;
    if constexpr (Operator::kReachBack == 0) {
      term.sweep = sweep;
      term.sum_in_place = kWeighting == Weighting::kMask ? nullptr : sum_in_place;
      term.sweep_in_place = kWeighting == Weighting::kMask ? nullptr : sweep_in_place;
    } else {
      term.border = Operator::kBorder;
      term.flux_fields = 3;
      term.flux = flux;
      term.gather = gather;
    }
    return term;
  }
};

// SOG: |e| ψ with ψ = |Δg|, and + |Δs| where two-sided; kSigned leaves the absolute values away.
// Flux fields: 0, what Δ acts on in the adjoint, |e| ∂ψ/∂Δs; 1, the slope of |e| times ψ; 2, where masked,
// the weight of the centre in Δ, which is all that the adjoint has to know of the mask: at invalid voxels
// field 0 is 0.
template <class T, bool kTwoSided, bool kSigned, Weighting kWeighting>
struct SecondOrder {
  using V = Lanes<T>;
  static constexpr bool kMasked = kWeighting == Weighting::kMask;

  GEOLOSS_SIMD static V transform(const StencilInput<T>& in, const NeighbourRows<T>& rows, int64_t x) {
    const auto scale = lanes(in.inverse_spacing_squared);
    if constexpr (!kMasked) return stencil::laplacian(rows.at(x), scale);
    return stencil::masked_laplacian(rows.at(x), in.valid.at(x), scale);
  }

  GEOLOSS_SIMD static V magnitude(V transformed) { return kSigned ? transformed : absolute(transformed); }

  GEOLOSS_SIMD static V psi(const StencilInput<T>& in, int64_t x) {
    const V of_target = magnitude(transform(in, in.target, x));
    if constexpr (!kTwoSided) return of_target;
    return of_target + magnitude(transform(in, in.prediction, x));
  }

  GEOLOSS_SIMD static V error(const StencilInput<T>& in, int64_t x) {
    return V::load(in.prediction.centre + x) - V::load(in.target.centre + x);
  }

  static void sum(const StencilInput<T>& rows, int64_t width, V* sum) {
    const StencilInput<T> in = rows;
    add_row(width, sum, [&](int64_t x) GEOLOSS_LAMBDA_INLINE { return absolute(error(in, x)) * psi(in, x); });
  }

  static void flux(const StencilInput<T>& rows, int64_t width, T* const* flux) {
    const StencilInput<T> in = rows;
    T* const of_transform = flux[0];
    T* const of_error = flux[1];
    for (int64_t x = 0; x < width; x += V::kCount) {
      const V e = error(in, x);
      const V slope = kSigned ? V(T(1)) : sign(transform(in, in.prediction, x));
      (absolute(e) * slope).store(of_transform + x);
      (sign(e) * psi(in, x)).store(of_error + x);
      if constexpr (kMasked) centre_weight(in, x).store(flux[2] + x);
    }
  }

  GEOLOSS_SIMD static V centre_weight(const StencilInput<T>& in, int64_t x) {
    const auto valid = in.valid.at(x);
    const auto scale = lanes(in.inverse_spacing_squared);
    return scale.x * (valid.x_previous + valid.x_next) + scale.y * (valid.y_previous + valid.y_next) +
           scale.z * (valid.z_previous + valid.z_next);
  }

  static void gather(const StencilFlux<T>& rows, GradientRow<T>& gradient, T weight) {
    const StencilFlux<T> flux = rows;
    gradient.add([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      V sum = V::load(flux.field[1].centre + x);
      if constexpr (kTwoSided) sum += adjoint(flux, x);
      return weight * sum;
    });
  }

  GEOLOSS_SIMD static V adjoint(const StencilFlux<T>& flux, int64_t x) {
    const auto u = flux.field[0].at(x);
    const auto scale = lanes(flux.inverse_spacing_squared);
    if constexpr (!kMasked) return stencil::laplacian(u, scale);
    return scale.x * (u.x_next + u.x_previous) + scale.y * (u.y_next + u.y_previous) +
           scale.z * (u.z_next + u.z_previous) - V::load(flux.field[2].centre + x) * u.centre;
  }

  static constexpr StencilTerm<T> term(const char* name) {
    StencilTerm<T> term{};
    term.name = name;
    term.reach_back = term.reach_ahead = 1;
    term.border = 1;
    term.flux_fields = kMasked ? 3 : 2;
    term.sum = sum;
    term.flux = flux;
    term.gather = gather;
    return term;
  }
};

template <class T, Weighting kWeighting, class Operator, class Norm>
constexpr StencilTerm<T> rows_of(stencil::FirstOrder<Operator, Norm>, const char* name) {
  return FirstOrder<T, Operator, Norm, kWeighting>::term(name);
}

template <class T, Weighting kWeighting, bool kTwoSided, bool kSigned>
constexpr StencilTerm<T> rows_of(stencil::SecondOrder<kTwoSided, kSigned>, const char* name) {
  return SecondOrder<T, kTwoSided, kSigned, kWeighting>::term(name);
}

template <class T, Weighting kWeighting, class List = stencil::StencilTerms>
struct StencilTable;

template <class T, Weighting kWeighting, class... Terms>
struct StencilTable<T, kWeighting, TermList<Terms...>> {
  static constexpr StencilTerm<T> terms[] = {rows_of<T, kWeighting>(Terms{}, Terms::kName)...};
};

}  // namespace geoloss::GEOLOSS_ISA
