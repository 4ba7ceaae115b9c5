// The terms that are programs, as stages of the pipeline: their values add up to sums, their slopes with
// respect to s, log s, log(1 - s) and φ_k(s) make rows of the gradient.
//
// Both run over chunks of a block that stay in the first-level cache: first the stencils that the program
// reads, each to rows of its own, then its instructions. The slopes with respect to φ_k(s), the flux, wait in
// rings for the adjoint stencils that look beside a voxel; the others wait beside them, or, of a program
// without stencils, for the gradient stage that comes next.
#pragma once

#include "fields.h"
#include "logarithm_slopes.h"
#include "program_rows.h"

namespace geoloss::GEOLOSS_ISA {

template <class T>
class ProgramStage {
 public:
  using V = Lanes<T>;
  ProgramStage(const Fields<T>& fields) : f_(fields), plan_(fields.plan) {}

  // Of each channel.
  void take_buffers(T*& next) {
    for (int i = 0; f_.backward && i < plan_.program_count; ++i) {
      const RequestedProgram& program = plan_.program[i];
      for (int variable = 0; variable < kSlopes; ++variable) {
        if (!has_slope(program, variable)) continue;
        own_[i][variable] = program.waits ? f_.take_ring(next, plan_.ring_planes()) : f_.take_block(next);
      }
      for (int64_t k = 0; k < program.term.components; ++k) {
        if (program.flux_output[k] >= 0) flux_[i][k] = f_.take_ring(next, plan_.ring_planes());
      }
    }
  }

  // That all channels share.
  void take_shared_buffers(T*& next) {
    chunk_width_ = min(ceil_divide(f_.p.W, V::kCount) * V::kCount, kChunkElements);
    chunk_rows_ = min(f_.block_rows(), max(1, kChunkElements / chunk_width_));
    int64_t registers = 0;
    for (int i = 0; i < plan_.program_count; ++i) {
      const Program& code = this->code(i);
      registers = max(registers, code.registers + 1 + code.fields);
      constants_[i] = next;
      next += code.constants * chunk_width_;
    }
    registers_ = next;
    next += registers * chunk_rows_ * chunk_width_;
    weights_ = next;
    next += ceil_divide(f_.tiling.channels, V::kCount) * V::kCount;
  }

  void fill_constants() {
    for (int i = 0; i < plan_.program_count; ++i) {
      const Program& code = this->code(i);
      for (int64_t k = 0; k < code.constants; ++k) {
        for (int64_t x = 0; x < chunk_width_; ++x)
          constants_[i][k * chunk_width_ + x] = static_cast<T>(code.constant[k]);
      }
    }
  }

  // sums: [K]
  void sum(int64_t c, const Block& b, V* sums) const {
    for (int i = 0; i < plan_.program_count; ++i) {
      V& total = sums[plan_.program[i].column];
      for_each_chunk(b, [&](const Chunk& chunk) {
        const Rows<T> value = registers(code(i).registers);
        Rows<T> operands[kMaxOperands];
        place_operands(i, c, b, chunk, operands);
        operands[code(i).first_output()] = value;
        run_program(code(i), operands, chunk.size);
        add_valid(value, at(f_.rows(kValid, c, b), chunk), chunk.size, total);
      });
    }
  }

  // Of the programs whose slopes wait, at the voxels whose flux reaches the tile; of the others, at the
  // voxels of the gradient.
  void compute_slopes(bool waits, int64_t c, const Block& b) const {
    for (int i = 0; i < plan_.program_count; ++i) {
      if (plan_.program[i].waits == waits && code(i).outputs > 0) compute_slopes(i, c, b);
    }
  }

  // With respect to s.
  void add_slopes(int64_t c, const Block& b, const T* weights, GradientRows<T>& gradient) const {
    for (int i = 0; i < plan_.program_count; ++i) {
      const RequestedProgram& program = plan_.program[i];
      Rows<const T> own{};
      if (has_slope(program, kOfPrediction)) own = f_.rows_of(own_[i][kOfPrediction], c, b);
      GatherList<T> list;
      fill_list(i, c, b, list);
      if (own || list.count > 0) gather_rows(list, own, gradient, weights[program.column]);
    }
  }

  // weights_of(channel): of all terms.
  template <class Weights>
  void add_through_logarithms(const Block& b, const ChannelRows<T>& gradient, Weights weights_of) const {
    for (int i = 0; i < plan_.program_count; ++i) {
      const RequestedProgram& program = plan_.program[i];
      if (!has_slope(program, kOfLogPrediction) && !has_slope(program, kOfLogComplement)) continue;
      for (int64_t c = 0; c < f_.tiling.channels; ++c) {
        const bool summed = f_.c + c >= f_.p.first_channel;
        weights_[c] = summed ? weights_of(c)[program.column] : T(0);
      }
      const LogarithmSlopes<T> slopes{own_rows(i, kOfLogPrediction, b), own_rows(i, kOfLogComplement, b),
                                      f_.channels_of(kValid, b), weights_};
      add_through_activation(f_, b, slopes, gradient);
    }
  }

 private:
  enum Slope { kOfPrediction, kOfLogPrediction, kOfLogComplement, kSlopes };

  // A part of a block.
  struct Chunk {
    int64_t y, x;
    Extent size;
  };

  ChannelRows<const T> own_rows(int i, Slope slope, const Block& b) const {
    if (!has_slope(plan_.program[i], slope)) return {};
    return {f_.rows_of(own_[i][slope], 0, b), f_.channel_pitch};
  }

  // Where a mask leaves a stencil less than its weights, flux reaches its own voxel.
  bool has_slope(const RequestedProgram& program, int slope) const {
    const bool from_mask = slope == kOfPrediction && plan_.masked && program.waits;
    return program.slope_output[slope] >= 0 || from_mask;
  }

  const Program& code(int i) const {
    const OpenTerm& term = plan_.program[i].term;
    return f_.backward ? term.slopes : term.value;
  }

  template <class Function>
  void for_each_chunk(const Block& b, Function function) const {
    for (int64_t y = 0; y < b.rows(); y += chunk_rows_) {
      for (int64_t x = 0; x < f_.p.W; x += chunk_width_) {
        function(Chunk{y, x, {min(chunk_rows_, b.rows() - y), min(chunk_width_, f_.p.W - x)}});
      }
    }
  }

  // Rows of scratch memory.
  Rows<T> registers(int64_t number) const {
    return {registers_ + number * chunk_rows_ * chunk_width_, chunk_width_};
  }

  template <class Value>
  static Rows<Value> at(Rows<Value> rows, const Chunk& chunk) {
    return rows ? Rows<Value>{rows.at(chunk.y, chunk.x), rows.pitch} : rows;
  }

  static NeighbourRows<T> at(NeighbourRows<T> rows, const Chunk& chunk) {
    rows.centre = at(rows.centre, chunk);
    return rows;
  }

  // Where registers, fields and constants are.
  void place_operands(int i, int64_t c, const Block& b, const Chunk& chunk, Rows<T>* operands) const {
    const Program& code = this->code(i);
    for (int64_t r = 0; r < code.registers; ++r) operands[r] = registers(r);
    for (int64_t k = 0; k < code.fields; ++k) {
      const Rows<T> scratch = registers(code.registers + 1 + k);
      operands[code.first_field() + k] = field_rows(i, k, c, b, chunk, scratch);
    }
    for (int64_t k = 0; k < code.constants; ++k)
      operands[code.first_constant() + k] = {constants_[i] + k * chunk_width_, 0};
  }

  // Rows of a field of the tile, or of a component, which is computed to scratch rows.
  Rows<T> field_rows(int i, int64_t k, int64_t c, const Block& b, const Chunk& chunk, Rows<T> scratch) const {
    const FieldKind kind = code(i).field_kind(k);
    const int number = static_cast<int>(code(i).field_number(k));
    const Field field = field_of(kind, number);
    if (!is_component(kind)) return writable(at(f_.rows(field, c, b), chunk));
    const OpenComponent<T>& component = plan_.component[plan_.program[i].first_component + number];
    const NeighbourRows<T> u = at(f_.neighbours(field, c, b), chunk);
    if (plan_.masked) {
      apply_masked_stencil(component, u, at(f_.neighbours(kValid, c, b), chunk), chunk.size, scratch);
    } else {
      apply_stencil(component, u, chunk.size, scratch);
    }
    return scratch;
  }

  // Programs write to registers and outputs alone.
  static Rows<T> writable(Rows<const T> rows) { return {const_cast<T*>(rows.first), rows.pitch}; }

  static Field field_of(FieldKind kind, int number) {
    switch (kind) {
      case FieldKind::kPrediction:
      case FieldKind::kPredictionComponent: return kPrediction;
      case FieldKind::kTarget:
      case FieldKind::kTargetComponent: return kTarget;
      case FieldKind::kErrorComponent: return kError;
      case FieldKind::kLogPrediction: return kLogPrediction;
      case FieldKind::kLogComplement: return kLogComplement;
      case FieldKind::kMap: return map_field(number);
    }
    return kFieldCount;
  }

  static void add_valid(Rows<const T> value, Rows<const T> valid, Extent size, V& sum) {
    V total = sum;
    for (int64_t y = 0; y < size.rows; ++y) {
      add_row<T>(size.width, [&](int64_t x, auto kept) GEOLOSS_LAMBDA_INLINE {
        const V each = V::load(value.at(y, x));
        total += kept(valid ? select(V::load(valid.at(y, x)) == V(T(0)), V(T(0)), each) : each);
      });
    }
    sum = total;
  }

  void compute_slopes(int i, int64_t c, const Block& b) const {
    const RequestedProgram& program = plan_.program[i];
    for_each_chunk(b, [&](const Chunk& chunk) {
      Rows<T> operands[kMaxOperands];
      place_operands(i, c, b, chunk, operands);
      for (int64_t k = 0; k < code(i).outputs; ++k)
        operands[code(i).first_output() + k] = at(output_rows(i, k, c, b), chunk);
      run_program(code(i), operands, chunk.size);
    });
    if (!program.waits) return;
    if (plan_.masked) mask(i, c, b);
    for (int64_t k = 0; k < program.term.components; ++k) {
      if (program.flux_output[k] >= 0) end_rows(f_.rows_of(flux_[i][k], c, b), f_.extent(b));
    }
  }

  Rows<T> output_rows(int i, int64_t output, int64_t c, const Block& b) const {
    const OpenTerm& term = plan_.program[i].term;
    const FieldKind kind = term.variable_kind(output);
    if (is_component(kind)) return f_.rows_of(flux_[i][term.variable_number(output)], c, b);
    const Slope slope = kind == FieldKind::kPrediction      ? kOfPrediction
                        : kind == FieldKind::kLogPrediction ? kOfLogPrediction
                                                            : kOfLogComplement;
    return f_.rows_of(own_[i][slope], c, b);
  }

  void mask(int i, int64_t c, const Block& b) const {
    const RequestedProgram& program = plan_.program[i];
    const Rows<T> own = f_.rows_of(own_[i][kOfPrediction], c, b);
    if (program.slope_output[kOfPrediction] < 0) clear(own, f_.extent(b));
    for (int64_t k = 0; k < program.term.components; ++k) {
      if (program.flux_output[k] < 0) continue;
      mask_flux(plan_.component[program.first_component + k], f_.neighbours(kValid, c, b), f_.extent(b),
                f_.rows_of(flux_[i][k], c, b), own);
    }
  }

  // Beside a row there is no flux.
  static void end_rows(Rows<T> rows, Extent size) {
    for (int64_t y = 0; y < size.rows; ++y) *rows.at(y, -1) = *rows.at(y, size.width) = 0;
  }

  void fill_list(int i, int64_t c, const Block& b, GatherList<T>& list) const {
    const RequestedProgram& program = plan_.program[i];
    const Border border{b.z == 0, b.z == f_.p.D - 1, b.y_begin == 0, b.y_end == f_.p.H};
    for (int64_t k = 0; k < program.term.components; ++k) {
      if (program.flux_output[k] < 0) continue;
      list.add_component(plan_.component[program.first_component + k],
                         f_.neighbours_in_ring(flux_[i][k], c, b), border, !plan_.masked);
    }
  }

  const Fields<T>& f_;
  const Plan<T>& plan_;
  Ring<T> own_[kMaxPrograms][kSlopes];
  Ring<T> flux_[kMaxPrograms][kMaxComponents];
  int64_t chunk_width_, chunk_rows_;
  T* constants_[kMaxPrograms];
  T* registers_;
  T* weights_;  // [channels]
};

}  // namespace geoloss::GEOLOSS_ISA
