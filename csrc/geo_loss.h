// geo_loss and its backward, composed from a backend's own geo_sums and geo_ratio.
#pragma once

#include <utility>

#include "operators.h"

namespace geoloss {

template <auto geo_sums, auto geo_ratio>
std::tuple<Tensor, Tensor> geo_loss(const Tensor& input, const Tensor& target,
                                    const std::optional<Tensor>& mask, const std::optional<Tensor>& map,
                                    const std::vector<std::string>& terms, const std::string& activation,
                                    const std::vector<double>& spacing, const std::vector<int64_t>& axes,
                                    const std::optional<int64_t>& ignore_index, bool include_background,
                                    const std::vector<double>& numerator,
                                    const std::vector<double>& denominator) {
  Tensor sums =
      geo_sums(input, target, mask, map, terms, activation, spacing, axes, ignore_index, include_background);
  Tensor loss = geo_ratio(sums, numerator, denominator);
  return {std::move(loss), std::move(sums)};
}

template <auto geo_sums_backward, auto geo_ratio_backward>
Tensor geo_loss_backward(const Tensor& grad_loss, const Tensor& sums, const Tensor& input,
                         const Tensor& target, const std::optional<Tensor>& mask,
                         const std::optional<Tensor>& map, const std::vector<std::string>& terms,
                         const std::string& activation, const std::vector<double>& spacing,
                         const std::vector<int64_t>& axes, const std::optional<int64_t>& ignore_index,
                         bool include_background, const std::vector<double>& numerator,
                         const std::vector<double>& denominator) {
  const auto grad_sums = geo_ratio_backward(grad_loss, sums, numerator, denominator);
  return geo_sums_backward(grad_sums, input, target, mask, map, terms, activation, spacing, axes,
                           ignore_index, include_background);
}

}  // namespace geoloss
