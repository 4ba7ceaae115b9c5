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
template <class Term>
struct Requested {
  const Term* term;
  int64_t column;
};

template <class T>
struct Plan {
  Requested<VoxelTerm<T>> voxel[kMaxTerms];
  Requested<StencilTerm<T>> stencil[kMaxTerms];
  int voxel_count = 0, stencil_count = 0;
  Weighting weighting;
  bool masked;             // some voxels may be invalid
  bool on_error = false;   // a stencil reads the error e = s - g
  bool on_fields = false;  // a stencil reads prediction and target
  bool in_place = true;    // every stencil can read the error in place
  bool from_logit = false;
  bool has_slopes = false;  // a voxel-wise term depends on the prediction
  bool counts_all = false;  // the count is asked for, and every voxel is valid: nothing to add up
  int64_t count_column = 0;
  int64_t back = 0, ahead = 0;  // planes and rows that the stencils reach

  explicit Plan(const GeoSumsParams& p) : masked(p.mask.data || p.has_ignore_index) {
    weighting = masked ? Weighting::kMask : unit_voxels(p) ? Weighting::kUnit : Weighting::kSpacing;
    for (int64_t k = 0; k < p.term_count; ++k) {
      if (const auto* term = find_stencil(p.terms[k])) {
        stencil[stencil_count++] = {term, k};
        on_error |= term->on_error;
        on_fields |= !term->on_error;
        in_place &= term->sum_in_place != nullptr;
        back = term->reach_back > back ? term->reach_back : back;
        ahead = term->reach_ahead > ahead ? term->reach_ahead : ahead;
      } else {
        const auto* voxel_term = find_voxel(p.terms[k], p.activation == Activation::kSigmoid);
        if (voxel_term == find_voxel(terms::Count::kName, false) && !masked && !counts_all) {
          counts_all = true;
          count_column = k;
          continue;
        }
        voxel[voxel_count++] = {voxel_term, k};
        has_slopes |= voxel_term->add_slope != nullptr;
        from_logit |= voxel_term->from_logit;
      }
    }
  }

  static bool unit_voxels(const GeoSumsParams& p) {
    bool unit = true;
    for (int axis = 0; axis < 3; ++axis) unit &= p.axis_chosen[axis] && p.inverse_spacing[axis] == 1;
    return unit;
  }

  // The first of a name reads the probability, a second one, if any, the logit.
  static const VoxelTerm<T>* find_voxel(const char* name, bool logit) {
    const VoxelTerm<T>* found = nullptr;
    for (const auto& term : VoxelTable<T, terms::VoxelTerms>::terms) {
      if (same_text(term.name, name) && (!found || (logit && term.from_logit))) found = &term;
    }
    return found;
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
