// The arguments of geo_ratio, checked, and what keeps them alive until their launch.
#pragma once

#include "../checks.h"
#include "ratio_numbers.h"

namespace geoloss::cuda {

// Points into `weights`.
class RatioCall {
 public:
  RatioCall(const Tensor& sums, const OptionalTensor& channel_weights, const Integers& fractions,
            const Numbers& weights, int64_t reduction)
      : fractions_(fractions_of(sums, channel_weights, fractions, weights, reduction)),
        shape_(ratio_shape(fractions_, sums)) {
    STD_TORCH_CHECK(sums.size(2) <= kMaxTerms, "sums: expected at most ", kMaxTerms, " columns, got ",
                    sums.size(2));
    if (channel_weights) channel_weights_ = dense_of(*channel_weights);
  }

  const std::vector<int64_t>& shape() const { return shape_; }
  const geoloss::Fractions& fractions() const { return fractions_; }

  RatioArguments arguments() const {
    return {fractions_.each, fractions_.count, fractions_.reduction,
            channel_weights_ ? channel_weights_->const_data_ptr() : nullptr};
  }

 private:
  geoloss::Fractions fractions_;
  std::vector<int64_t> shape_;
  OptionalTensor channel_weights_;
};

}  // namespace geoloss::cuda
