// The last stage of the backward pass: the slopes of all terms at a block, through the activation, to the
// rows of the gradient, in one go.
//
// Of a voxel's channel, p, h and b are the slopes with respect to s, log s and log(1 - s). Most terms have
// them affine in g and s, so that a channel's coefficients say all; what stencils and the other terms add to
// p waits in rows. Through
//   no activation   p + h / s - b / (1 - s), the divisors clamped
//   a sigmoid       p s (1 - s) + h (1 - s) - b s
//   a softmax       q_j - s_j Σ_c q_c with q_c = s_c p_c + h_c - b_c s_c / (1 - s_c)
// The last quotient is left out for the channel a of the maximum, whose 1 - s may vanish: d log(1 - s_a) is
// s_a (t_j - δ_aj) dz_j with t_j the share of channel j among the others.
#pragma once

#include "fields.h"
#include "other_channels.h"

namespace geoloss::GEOLOSS_ISA {

// Calls the function with the condition as a type.
template <class Function>
GEOLOSS_SIMD void with_static(bool condition, Function function) {
  condition ? function(std::true_type{}) : function(std::false_type{});
}

// p = constant + of_target g + of_prediction s, h = log_constant + log_of_target g, b = complement (g - 1).
template <class T>
struct SlopeCoefficients {
  T constant = 0, of_target = 0, of_prediction = 0;
  T log_constant = 0, log_of_target = 0;
  T complement = 0;

  // False for a term that has its slope in rows.
  bool take(TermKind kind, T weight) {
    switch (kind) {
      case TermKind::kCount:
      case TermKind::kTarget:
      case TermKind::kTargetSquared: return true;
      case TermKind::kPrediction: constant += weight; return true;
      case TermKind::kIntersection: of_target += weight; return true;
      case TermKind::kPredictionSquared: of_prediction += 2 * weight; return true;
      case TermKind::kCrossEntropyForeground: log_of_target -= weight; return true;
      case TermKind::kCrossEntropyUniform: log_constant -= weight; return true;
      case TermKind::kCrossEntropyBackground: complement += weight; return true;
      default: return false;
    }
  }

  GEOLOSS_SIMD Lanes<T> slope(Lanes<T> g) const { return of_target * g + constant; }
  GEOLOSS_SIMD Lanes<T> log_slope(Lanes<T> g) const { return log_of_target * g + log_constant; }
  GEOLOSS_SIMD Lanes<T> complement_slope(Lanes<T> g) const { return complement * (g - Lanes<T>(T(1))); }
};

template <class T>
class GradientStage {
 public:
  using V = Lanes<T>;
  using Variable = terms::Variable;

  GradientStage(const Fields<T>& fields)
      : f_(fields), p_(fields.p), in_place_(fields.readable_in_place(p_.grad_input)) {
    has_logs_ = f_.plan.has(Variable::kLogPrediction) || f_.plan.has(Variable::kLogComplement);
    has_rows_ = f_.plan.stencil_count > 0 || f_.plan.program_count > 0;
    for (int i = 0; i < f_.plan.voxel_count; ++i) has_rows_ |= has_rows(f_.plan.voxel[i]);
    for (int i = 0; i < f_.plan.voxel_count; ++i) {
      for (int k = 0; k < f_.plan.voxel[i].set->count; ++k) {
        const TermKind kind = f_.plan.voxel[i].set->kinds[k];
        has_coefficients_ |= kind == TermKind::kPrediction || kind == TermKind::kIntersection;
        has_prediction_ |= kind == TermKind::kPredictionSquared;
      }
    }
  }

  // `next` is in the workspace of channel 0; `coefficients` is shared by all channels.
  void take_buffers(T*& next) { gradient_ = f_.take_block(next); }
  void take_coefficients(T*& next) {
    coefficients_ = reinterpret_cast<SlopeCoefficients<T>*>(next);
    next += ceil_divide(f_.tiling.channels * sizeof(SlopeCoefficients<T>), sizeof(V)) * V::kCount;
  }

  const SlopeCoefficients<T>& coefficients(int64_t c) const { return coefficients_[c]; }

  // Once, before the first block: from ∂L/∂S.
  void set_coefficients() {
    for (int64_t c = 0; c < f_.tiling.channels; ++c) {
      coefficients_[c] = {};
      if (f_.c + c < p_.first_channel) continue;
      for (int i = 0; i < f_.plan.voxel_count; ++i) {
        const auto& [set, columns, map] = f_.plan.voxel[i];
        for (int k = 0; k < set->count; ++k) coefficients_[c].take(set->kinds[k], weights(c)[columns[k]]);
      }
    }
  }

  // ∂L/∂S of a channel's terms.
  const T* weights(int64_t c) const {
    const int64_t summed = p_.C - p_.first_channel;
    const int64_t row = f_.n * summed + f_.c + c - p_.first_channel;
    return static_cast<const T*>(p_.grad_sums) + row * p_.term_count;
  }

  // Rows that nobody reads.
  Rows<T> scratch(int64_t c, const Block& b) const { return f_.rows_of(gradient_, c, b); }

  // add_to_rows(c, block, rows): adds what the stencil terms and programs have with respect to s.
  // add_to_gradient(block, rows of all channels): adds what has been through the activation already.
  template <class AddToRows, class AddToGradient>
  void write(const Block& b, AddToRows add_to_rows, AddToGradient add_to_gradient) const {
    if (b.empty()) return;
    for (int64_t c = 0; has_rows_ && c < f_.tiling.channels; ++c) add_rows(c, b, add_to_rows);
    if (p_.activation == Activation::kNone) through_none(b);
    if (p_.activation == Activation::kSigmoid) through_sigmoid(b);
    if (p_.activation == Activation::kSoftmax) through_softmax(b);
    add_to_gradient(b, channel_rows(b));
    for (int64_t c = 0; c < f_.tiling.channels && !in_place_; ++c) store(c, b);
  }

 private:
  static bool has_rows(const RequestedVoxelTerms<T>& request) {
    bool rows = false;
    for (int k = 0; k < request.set->count; ++k)
      rows |= !SlopeCoefficients<T>{}.take(request.set->kinds[k], T(0));
    return rows;
  }

  Rows<T> rows(int64_t c, const Block& b) const {
    return in_place_ ? f_.tensor_rows(p_.grad_input, c, b) : f_.rows_of(gradient_, c, b);
  }

  ChannelRows<T> channel_rows(const Block& b) const {
    return {rows(0, b), in_place_ ? p_.grad_input.stride_c : f_.channel_pitch};
  }

  template <class AddToRows>
  void add_rows(int64_t c, const Block& b, AddToRows add_to_rows) const {
    GradientRows<T> gradient{rows(c, b), f_.extent(b)};
    if (f_.c + c >= p_.first_channel) {
      add_to_rows(c, b, gradient);
      for (int i = 0; i < f_.plan.voxel_count; ++i) {
        const auto& [set, columns, map] = f_.plan.voxel[i];
        if (set->add_slope && has_rows(f_.plan.voxel[i]))
          set->add_slope(voxel_rows(f_, c, b, map), gradient, weights(c), columns);
      }
    }
    if (!gradient.written) clear(gradient.rows, gradient.size);
  }

  // Calls function(has_rows, has_logs, masked), each a type.
  template <class Function>
  GEOLOSS_SIMD void with_switches(Function function) const {
    with_static(has_rows_, [&](auto has_rows) GEOLOSS_LAMBDA_INLINE {
      with_static(has_logs_, [&](auto has_logs) GEOLOSS_LAMBDA_INLINE {
        with_static(f_.plan.masked,
                    [&](auto masked) GEOLOSS_LAMBDA_INLINE { function(has_rows, has_logs, masked); });
      });
    });
  }

  void through_none(const Block& b) const {
    if (has_rows_ && !has_coefficients_ && !has_prediction_ && !has_logs_)
      return leave_out(f_.rows(kValid, 0, b), rows(0, b), f_.extent(b), T(0));
    const SlopeCoefficients<T> k = coefficients_[0];
    const Rows<const T> prediction = f_.rows(kPrediction, 0, b), target = f_.rows(kTarget, 0, b);
    const Rows<const T> valid = f_.rows(kValid, 0, b);
    const Rows<T> gradient = rows(0, b);
    with_switches([&](auto has_rows, auto has_logs, auto masked) GEOLOSS_LAMBDA_INLINE {
      for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
        T* const to = gradient.at(y, x);
        const V g = V::load(target.at(y, x));
        V result = k.slope(g);
        if (has_rows) result += V::load(to);
        if (has_logs || has_prediction_) {
          const V s = V::load(prediction.at(y, x));
          result += k.of_prediction * s;
          if (has_logs) {
            result += k.log_slope(g) * terms::clamped_logarithm_slope(s);
            result += -k.complement_slope(g) * terms::clamped_logarithm_slope(V(T(1)) - s);
          }
        }
        if (masked) result = select(V::load(valid.at(y, x)) == V(T(0)), V(T(0)), result);
        if (!has_rows) prefetch<kWrite>(to);
        result.store(to);
      });
    });
  }

  void through_sigmoid(const Block& b) const {
    const SlopeCoefficients<T> k = coefficients_[0];
    const Rows<const T> prediction = f_.rows(kPrediction, 0, b), target = f_.rows(kTarget, 0, b);
    const Rows<const T> valid = f_.rows(kValid, 0, b);
    const Rows<T> gradient = rows(0, b);
    with_switches([&](auto has_rows, auto has_logs, auto masked) GEOLOSS_LAMBDA_INLINE {
      for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
        T* const to = gradient.at(y, x);
        const V s = V::load(prediction.at(y, x)), g = V::load(target.at(y, x));
        const V complement = V(T(1)) - s;
        V p = k.of_prediction * s + k.slope(g);
        if (has_rows) p += V::load(to);
        V result = p * (s * complement);
        if (has_logs) result += k.log_slope(g) * complement - k.complement_slope(g) * s;
        if (masked) result = select(V::load(valid.at(y, x)) == V(T(0)), V(T(0)), result);
        if (!has_rows) prefetch<kWrite>(to);
        result.store(to);
      });
    });
  }

  struct SoftmaxRows {
    ChannelRows<T> gradient;
    ChannelRows<const T> softmax, target, valid;
  };

  SoftmaxRows softmax_rows(const Block& b) const {
    return {channel_rows(b), f_.channels_of(f_.has(kSoftmax) ? kSoftmax : kPrediction, b),
            f_.channels_of(kTarget, b), f_.channels_of(kValid, b)};
  }

  // s p + h of a channel at one place.
  template <class HasRows, class HasLogs>
  GEOLOSS_SIMD V through_probability(const SoftmaxRows& at, int64_t c, int64_t y, int64_t x, HasRows has_rows,
                                     HasLogs has_logs) const {
    const SlopeCoefficients<T>& k = coefficients_[c];
    const V s = V::load(at.softmax.at(c, y, x)), g = V::load(at.target.at(c, y, x));
    V p = k.of_prediction * s + k.slope(g);
    if (has_rows) p += V::load(at.gradient.at(c, y, x));
    return has_logs ? s * p + k.log_slope(g) : s * p;
  }

  void through_softmax(const Block& b) const {
    if (f_.plan.has(Variable::kLogComplement)) return through_softmax_of_complements(b);
    const int64_t channels = f_.tiling.channels;
    const SoftmaxRows at = softmax_rows(b);
    with_switches([&](auto has_rows, auto has_logs, auto masked) GEOLOSS_LAMBDA_INLINE {
      for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
        V total(T(0));
        for (int64_t c = 0; c < channels; ++c) {
          V q = through_probability(at, c, y, x, has_rows, has_logs);
          if (masked) q = select(V::load(at.valid.at(c, y, x)) == V(T(0)), V(T(0)), q);
          q.store(at.gradient.at(c, y, x));
          total += q;
        }
        for (int64_t c = 0; c < channels; ++c) {
          T* const to = at.gradient.at(c, y, x);
          (V::load(to) - V::load(at.softmax.at(c, y, x)) * total).store(to);
        }
      });
    });
  }

  void through_softmax_of_complements(const Block& b) const {
    const int64_t channels = f_.tiling.channels;
    const SoftmaxRows at = softmax_rows(b);
    const ChannelRows<const T> logits = f_.channels_of(kLogit, b);
    with_switches([&](auto has_rows, auto has_logs, auto masked) GEOLOSS_LAMBDA_INLINE {
      for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
        const OtherChannels<T> others(logits.at(0, y, x), logits.pitch, channels);
        V total(T(0)), of_maximum(T(0));
        for (int64_t c = 0; c < channels; ++c) {
          const V s = V::load(at.softmax.at(c, y, x)), g = V::load(at.target.at(c, y, x));
          V q = through_probability(at, c, y, x, has_rows, has_logs);
          V through_complement = coefficients_[c].complement_slope(g) * s;
          if (masked) {
            const auto invalid = V::load(at.valid.at(c, y, x)) == V(T(0));
            q = select(invalid, V(T(0)), q);
            through_complement = select(invalid, V(T(0)), through_complement);
          }
          const auto is_maximum = others.is_maximum(c);
          q += select(is_maximum, V(T(0)), -through_complement / (V(T(1)) - s));
          of_maximum += select(is_maximum, through_complement, V(T(0)));
          q.store(at.gradient.at(c, y, x));
          total += q;
        }
        for (int64_t c = 0; c < channels; ++c) {
          T* const to = at.gradient.at(c, y, x);
          const V share = others.share(V::load(logits.at(c, y, x)), c);
          const V moved = share - select(others.is_maximum(c), V(T(1)), V(T(0)));
          (V::load(to) - V::load(at.softmax.at(c, y, x)) * total + of_maximum * moved).store(to);
        }
      });
    });
  }

  void store(int64_t c, const Block& b) const {
    const TensorView& view = p_.grad_input;
    const auto store = store_row<T>(view.dtype);
    const Rows<T> gradient = rows(c, b);
    for (int64_t y = 0; y < b.rows(); ++y) {
      store(view.data, f_.offset(view, f_.c + c, b.z, b.y_begin + y), view.stride_x, p_.W, gradient.at(y));
    }
  }

  const Fields<T>& f_;
  const GeoSumsParams& p_;
  const bool in_place_;
  bool has_rows_, has_logs_;
  bool has_coefficients_ = false, has_prediction_ = false;  // p is more than its rows; it reads s
  Ring<T> gradient_;
  SlopeCoefficients<T>* coefficients_;  // [channels]
};

}  // namespace geoloss::GEOLOSS_ISA
