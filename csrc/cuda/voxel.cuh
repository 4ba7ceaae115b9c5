// The voxel that the terms are written for.
#pragma once

#include "portable.cuh"

namespace geoloss::cuda {

template <class T>
struct Voxel {
  T prediction_, target_, valid_, logit_, map_;

  GEOLOSS_DEVICE T prediction() const { return prediction_; }
  GEOLOSS_DEVICE T target() const { return target_; }
  GEOLOSS_DEVICE T valid() const { return valid_; }
  GEOLOSS_DEVICE T logit() const { return logit_; }
  GEOLOSS_DEVICE T map() const { return map_; }
  GEOLOSS_DEVICE T error() const { return prediction_ - target_; }
  GEOLOSS_DEVICE static T constant(double value) { return static_cast<T>(value); }
};

}  // namespace geoloss::cuda
