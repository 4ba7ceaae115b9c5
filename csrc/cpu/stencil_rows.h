// The stencil terms along a row: the value Θ·Ψ(φ) that a row adds to a sum, and the two steps of its gradient,
// the flux Ψ'(φ) at each voxel and the adjoint stencil that gathers it.
#pragma once

#include "../stencil.h"
#include "voxel_rows.h"

namespace geoloss::GEOLOSS_ISA {

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
    return {Lanes<T>::load(centre + x),         Lanes<T>::load(centre + x - 1),
            Lanes<T>::load(centre + x + 1),     Lanes<T>::load(y_previous + x),
            Lanes<T>::load(y_next + x),         Lanes<T>::load(z_previous + x),
            Lanes<T>::load(z_next + x)};
  }
};

template <class T>
struct StencilInput {
  NeighbourRows<T> prediction, target, error, valid;
  PerAxis<Lanes<T>> inverse_spacing;          // FOG: 0 along an axis that is not chosen
  PerAxis<Lanes<T>> inverse_spacing_squared;  // SOG
};

constexpr int kMaxFluxFields = 3;

// The flux at a row and beside it. Outside the volume it is a factor times the flux at the border.
template <class T>
struct StencilFlux {
  NeighbourRows<T> field[kMaxFluxFields];
  Lanes<T> y_previous_factor, y_next_factor, z_previous_factor, z_next_factor;
  PerAxis<Lanes<T>> inverse_spacing_squared;
};

template <class T>
struct StencilTerm {
  const char* name;
  bool on_error;  // reads the error's rows; else the prediction's and the target's
  int reach_back, reach_ahead;
  int border;  // the flux outside the volume, in units of the flux at the border
  int flux_fields;
  void (*sum)(const StencilInput<T>&, int64_t width, Lanes<T>* sum);
  void (*flux)(const StencilInput<T>&, int64_t width, T* const* flux);
  void (*gather)(const StencilFlux<T>&, T weight, int64_t width, T* gradient);
};

template <class T, class Gradient>
GEOLOSS_SIMD void add_gradient(T weight, int64_t width, T* gradient, Gradient value) {
  for (int64_t x = 0; x < width; x += Lanes<T>::kCount) {
    (Lanes<T>::load(gradient + x) + weight * value(x)).store(gradient + x);
  }
}

// FOG: Ψ(D e) with e = s - g.
template <class T, class Operator, class Norm, bool kMasked>
struct FirstOrder {
  using V = Lanes<T>;

  GEOLOSS_SIMD static PerAxis<V> scale(const StencilInput<T>& in, int64_t x) {
    const auto& h = in.inverse_spacing;
    if constexpr (!kMasked) return h;
    const auto counts = Operator::counts(in.valid.at(x));
    return {h.x * counts.x, h.y * counts.y, h.z * counts.z};
  }

  GEOLOSS_SIMD static PerAxis<V> difference(const StencilInput<T>& in, const PerAxis<V>& s, int64_t x) {
    const auto d = Operator::apply(in.error.at(x));
    return {s.x * d.x, s.y * d.y, s.z * d.z};
  }

  static void sum(const StencilInput<T>& in, int64_t width, V* sum) {
    add_row(width, sum, [&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      return Norm::value(difference(in, scale(in, x), x));
    });
  }

  static void flux(const StencilInput<T>& in, int64_t width, T* const* flux) {
    for (int64_t x = 0; x < width; x += V::kCount) {
      const auto s = scale(in, x);
      const auto slope = Norm::slope(difference(in, s, x));
      (s.x * slope.x).store(flux[0] + x);
      (s.y * slope.y).store(flux[1] + x);
      (s.z * slope.z).store(flux[2] + x);
    }
  }

  static void gather(const StencilFlux<T>& flux, T weight, int64_t width, T* gradient) {
    add_gradient(weight, width, gradient, [&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      const auto along_x = flux.field[0].at(x), along_y = flux.field[1].at(x), along_z = flux.field[2].at(x);
      return Operator::adjoint(along_x.x_previous, along_x.centre, along_x.x_next) +
             Operator::adjoint(flux.y_previous_factor * along_y.y_previous, along_y.centre,
                               flux.y_next_factor * along_y.y_next) +
             Operator::adjoint(flux.z_previous_factor * along_z.z_previous, along_z.centre,
                               flux.z_next_factor * along_z.z_next);
    });
  }

  static constexpr StencilTerm<T> term(const char* name) {
    return {name, true, Operator::kReachBack, Operator::kReachAhead, Operator::kBorder, 3, sum, flux, gather};
  }
};

// SOG: |e| ψ with ψ = |Δg|, and + |Δs| where two-sided; kSigned leaves the absolute values away.
// Flux fields: 0, what Δ acts on in the adjoint, |e| ∂ψ/∂Δs; 1, the slope of |e| times ψ; 2, where masked, the
// weight of the centre in Δ, which is all that the adjoint has to know of the mask: at invalid voxels field 0
// is 0.
template <class T, bool kTwoSided, bool kSigned, bool kMasked>
struct SecondOrder {
  using V = Lanes<T>;

  GEOLOSS_SIMD static V transform(const StencilInput<T>& in, const NeighbourRows<T>& rows, int64_t x) {
    if constexpr (!kMasked) return stencil::laplacian(rows.at(x), in.inverse_spacing_squared);
    return stencil::masked_laplacian(rows.at(x), in.valid.at(x), in.inverse_spacing_squared);
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

  static void sum(const StencilInput<T>& in, int64_t width, V* sum) {
    add_row(width, sum,
            [&](int64_t x) GEOLOSS_LAMBDA_INLINE { return absolute(error(in, x)) * psi(in, x); });
  }

  static void flux(const StencilInput<T>& in, int64_t width, T* const* flux) {
    for (int64_t x = 0; x < width; x += V::kCount) {
      const V e = error(in, x);
      const V slope = kSigned ? V(T(1)) : sign(transform(in, in.prediction, x));
      (absolute(e) * slope).store(flux[0] + x);
      (sign(e) * psi(in, x)).store(flux[1] + x);
      if constexpr (kMasked) centre_weight(in, x).store(flux[2] + x);
    }
  }

  GEOLOSS_SIMD static V centre_weight(const StencilInput<T>& in, int64_t x) {
    const auto valid = in.valid.at(x);
    const auto& scale = in.inverse_spacing_squared;
    return scale.x * (valid.x_previous + valid.x_next) + scale.y * (valid.y_previous + valid.y_next) +
           scale.z * (valid.z_previous + valid.z_next);
  }

  static void gather(const StencilFlux<T>& flux, T weight, int64_t width, T* gradient) {
    add_gradient(weight, width, gradient, [&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      const V of_error = V::load(flux.field[1].centre + x);
      if constexpr (!kTwoSided) return of_error;
      return of_error + adjoint(flux, x);
    });
  }

  GEOLOSS_SIMD static V adjoint(const StencilFlux<T>& flux, int64_t x) {
    const auto u = flux.field[0].at(x);
    const auto& scale = flux.inverse_spacing_squared;
    if constexpr (!kMasked) return stencil::laplacian(u, scale);
    return scale.x * (u.x_next + u.x_previous) + scale.y * (u.y_next + u.y_previous) +
           scale.z * (u.z_next + u.z_previous) - V::load(flux.field[2].centre + x) * u.centre;
  }

  static constexpr StencilTerm<T> term(const char* name) {
    return {name, false, 1, 1, 1, kMasked ? 3 : 2, sum, flux, gather};
  }
};

template <class T, bool kMasked>
struct StencilTable {
  template <class Operator, class Norm>
  using Fog = FirstOrder<T, Operator, Norm, kMasked>;
  template <bool kTwoSided, bool kSigned>
  using Sog = SecondOrder<T, kTwoSided, kSigned, kMasked>;

  static constexpr StencilTerm<T> terms[] = {
      Fog<stencil::ForwardDifference, stencil::L2>::term("first_order_forward_l2"),
      Fog<stencil::ForwardDifference, stencil::L2Squared>::term("first_order_forward_l2_squared"),
      Fog<stencil::ForwardDifference, stencil::L1>::term("first_order_forward_l1"),
      Fog<stencil::CentralDifference, stencil::L2>::term("first_order_central_l2"),
      Fog<stencil::CentralDifference, stencil::L2Squared>::term("first_order_central_l2_squared"),
      Fog<stencil::CentralDifference, stencil::L1>::term("first_order_central_l1"),
      Sog<false, false>::term("second_order"),
      Sog<false, true>::term("second_order_signed"),
      Sog<true, false>::term("second_order_two_sided"),
      Sog<true, true>::term("second_order_two_sided_signed"),
  };
};

}  // namespace geoloss::GEOLOSS_ISA
