// The CPU implementations of the operators that geo_loss is composed from.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

namespace geoloss::cpu {

using torch::stable::Tensor;

Tensor geo_sums(const Tensor& input, const Tensor& target, const std::optional<Tensor>& mask,
                const std::optional<Tensor>& map, const std::vector<std::string>& terms,
                const std::string& activation, const std::vector<double>& spacing,
                const std::vector<int64_t>& axes, const std::optional<int64_t>& ignore_index,
                bool include_background);

Tensor geo_sums_backward(const Tensor& grad_sums, const Tensor& input, const Tensor& target,
                         const std::optional<Tensor>& mask, const std::optional<Tensor>& map,
                         const std::vector<std::string>& terms, const std::string& activation,
                         const std::vector<double>& spacing, const std::vector<int64_t>& axes,
                         const std::optional<int64_t>& ignore_index, bool include_background);

Tensor geo_ratio(const Tensor& sums, const std::vector<double>& numerator,
                 const std::vector<double>& denominator);

Tensor geo_ratio_backward(const Tensor& grad_ratio, const Tensor& sums, const std::vector<double>& numerator,
                          const std::vector<double>& denominator);

}  // namespace geoloss::cpu
