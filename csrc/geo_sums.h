// What geo_sums and its backward work on: plain data, the same for every backend, without torch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "program.h"

namespace geoloss {

enum class DType : int32_t {
  kFloat64,
  kFloat32,
  kFloat16,
  kBFloat16,
  kBool,
  kUInt8,
  kUInt16,
  kUInt32,
  kUInt64,
  kInt8,
  kInt16,
  kInt32,
  kInt64
};

enum class Activation : int32_t { kNone, kSigmoid, kSoftmax };

// What a column of the sums adds up, as the operators' `terms` argument numbers it.
enum class TermKind : int32_t {
  kCount,
  kPrediction,
  kTarget,
  kIntersection,
  kPredictionSquared,
  kTargetSquared,
  kAbsoluteError,
  kSquaredError,
  kCrossEntropyForeground,
  kCrossEntropyBackground,
  kCrossEntropyUniform,
  kMapPrediction,
  kMapSquaredError,
  kFirstOrderForwardL2,
  kFirstOrderForwardL2Squared,
  kFirstOrderForwardL1,
  kFirstOrderCentralL2,
  kFirstOrderCentralL2Squared,
  kFirstOrderCentralL1,
  kSecondOrder,
  kSecondOrderSigned,
  kSecondOrderTwoSided,
  kSecondOrderTwoSidedSigned,
  kProgram
};

constexpr int kTermKinds = static_cast<int>(TermKind::kProgram) + 1;

constexpr bool is_first_order(TermKind kind) {
  return kind >= TermKind::kFirstOrderForwardL2 && kind <= TermKind::kFirstOrderCentralL1;
}
constexpr bool is_stencil(TermKind kind) {
  return kind >= TermKind::kFirstOrderForwardL2 && kind <= TermKind::kSecondOrderTwoSidedSigned;
}
constexpr bool reads_map(TermKind kind) {
  return kind == TermKind::kMapPrediction || kind == TermKind::kMapSquaredError;
}

// A strided volume per batch element and channel; a stride of 0 repeats. `data` is null where there is none.
struct TensorView {
  void* data;
  DType dtype;
  int64_t stride_n, stride_c, stride_z, stride_y, stride_x;  // in elements
};

// Where a program's integers and numbers are, see program.h.
struct ProgramPlace {
  int32_t first_integer, integers, first_number, numbers;
};

// One column of the sums. What its kind does not ask for is unset.
struct Term {
  TermKind kind;
  int32_t map;          // the number of its map
  bool axis_chosen[3];  // z, y, x: the axes that FOG differentiates along
  union {
    double inverse_spacing[3];  // along z, y, x
    ProgramPlace program;
  };
};

constexpr int kMaxTerms = 32;
constexpr int kMaxStencilTerms = 8;
constexpr int kMaxPrograms = 8;
constexpr int kMaxMaps = 4;

struct GeoSumsParams {
  int64_t N, C, D, H, W;
  TensorView input;           // [N, C, D, H, W]
  TensorView target;          // the same, or [N, 1, D, H, W] where label_map
  TensorView mask;            // [N, 1 or C, D, H, W], zero where a voxel is left out
  TensorView maps[kMaxMaps];  // [N, 1 or C, D, H, W] each, weights of the map terms
  bool label_map;             // target holds class numbers: g of channel c is (target == c)
  bool has_ignore_index;
  double ignore_index;
  Activation activation;
  int64_t first_channel;  // 1 leaves the background channel out of every sum
  int64_t term_count;     // K
  Term terms[kMaxTerms];
  const int64_t* integers;  // of programs
  const double* numbers;

  TensorView grad_input;  // backward only: [N, C, D, H, W]
  const void*
      grad_sums;  // backward only: [N, C - first_channel, K], contiguous, fp64 for fp64 input, else fp32

  Stream<int64_t> program_integers(const Term& term) const {
    return {integers + term.program.first_integer, term.program.integers};
  }
  Stream<double> program_numbers(const Term& term) const {
    return {numbers + term.program.first_number, term.program.numbers};
  }

  constexpr bool masked() const { return mask.data || has_ignore_index; }
};

}  // namespace geoloss
