// The channels of a voxel but for the one of the largest logit: what 1 - s of that one is made of.
#pragma once

#include "rows.h"

namespace geoloss::GEOLOSS_ISA {

template <class T>
class OtherChannels {
 public:
  using V = Lanes<T>;

  // logits: of channel 0; the next channel's lie `pitch` elements on.
  GEOLOSS_SIMD OtherChannels(const T* logits, int64_t pitch, int64_t channels)
      : maximum_(V::load(logits)), largest_(T(-__builtin_inff())), place_(T(0)), total_(T(0)) {
    for (int64_t c = 1; c < channels; ++c) {
      const V logit = V::load(logits + c * pitch);
      const auto leads = logit > maximum_;
      largest_ = maximum(largest_, select(leads, maximum_, logit));
      maximum_ = select(leads, logit, maximum_);
      place_ = select(leads, V(static_cast<T>(c)), place_);
    }
    for (int64_t c = 0; c < channels; ++c) total_ += power(V::load(logits + c * pitch), c);
  }

  // The channel is the first with the largest logit.
  GEOLOSS_SIMD typename V::Mask is_maximum(int64_t c) const { return place_ == V(static_cast<T>(c)); }

  // log(1 - s) of the channel of the maximum.
  GEOLOSS_SIMD V log_share() const {
    const V distance = largest_ - maximum_;
    return logarithm(total_) + distance - logarithm(V(T(1)) + total_ * exponential(distance));
  }

  // Of a channel, its share among these: 0 for the one of the maximum.
  GEOLOSS_SIMD V share(V logit, int64_t c) const { return power(logit, c) / total_; }

 private:
  GEOLOSS_SIMD V power(V logit, int64_t c) const {
    return select(is_maximum(c), V(T(0)), exponential(logit - largest_));
  }

  V maximum_, largest_, place_, total_;
};

}  // namespace geoloss::GEOLOSS_ISA
