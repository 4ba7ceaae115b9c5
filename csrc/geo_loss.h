// geo_loss and its backward, composed from a backend's own geo_sums and geo_ratio.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace geoloss {

template <auto geo_sums, auto geo_ratio>
std::tuple<torch::stable::Tensor, torch::stable::Tensor> geo_loss(
    const torch::stable::Tensor& input, const torch::stable::Tensor& target,
    const std::optional<torch::stable::Tensor>& mask, const std::optional<torch::stable::Tensor>& map,
    const std::vector<std::string>& terms, const std::string& activation, const std::vector<double>& spacing,
    const std::vector<int64_t>& axes, const std::optional<int64_t>& ignore_index, bool include_background,
    const std::vector<double>& numerator, const std::vector<double>& denominator) {
  auto sums =
      geo_sums(input, target, mask, map, terms, activation, spacing, axes, ignore_index, include_background);
  auto loss = geo_ratio(sums, numerator, denominator);
  return {std::move(loss), std::move(sums)};
}

template <auto geo_sums_backward, auto geo_ratio_backward>
torch::stable::Tensor geo_loss_backward(
    const torch::stable::Tensor& grad_loss, const torch::stable::Tensor& sums,
    const torch::stable::Tensor& input, const torch::stable::Tensor& target,
    const std::optional<torch::stable::Tensor>& mask, const std::optional<torch::stable::Tensor>& map,
    const std::vector<std::string>& terms, const std::string& activation, const std::vector<double>& spacing,
    const std::vector<int64_t>& axes, const std::optional<int64_t>& ignore_index, bool include_background,
    const std::vector<double>& numerator, const std::vector<double>& denominator) {
  const auto grad_sums = geo_ratio_backward(grad_loss, sums, numerator, denominator);
  return geo_sums_backward(grad_sums, input, target, mask, map, terms, activation, spacing, axes,
                           ignore_index, include_background);
}

}  // namespace geoloss
