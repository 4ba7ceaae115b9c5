// Programs along rows: one instruction after the other, each over a few rows that stay in the first-level
// cache, so that choosing what to do costs little beside doing it.
#pragma once

#include "../program.h"
#include "elementary.h"
#include "rows.h"

namespace geoloss::GEOLOSS_ISA {

// Voxels that an instruction works on in one go; a multiple of every vector's lanes.
constexpr int64_t kChunkElements = 512;

template <class T>
using RunInstruction = void (*)(const Rows<T>& to, const Rows<T>* const* from, Extent);

// Operands are read before the destination is written, so that they may be the same rows.
template <class T, class Operation>
void run_instruction(const Rows<T>& to, const Rows<T>* const* from, Extent size) {
  using V = Lanes<T>;
  const Rows<T> result = to, a = *from[0], b = *from[1], c = *from[2];
  for (int64_t y = 0; y < size.rows; ++y) {
    T* const row = result.at(y);
    const T* const row_a = a.at(y);
    const T* const row_b = b.at(y);
    const T* const row_c = c.at(y);
    for (int64_t x = 0; x < size.width; x += V::kCount) {
      const auto load = [x](const T* from) GEOLOSS_LAMBDA_INLINE { return V::load(from + x); };
      Operation::template apply<V>(load, row_a, row_b, row_c).store(row + x);
    }
  }
}

// An operation loads the operands that it has.
#define GEOLOSS_UNARY(Name, expression)                           \
  struct Name {                                                   \
    template <class V, class Load, class Row>                     \
    GEOLOSS_SIMD static V apply(Load load, Row first, Row, Row) { \
      const V a = load(first);                                    \
      return expression;                                          \
    }                                                             \
  };
#define GEOLOSS_BINARY(Name, expression)                                 \
  struct Name {                                                          \
    template <class V, class Load, class Row>                            \
    GEOLOSS_SIMD static V apply(Load load, Row first, Row second, Row) { \
      const V a = load(first), b = load(second);                         \
      return expression;                                                 \
    }                                                                    \
  };
#define GEOLOSS_TERNARY(Name, expression)                                      \
  struct Name {                                                                \
    template <class V, class Load, class Row>                                  \
    GEOLOSS_SIMD static V apply(Load load, Row first, Row second, Row third) { \
      const V a = load(first), b = load(second), c = load(third);              \
      return expression;                                                       \
    }                                                                          \
  };

template <class V>
GEOLOSS_SIMD V inverse_root(V square) {
  return select(square < V(1.17549435e-38f), V(0.f), reciprocal_square_root(square));
}

// Of doubles, exactly √square.
GEOLOSS_SIMD Floats root(Floats square) { return square * inverse_root(square); }
GEOLOSS_SIMD Doubles root(Doubles square) {
  return select(square < 1.17549435e-38, Doubles(0.), square_root(square));
}

namespace operations {

GEOLOSS_UNARY(Copy, a)
GEOLOSS_BINARY(Add, a + b)
GEOLOSS_BINARY(Subtract, a - b)
GEOLOSS_BINARY(Multiply, a* b)
GEOLOSS_BINARY(Divide, a / b)
GEOLOSS_UNARY(Negate, -a)
// A NaN in either goes on.
GEOLOSS_BINARY(Minimum, select(b != b, b, select(a > b, b, a)))
GEOLOSS_BINARY(Maximum, select(b != b, b, select(a < b, b, a)))
GEOLOSS_BINARY(Power, power(a, b))
GEOLOSS_BINARY(Less, select(a < b, V(1.f), V(0.f)))
GEOLOSS_BINARY(LessEqual, select(a < b, V(1.f), select(a == b, V(1.f), V(0.f))))
GEOLOSS_BINARY(Equal, select(a == b, V(1.f), V(0.f)))
GEOLOSS_BINARY(Step, select(a > b, V(1.f), select(a == b, V(0.5f), V(0.f))))
GEOLOSS_BINARY(Weighted, select(a == V(0.f), a, a* b))
GEOLOSS_TERNARY(Select, select(a != V(0.f), b, c))
GEOLOSS_TERNARY(MultiplyAdd, a* b + c)
GEOLOSS_TERNARY(NegativeMultiplyAdd, c - a * b)
GEOLOSS_TERNARY(SumOfSquares, a* a + b * b + c * c)
GEOLOSS_UNARY(Absolute, absolute(a))
GEOLOSS_UNARY(Sign, sign(a))
GEOLOSS_UNARY(SquareRoot, square_root(a))
GEOLOSS_UNARY(ReciprocalSquareRoot, V(1.f) / square_root(a))
GEOLOSS_UNARY(Root, root(a))
GEOLOSS_UNARY(InverseRoot, inverse_root(a))
GEOLOSS_UNARY(Exponential, exponential(a))
GEOLOSS_UNARY(ExponentialM1, exponential_m1(a))
GEOLOSS_UNARY(Logarithm, logarithm(a))
GEOLOSS_UNARY(Logarithm1p, full_logarithm_1p(a))
GEOLOSS_UNARY(Sine, sine(a))
GEOLOSS_UNARY(Cosine, cosine(a))
GEOLOSS_UNARY(HyperbolicTangent, hyperbolic_tangent(a))
GEOLOSS_UNARY(Sigmoid, sigmoid(a))
GEOLOSS_UNARY(Softplus, softplus(a))

}  // namespace operations

#undef GEOLOSS_UNARY
#undef GEOLOSS_BINARY
#undef GEOLOSS_TERNARY

template <class T, class... Operations>
struct InstructionTable {
  static constexpr int64_t kCount = sizeof...(Operations);
  static constexpr RunInstruction<T> run[] = {run_instruction<T, Operations>...};
};

// In the order of Opcode.
template <class T>
using Instructions = InstructionTable<
    T, operations::Copy, operations::Add, operations::Subtract, operations::Multiply, operations::Divide,
    operations::Negate, operations::Minimum, operations::Maximum, operations::Power, operations::Less,
    operations::LessEqual, operations::Equal, operations::Step, operations::Weighted, operations::Select,
    operations::MultiplyAdd, operations::NegativeMultiplyAdd, operations::SumOfSquares, operations::Absolute,
    operations::Sign, operations::SquareRoot, operations::ReciprocalSquareRoot, operations::Root,
    operations::InverseRoot, operations::Exponential, operations::ExponentialM1, operations::Logarithm,
    operations::Logarithm1p, operations::Sine, operations::Cosine, operations::HyperbolicTangent,
    operations::Sigmoid, operations::Softplus>;
static_assert(Instructions<float>::kCount == kOpcodes);

// operands: where each operand's rows of `size` are, the outputs' included.
template <class T>
void run_program(const Program& program, const Rows<T>* operands, Extent size) {
  const int64_t* code = program.instruction;
  for (int64_t i = 0; i < program.instructions; ++i, code += kInstructionIntegers) {
    const Rows<T>* const from[] = {operands + code[2], operands + code[3], operands + code[4]};
    Instructions<T>::run[code[0]](operands[code[1]], from, size);
  }
}

}  // namespace geoloss::GEOLOSS_ISA
