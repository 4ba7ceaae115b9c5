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

#include "geo_sums.h"
#include "stencil.h"
#include "terms.h"

namespace geoloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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

inline Activation activation_of(const std::string& name) {
  if (name == "none") return Activation::kNone;
  if (name == "sigmoid") return Activation::kSigmoid;
  STD_TORCH_CHECK(name == "softmax", "activation: expected 'none', 'sigmoid' or 'softmax', got '", name, "'");
  return Activation::kSoftmax;
}

// The arguments that geo_sums and geo_sums_backward share.
struct GeoSumsArguments {
  const Tensor& input;
  const Tensor& target;
  const std::optional<Tensor>& mask;
  const std::optional<Tensor>& map;
  const std::vector<std::string>& terms;
  const std::string& activation;
  const std::vector<double>& spacing;
  const std::vector<int64_t>& axes;
  const std::optional<int64_t>& ignore_index;
  bool include_background;
};

template <class... Terms>
void list_names(TermList<Terms...>, std::vector<std::string>& names) {
  (names.push_back(Terms::kName), ...);
}

// Two terms can have one name, for probabilities and for logits.
inline const std::vector<std::string>& term_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    list_names(terms::VoxelTerms{}, all);
    list_names(stencil::StencilTerms{}, all);
    return all;
  }();
  return names;
}

inline void check_term(const std::string& name) {
  const std::vector<std::string>& names = term_names();
  if (std::find(names.begin(), names.end(), name) != names.end()) return;
  std::string expected;
  for (const std::string& each : names) {
    if (expected.find(each + ",") == std::string::npos) expected += each + ", ";
  }
  STD_TORCH_CHECK(false, "terms: expected names out of ", expected, "got '", name, "'");
}

// `terms` must outlive the result, which points into it.
inline GeoSumsParams params_of(const GeoSumsArguments& a) {
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
  if (a.map) p.map = checked_view(*a.map, "map", a.input, true);
  p.activation = activation_of(a.activation);
  p.has_ignore_index = a.ignore_index.has_value();
  p.ignore_index = static_cast<double>(a.ignore_index.value_or(0));
  p.first_channel = a.include_background ? 0 : 1;
  STD_TORCH_CHECK(p.C > p.first_channel, "include_background: without it, input needs two channels or more");
  STD_TORCH_CHECK(static_cast<int64_t>(a.spacing.size()) == spatial, "spacing: expected ", spatial,
                  " numbers, got ", a.spacing.size());
  // In 2-D nothing differs along z.
  p.inverse_spacing[0] = 1;
  p.axis_chosen[0] = spatial == 2;
  for (int64_t i = 0; i < spatial; ++i) {
    STD_TORCH_CHECK(a.spacing[i] > 0, "spacing: expected positive numbers, got ", a.spacing[i]);
    p.inverse_spacing[3 - spatial + i] = 1 / a.spacing[i];
  }
  for (const int64_t axis : a.axes) {
    STD_TORCH_CHECK(axis >= 0 && axis < spatial, "axes: expected 0 to ", spatial - 1, ", got ", axis);
    p.axis_chosen[3 - spatial + axis] = true;
  }
  STD_TORCH_CHECK(!a.terms.empty() && a.terms.size() <= kMaxTerms, "terms: expected 1 to ", kMaxTerms,
                  " names, got ", a.terms.size());
  p.term_count = static_cast<int64_t>(a.terms.size());
  for (int64_t k = 0; k < p.term_count; ++k) {
    check_term(a.terms[k]);
    p.terms[k] = a.terms[k].c_str();
    const bool needs_map = a.terms[k].starts_with("map_");
    STD_TORCH_CHECK(!needs_map || a.map.has_value(), "map: the term '", a.terms[k], "' needs one, got none");
  }
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

inline void check_grad_ratio(const Tensor& grad_ratio, const Tensor& sums) {
  STD_TORCH_CHECK(grad_ratio.dim() == 2 && grad_ratio.size(0) == sums.size(0) &&
                      grad_ratio.size(1) == sums.size(1) && grad_ratio.scalar_type() == sums.scalar_type(),
                  "grad_ratio: expected [N, C] of sums' dtype, got ", shape_text(grad_ratio));
}

// The number of fractions that the rows are.
inline int64_t check_fractions(int64_t terms, const std::vector<double>& numerator,
                               const std::vector<double>& denominator) {
  const size_t row = static_cast<size_t>(terms) + 1;
  STD_TORCH_CHECK(!numerator.empty() && numerator.size() % row == 0 && numerator.size() == denominator.size(),
                  "numerator, denominator: expected the same number of rows of K + 1 = ", row,
                  " numbers, got ", numerator.size(), " and ", denominator.size(), " numbers");
  return static_cast<int64_t>(numerator.size() / row);
}

}  // namespace geoloss
