// The voxel-wise terms of the formula ΣΘΨ/ΣΓ: what each sum adds up at one voxel, and its slope.
//
// A term is a struct with
//   kKind              its number in the operators' `terms` argument,
//   kVariable          what its slope is with respect to; a term that starts from a logarithm has that,
//   value(voxel)       what one voxel adds to the sum,
//   slope(voxel)       d value / d variable, where there is one.
// `voxel` offers prediction(), target(), valid(), log_prediction(), log_complement() and map(); their type is
// a scalar in CUDA and a vector on the CPU, so a term is written once, without branches, in arithmetic and
// `select`. To add a term, write its struct here, name it in VoxelTerms, and number it in geo_sums.h.
//
// The logarithms log s and log(1 - s) come from the logits where there are any, so that they hold where s
// itself is 0 or 1 to rounding. At an invalid voxel everything is 0.
#pragma once

#include "geo_sums.h"
#include "macros.h"
#include "math.h"
#include "term_list.h"

namespace geoloss::terms {

enum class Variable { kNothing, kPrediction, kLogPrediction, kLogComplement };
constexpr int kVariables = 4;

struct Count {
  static constexpr TermKind kKind = TermKind::kCount;
  static constexpr Variable kVariable = Variable::kNothing;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.valid();
  }
};

struct Prediction {
  static constexpr TermKind kKind = TermKind::kPrediction;
  static constexpr Variable kVariable = Variable::kPrediction;
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
  static constexpr TermKind kKind = TermKind::kTarget;
  static constexpr Variable kVariable = Variable::kNothing;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.target();
  }
};

struct Intersection {
  static constexpr TermKind kKind = TermKind::kIntersection;
  static constexpr Variable kVariable = Variable::kPrediction;
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
  static constexpr TermKind kKind = TermKind::kPredictionSquared;
  static constexpr Variable kVariable = Variable::kPrediction;
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
  static constexpr TermKind kKind = TermKind::kTargetSquared;
  static constexpr Variable kVariable = Variable::kNothing;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return v.target() * v.target();
  }
};

struct AbsoluteError {
  static constexpr TermKind kKind = TermKind::kAbsoluteError;
  static constexpr Variable kVariable = Variable::kPrediction;
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
  static constexpr TermKind kKind = TermKind::kSquaredError;
  static constexpr Variable kVariable = Variable::kPrediction;
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

// -weight · logarithm. The select keeps 0 · ∞ out.
template <class Value>
GEOLOSS_INLINE Value weighted_surprise(Value weight, Value logarithm) {
  return select(weight == Value(0), weight, -weight * logarithm);
}

// -g log s
struct CrossEntropyForeground {
  static constexpr TermKind kKind = TermKind::kCrossEntropyForeground;
  static constexpr Variable kVariable = Variable::kLogPrediction;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return weighted_surprise(v.target(), v.log_prediction());
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return -v.target();
  }
};

// -(1 - g) log(1 - s)
struct CrossEntropyBackground {
  static constexpr TermKind kKind = TermKind::kCrossEntropyBackground;
  static constexpr Variable kVariable = Variable::kLogComplement;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return weighted_surprise(1 - v.target(), v.log_complement());
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return v.target() - 1;
  }
};

// -log s: the target of smoothed labels
struct CrossEntropyUniform {
  static constexpr TermKind kKind = TermKind::kCrossEntropyUniform;
  static constexpr Variable kVariable = Variable::kLogPrediction;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return -v.log_prediction();
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return v.constant(-1);
  }
};

struct MapPrediction {
  static constexpr TermKind kKind = TermKind::kMapPrediction;
  static constexpr Variable kVariable = Variable::kPrediction;
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
  static constexpr TermKind kKind = TermKind::kMapSquaredError;
  static constexpr Variable kVariable = Variable::kPrediction;
  template <class Voxel>
  GEOLOSS_INLINE static auto value(const Voxel& v) {
    return SquaredError::value(v) * v.map();
  }
  template <class Voxel>
  GEOLOSS_INLINE static auto slope(const Voxel& v) {
    return SquaredError::slope(v) * v.map();
  }
};

using VoxelTerms = TermList<Count, Prediction, Target, Intersection, PredictionSquared, TargetSquared,
                            AbsoluteError, SquaredError, CrossEntropyForeground, CrossEntropyBackground,
                            CrossEntropyUniform, MapPrediction, MapSquaredError>;

// The logarithms of a probability that comes without a logit, and the slopes of their arguments: clamped, as
// in torch's binary_cross_entropy.
template <class Value>
GEOLOSS_INLINE Value clamped_logarithm(Value probability) {
  return maximum(logarithm(probability), Value(-100));
}
template <class Value>
GEOLOSS_INLINE Value clamped_logarithm_slope(Value probability) {
  return Value(1) / maximum(probability, Value(1e-12));
}

}  // namespace geoloss::terms
