// The CUDA implementation of geo_sums, geo_sums_backward and geo_loss: their tensors, around the launches.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "../checks.h"
#include "../geo_loss.h"
#include "launch.cuh"
#include "on_device.h"
#include "operators.h"
#include "ratio_numbers.h"

namespace geoloss::cuda {
namespace {

struct Forward {
  Tensor sums, loss;  // the loss only with a ratio
};

std::vector<int64_t> shape_of_sums(const GeoSumsParams& p) {
  return {p.N, p.C - p.first_channel, p.term_count};
}

ScalarType arithmetic_of(const GeoSumsParams& p) {
  return p.input.dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

template <class T>
void run_forward(const GeoSumsParams& p, const Ratio& ratio, const Tensor& input, const Forward& result) {
  const LaunchParams params = launch_params<T>(p, false);
  const OnDevice device(input);
  const Tensor workspace =
      torch::stable::new_empty(result.sums, {static_cast<int64_t>(workspace_bytes<T>(params) / sizeof(T))});
  T* const loss = ratio.fractions > 0 ? result.loss.mutable_data_ptr<T>() : nullptr;
  STD_CUDA_CHECK(launch_forward<T>(params, ratio, workspace.mutable_data_ptr(),
                                   result.sums.mutable_data_ptr<T>(), loss, device.stream()));
}

// Of an input with voxels.
Forward forward(const GeoSumsParams& p, const Ratio& ratio, const Tensor& input) {
  const Tensor sums = torch::stable::new_empty(input, shape_of_sums(p), arithmetic_of(p));
  const Forward result{
      sums, ratio.fractions > 0 ? torch::stable::new_empty(sums, {sums.size(0), sums.size(1)}) : sums};
  if (p.input.dtype == DType::kFloat64) {
    run_forward<double>(p, ratio, input, result);
  } else {
    run_forward<float>(p, ratio, input, result);
  }
  return result;
}

Tensor sums_of_nothing(const GeoSumsParams& p, const Tensor& input) {
  return torch::stable::new_zeros(input, shape_of_sums(p), arithmetic_of(p));
}

template <class T>
void run_backward(const GeoSumsParams& p, const Tensor& input) {
  const OnDevice device(input);
  STD_CUDA_CHECK(launch_backward<T>(launch_params<T>(p, true), device.stream()));
}

}  // namespace

Tensor geo_sums(const Tensor& input, const Tensor& target, const std::optional<Tensor>& mask,
                const std::optional<Tensor>& map, const std::vector<std::string>& terms,
                const std::string& activation, const std::vector<double>& spacing,
                const std::vector<int64_t>& axes, const std::optional<int64_t>& ignore_index,
                bool include_background) {
  const GeoSumsParams p = params_of(
      {input, target, mask, map, terms, activation, spacing, axes, ignore_index, include_background});
  return input.numel() == 0 ? sums_of_nothing(p, input) : forward(p, {}, input).sums;
}

std::tuple<Tensor, Tensor> geo_loss(const Tensor& input, const Tensor& target,
                                    const std::optional<Tensor>& mask, const std::optional<Tensor>& map,
                                    const std::vector<std::string>& terms, const std::string& activation,
                                    const std::vector<double>& spacing, const std::vector<int64_t>& axes,
                                    const std::optional<int64_t>& ignore_index, bool include_background,
                                    const std::vector<double>& numerator,
                                    const std::vector<double>& denominator) {
  const GeoSumsParams p = params_of(
      {input, target, mask, map, terms, activation, spacing, axes, ignore_index, include_background});
  if (input.numel() == 0) {
    const Tensor sums = sums_of_nothing(p, input);
    return {geo_ratio(sums, numerator, denominator), sums};
  }
  const Forward result = forward(p, ratio_numbers(p.term_count, numerator, denominator), input);
  return {result.loss, result.sums};
}

Tensor geo_sums_backward(const Tensor& grad_sums, const Tensor& input, const Tensor& target,
                         const std::optional<Tensor>& mask, const std::optional<Tensor>& map,
                         const std::vector<std::string>& terms, const std::string& activation,
                         const std::vector<double>& spacing, const std::vector<int64_t>& axes,
                         const std::optional<int64_t>& ignore_index, bool include_background) {
  GeoSumsParams p = params_of(
      {input, target, mask, map, terms, activation, spacing, axes, ignore_index, include_background});
  check_grad_sums(grad_sums, p);
  const Tensor dense_grad_sums = dense_of(grad_sums);
  const Tensor grad_input = torch::stable::empty_like(input);
  if (input.numel() == 0) return grad_input;
  p.grad_sums = dense_grad_sums.const_data_ptr();
  p.grad_input = view_of(grad_input, "grad_input");
  if (p.input.dtype == DType::kFloat64) {
    run_backward<double>(p, input);
  } else {
    run_backward<float>(p, input);
  }
  return grad_input;
}

namespace {

constexpr auto& geo_loss_backward = geoloss::geo_loss_backward<geo_sums_backward, geo_ratio_backward>;

}  // namespace
}  // namespace geoloss::cuda

STABLE_TORCH_LIBRARY_IMPL(geoloss, CUDA, m) {
  m.impl("geo_sums", TORCH_BOX(&geoloss::cuda::geo_sums));
  m.impl("geo_sums_backward", TORCH_BOX(&geoloss::cuda::geo_sums_backward));
  m.impl("geo_loss", TORCH_BOX(&geoloss::cuda::geo_loss));
  m.impl("geo_loss_backward", TORCH_BOX(&geoloss::cuda::geo_loss_backward));
}
