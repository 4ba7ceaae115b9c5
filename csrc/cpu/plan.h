// What a call asks for, looked up once: its terms, and what they need of the pipeline.
#pragma once

#include "../geo_sums.h"
#include "open_stencil_rows.h"
#include "stencil_rows.h"
#include "voxel_rows.h"

namespace geoloss::GEOLOSS_ISA {

// A stencil term, the column of `sums` that it fills, and the scale of its differences along x, y, z.
template <class T>
struct RequestedStencil {
  const StencilTerm<T>* term;
  int64_t column;
  PerAxis<T> inverse_spacing;  // FOG: 0 along an axis that is not chosen
  PerAxis<T> inverse_spacing_squared;
};

// Voxel-wise terms that are evaluated together, the columns of `sums` that they fill, and their map.
template <class T>
struct RequestedVoxelTerms {
  const VoxelTermSet<T>* set;
  int64_t columns[kMaxSetTerms];
  int map;
};

// A term that is a program, the column of `sums` that it fills, and where its slopes come out.
struct RequestedProgram {
  OpenTerm term;
  int64_t column;
  int first_component;  // of the plan's
  bool waits;           // its slopes are computed ahead, for stencils that reach from voxel to voxel
  int slope_output[3];  // with respect to s, log s, log(1 - s); -1: none
  int flux_output[kMaxComponents];
};

template <class T>
struct Plan {
  RequestedVoxelTerms<T> voxel[kMaxTerms];
  RequestedStencil<T> stencil[kMaxStencilTerms];
  RequestedProgram program[kMaxPrograms];
  OpenComponent<T> component[kMaxComponents];  // the stencils of all programs
  int voxel_count = 0, stencil_count = 0, program_count = 0, component_count = 0;
  bool masked;                                // some voxels may be invalid
  bool on_error = false;                      // a stencil reads the error e = s - g
  bool on_fields = false;                     // a stencil reads prediction and target
  bool in_place = true;                       // every stencil can read the error in place
  int64_t flux_fields = 0;                    // that wait for the gather, of all stencils
  bool has_variable[terms::kVariables] = {};  // a voxel-wise term has a slope with respect to it
  bool program_reads[kFieldKinds] = {};       // a program reads a field of the kind
  bool reads_map[kMaxMaps] = {};
  bool counts_all = false;  // the count is asked for, and every voxel is valid: nothing to add up
  int64_t count_column = 0;
  int64_t back = 0, ahead = 0;  // planes and rows that the stencils reach
  bool diagonal = false;        // a stencil, or its adjoint, reads the next row of the next plane

  explicit Plan(const GeoSumsParams& p) : masked(p.masked()) {
    bool open[kMaxTerms] = {};  // the columns that are still to be filled
    for (int64_t k = 0; k < p.term_count; ++k) {
      const Term& term = p.terms[k];
      if (is_stencil(term.kind)) {
        add_stencil(p, term, k);
      } else if (term.kind == TermKind::kProgram) {
        add_program(p, term, k);
      } else if (!masked && !counts_all && term.kind == TermKind::kCount) {
        counts_all = true;
        count_column = k;
      } else {
        open[k] = true;
      }
    }
    add_voxel_terms(p, open);
  }

  bool reads(FieldKind kind) const { return program_reads[static_cast<int>(kind)]; }
  bool has(terms::Variable variable) const { return has_variable[static_cast<int>(variable)]; }

  int64_t reach() const { return back + ahead; }
  // A power of two, so that a plane's place in the ring is found by a mask.
  int64_t ring_planes() const { return reach() == 0 ? 1 : reach() == 1 ? 2 : 4; }

 private:
  void add_stencil(const GeoSumsParams& p, const Term& asked, int64_t column) {
    const StencilTerm<T>* term = find_stencil(p, asked);
    T chosen[3], squared[3];
    for (int axis = 0; axis < 3; ++axis) {
      const double inverse = asked.inverse_spacing[axis];
      chosen[axis] = static_cast<T>(asked.axis_chosen[axis] ? inverse : 0);
      squared[axis] = static_cast<T>(inverse * inverse);
    }
    stencil[stencil_count++] = {
        term, column, {chosen[2], chosen[1], chosen[0]}, {squared[2], squared[1], squared[0]}};
    on_error |= term->on_error;
    on_fields |= !term->on_error;
    in_place &= term->sum_in_place != nullptr;
    flux_fields += term->flux_fields;
    back = term->reach_back > back ? term->reach_back : back;
    ahead = term->reach_ahead > ahead ? term->reach_ahead : ahead;
  }

  // The stream is known to be sound.
  void add_program(const GeoSumsParams& p, const Term& asked, int64_t column) {
    RequestedProgram& made = program[program_count++];
    made.column = column;
    made.first_component = component_count;
    read_open_term(p.program_integers(asked), p.program_numbers(asked), kMaxMaps, made.term);
    for (int64_t k = 0; k < made.term.components; ++k) add_component(p, made.term.component[k]);
    for (const Program* code : {&made.term.value, &made.term.slopes}) {
      for (int64_t i = 0; i < code->fields; ++i) add_field(code->field_kind(i), code->field_number(i));
    }
    place_outputs(made);
  }

  void add_component(const GeoSumsParams& p, const OpenStencil& asked) {
    OpenComponent<T>& made = component[component_count++];
    made = open_component<T>(asked);
    for (int t = 0; t < made.taps; ++t) {
      const Offset& o = made.tap[t].offset;
      if (o.z < 0 || o.y < 0) back = 1;
      if (o.z > 0 || o.y > 0) ahead = 1;
      if (o.z * o.y > 0) diagonal = true;
    }
    if (p.D == 1 && p.H == 1) back = ahead = 0;
  }

  void add_field(FieldKind kind, int64_t number) {
    program_reads[static_cast<int>(kind)] = true;
    if (kind == FieldKind::kMap) reads_map[number] = true;
    if (kind == FieldKind::kErrorComponent) on_error = true, in_place = false;
    if (kind == FieldKind::kPredictionComponent || kind == FieldKind::kTargetComponent) on_fields = true;
  }

  void place_outputs(RequestedProgram& made) {
    for (int& output : made.slope_output) output = -1;
    for (int& output : made.flux_output) output = -1;
    made.waits = made.term.components > 0;
    for (int64_t i = 0; i < made.term.slopes.outputs; ++i) {
      const FieldKind kind = made.term.variable_kind(i);
      const int output = static_cast<int>(i);
      if (kind == FieldKind::kPrediction) made.slope_output[0] = output;
      if (kind == FieldKind::kLogPrediction) made.slope_output[1] = output;
      if (kind == FieldKind::kLogComplement) made.slope_output[2] = output;
      if (kind == FieldKind::kPredictionComponent) made.flux_output[made.term.variable_number(i)] = output;
    }
    flux_fields += made.waits ? made.term.slopes.outputs + 1 : 0;
  }

  // Fills open columns, by sets of terms where possible.
  void add_voxel_terms(const GeoSumsParams& p, bool* open) {
    for (const auto& set : VoxelTable<T, terms::VoxelTerms>::sets) {
      RequestedVoxelTerms<T> request{&set, {}, 0};
      while (take_columns(p, open, request)) {
        voxel[voxel_count++] = request;
        has_variable[static_cast<int>(set.variable)] = true;
        if (set.reads_map) reads_map[request.map] = true;
      }
    }
  }

  // Takes an open column for each term of the set, or none.
  static bool take_columns(const GeoSumsParams& p, bool* open, RequestedVoxelTerms<T>& request) {
    for (int i = 0; i < request.set->count; ++i) {
      int64_t k = 0;
      while (k < p.term_count && !(open[k] && p.terms[k].kind == request.set->kinds[i])) ++k;
      if (k == p.term_count) return false;
      request.columns[i] = k;
    }
    for (int i = 0; i < request.set->count; ++i) open[request.columns[i]] = false;
    request.map = p.terms[request.columns[0]].map;
    return true;
  }

  static bool has_unit_voxels(const GeoSumsParams& p, const Term& term) {
    bool unit = true;
    for (int axis = 0; axis < 3; ++axis) {
      const bool flat = axis == 0 && p.D == 1;  // nothing differs along z
      unit &= term.inverse_spacing[axis] == 1 && (flat || term.axis_chosen[axis]);
    }
    return unit;
  }

  const StencilTerm<T>* find_stencil(const GeoSumsParams& p, const Term& asked) const {
    for (const auto& term : table_of(p, asked)) {
      if (term.kind == asked.kind) return &term;
    }
    return nullptr;
  }

  const auto& table_of(const GeoSumsParams& p, const Term& asked) const {
    if (masked) return StencilTable<T, Weighting::kMask>::terms;
    if (!has_unit_voxels(p, asked)) return StencilTable<T, Weighting::kSpacing>::terms;
    return StencilTable<T, Weighting::kUnit>::terms;
  }
};

}  // namespace geoloss::GEOLOSS_ISA
