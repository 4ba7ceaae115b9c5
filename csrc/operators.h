// The operators' signatures, as their schemas in library.cpp have them. Every backend has functions of these
// types.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace geoloss {

using torch::stable::Tensor;

using GeoSums = Tensor(const Tensor& input, const Tensor& target, const std::optional<Tensor>& mask,
                       const std::optional<Tensor>& map, const std::vector<std::string>& terms,
                       const std::string& activation, const std::vector<double>& spacing,
                       const std::vector<int64_t>& axes, const std::optional<int64_t>& ignore_index,
                       bool include_background);

using GeoSumsBackward = Tensor(const Tensor& grad_sums, const Tensor& input, const Tensor& target,
                               const std::optional<Tensor>& mask, const std::optional<Tensor>& map,
                               const std::vector<std::string>& terms, const std::string& activation,
                               const std::vector<double>& spacing, const std::vector<int64_t>& axes,
                               const std::optional<int64_t>& ignore_index, bool include_background);

using GeoRatio = Tensor(const Tensor& sums, const std::vector<double>& numerator,
                        const std::vector<double>& denominator);

using GeoRatioBackward = Tensor(const Tensor& grad_ratio, const Tensor& sums,
                                const std::vector<double>& numerator, const std::vector<double>& denominator);

using GeoLoss = std::tuple<Tensor, Tensor>(
    const Tensor& input, const Tensor& target, const std::optional<Tensor>& mask,
    const std::optional<Tensor>& map, const std::vector<std::string>& terms, const std::string& activation,
    const std::vector<double>& spacing, const std::vector<int64_t>& axes,
    const std::optional<int64_t>& ignore_index, bool include_background, const std::vector<double>& numerator,
    const std::vector<double>& denominator);

using GeoLossBackward = Tensor(const Tensor& grad_loss, const Tensor& sums, const Tensor& input,
                               const Tensor& target, const std::optional<Tensor>& mask,
                               const std::optional<Tensor>& map, const std::vector<std::string>& terms,
                               const std::string& activation, const std::vector<double>& spacing,
                               const std::vector<int64_t>& axes, const std::optional<int64_t>& ignore_index,
                               bool include_background, const std::vector<double>& numerator,
                               const std::vector<double>& denominator);

using DistanceTransform = Tensor(const Tensor& mask, const std::vector<double>& spacing,
                                 const std::string& side, double without_boundary,
                                 torch::headeronly::ScalarType dtype);

using DistanceTransformWithIndices = std::tuple<Tensor, Tensor>(const Tensor& mask,
                                                                const std::vector<double>& spacing,
                                                                const std::string& side,
                                                                double without_boundary,
                                                                torch::headeronly::ScalarType dtype);

}  // namespace geoloss
