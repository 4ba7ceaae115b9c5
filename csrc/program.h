// Programs of open formulas: straight-line code on a voxel's fields, as the operators' `terms` and
// `parameters` encode it (geoloss_kernels/expressions/program.py writes it).
//
//   integers   counts of registers, fields, constants, outputs, instructions;
//              kind and number of each field; opcode, destination and three sources of each instruction
//   numbers    the constants
//
// An operand is a number: registers come first, then the fields, the constants, and the outputs.
#pragma once

#include <cstdint>

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

}  // namespace geoloss
