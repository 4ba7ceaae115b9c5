// Programs of open formulas: straight-line code on a voxel's fields, as the operators' `terms` and
// `parameters` encode it (geoloss_kernels/expressions/program.py writes it).
//
//   integers   counts of registers, fields, constants, outputs, instructions;
//              kind and number of each field; opcode, destination and three sources of each instruction
//   numbers    the constants
//
// An operand is a number: registers come first, then the fields, the constants, and the outputs.
//
// A term of the sums that is a program is, in turn,
//
//   integers   how many stencils; for each whether it needs all neighbours, the number of its taps, their
//   places
//              (z + 1) 9 + (y + 1) 3 + x + 1; a program for the value; a program for the slopes; what each of
//              its outputs is the slope with respect to, as a field
//   numbers    for each stencil what it makes of a volume of ones, and the weights of its taps, ordered by
//              magnitude; the constants of the two programs
#pragma once

#include <cstdint>
#include <initializer_list>

namespace geoloss {

// The order is that of geoloss_kernels/expressions/operations.py.
enum class Opcode : int64_t {
  kCopy,
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kNegate,
  kMinimum,
  kMaximum,
  kPower,
  kLess,
  kLessEqual,
  kEqual,
  kStep,
  kWeighted,
  kSelect,
  kMultiplyAdd,
  kNegativeMultiplyAdd,
  kSumOfSquares,
  kAbsolute,
  kSign,
  kSquareRoot,
  kReciprocalSquareRoot,
  kRoot,
  kInverseRoot,
  kExponential,
  kExponentialM1,
  kLogarithm,
  kLogarithm1p,
  kSine,
  kCosine,
  kHyperbolicTangent,
  kSigmoid,
  kSoftplus
};
constexpr int64_t kOpcodes = static_cast<int64_t>(Opcode::kSoftplus) + 1;

enum class FieldKind : int64_t {
  kPrediction,
  kTarget,
  kLogPrediction,
  kLogComplement,
  kMap,
  kPredictionComponent,
  kTargetComponent,
  kErrorComponent
};
constexpr int64_t kFieldKinds = static_cast<int64_t>(FieldKind::kErrorComponent) + 1;

constexpr int64_t kMaxOperands = 256;
constexpr int64_t kMaxInstructions = 4096;
constexpr int64_t kProgramCounts = 5;  // integers before the fields
constexpr int64_t kFieldIntegers = 2;  // of each field
constexpr int64_t kInstructionIntegers = 5;

// Points into the operator's arguments.
struct Program {
  int64_t registers, fields, constants, outputs, instructions;
  const int64_t* field;        // [fields, 2]
  const int64_t* instruction;  // [instructions, 5]
  const double* constant;      // [constants]

  int64_t first_field() const { return registers; }
  int64_t first_constant() const { return registers + fields; }
  int64_t first_output() const { return registers + fields + constants; }
  int64_t operands() const { return registers + fields + constants + outputs; }
  FieldKind field_kind(int64_t i) const { return static_cast<FieldKind>(field[i * kFieldIntegers]); }
  int64_t field_number(int64_t i) const { return field[i * kFieldIntegers + 1]; }
};

// What is left of a stream of numbers.
template <class Number>
struct Stream {
  const Number* next;
  int64_t left;

  bool has(int64_t count) const { return count >= 0 && count <= left; }
  const Number* take(int64_t count) {
    const Number* taken = next;
    next += count;
    left -= count;
    return taken;
  }
};

inline bool within(int64_t value, int64_t end) { return value >= 0 && value < end; }

inline bool is_instruction(const Program& p, const int64_t* code) {
  const int64_t destination = code[1];
  bool fits = within(code[0], kOpcodes) && within(destination, p.operands());
  fits &= destination < p.registers || destination >= p.first_output();
  for (int source = 2; source < kInstructionIntegers; ++source) fits &= within(code[source], p.operands());
  return fits;
}

// Takes a program from the streams; what is wrong with it, or null.
inline const char* read_program(Stream<int64_t>& integers, Stream<double>& numbers, Program& p) {
  if (!integers.has(kProgramCounts)) return "ends within the counts";
  const int64_t* counts = integers.take(kProgramCounts);
  p.registers = counts[0], p.fields = counts[1], p.constants = counts[2], p.outputs = counts[3];
  p.instructions = counts[4];
  for (int i = 0; i < 4; ++i) {
    if (!within(counts[i], kMaxOperands + 1)) return "has a count of operands that is out of range";
  }
  if (p.operands() > kMaxOperands) return "has too many operands";
  if (!within(p.instructions, kMaxInstructions + 1)) return "has too many instructions";
  if (!integers.has(p.fields * kFieldIntegers)) return "ends within the fields";
  p.field = integers.take(p.fields * kFieldIntegers);
  for (int64_t i = 0; i < p.fields; ++i) {
    if (!within(p.field[2 * i], kFieldKinds)) return "reads a field of unknown kind";
  }
  if (!integers.has(p.instructions * kInstructionIntegers)) return "ends within the instructions";
  p.instruction = integers.take(p.instructions * kInstructionIntegers);
  for (int64_t i = 0; i < p.instructions; ++i) {
    if (!is_instruction(p, p.instruction + i * kInstructionIntegers)) return "has an unknown instruction";
  }
  if (!numbers.has(p.constants)) return "ends within the constants";
  p.constant = numbers.take(p.constants);
  return nullptr;
}

constexpr int64_t kMaxTaps = 26;
constexpr int64_t kMaxComponents = 16;  // of all programs of a pass

// Σ_o weight_o (u[v + o] - u[v]) + centre · u[v]
struct OpenStencil {
  bool needs_all;
  int64_t taps;
  const int64_t* place;  // [taps]
  double centre;
  const double* weight;  // [taps]
};

struct OpenTerm {
  int64_t components;
  OpenStencil component[kMaxComponents];
  Program value, slopes;
  const int64_t* variable;  // [slopes.outputs, 2]: the kind and number of a field

  FieldKind variable_kind(int64_t i) const { return static_cast<FieldKind>(variable[i * kFieldIntegers]); }
  int64_t variable_number(int64_t i) const { return variable[i * kFieldIntegers + 1]; }
};

inline const char* read_stencil(Stream<int64_t>& integers, Stream<double>& numbers, OpenStencil& s) {
  if (!integers.has(2)) return "ends within a stencil";
  s.needs_all = *integers.take(1) != 0;
  s.taps = *integers.take(1);
  if (!within(s.taps, kMaxTaps + 1)) return "has a stencil with too many taps";
  if (!integers.has(s.taps) || !numbers.has(1 + s.taps)) return "ends within a stencil";
  s.place = integers.take(s.taps);
  s.centre = *numbers.take(1);
  s.weight = numbers.take(s.taps);
  for (int64_t i = 0; i < s.taps; ++i) {
    if (!within(s.place[i], 27)) return "has a tap out of range";
  }
  return nullptr;
}

inline bool is_component(FieldKind kind) { return kind >= FieldKind::kPredictionComponent; }

// Whether the map or the component of that number is there.
inline bool fits(const int64_t* field, int64_t components, int64_t maps) {
  const auto kind = static_cast<FieldKind>(field[0]);
  if (kind == FieldKind::kMap) return within(field[1], maps);
  return !is_component(kind) || within(field[1], components);
}

inline const char* read_variables(Stream<int64_t>& integers, OpenTerm& term) {
  if (!integers.has(term.slopes.outputs * kFieldIntegers)) return "ends within the variables";
  term.variable = integers.take(term.slopes.outputs * kFieldIntegers);
  for (int64_t i = 0; i < term.slopes.outputs; ++i) {
    const FieldKind kind = term.variable_kind(i);
    const bool varies = kind == FieldKind::kPrediction || kind == FieldKind::kLogPrediction ||
                        kind == FieldKind::kLogComplement || kind == FieldKind::kPredictionComponent;
    if (!varies || !fits(term.variable + i * kFieldIntegers, term.components, 0))
      return "has a slope with respect to what does not vary";
  }
  return nullptr;
}

// Reads all of the streams; what is wrong with them, or null.
inline const char* read_open_term(Stream<int64_t> integers, Stream<double> numbers, int64_t maps,
                                  OpenTerm& term) {
  if (!integers.has(1)) return "ends within the counts";
  term.components = *integers.take(1);
  if (!within(term.components, kMaxComponents + 1)) return "has too many stencils";
  for (int64_t k = 0; k < term.components; ++k) {
    if (const char* fault = read_stencil(integers, numbers, term.component[k])) return fault;
  }
  if (const char* fault = read_program(integers, numbers, term.value)) return fault;
  if (const char* fault = read_program(integers, numbers, term.slopes)) return fault;
  if (term.value.outputs != 1) return "has another number of values than one";
  if (const char* fault = read_variables(integers, term)) return fault;
  for (const Program* program : {&term.value, &term.slopes}) {
    for (int64_t i = 0; i < program->fields; ++i) {
      if (!fits(program->field + i * kFieldIntegers, term.components, maps))
        return "reads a map or a stencil that is not there";
    }
  }
  return integers.left == 0 && numbers.left == 0 ? nullptr : "is longer than its counts say";
}

}  // namespace geoloss
