// The stencil terms along rows: the value Θ·Ψ(φ) that rows add to a sum, and the two steps of their gradient,
// the flux Ψ'(φ) at each voxel and the adjoint stencil that gathers it.
#pragma once

#include "../stencil.h"
#include "voxel_rows.h"

namespace geoloss::GEOLOSS_ISA {

using stencil::multiply;
using stencil::Neighbourhood;
using stencil::PerAxis;

// Rows of a field and how far from each the rows beside it lie, in elements; 0 at the border, where they are
// clamped. A row has one more element at either end.
template <class T>
struct NeighbourRows {
  Rows<const T> centre;
  int64_t y_previous, y_next, z_previous, z_next;

  GEOLOSS_SIMD Neighbourhood<Lanes<T>> at(int64_t y, int64_t x) const {
    const T* const p = centre.at(y, x);
    const auto load = [p](int64_t distance) GEOLOSS_LAMBDA_INLINE { return Lanes<T>::load(p + distance); };
    return {load(0), load(-1), load(1), load(y_previous), load(y_next), load(z_previous), load(z_next)};
  }
};

// The fields that a term does not read are left unset.
template <class T>
struct StencilInput {
  NeighbourRows<T> prediction, target, error, valid;
  PerAxis<T> inverse_spacing;          // FOG: 0 along an axis that is not chosen
  PerAxis<T> inverse_spacing_squared;  // SOG
};

// The error of row y as it is stored.
template <class T>
class StoredError {
 public:
  GEOLOSS_SIMD StoredError(const StencilInput<T>& in, int64_t y, int64_t /*width*/)
      : rows_(in.error), y_(y) {}
  GEOLOSS_SIMD Neighbourhood<Lanes<T>> at(int64_t x) const { return rows_.at(y_, x); }

 private:
  const NeighbourRows<T>& rows_;
  const int64_t y_;
};

// The error of row y from prediction and target, for stencils that look ahead only: it is not stored. Asked
// for x = 0, kCount, 2 kCount, ... in turn.
template <class T>
class ErrorInPlace {
 public:
  using V = Lanes<T>;

  GEOLOSS_SIMD ErrorInPlace(const StencilInput<T>& in, int64_t y, int64_t width)
      : prediction_(in.prediction.centre.at(y)),
        target_(in.target.centre.at(y)),
        in_(in),
        width_(width),
        centre_(difference(prediction_, target_)) {}

  GEOLOSS_SIMD Neighbourhood<V> at(int64_t x) {
    const V centre = centre_;
    const int64_t next = x + V::kCount;
    centre_ = next < width_ ? difference(prediction_ + next, target_ + next)
                            : V(prediction_[width_ - 1] - target_[width_ - 1]);
    const T* const prediction = prediction_ + x;
    const T* const target = target_ + x;
    prefetch<kRead>(prediction + in_.prediction.z_next);
    prefetch<kRead>(target + in_.target.z_next);
    return {centre,
            V(),
            centre.shifted_out(centre_),
            V(),
            difference(prediction + in_.prediction.y_next, target + in_.target.y_next),
            V(),
            difference(prediction + in_.prediction.z_next, target + in_.target.z_next)};
  }

 private:
  GEOLOSS_SIMD static V difference(const T* prediction, const T* target) {
    return V::load(prediction) - V::load(target);
  }

  const T* const prediction_;
  const T* const target_;
  const StencilInput<T>& in_;
  const int64_t width_;
  V centre_;
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
  Rows<T> along_z;
};

template <class T>
using Sum = void (*)(const StencilInput<T>&, Extent, Lanes<T>* sum);
template <class T>
using Flux = void (*)(const StencilInput<T>&, Extent, const Rows<T>* flux);
template <class T>
using Gather = void (*)(const StencilFlux<T>&, GradientRows<T>&, T weight);
template <class T>
using Sweep = void (*)(const StencilInput<T>&, const FluxCarry<T>&, GradientRows<T>&, T weight);

// The gradient takes two steps where the adjoint looks ahead, `flux` and then `gather`; where it only looks
// back, one, `sweep`.
template <class T>
struct StencilTerm {
  TermKind kind;
  bool on_error;  // reads the error's rows; else the prediction's and the target's
  int reach_back, reach_ahead;
  int border;  // the flux outside the volume, in units of the flux at the border
  int flux_fields;
  Sum<T> sum;
  Flux<T> flux;
  Gather<T> gather;
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

  GEOLOSS_SIMD static PerAxis<V> weighted(const StencilInput<T>& in, const PerAxis<V>& values, int64_t y,
                                          int64_t x) {
    if constexpr (kWeighting == Weighting::kUnit) return values;
    const auto scaled = multiply(lanes(in.inverse_spacing), values);
    if constexpr (kWeighting == Weighting::kSpacing) return scaled;
    return multiply(Operator::counts(in.valid.at(y, x)), scaled);
  }

  template <class Error>
  GEOLOSS_SIMD static PerAxis<V> difference(const StencilInput<T>& in, Error& error, int64_t y, int64_t x) {
    return weighted(in, Operator::apply(error.at(x)), y, x);
  }

  template <class Error>
  GEOLOSS_SIMD static PerAxis<V> flux_at(const StencilInput<T>& in, Error& error, int64_t y, int64_t x) {
    return weighted(in, Norm::slope(difference(in, error, y, x)), y, x);
  }

  template <class Error>
  static void sum(const StencilInput<T>& rows, Extent size, V* sum) {
    const StencilInput<T> in = rows;
    V total = *sum;
    for (int64_t y = 0; y < size.rows; ++y) {
      Error error(in, y, size.width);
      add_row<T>(size.width, [&](int64_t x, auto kept) GEOLOSS_LAMBDA_INLINE {
        total += kept(Norm::value(difference(in, error, y, x)));
      });
    }
    *sum = total;
  }

  static void flux(const StencilInput<T>& rows, Extent size, const Rows<T>* flux) {
    const StencilInput<T> in = rows;
    const Rows<T> along_x = flux[0], along_y = flux[1], along_z = flux[2];
    for (int64_t y = 0; y < size.rows; ++y) {
      StoredError<T> error(in, y, size.width);
      for (int64_t x = 0; x < size.width; x += V::kCount) {
        const auto c = flux_at(in, error, y, x);
        c.x.store(along_x.at(y, x));
        c.y.store(along_y.at(y, x));
        c.z.store(along_z.at(y, x));
      }
    }
  }

  static void gather(const StencilFlux<T>& rows, GradientRows<T>& gradient, T weight) {
    const StencilFlux<T> flux = rows;
    gradient.for_each_row([&](int64_t y, const GradientRow<T>& row) GEOLOSS_LAMBDA_INLINE {
      row.add([&](int64_t x) GEOLOSS_LAMBDA_INLINE { return weight * adjoint(flux, y, x); });
    });
  }

  GEOLOSS_SIMD static V adjoint(const StencilFlux<T>& flux, int64_t y, int64_t x) {
    const auto along_x = flux.field[0].at(y, x), along_y = flux.field[1].at(y, x),
               along_z = flux.field[2].at(y, x);
    return Operator::adjoint(along_x.x_previous, along_x.centre, along_x.x_next) +
           Operator::adjoint(flux.y_previous_factor * along_y.y_previous, along_y.centre,
                             flux.y_next_factor * along_y.y_next) +
           Operator::adjoint(flux.z_previous_factor * along_z.z_previous, along_z.centre,
                             flux.z_next_factor * along_z.z_next);
  }

  template <class Error>
  static void sweep(const StencilInput<T>& rows, const FluxCarry<T>& carry, GradientRows<T>& gradient,
                    T weight) {
    const StencilInput<T> in = rows;
    T* const along_y = carry.along_y;
    gradient.for_each_row([&](int64_t y, const GradientRow<T>& row) GEOLOSS_LAMBDA_INLINE {
      T* const along_z = carry.along_z.at(y);
      Error error(in, y, row.width);
      V x_before(T(0));
      row.add([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
        const auto c = flux_at(in, error, y, x);
        const V none(T(0));
        const V sum = Operator::adjoint(c.x.shifted_in(x_before), c.x, none) +
                      Operator::adjoint(V::load(along_y + x), c.y, none) +
                      Operator::adjoint(V::load(along_z + x), c.z, none);
        x_before = c.x;
        c.y.store(along_y + x);
        c.z.store(along_z + x);
        return weight * sum;
      });
    });
  }

  static constexpr StencilTerm<T> term(TermKind kind) {
    StencilTerm<T> term{};
    term.kind = kind;
    term.on_error = true;
    term.reach_back = Operator::kReachBack;
    term.reach_ahead = Operator::kReachAhead;
    term.sum = sum<StoredError<T>>;
    if constexpr (Operator::kReachBack == 0) {
      term.sweep = sweep<StoredError<T>>;
      term.sum_in_place = kWeighting == Weighting::kMask ? nullptr : sum<ErrorInPlace<T>>;
      term.sweep_in_place = kWeighting == Weighting::kMask ? nullptr : sweep<ErrorInPlace<T>>;
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

  GEOLOSS_SIMD static V transform(const StencilInput<T>& in, const NeighbourRows<T>& rows, int64_t y,
                                  int64_t x) {
    const auto scale = lanes(in.inverse_spacing_squared);
    if constexpr (!kMasked) return stencil::laplacian(rows.at(y, x), scale);
    return stencil::masked_laplacian(rows.at(y, x), in.valid.at(y, x), scale);
  }

  GEOLOSS_SIMD static V magnitude(V transformed) { return kSigned ? transformed : absolute(transformed); }

  GEOLOSS_SIMD static V psi(const StencilInput<T>& in, int64_t y, int64_t x) {
    const V of_target = magnitude(transform(in, in.target, y, x));
    if constexpr (!kTwoSided) return of_target;
    return of_target + magnitude(transform(in, in.prediction, y, x));
  }

  GEOLOSS_SIMD static V error(const StencilInput<T>& in, int64_t y, int64_t x) {
    return V::load(in.prediction.centre.at(y, x)) - V::load(in.target.centre.at(y, x));
  }

  static void sum(const StencilInput<T>& rows, Extent size, V* sum) {
    const StencilInput<T> in = rows;
    V total = *sum;
    for (int64_t y = 0; y < size.rows; ++y) {
      add_row<T>(size.width, [&](int64_t x, auto kept) GEOLOSS_LAMBDA_INLINE {
        total += kept(absolute(error(in, y, x)) * psi(in, y, x));
      });
    }
    *sum = total;
  }

  static void flux(const StencilInput<T>& rows, Extent size, const Rows<T>* flux) {
    const StencilInput<T> in = rows;
    const Rows<T> of_transform = flux[0], of_error = flux[1], of_centre = flux[2];
    for (int64_t y = 0; y < size.rows; ++y) {
      for (int64_t x = 0; x < size.width; x += V::kCount) {
        const V e = error(in, y, x);
        const V slope = kSigned ? V(T(1)) : sign(transform(in, in.prediction, y, x));
        (absolute(e) * slope).store(of_transform.at(y, x));
        (sign(e) * psi(in, y, x)).store(of_error.at(y, x));
        if constexpr (kMasked) centre_weight(in, y, x).store(of_centre.at(y, x));
      }
    }
  }

  GEOLOSS_SIMD static V centre_weight(const StencilInput<T>& in, int64_t y, int64_t x) {
    const auto valid = in.valid.at(y, x);
    const auto scale = lanes(in.inverse_spacing_squared);
    return scale.x * (valid.x_previous + valid.x_next) + scale.y * (valid.y_previous + valid.y_next) +
           scale.z * (valid.z_previous + valid.z_next);
  }

  static void gather(const StencilFlux<T>& rows, GradientRows<T>& gradient, T weight) {
    const StencilFlux<T> flux = rows;
    gradient.for_each_row([&](int64_t y, const GradientRow<T>& row) GEOLOSS_LAMBDA_INLINE {
      row.add([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
        V sum = V::load(flux.field[1].centre.at(y, x));
        if constexpr (kTwoSided) sum += adjoint(flux, y, x);
        return weight * sum;
      });
    });
  }

  GEOLOSS_SIMD static V adjoint(const StencilFlux<T>& flux, int64_t y, int64_t x) {
    const auto u = flux.field[0].at(y, x);
    const auto scale = lanes(flux.inverse_spacing_squared);
    if constexpr (!kMasked) return stencil::laplacian(u, scale);
    return scale.x * (u.x_next + u.x_previous) + scale.y * (u.y_next + u.y_previous) +
           scale.z * (u.z_next + u.z_previous) - V::load(flux.field[2].centre.at(y, x)) * u.centre;
  }

  static constexpr StencilTerm<T> term(TermKind kind) {
    StencilTerm<T> term{};
    term.kind = kind;
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
constexpr StencilTerm<T> rows_of(stencil::FirstOrder<Operator, Norm>, TermKind kind) {
  return FirstOrder<T, Operator, Norm, kWeighting>::term(kind);
}

template <class T, Weighting kWeighting, bool kTwoSided, bool kSigned>
constexpr StencilTerm<T> rows_of(stencil::SecondOrder<kTwoSided, kSigned>, TermKind kind) {
  return SecondOrder<T, kTwoSided, kSigned, kWeighting>::term(kind);
}

template <class T, Weighting kWeighting, class List = stencil::StencilTerms>
struct StencilTable;

template <class T, Weighting kWeighting, class... Terms>
struct StencilTable<T, kWeighting, TermList<Terms...>> {
  static constexpr StencilTerm<T> terms[] = {rows_of<T, kWeighting>(Terms{}, Terms::kKind)...};
};

}  // namespace geoloss::GEOLOSS_ISA
