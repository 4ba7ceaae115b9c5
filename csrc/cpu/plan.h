// What a call asks for, looked up once: its terms, and what they need of the pipeline.
#pragma once

#include "../geo_sums.h"
#include "stencil_rows.h"
#include "voxel_rows.h"

namespace geoloss::GEOLOSS_ISA {

inline bool same_text(const char* a, const char* b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

// A term and the column of `sums` that it fills.
template <class T>
struct RequestedStencil {
  const StencilTerm<T>* term;
  int64_t column;
};

// Voxel-wise terms that are evaluated together, and the columns of `sums` that they fill.
template <class T>
struct RequestedVoxelTerms {
  const VoxelTermSet<T>* set;
  int64_t columns[kMaxSetTerms];
};

template <class T>
struct Plan {
  RequestedVoxelTerms<T> voxel[kMaxTerms];
  RequestedStencil<T> stencil[kMaxTerms];
  int voxel_count = 0, stencil_count = 0;
  Weighting weighting;
  bool masked;              // some voxels may be invalid
  bool on_error = false;    // a stencil reads the error e = s - g
  bool on_fields = false;   // a stencil reads prediction and target
  bool in_place = true;     // every stencil can read the error in place
  int64_t flux_fields = 0;  // that wait for the gather, of all stencils
  bool from_logit = false;
  bool has_slopes = false;  // a voxel-wise term depends on the prediction
  bool counts_all = false;  // the count is asked for, and every voxel is valid: nothing to add up
  int64_t count_column = 0;
  int64_t back = 0, ahead = 0;  // planes and rows that the stencils reach

  explicit Plan(const GeoSumsParams& p) : masked(p.mask.data || p.has_ignore_index) {
    weighting = masked ? Weighting::kMask : unit_voxels(p) ? Weighting::kUnit : Weighting::kSpacing;
    bool open[kMaxTerms] = {};  // the columns that are still to be filled
    for (int64_t k = 0; k < p.term_count; ++k) {
      if (const auto* term = find_stencil(p.terms[k])) {
        add_stencil(term, k);
      } else if (!masked && !counts_all && same_text(p.terms[k], terms::Count::kName)) {
        counts_all = true;
        count_column = k;
      } else {
        open[k] = true;
      }
    }
    if (p.activation == Activation::kSigmoid) add_voxel_terms(p, true, open);
    add_voxel_terms(p, false, open);
  }

  void add_stencil(const StencilTerm<T>* term, int64_t column) {
    stencil[stencil_count++] = {term, column};
    on_error |= term->on_error;
    on_fields |= !term->on_error;
    in_place &= term->sum_in_place != nullptr;
    flux_fields += term->flux_fields;
    back = term->reach_back > back ? term->reach_back : back;
    ahead = term->reach_ahead > ahead ? term->reach_ahead : ahead;
  }

  // Fills open columns, by sets of terms where possible.
  void add_voxel_terms(const GeoSumsParams& p, bool from_logits, bool* open) {
    for (const auto& set : VoxelTable<T, terms::VoxelTerms>::sets) {
      if (set.from_logit != from_logits) continue;
      RequestedVoxelTerms<T> request{&set, {}};
      while (take_columns(p, open, request)) {
        voxel[voxel_count++] = request;
        has_slopes |= set.add_slope != nullptr;
        from_logit |= from_logits;
      }
    }
  }

  // Takes an open column for each term of the set, or none.
  static bool take_columns(const GeoSumsParams& p, bool* open, RequestedVoxelTerms<T>& request) {
    for (int i = 0; i < request.set->count; ++i) {
      int64_t k = 0;
      while (k < p.term_count && !(open[k] && same_text(p.terms[k], request.set->names[i]))) ++k;
      if (k == p.term_count) return false;
      request.columns[i] = k;
    }
    for (int i = 0; i < request.set->count; ++i) open[request.columns[i]] = false;
    return true;
  }

  static bool unit_voxels(const GeoSumsParams& p) {
    bool unit = true;
    for (int axis = 0; axis < 3; ++axis) unit &= p.axis_chosen[axis] && p.inverse_spacing[axis] == 1;
    return unit;
  }

  const StencilTerm<T>* find_stencil(const char* name) const {
    for (const auto& term : stencil_table()) {
      if (same_text(term.name, name)) return &term;
    }
    return nullptr;
  }

  const auto& stencil_table() const {
    if (weighting == Weighting::kMask) return StencilTable<T, Weighting::kMask>::terms;
    if (weighting == Weighting::kSpacing) return StencilTable<T, Weighting::kSpacing>::terms;
    return StencilTable<T, Weighting::kUnit>::terms;
  }

  int64_t reach() const { return back + ahead; }
  // A power of two, so that a plane's place in the ring is found by a mask.
  int64_t ring_planes() const { return reach() == 0 ? 1 : reach() == 1 ? 2 : 4; }
};

}  // namespace geoloss::GEOLOSS_ISA
