// The voxel-wise terms of the formula ΣΘΨ/ΣΓ: what each sum adds up at one voxel, and its slope.
//
// A term is a struct with
//   kName              its name in the operators' `terms` argument,
//   value(voxel)       what one voxel adds to the sum,
//   slope(voxel)       d value / d prediction, or d value / d logit where kFromLogit is set; only where
//                      kDependsOnPrediction is.
// `voxel` offers prediction(), target(), valid(), logit() and map(); their type is a scalar in CUDA and a
// vector on the CPU, so a term is written once, without branches, in arithmetic and `select`.
// To add a term, write its struct here and name it in VoxelTerms.
#pragma once

#include "macros.h"
#include "math.h"
#include "term_list.h"

namespace geoloss::terms {

struct Count {
  static constexpr const char* kName = "count";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = false;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.valid();
  }
};

struct Prediction {
  static constexpr const char* kName = "prediction";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.prediction();
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return v.constant(1);
  }
};

struct Target {
  static constexpr const char* kName = "target";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = false;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.target();
  }
};

struct Intersection {
  static constexpr const char* kName = "intersection";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.prediction() * v.target();
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return v.target();
  }
};

struct PredictionSquared {
  static constexpr const char* kName = "prediction_squared";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.prediction() * v.prediction();
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return v.prediction() + v.prediction();
  }
};

struct TargetSquared {
  static constexpr const char* kName = "target_squared";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = false;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.target() * v.target();
  }
};

struct AbsoluteError {
  static constexpr const char* kName = "absolute_error";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return absolute(v.prediction() - v.target());
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return sign(v.prediction() - v.target());
  }
};

struct SquaredError {
  static constexpr const char* kName = "squared_error";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    const auto error = v.prediction() - v.target();
    return error * error;
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    const auto error = v.prediction() - v.target();
    return error + error;
  }
};

// -g log s, the logarithm clamped at -100 and its slope at 1e12, as torch's binary_cross_entropy does.
struct CrossEntropyForeground {
  static constexpr const char* kName = "cross_entropy_foreground";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return -v.target() * maximum(logarithm(v.prediction()), v.constant(-100));
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return -v.target() / maximum(v.prediction(), v.constant(1e-12));
  }
};

struct CrossEntropyBackground {
  static constexpr const char* kName = "cross_entropy_background";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return (v.target() - 1) * maximum(logarithm(1 - v.prediction()), v.constant(-100));
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return (1 - v.target()) / maximum(1 - v.prediction(), v.constant(1e-12));
  }
};

// The same two under a sigmoid, from the logit: -log sigmoid(z) = softplus(-z). The select keeps 0 · ∞ out.
struct CrossEntropyForegroundLogit {
  static constexpr const char* kName = "cross_entropy_foreground";
  static constexpr bool kFromLogit = true, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    const auto weight = v.target();
    return select(weight == 0, weight, weight * softplus(-v.logit()));
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return v.target() * (v.prediction() - 1);
  }
};

struct CrossEntropyBackgroundLogit {
  static constexpr const char* kName = "cross_entropy_background";
  static constexpr bool kFromLogit = true, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    const auto weight = 1 - v.target();
    return select(weight == 0, weight, weight * softplus(v.logit()));
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return (1 - v.target()) * v.prediction();
  }
};

struct MapPrediction {
  static constexpr const char* kName = "map_prediction";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.prediction() * v.map();
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return v.map();
  }
};

struct MapSquaredError {
  static constexpr const char* kName = "map_squared_error";
  static constexpr bool kFromLogit = false, kDependsOnPrediction = true;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return SquaredError::value(v) * v.map();
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return SquaredError::slope(v) * v.map();
  }
};

using VoxelTerms =
    TermList<Count, Prediction, Target, Intersection, PredictionSquared, TargetSquared, AbsoluteError,
             SquaredError, CrossEntropyForeground, CrossEntropyBackground, CrossEntropyForegroundLogit,
             CrossEntropyBackgroundLogit, MapPrediction, MapSquaredError>;

}  // namespace geoloss::terms
