// Argument checks of the operators, and the way from tensors to plain data. The Python functions check their
// arguments first and say more; these hold for whoever calls an operator directly.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "geo_ratio.h"
#include "geo_sums.h"
#include "operators.h"

namespace geoloss {

using torch::headeronly::ScalarType;

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

inline DType dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Bool: return DType::kBool;
    case ScalarType::Byte: return DType::kUInt8;
    case ScalarType::UInt16: return DType::kUInt16;
    case ScalarType::UInt32: return DType::kUInt32;
    case ScalarType::UInt64: return DType::kUInt64;
    case ScalarType::Char: return DType::kInt8;
    case ScalarType::Short: return DType::kInt16;
    case ScalarType::Int: return DType::kInt32;
    case ScalarType::Long: return DType::kInt64;
    default: STD_TORCH_CHECK(false, name, ": expected a floating, integer or bool dtype");
  }
  return DType::kFloat32;
}

inline bool is_floating(DType dtype) {
  return dtype == DType::kFloat64 || dtype == DType::kFloat32 || dtype == DType::kFloat16 ||
         dtype == DType::kBFloat16;
}

// [N, C, *spatial] as [N, C, D, H, W], D = 1 in 2-D; an axis that `like` has and the tensor repeats has
// stride 0.
inline TensorView view_of(const Tensor& tensor, const char* name) {
  const bool volumetric = tensor.dim() == 5;
  const auto stride = [&](int64_t dim) { return tensor.size(dim) == 1 ? 0 : tensor.stride(dim); };
  return {const_cast<void*>(tensor.const_data_ptr()),
          dtype_of(tensor, name),
          stride(0),
          stride(1),
          volumetric ? tensor.stride(2) : 0,
          tensor.stride(tensor.dim() - 2),
          tensor.stride(tensor.dim() - 1)};
}

// A tensor of input's shape, or with one channel for all where `one_channel` allows it.
inline TensorView checked_view(const Tensor& tensor, const char* name, const Tensor& input,
                               bool one_channel) {
  bool fits = tensor.dim() == input.dim() && tensor.device() == input.device();
  for (int64_t i = 0; fits && i < input.dim(); ++i) {
    fits = tensor.size(i) == input.size(i) || (i == 1 && one_channel && tensor.size(i) == 1);
  }
  STD_TORCH_CHECK(fits, name, ": expected input's device and shape ", shape_text(input),
                  one_channel ? " (or one channel)" : "", ", got shape ", shape_text(tensor));
  return view_of(tensor, name);
}

// torch's own goes through the dispatcher for a tensor that is dense already, too.
inline Tensor dense_of(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Activation activation_of(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number <= 2,
                  "activation: expected 0 (none), 1 (sigmoid) or 2 (softmax), got ", number);
  return static_cast<Activation>(number);
}

// The arguments that geo_sums and geo_sums_backward share.
struct GeoSumsArguments {
  const Tensor& input;
  const Tensor& target;
  const OptionalTensor& mask;
  const std::vector<Tensor>& maps;
  const Integers& terms;
  const Numbers& parameters;
  int64_t activation;
  const std::optional<int64_t>& ignore_index;
  bool include_background;
};

// Reads `terms`, a stream of kind, I, F and I integers for each term, and `parameters`, F numbers for each.
//
//   map terms      the number of the map
//   first order    the axes as bits, 0 = z, 1 = y, 2 = x; the spacing along z, y, x
//   second order   the spacing along z, y, x
//   program        see program.h
class TermReader {
 public:
  TermReader(const Integers& terms, const Numbers& parameters, bool runs_programs)
      : terms_(terms), parameters_(parameters), runs_programs_(runs_programs) {}

  bool at_end() const { return next_term_ == terms_.size(); }

  void check_end() const {
    STD_TORCH_CHECK(next_parameter_ == parameters_.size(), "parameters: expected ", next_parameter_,
                    " numbers for the terms, got ", parameters_.size());
  }

  Term next(int64_t maps) {
    Term term{};
    term.kind = kind_of(integer());
    const int64_t integers = integer(), numbers = integer();
    if (term.kind == TermKind::kProgram) return program(integers, numbers, maps);
    check_counts(term.kind, integers, numbers);
    if (reads_map(term.kind)) term.map = checked_map(integer(), maps);
    if (is_first_order(term.kind)) {
      const int64_t axes = integer();
      for (int axis = 0; axis < 3; ++axis) term.axis_chosen[axis] = axes >> axis & 1;
    }
    for (int axis = 0; is_stencil(term.kind) && axis < 3; ++axis) {
      const double spacing = parameter();
      STD_TORCH_CHECK(spacing > 0, "spacing: expected positive numbers, got ", spacing);
      term.inverse_spacing[axis] = 1 / spacing;
    }
    ++count_;
    return term;
  }

 private:
  TermKind kind_of(int64_t number) const {
    STD_TORCH_CHECK(number >= 0 && number < kTermKinds, "terms: expected kinds from 0 to ", kTermKinds - 1,
                    ", got ", number);
    const auto kind = static_cast<TermKind>(number);
    STD_TORCH_CHECK(kind != TermKind::kProgram || runs_programs_,
                    "terms: expected no programs, which these operators do not compute, got one");
    return kind;
  }

  static void check_counts(TermKind kind, int64_t integers, int64_t numbers) {
    const int64_t expected_integers = reads_map(kind) || is_first_order(kind) ? 1 : 0;
    const int64_t expected_numbers = is_stencil(kind) ? 3 : 0;
    STD_TORCH_CHECK(integers == expected_integers && numbers == expected_numbers, "terms: expected ",
                    expected_integers, " integers and ", expected_numbers, " parameters of kind ",
                    static_cast<int>(kind), ", got ", integers, " and ", numbers);
  }

  Term program(int64_t integers, int64_t numbers, int64_t maps) {
    Term term{};
    term.kind = TermKind::kProgram;
    const bool fits = integers >= 0 && integers <= static_cast<int64_t>(terms_.size() - next_term_) &&
                      numbers >= 0 && numbers <= static_cast<int64_t>(parameters_.size() - next_parameter_);
    STD_TORCH_CHECK(fits, "terms: expected ", integers, " integers and ", numbers, " parameters of program ",
                    count_, ", got a stream that ends before");
    term.program = {static_cast<int32_t>(next_term_), static_cast<int32_t>(integers),
                    static_cast<int32_t>(next_parameter_), static_cast<int32_t>(numbers)};
    OpenTerm open;
    const char* fault = read_open_term({terms_.data() + next_term_, integers},
                                       {parameters_.data() + next_parameter_, numbers}, maps, open);
    STD_TORCH_CHECK(fault == nullptr, "terms: program ", count_, " ", fault);
    next_term_ += integers;
    next_parameter_ += numbers;
    components_ += open.components;
    STD_TORCH_CHECK(components_ <= kMaxComponents, "terms: expected at most ", kMaxComponents,
                    " stencils of programs, got more");
    ++count_;
    return term;
  }

  static int32_t checked_map(int64_t number, int64_t maps) {
    STD_TORCH_CHECK(number >= 0 && number < maps, "maps: a term needs map number ", number, ", got ", maps,
                    " maps");
    return static_cast<int32_t>(number);
  }

  int64_t integer() {
    STD_TORCH_CHECK(next_term_ < terms_.size(),
                    "terms: expected kind, counts and integers of each term, got a stream of ", terms_.size(),
                    " integers that ends within term ", count_);
    return terms_[next_term_++];
  }

  double parameter() {
    STD_TORCH_CHECK(next_parameter_ < parameters_.size(), "parameters: expected more than ",
                    parameters_.size(), " numbers for the terms");
    return parameters_[next_parameter_++];
  }

  const Integers& terms_;
  const Numbers& parameters_;
  const bool runs_programs_;
  size_t next_term_ = 0, next_parameter_ = 0;
  int64_t count_ = 0, components_ = 0;
};

inline void read_terms(const GeoSumsArguments& a, bool runs_programs, GeoSumsParams& p) {
  TermReader reader(a.terms, a.parameters, runs_programs);
  p.integers = a.terms.data();
  p.numbers = a.parameters.data();
  int stencils = 0, programs = 0;
  while (!reader.at_end()) {
    STD_TORCH_CHECK(p.term_count < kMaxTerms, "terms: expected 1 to ", kMaxTerms, ", got more");
    Term& term = p.terms[p.term_count++];
    term = reader.next(static_cast<int64_t>(a.maps.size()));
    stencils += is_stencil(term.kind);
    programs += term.kind == TermKind::kProgram;
  }
  reader.check_end();
  STD_TORCH_CHECK(p.term_count > 0, "terms: expected 1 to ", kMaxTerms, ", got none");
  STD_TORCH_CHECK(stencils <= kMaxStencilTerms, "terms: expected at most ", kMaxStencilTerms,
                  " first- and second-order terms, got ", stencils);
  STD_TORCH_CHECK(programs <= kMaxPrograms, "terms: expected at most ", kMaxPrograms, " programs, got ",
                  programs);
}

// runs_programs: whether the kernels compute terms that are programs.
inline GeoSumsParams params_of(const GeoSumsArguments& a, bool runs_programs = false) {
  const int64_t spatial = a.input.dim() - 2;
  STD_TORCH_CHECK(spatial == 2 || spatial == 3, "input: expected [N, C, H, W] or [N, C, D, H, W], got ",
                  shape_text(a.input));
  GeoSumsParams p{};
  p.N = a.input.size(0);
  p.C = a.input.size(1);
  p.D = spatial == 3 ? a.input.size(2) : 1;
  p.H = a.input.size(spatial);
  p.W = a.input.size(spatial + 1);
  p.input = view_of(a.input, "input");
  STD_TORCH_CHECK(is_floating(p.input.dtype), "input: expected a floating dtype");
  p.target = checked_view(a.target, "target", a.input, true);
  p.label_map = p.C > 1 && a.target.size(1) == 1;
  if (a.mask) p.mask = checked_view(*a.mask, "mask", a.input, true);
  STD_TORCH_CHECK(a.maps.size() <= kMaxMaps, "maps: expected at most ", kMaxMaps, ", got ", a.maps.size());
  for (size_t i = 0; i < a.maps.size(); ++i) p.maps[i] = checked_view(a.maps[i], "maps", a.input, true);
  p.activation = activation_of(a.activation);
  p.has_ignore_index = a.ignore_index.has_value();
  p.ignore_index = static_cast<double>(a.ignore_index.value_or(0));
  p.first_channel = a.include_background ? 0 : 1;
  STD_TORCH_CHECK(p.C > p.first_channel, "include_background: without it, input needs two channels or more");
  read_terms(a, runs_programs, p);
  return p;
}

inline void check_grad_sums(const Tensor& grad_sums, const GeoSumsParams& p) {
  const bool fp64 = p.input.dtype == DType::kFloat64;
  const bool fits = grad_sums.dim() == 3 && grad_sums.size(0) == p.N &&
                    grad_sums.size(1) == p.C - p.first_channel && grad_sums.size(2) == p.term_count &&
                    grad_sums.scalar_type() == (fp64 ? ScalarType::Double : ScalarType::Float);
  STD_TORCH_CHECK(fits, "grad_sums: expected the shape and dtype of the sums, got shape ",
                  shape_text(grad_sums));
}

inline void check_sums(const Tensor& sums) {
  STD_TORCH_CHECK(sums.dim() == 3, "sums: expected [N, C, K], got ", shape_text(sums));
  STD_TORCH_CHECK(sums.scalar_type() == ScalarType::Float || sums.scalar_type() == ScalarType::Double,
                  "sums: expected float32 or float64");
}

// The fractions of geo_ratio as its kernels take them; they point into the operator's arguments.
struct Fractions {
  Fraction each[kMaxFractions];
  int64_t count;
  Reduction reduction;

  const Fraction* begin() const { return each; }
  const Fraction* end() const { return each + count; }
};

inline void check_channel_weights(const OptionalTensor& channel_weights, const Tensor& sums, int64_t rows) {
  if (rows == 0) return;
  const bool fits = channel_weights && channel_weights->dim() == 2 && channel_weights->size(0) >= rows &&
                    channel_weights->size(1) == sums.size(1) &&
                    channel_weights->scalar_type() == sums.scalar_type() &&
                    channel_weights->device() == sums.device();
  STD_TORCH_CHECK(fits, "channel_weights: expected at least ", rows, " rows of ", sums.size(1),
                  " numbers in sums' dtype and on its device, got ",
                  channel_weights ? "shape " + shape_text(*channel_weights) : std::string("none"));
}

inline Fractions fractions_of(const Tensor& sums, const OptionalTensor& channel_weights,
                              const Integers& fractions, const Numbers& weights, int64_t reduction) {
  const int64_t row = sums.size(2) + 1;
  Fractions f{};
  f.count = static_cast<int64_t>(fractions.size()) / kFractionIntegers;
  STD_TORCH_CHECK(f.count > 0 && f.count <= kMaxFractions && fractions.size() % kFractionIntegers == 0,
                  "fractions: expected ", kFractionIntegers, " integers for each of 1 to ", kMaxFractions,
                  " fractions, got ", fractions.size());
  STD_TORCH_CHECK(static_cast<int64_t>(weights.size()) == f.count * 2 * row, "weights: expected ",
                  f.count * 2 * row, " numbers, 2 (K + 1) for each fraction, got ", weights.size());
  STD_TORCH_CHECK(reduction >= 0 && reduction <= 2, "reduction: expected 0 (none), 1 (mean) or 2 (sum), got ",
                  reduction);
  f.reduction = static_cast<Reduction>(reduction);
  int64_t weight_rows = 0;
  for (int64_t j = 0; j < f.count; ++j) {
    const int64_t* integers = fractions.data() + j * kFractionIntegers;
    STD_TORCH_CHECK(integers[0] >= 0 && integers[0] <= 2 && integers[1] >= 0 && integers[1] < sums.size(1),
                    "fractions: expected pooling from 0 to 2 and fewer channels skipped than there are, got ",
                    integers[0], " and ", integers[1]);
    f.each[j] = {static_cast<Pooling>(integers[0]), static_cast<int32_t>(integers[1]),
                 static_cast<int32_t>(integers[2]), static_cast<int32_t>(integers[3]),
                 weights.data() + 2 * j * row,      weights.data() + (2 * j + 1) * row};
    weight_rows = std::max({weight_rows, integers[2] + 1, integers[3] + 1});
    STD_TORCH_CHECK(
        f.reduction != Reduction::kNone || (integers[0] == fractions[0] && integers[1] == fractions[1]),
        "reduction: expected fractions of one pooling and skip with reduction none");
  }
  check_channel_weights(channel_weights, sums, weight_rows);
  return f;
}

// Of geo_ratio's result: [], or without a reduction a number for each group.
inline std::vector<int64_t> ratio_shape(const Fractions& f, const Tensor& sums) {
  if (f.reduction != Reduction::kNone) return {};
  const Fraction& first = f.each[0];
  if (first.pooling == Pooling::kAll) return {1, 1};
  return {first.pooling == Pooling::kBatch ? 1 : sums.size(0), sums.size(1) - first.skip};
}

inline void check_grad_ratio(const Tensor& grad_ratio, const Tensor& sums, const Fractions& f) {
  const std::vector<int64_t> shape = ratio_shape(f, sums);
  bool fits = grad_ratio.dim() == static_cast<int64_t>(shape.size()) &&
              grad_ratio.scalar_type() == sums.scalar_type();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = grad_ratio.size(i) == shape[i];
  STD_TORCH_CHECK(fits, "grad_ratio: expected the shape of the ratio in sums' dtype, got ",
                  shape_text(grad_ratio));
}

}  // namespace geoloss
