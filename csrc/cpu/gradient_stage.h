// The last stage of the backward pass: the slopes of all terms at a block, through the activation, to the
// rows of the gradient.
//
// Of a voxel's channel, p, h and b are the slopes with respect to s, log s and log(1 - s). Through
//   no activation   p + h / s - b / (1 - s), the divisors clamped
//   a sigmoid       p s (1 - s) + h (1 - s) - b s
//   a softmax       q_j - s_j Σ_c q_c with q_c = s_c p_c + h_c - b_c s_c / (1 - s_c)
// The last quotient is left out for the channel a of the maximum, whose 1 - s may vanish: d log(1 - s_a) is
// s_a (t_j - δ_aj) dz_j with t_j the share of channel j among the others.
#pragma once

#include "fields.h"
#include "other_channels.h"

namespace geoloss::GEOLOSS_ISA {

template <class T>
class GradientStage {
 public:
  using V = Lanes<T>;
  using Variable = terms::Variable;

  GradientStage(const Fields<T>& fields)
      : f_(fields), p_(fields.p), in_place_(fields.readable_in_place(p_.grad_input)) {}

  void take_buffers(T*& next) {
    gradient_ = f_.take_block(next);
    for (Ring<T>& rows : of_variable_) rows = f_.take_block(next);
  }

  Rows<T> rows(int64_t c, const Block& b) const {
    return in_place_ ? f_.tensor_rows(p_.grad_input, c, b) : f_.rows_of(gradient_, c, b);
  }

  // Rows that nobody reads.
  Rows<T> scratch(int64_t c, const Block& b) const { return f_.rows_of(gradient_, c, b); }

  // ∂L/∂S of a channel's terms.
  const T* weights(int64_t c) const {
    const int64_t summed = p_.C - p_.first_channel;
    const int64_t row = f_.n * summed + f_.c + c - p_.first_channel;
    return static_cast<const T*>(p_.grad_sums) + row * p_.term_count;
  }

  // add_stencil_slopes(c, block, rows): adds what the stencil terms have.
  template <class AddStencilSlopes>
  void write(const Block& b, AddStencilSlopes add_stencil_slopes) {
    if (b.empty()) return;
    for (int64_t c = 0; c < f_.tiling.channels; ++c) {
      add_slopes(c, b, add_stencil_slopes);
      leave_out(f_.rows(kValid, c, b), rows(c, b), f_.extent(b), T(0));
      for (const Variable variable : {Variable::kLogPrediction, Variable::kLogComplement}) {
        if (f_.plan.has(variable))
          leave_out(f_.rows(kValid, c, b), slopes(variable, c, b), f_.extent(b), T(0));
      }
    }
    if (p_.activation == Activation::kNone) through_logarithms(b);
    if (p_.activation == Activation::kSigmoid) through_sigmoid(b);
    if (p_.activation == Activation::kSoftmax) through_softmax(b);
    for (int64_t c = 0; c < f_.tiling.channels && !in_place_; ++c) store(c, b);
  }

 private:
  Rows<T> slopes(Variable variable, int64_t c, const Block& b) const {
    if (variable == Variable::kPrediction) return rows(c, b);
    if (!f_.plan.has(variable)) return {};
    return f_.rows_of(of_variable_[variable == Variable::kLogComplement], c, b);
  }

  template <class AddStencilSlopes>
  void add_slopes(int64_t c, const Block& b, AddStencilSlopes add_stencil_slopes) {
    const bool summed = f_.c + c >= p_.first_channel;
    for (const Variable variable :
         {Variable::kPrediction, Variable::kLogPrediction, Variable::kLogComplement}) {
      if (variable != Variable::kPrediction && !f_.plan.has(variable)) continue;
      GradientRows<T> gradient{slopes(variable, c, b), f_.extent(b)};
      if (summed && variable == Variable::kPrediction && f_.plan.stencil_count > 0)
        add_stencil_slopes(c, b, gradient);
      if (summed) add_voxel_slopes(variable, c, b, gradient);
      if (!gradient.written) clear(gradient.rows, gradient.size);
    }
  }

  void add_voxel_slopes(Variable variable, int64_t c, const Block& b, GradientRows<T>& gradient) const {
    for (int i = 0; i < f_.plan.voxel_count; ++i) {
      const auto& [set, columns, map] = f_.plan.voxel[i];
      if (!set->add_slope || set->variable != variable) continue;
      set->add_slope(voxel_rows(f_, c, b, map), gradient, weights(c), columns);
    }
  }

  void through_logarithms(const Block& b) const {
    const Rows<const T> prediction = f_.rows(kPrediction, 0, b);
    const Rows<T> gradient = rows(0, b);
    const Rows<T> of_log = slopes(Variable::kLogPrediction, 0, b);
    const Rows<T> of_complement = slopes(Variable::kLogComplement, 0, b);
    if (!of_log && !of_complement) return;
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      const V s = V::load(prediction.at(y, x));
      V result = V::load(gradient.at(y, x));
      if (of_log) result += V::load(of_log.at(y, x)) * terms::clamped_logarithm_slope(s);
      if (of_complement)
        result += -V::load(of_complement.at(y, x)) * terms::clamped_logarithm_slope(V(T(1)) - s);
      result.store(gradient.at(y, x));
    });
  }

  void through_sigmoid(const Block& b) const {
    const Rows<const T> prediction = f_.rows(kPrediction, 0, b);
    const Rows<T> gradient = rows(0, b);
    const Rows<T> of_log = slopes(Variable::kLogPrediction, 0, b);
    const Rows<T> of_complement = slopes(Variable::kLogComplement, 0, b);
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      const V s = V::load(prediction.at(y, x));
      const V complement = V(T(1)) - s;
      V result = V::load(gradient.at(y, x)) * (s * complement);
      if (of_log) result += V::load(of_log.at(y, x)) * complement;
      if (of_complement) result += -V::load(of_complement.at(y, x)) * s;
      result.store(gradient.at(y, x));
    });
  }

  void through_softmax(const Block& b) const {
    const int64_t channels = f_.tiling.channels, pitch = f_.channel_pitch;
    const Field field = f_.has(kSoftmax) ? kSoftmax : kPrediction;
    const Rows<const T> softmax = f_.rows(field, 0, b);
    const Rows<T> of_log = slopes(Variable::kLogPrediction, 0, b);
    const Rows<T> of_complement = slopes(Variable::kLogComplement, 0, b);
    Gradients gradients(*this, b);
    if (of_complement) return through_softmax_of_complements(b, softmax, of_log, of_complement, gradients);
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      V total(T(0));
      for (int64_t c = 0; c < channels; ++c) {
        T* const gradient = gradients.at(c, y, x);
        V q = V::load(softmax.at(y, x) + c * pitch) * V::load(gradient);
        if (of_log) q += V::load(of_log.at(y, x) + c * pitch);
        q.store(gradient);
        total += q;
      }
      for (int64_t c = 0; c < channels; ++c) {
        T* const gradient = gradients.at(c, y, x);
        (V::load(gradient) - V::load(softmax.at(y, x) + c * pitch) * total).store(gradient);
      }
    });
  }

  // A channel's rows, in the tensor or in buffers.
  struct Gradients {
    Rows<T> first;
    int64_t pitch;
    Gradients(const GradientStage& stage, const Block& b)
        : first(stage.rows(0, b)),
          pitch(stage.in_place_ ? stage.p_.grad_input.stride_c : stage.f_.channel_pitch) {}
    GEOLOSS_SIMD T* at(int64_t c, int64_t y, int64_t x) const { return first.at(y, x) + c * pitch; }
  };

  void through_softmax_of_complements(const Block& b, Rows<const T> softmax, Rows<const T> of_log,
                                      Rows<const T> of_complement, const Gradients& gradients) const {
    const int64_t channels = f_.tiling.channels, pitch = f_.channel_pitch;
    const Rows<const T> logits = f_.rows(kLogit, 0, b);
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      const OtherChannels<T> others(logits.at(y, x), pitch, channels);
      V total(T(0)), of_maximum(T(0));
      for (int64_t c = 0; c < channels; ++c) {
        const V s = V::load(softmax.at(y, x) + c * pitch);
        const V slope = V::load(of_complement.at(y, x) + c * pitch);
        V q = s * V::load(gradients.at(c, y, x));
        if (of_log) q += V::load(of_log.at(y, x) + c * pitch);
        q += select(others.is_maximum(c), V(T(0)), -slope * s / (V(T(1)) - s));
        of_maximum += select(others.is_maximum(c), slope * s, V(T(0)));
        q.store(gradients.at(c, y, x));
        total += q;
      }
      for (int64_t c = 0; c < channels; ++c) {
        const V s = V::load(softmax.at(y, x) + c * pitch);
        const V share = others.share(V::load(logits.at(y, x) + c * pitch), c);
        const V through_maximum = of_maximum * (share - select(others.is_maximum(c), V(T(1)), V(T(0))));
        const V gradient = V::load(gradients.at(c, y, x)) - s * total;
        (gradient + through_maximum).store(gradients.at(c, y, x));
      }
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
  Ring<T> gradient_;
  Ring<T> of_variable_[2];  // with respect to log s and log(1 - s)
};

}  // namespace geoloss::GEOLOSS_ISA
