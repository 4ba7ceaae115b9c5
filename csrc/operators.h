// The operators' signatures, as their schemas in library.cpp have them. Every backend has functions of these
// types.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace geoloss {

using torch::stable::Tensor;
using Integers = std::vector<int64_t>;
using Numbers = std::vector<double>;
using OptionalTensor = std::optional<Tensor>;

using GeoSums = Tensor(const Tensor& input, const Tensor& target, const OptionalTensor& mask,
                       const std::vector<Tensor>& maps, const Integers& terms, const Numbers& parameters,
                       int64_t activation, const std::optional<int64_t>& ignore_index,
                       bool include_background);

using GeoSumsBackward = Tensor(const Tensor& grad_sums, const Tensor& input, const Tensor& target,
                               const OptionalTensor& mask, const std::vector<Tensor>& maps,
                               const Integers& terms, const Numbers& parameters, int64_t activation,
                               const std::optional<int64_t>& ignore_index, bool include_background);

using GeoRatio = Tensor(const Tensor& sums, const OptionalTensor& channel_weights, const Integers& fractions,
                        const Numbers& weights, int64_t reduction);

using GeoRatioBackward = Tensor(const Tensor& grad_ratio, const Tensor& sums,
                                const OptionalTensor& channel_weights, const Integers& fractions,
                                const Numbers& weights, int64_t reduction);

using GeoLoss = std::tuple<Tensor, Tensor>(const Tensor& input, const Tensor& target,
                                           const OptionalTensor& mask, const OptionalTensor& channel_weights,
                                           const std::vector<Tensor>& maps, const Integers& terms,
                                           const Numbers& parameters, int64_t activation,
                                           const std::optional<int64_t>& ignore_index,
                                           bool include_background, const Integers& fractions,
                                           const Numbers& weights, int64_t reduction);

using GeoLossBackward = Tensor(const Tensor& grad_loss, const Tensor& sums, const Tensor& input,
                               const Tensor& target, const OptionalTensor& mask,
                               const OptionalTensor& channel_weights, const std::vector<Tensor>& maps,
                               const Integers& terms, const Numbers& parameters, int64_t activation,
                               const std::optional<int64_t>& ignore_index, bool include_background,
                               const Integers& fractions, const Numbers& weights, int64_t reduction);

using DistanceTransform = Tensor(const Tensor& mask, const Numbers& spacing, int64_t side,
                                 double without_boundary, torch::headeronly::ScalarType dtype);

using DistanceTransformWithIndices = std::tuple<Tensor, Tensor>(const Tensor& mask, const Numbers& spacing,
                                                                int64_t side, double without_boundary,
                                                                torch::headeronly::ScalarType dtype);

}  // namespace geoloss
