// The voxel that the terms are written for, and the slopes of what is summed there.
#pragma once

#include "../terms.h"
#include "portable.cuh"

namespace geoloss::cuda {

template <class T>
struct Voxel {
  T prediction_, target_, valid_, log_prediction_ = 0, log_complement_ = 0, map_ = 0;

  GEOLOSS_DEVICE T prediction() const { return prediction_; }
  GEOLOSS_DEVICE T target() const { return target_; }
  GEOLOSS_DEVICE T valid() const { return valid_; }
  GEOLOSS_DEVICE T log_prediction() const { return log_prediction_; }
  GEOLOSS_DEVICE T log_complement() const { return log_complement_; }
  GEOLOSS_DEVICE T map() const { return map_; }
  GEOLOSS_DEVICE T error() const { return prediction_ - target_; }
  GEOLOSS_DEVICE static T constant(double value) { return static_cast<T>(value); }

  // Sets the logarithms of a sigmoid, or of a probability without a logit.
  GEOLOSS_DEVICE void set_logarithms(Activation activation, T logit) {
    if (activation == Activation::kSigmoid) {
      const T tail = logarithm_1p(exponential(-absolute(logit)));  // of either softplus
      log_prediction_ = -(maximum(-logit, T(0)) + tail);
      log_complement_ = -(maximum(logit, T(0)) + tail);
    } else {
      log_prediction_ = terms::clamped_logarithm(prediction_);
      log_complement_ = terms::clamped_logarithm(1 - prediction_);
    }
  }
};

// Of what is summed at a voxel, with respect to s, log s and log(1 - s).
template <class T>
struct Slopes {
  T prediction = 0, log_prediction = 0, log_complement = 0;

  template <class Term>
  GEOLOSS_DEVICE void add(T weight, const Voxel<T>& voxel) {
    using terms::Variable;
    if constexpr (Term::kVariable == Variable::kPrediction) {
      prediction += weight * Term::slope(voxel);
    } else if constexpr (Term::kVariable == Variable::kLogPrediction) {
      log_prediction += weight * Term::slope(voxel);
    } else if constexpr (Term::kVariable == Variable::kLogComplement) {
      log_complement += weight * Term::slope(voxel);
    }
  }

  // With respect to the input, where no other channel's depends on it. s: the prediction; logarithms: whether
  // their slopes count
  GEOLOSS_DEVICE T of_input(Activation activation, T s, bool logarithms) const {
    if (activation == Activation::kSigmoid) {
      const T slope = prediction * (s * (1 - s));
      return logarithms ? slope + log_prediction * (1 - s) - log_complement * s : slope;
    }
    if (!logarithms) return prediction;
    return prediction + log_prediction * terms::clamped_logarithm_slope(s) -
           log_complement * terms::clamped_logarithm_slope(1 - s);
  }
};

}  // namespace geoloss::cuda
