// The stencils φ of open formulas along rows: a component is
//
//   φ(u)[v] = Σ_o w_o (u[v + o] - u[v]) + centre · u[v],   o in {-1, 0, 1}³ without 0, indices clamped,
//
// the differences of equal |w| added up before they are weighted, so that it is exactly 0 where u is
// constant. A neighbour that is not valid adds nothing; where the component needs all of them it is 0 as a
// whole.
//
// The adjoint is gathered: ∂/∂u[v] = Σ_o w_o flux[v - o] over the voxels whose neighbour v is, plus flux[v]
// times what is left of the weights at v. At the border clamping makes a voxel its own neighbour, which is an
// entry of its own in the list of what is gathered; along x, where a row is one loop, it is added afterwards.
#pragma once

#include "../program.h"
#include "rows.h"
#include "stencil_rows.h"

namespace geoloss::GEOLOSS_ISA {

struct Offset {
  int z, y, x;
};

template <class T>
struct Tap {
  Offset offset;
  T sign;    // of the weight
  T weight;  // |w| where this tap is the last of its group, which adds it; else 0
};

template <class T>
struct OpenComponent {
  Tap<T> tap[kMaxTaps];
  T full_weight[kMaxTaps];  // with its sign
  int taps;
  bool needs_all;
  T centre;
  T kept;  // what is left of the weights at the centre, Σ_o included: centre - Σ_o w_o
};

template <class T>
OpenComponent<T> open_component(const OpenStencil& stencil) {
  OpenComponent<T> made{};
  made.taps = static_cast<int>(stencil.taps);
  made.needs_all = stencil.needs_all;
  made.centre = static_cast<T>(stencil.centre);
  double kept = stencil.centre;
  for (int i = 0; i < made.taps; ++i) {
    const int place = static_cast<int>(stencil.place[i]);
    const double weight = stencil.weight[i];
    const bool last = i + 1 == made.taps || std::abs(stencil.weight[i + 1]) != std::abs(weight);
    made.tap[i] = {{place / 9 - 1, place / 3 % 3 - 1, place % 3 - 1},
                   weight < 0 ? T(-1) : T(1),
                   last ? static_cast<T>(std::abs(weight)) : T(0)};
    made.full_weight[i] = static_cast<T>(weight);
    kept -= weight;
  }
  made.kept = static_cast<T>(kept);
  return made;
}

template <class T>
GEOLOSS_SIMD int64_t distance_to(const NeighbourRows<T>& rows, Offset o) {
  return (o.z < 0   ? rows.z_previous
          : o.z > 0 ? rows.z_next
                    : 0) +
         (o.y < 0   ? rows.y_previous
          : o.y > 0 ? rows.y_next
                    : 0) +
         o.x;
}

// Calls function(x, Number<n>{}) for vectors x, x + kCount, ... of a row, n = kAtOnce of them where they fit.
template <int kAtOnce, class T, class Function>
GEOLOSS_SIMD void for_vectors(int64_t width, Function function) {
  constexpr int64_t kStep = kAtOnce * Lanes<T>::kCount;
  int64_t x = 0;
  for (; x + kStep <= width; x += kStep) function(x, Number<kAtOnce>{});
  for (; x < width; x += Lanes<T>::kCount) function(x, Number<1>{});
}

// Rows of the component of u.
template <class T>
void apply_stencil(const OpenComponent<T>& component, const NeighbourRows<T>& u, Extent size, Rows<T> to) {
  using V = Lanes<T>;
  int64_t distance[kMaxTaps];
  for (int t = 0; t < component.taps; ++t) distance[t] = distance_to(u, component.tap[t].offset);
  for (int64_t y = 0; y < size.rows; ++y) {
    for_vectors<4, T>(size.width, [&](int64_t x, auto vectors) GEOLOSS_LAMBDA_INLINE {
      constexpr int kVectors = decltype(vectors)::value;
      const T* const centre = u.centre.at(y, x);
      V here[kVectors], group[kVectors], total[kVectors];
      for (int i = 0; i < kVectors; ++i) {
        here[i] = V::load(centre + i * V::kCount);
        group[i] = V(T(0));
        total[i] = V(component.centre) * here[i];
      }
      for (int t = 0; t < component.taps; ++t) {
        const Tap<T>& tap = component.tap[t];
        for (int i = 0; i < kVectors; ++i) {
          group[i] += V(tap.sign) * (V::load(centre + distance[t] + i * V::kCount) - here[i]);
        }
        if (tap.weight == 0) continue;
        for (int i = 0; i < kVectors; ++i) {
          total[i] += V(tap.weight) * group[i];
          group[i] = V(T(0));
        }
      }
      for (int i = 0; i < kVectors; ++i) total[i].store(to.at(y, x) + i * V::kCount);
    });
  }
}

// Whether each neighbour of the component is valid, and the centre itself: 1 or 0.
template <class T>
GEOLOSS_SIMD Lanes<T> all_valid(const OpenComponent<T>& component, const T* valid, const int64_t* distance) {
  Lanes<T> all = Lanes<T>::load(valid);
  for (int t = 0; t < component.taps; ++t) all = all * Lanes<T>::load(valid + distance[t]);
  return all;
}

template <class T>
void apply_masked_stencil(const OpenComponent<T>& component, const NeighbourRows<T>& u,
                          const NeighbourRows<T>& valid, Extent size, Rows<T> to) {
  using V = Lanes<T>;
  int64_t distance[kMaxTaps], valid_distance[kMaxTaps];
  for (int t = 0; t < component.taps; ++t) {
    distance[t] = distance_to(u, component.tap[t].offset);
    valid_distance[t] = distance_to(valid, component.tap[t].offset);
  }
  for (int64_t y = 0; y < size.rows; ++y) {
    for_vectors<1, T>(size.width, [&](int64_t x, auto) GEOLOSS_LAMBDA_INLINE {
      const T* const centre = u.centre.at(y, x);
      const T* const centre_valid = valid.centre.at(y, x);
      const V here = V::load(centre);
      V group(T(0)), total = V(component.centre) * here;
      for (int t = 0; t < component.taps; ++t) {
        const Tap<T>& tap = component.tap[t];
        const V difference = V(tap.sign) * (V::load(centre + distance[t]) - here);
        group += V::load(centre_valid + valid_distance[t]) * difference;
        if (tap.weight == 0) continue;
        total += V(tap.weight) * group;
        group = V(T(0));
      }
      if (component.needs_all) total = total * all_valid(component, centre_valid, valid_distance);
      total.store(to.at(y, x));
    });
  }
}

// Leaves the flux only where the component counts, and adds to `own` what reaches the voxel itself: the flux
// times what the mask leaves of the weights at the centre. At invalid voxels flux and own are 0.
template <class T>
void mask_flux(const OpenComponent<T>& component, const NeighbourRows<T>& valid, Extent size, Rows<T> flux,
               Rows<T> own) {
  using V = Lanes<T>;
  int64_t distance[kMaxTaps];
  for (int t = 0; t < component.taps; ++t) distance[t] = distance_to(valid, component.tap[t].offset);
  for (int64_t y = 0; y < size.rows; ++y) {
    for (int64_t x = 0; x < size.width; x += V::kCount) {
      const T* const centre = valid.centre.at(y, x);
      const V counts = component.needs_all ? all_valid(component, centre, distance) : V::load(centre);
      V left(component.centre);
      for (int t = 0; t < component.taps; ++t) {
        const V weight(component.full_weight[t]);
        left = left - (component.needs_all ? weight : weight * V::load(centre + distance[t]));
      }
      const V kept = select(counts == V(T(0)), V(T(0)), V::load(flux.at(y, x)));
      kept.store(flux.at(y, x));
      (V::load(own.at(y, x)) + kept * left).store(own.at(y, x));
    }
  }
}

// What a row of the gradient gathers of one component's flux: weight · flux[distance].
template <class T>
struct GatherEntry {
  const T* flux;  // of row 0
  int64_t pitch;
  T weight;
  int x;  // of the tap: at the border it reaches the voxel itself, too
};

constexpr int kMaxEntries = kMaxComponents * (4 * kMaxTaps + 1);

// Where rows of a plane lie in the volume.
struct Border {
  bool z_first, z_last, y_first, y_last;
};

template <class T>
struct GatherList {
  GatherEntry<T> entry[kMaxEntries];
  int count = 0;

  void add(const NeighbourRows<T>& flux, Offset from, int x, T weight) {
    entry[count++] = {flux.centre.at(0) + distance_to(flux, from), flux.centre.pitch, weight, x};
  }

  // The voxels whose neighbour at `offset` is this one: the one on the other side if there is one, and at the
  // border itself.
  static int sources(int step, bool first, bool last, int (&from)[2]) {
    int count = 0;
    if (step == 0 || !(step > 0 ? first : last)) from[count++] = -step;
    if (step != 0 && (step > 0 ? last : first)) from[count++] = 0;
    return count;
  }

  void add_component(const OpenComponent<T>& component, const NeighbourRows<T>& flux, const Border& border,
                     bool with_centre) {
    for (int t = 0; t < component.taps; ++t) {
      const Offset o = component.tap[t].offset;
      int z[2], y[2];
      const int z_count = sources(o.z, border.z_first, border.z_last, z);
      const int y_count = sources(o.y, border.y_first, border.y_last, y);
      for (int i = 0; i < z_count; ++i) {
        for (int j = 0; j < y_count; ++j) add(flux, {z[i], y[j], -o.x}, o.x, component.full_weight[t]);
      }
    }
    if (with_centre && component.kept != 0) add(flux, {0, 0, 0}, 0, component.kept);
  }
};

// Adds weight · (own + what the list gathers) to the gradient; own may be null. The flux is 0 beside a row.
template <class T>
void gather_rows(const GatherList<T>& list, Rows<const T> own, GradientRows<T>& gradient, T weight) {
  using V = Lanes<T>;
  gradient.for_each_row([&](int64_t y, const GradientRow<T>& row) GEOLOSS_LAMBDA_INLINE {
    for_vectors<4, T>(row.width, [&](int64_t x, auto vectors) GEOLOSS_LAMBDA_INLINE {
      constexpr int kVectors = decltype(vectors)::value;
      V sum[kVectors];
      for (int i = 0; i < kVectors; ++i) sum[i] = own ? V::load(own.at(y, x) + i * V::kCount) : V(T(0));
      for (int k = 0; k < list.count; ++k) {
        const GatherEntry<T>& e = list.entry[k];
        const T* const flux = e.flux + y * e.pitch + x;
        for (int i = 0; i < kVectors; ++i) sum[i] += V(e.weight) * V::load(flux + i * V::kCount);
      }
      for (int i = 0; i < kVectors; ++i) {
        T* const to = row.row + x + i * V::kCount;
        (row.written ? V::load(to) + V(weight) * sum[i] : V(weight) * sum[i]).store(to);
      }
    });
    for (int k = 0; k < list.count; ++k) {
      const GatherEntry<T>& e = list.entry[k];
      if (e.x == 0) continue;
      const int64_t border = e.x < 0 ? 0 : row.width - 1;
      row.row[border] += weight * e.weight * e.flux[y * e.pitch + border + e.x];
    }
  });
}

}  // namespace geoloss::GEOLOSS_ISA
