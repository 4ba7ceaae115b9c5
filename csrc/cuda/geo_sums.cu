// The CUDA implementation of geo_sums, geo_sums_backward and geo_loss: their tensors, around the launches.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "../checks.h"
#include "../geo_loss.h"
#include "launch.cuh"
#include "on_device.h"
#include "operators.h"
#include "ratio_call.h"

namespace geoloss::cuda {
namespace {

std::vector<int64_t> shape_of_sums(const GeoSumsParams& p) {
  return {p.N, p.C - p.first_channel, p.term_count};
}

ScalarType arithmetic_of(const GeoSumsParams& p) {
  return p.input.dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

// Calls function(T{}) with the type of the arithmetic.
template <class Function>
void in_arithmetic(const GeoSumsParams& p, Function function) {
  if (p.input.dtype == DType::kFloat64) {
    function(double{});
  } else {
    function(float{});
  }
}

template <class T>
Tensor workspace_for(const LaunchParams& params, const Tensor& sums) {
  return torch::stable::new_empty(sums, {static_cast<int64_t>(workspace_bytes<T>(params) / sizeof(T))});
}

Tensor sums_of_nothing(const GeoSumsParams& p, const Tensor& input) {
  return torch::stable::new_zeros(input, shape_of_sums(p), arithmetic_of(p));
}

// Of an input with voxels.
Tensor sums_of(const GeoSumsParams& p, const Tensor& input) {
  const Tensor sums = torch::stable::new_empty(input, shape_of_sums(p), arithmetic_of(p));
  in_arithmetic(p, [&]<class T>(T) {
    const LaunchParams params = launch_params<T>(p, false);
    const OnDevice device(input);
    const Tensor workspace = workspace_for<T>(params, sums);
    STD_CUDA_CHECK(
        launch_forward<T>(params, workspace.mutable_data_ptr(), sums.mutable_data_ptr<T>(), device.stream()));
  });
  return sums;
}

// The loss and the sums, of an input with voxels.
std::tuple<Tensor, Tensor> loss_of(const GeoSumsParams& p, const Tensor& input,
                                   const OptionalTensor& channel_weights, const Integers& fractions,
                                   const Numbers& weights, int64_t reduction) {
  const Tensor sums = torch::stable::new_empty(input, shape_of_sums(p), arithmetic_of(p));
  const RatioCall ratio(sums, channel_weights, fractions, weights, reduction);
  const Tensor loss = torch::stable::new_empty(sums, ratio.shape());
  in_arithmetic(p, [&]<class T>(T) {
    const LaunchParams params = launch_params<T>(p, false);
    const OnDevice device(input);
    const Tensor workspace = workspace_for<T>(params, sums);
    STD_CUDA_CHECK(launch_loss<T>(params, ratio.arguments(), workspace.mutable_data_ptr(),
                                  sums.mutable_data_ptr<T>(), loss.mutable_data_ptr<T>(), device.stream()));
  });
  return {loss, sums};
}

}  // namespace

Tensor geo_sums(const Tensor& input, const Tensor& target, const OptionalTensor& mask,
                const std::vector<Tensor>& maps, const Integers& terms, const Numbers& parameters,
                int64_t activation, const std::optional<int64_t>& ignore_index, bool include_background) {
  const GeoSumsParams p =
      params_of({input, target, mask, maps, terms, parameters, activation, ignore_index, include_background});
  return input.numel() == 0 ? sums_of_nothing(p, input) : sums_of(p, input);
}

std::tuple<Tensor, Tensor> geo_loss(const Tensor& input, const Tensor& target, const OptionalTensor& mask,
                                    const OptionalTensor& channel_weights, const std::vector<Tensor>& maps,
                                    const Integers& terms, const Numbers& parameters, int64_t activation,
                                    const std::optional<int64_t>& ignore_index, bool include_background,
                                    const Integers& fractions, const Numbers& weights, int64_t reduction) {
  const GeoSumsParams p =
      params_of({input, target, mask, maps, terms, parameters, activation, ignore_index, include_background});
  if (input.numel() == 0) {
    const Tensor sums = sums_of_nothing(p, input);
    return {geo_ratio(sums, channel_weights, fractions, weights, reduction), sums};
  }
  return loss_of(p, input, channel_weights, fractions, weights, reduction);
}

Tensor geo_sums_backward(const Tensor& grad_sums, const Tensor& input, const Tensor& target,
                         const OptionalTensor& mask, const std::vector<Tensor>& maps, const Integers& terms,
                         const Numbers& parameters, int64_t activation,
                         const std::optional<int64_t>& ignore_index, bool include_background) {
  GeoSumsParams p =
      params_of({input, target, mask, maps, terms, parameters, activation, ignore_index, include_background});
  check_grad_sums(grad_sums, p);
  const Tensor dense_grad_sums = dense_of(grad_sums);
  const Tensor grad_input = torch::stable::empty_like(input);
  if (input.numel() == 0) return grad_input;
  p.grad_sums = dense_grad_sums.const_data_ptr();
  p.grad_input = view_of(grad_input, "grad_input");
  in_arithmetic(p, [&]<class T>(T) {
    const OnDevice device(input);
    STD_CUDA_CHECK(launch_backward<T>(launch_params<T>(p, true), device.stream()));
  });
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
