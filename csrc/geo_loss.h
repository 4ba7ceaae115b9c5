// geo_loss and its backward, composed from a backend's own geo_sums and geo_ratio.
#pragma once

#include <utility>

#include "operators.h"

namespace geoloss {

template <auto geo_sums, auto geo_ratio>
std::tuple<Tensor, Tensor> geo_loss(const Tensor& input, const Tensor& target, const OptionalTensor& mask,
                                    const OptionalTensor& channel_weights, const std::vector<Tensor>& maps,
                                    const Integers& terms, const Numbers& parameters, int64_t activation,
                                    const std::optional<int64_t>& ignore_index, bool include_background,
                                    const Integers& fractions, const Numbers& weights, int64_t reduction) {
  Tensor sums =
      geo_sums(input, target, mask, maps, terms, parameters, activation, ignore_index, include_background);
  Tensor loss = geo_ratio(sums, channel_weights, fractions, weights, reduction);
  return {std::move(loss), std::move(sums)};
}

template <auto geo_sums_backward, auto geo_ratio_backward>
Tensor geo_loss_backward(const Tensor& grad_loss, const Tensor& sums, const Tensor& input,
                         const Tensor& target, const OptionalTensor& mask,
                         const OptionalTensor& channel_weights, const std::vector<Tensor>& maps,
                         const Integers& terms, const Numbers& parameters, int64_t activation,
                         const std::optional<int64_t>& ignore_index, bool include_background,
                         const Integers& fractions, const Numbers& weights, int64_t reduction) {
  const auto grad_sums = geo_ratio_backward(grad_loss, sums, channel_weights, fractions, weights, reduction);
  return geo_sums_backward(grad_sums, input, target, mask, maps, terms, parameters, activation, ignore_index,
                           include_background);
}

}  // namespace geoloss
