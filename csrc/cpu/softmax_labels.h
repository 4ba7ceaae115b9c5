// A softmax over a label map for terms that need no row of the prediction: Dice, Tversky and cross-entropy of
// many classes, forward and backward, in strips that stay in the first-level cache.
//
// A strip is a few rows of all channels, one after the other. It is gone through channel by channel, so that
// a channel's sums stay in registers: the maximum m of the logits; then e^(z - m) and its total; then s =
// e^(z - m) / total, with the sums, or with the gradient q_c - s_c Σ q and q_c = s_c p_c + h_c. Labels are
// read once per voxel and never become a volume per channel: g is (label == c). Where a voxel is not valid
// its label is that of no channel.
#pragma once

#include "fields.h"
#include "gradient_stage.h"

namespace geoloss::GEOLOSS_ISA {

template <class T>
class SoftmaxLabels {
 public:
  using V = Lanes<T>;

  SoftmaxLabels(const Fields<T>& fields, const GradientStage<T>& gradient)
      : f_(fields), p_(fields.p), gradient_(gradient) {
    for (int64_t& column : column_) column = -1;
    for (int64_t k = 0; k < p_.term_count; ++k) column_[static_cast<int>(p_.terms[k].kind)] = k;
  }

  // Whether it computes what is asked for: each term once, and the same voxels valid in all channels.
  static bool applies(const GeoSumsParams& p) {
    const bool shared_mask = !p.mask.data || p.mask.stride_c == 0 || p.C == 1;
    bool known = p.activation == Activation::kSoftmax && p.label_map && shared_mask;
    bool seen[kTermKinds] = {};
    for (int64_t k = 0; k < p.term_count; ++k) {
      const int kind = static_cast<int>(p.terms[k].kind);
      known &= is_known(p.terms[k].kind) && !seen[kind];
      seen[kind] = true;
    }
    return known;
  }

  static int64_t strip_rows(const GeoSumsParams& p) { return max(1, min(p.H, kStripElements / (p.W * p.C))); }
  static int64_t workspace_elements(const GeoSumsParams& p) { return (p.C + 5) * pitch(p); }
  void take_workspace(T* workspace) {
    powers_ = workspace;
    labels_ = powers_ + p_.C * pitch(p_);
    valid_ = labels_ + pitch(p_);
    maximum_ = valid_ + pitch(p_);
    total_ = maximum_ + pitch(p_);
    label_power_ = total_ + pitch(p_);
  }

  // sums: [C, K], by lanes
  void add_sums(const Block& strip, V* sums) const {
    load(strip);
    const int64_t size = strip.rows() * p_.W;
    take_powers(size);
    finish_total(size, asks(TermKind::kCrossEntropyForeground));
    for (int64_t c = p_.first_channel; c < p_.C; ++c) add_sums_of_channel(c, size, sums + c * p_.term_count);
  }

  void write_gradient(const Block& strip) const {
    load(strip);
    const int64_t size = strip.rows() * p_.W;
    take_powers(size);
    finish_total(size, false);
    take_total_slope(size);
    for (int64_t c = 0; c < p_.C; ++c) write_gradient_of_channel(c, strip);
  }

 private:
  static bool is_known(TermKind kind) {
    switch (kind) {
      case TermKind::kCount:
      case TermKind::kPrediction:
      case TermKind::kTarget:
      case TermKind::kIntersection:
      case TermKind::kCrossEntropyForeground: return true;
      default: return false;
    }
  }

  static constexpr int64_t kStripElements = 6144;  // of all channels

  static int64_t pitch(const GeoSumsParams& p) {
    return (ceil_divide(strip_rows(p) * p.W, V::kCount) + 1) * V::kCount;
  }

  bool asks(TermKind kind) const { return column_[static_cast<int>(kind)] >= 0; }
  int64_t column(TermKind kind) const { return column_[static_cast<int>(kind)]; }

  template <class Function>
  GEOLOSS_SIMD static void for_each_lane(int64_t size, Function function) {
    for (int64_t x = 0; x < size; x += V::kCount) function(x);
  }

  void load_rows_of(const TensorView& view, int64_t c, const Block& b, T* rows) const {
    const auto load = load_row<T>(view.dtype);
    const bool adjacent = view.stride_x == 1 && view.stride_y == p_.W;
    const int64_t width = adjacent ? b.rows() * p_.W : p_.W;
    for (int64_t y = 0; y < b.rows(); y += width / p_.W)
      load(view.data, f_.offset(view, c, b.z, b.y_begin + y), view.stride_x, width, rows + y * p_.W);
  }

  // The labels, -1 where a voxel is not valid, and the logits with their maximum.
  void load(const Block& strip) const {
    const int64_t size = strip.rows() * p_.W;
    load_rows_of(p_.target, 0, strip, labels_);
    if (f_.plan.masked) leave_out_labels(strip);
    for (int64_t c = 0; c < p_.C; ++c) {
      T* const logits = powers_ + c * pitch(p_);
      load_rows_of(p_.input, c, strip, logits);
      if (f_.plan.masked) leave_out(Rows<const T>{valid_, 0}, Rows<T>{logits, 0}, Extent{1, size}, T(0));
      if (c == 0) {
        copy(Rows<const T>{logits, 0}, Rows<T>{maximum_, 0}, Extent{1, size});
      } else {
        for_each_lane(size, [&](int64_t x) GEOLOSS_LAMBDA_INLINE {
          maximum(V::load(maximum_ + x), V::load(logits + x)).store(maximum_ + x);
        });
      }
    }
  }

  void leave_out_labels(const Block& strip) const {
    if (p_.mask.data) load_rows_of(p_.mask, 0, strip, valid_);
    const V ignore_index(static_cast<T>(p_.ignore_index));
    for_each_lane(strip.rows() * p_.W, [&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      const V label = V::load(labels_ + x);
      V valid(T(1));
      if (p_.mask.data) valid = select(V::load(valid_ + x) == V(T(0)), V(T(0)), valid);
      if (p_.has_ignore_index) valid = select(label == ignore_index, V(T(0)), valid);
      valid.store(valid_ + x);
      select(valid == V(T(0)), V(T(-1)), label).store(labels_ + x);
    });
  }

  void take_powers(int64_t size) const {
    for (const Rows<T> row : {Rows<T>{total_, 0}, Rows<T>{label_power_, 0}}) clear(row, Extent{1, size});
    for (int64_t c = 0; c < p_.C; ++c) {
      T* const powers = powers_ + c * pitch(p_);
      const V channel(static_cast<T>(c));
      for_each_lane(size, [&](int64_t x) GEOLOSS_LAMBDA_INLINE {
        const V difference = V::load(powers + x) - V::load(maximum_ + x);
        const V power = exponential(difference);
        power.store(powers + x);
        (V::load(total_ + x) + power).store(total_ + x);
        const auto is_label = V::load(labels_ + x) == channel;
        select(is_label, difference, V::load(label_power_ + x)).store(label_power_ + x);
      });
    }
  }

  // total_ becomes its inverse; label_power_, the label's z - m, its -log s.
  void finish_total(int64_t size, bool has_log) const {
    for_each_lane(size, [&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      const V total = V::load(total_ + x);
      (V(T(1)) / total).store(total_ + x);
      if (has_log) (logarithm(total) - V::load(label_power_ + x)).store(label_power_ + x);
    });
  }

  void add_sums_of_channel(int64_t c, int64_t size, V* sums) const {
    const T* const powers = powers_ + c * pitch(p_);
    const V channel(static_cast<T>(c));
    V prediction(T(0)), target(T(0)), intersection(T(0)), surprise(T(0)), count(T(0));
    with_static(f_.plan.masked, [&](auto masked) GEOLOSS_LAMBDA_INLINE {
      add_row<T>(size, [&](int64_t x, auto kept) GEOLOSS_LAMBDA_INLINE {
        V s = kept(V::load(powers + x) * V::load(total_ + x));
        if (masked) s = select(V::load(valid_ + x) == V(T(0)), V(T(0)), s);
        const auto is_label = V::load(labels_ + x) == channel;
        prediction += s;
        intersection += select(is_label, s, V(T(0)));
        target += kept(select(is_label, V(T(1)), V(T(0))));
        surprise += kept(select(is_label, V::load(label_power_ + x), V(T(0))));
        if (masked) count += kept(V::load(valid_ + x));
      });
    });
    add(TermKind::kPrediction, prediction, sums);
    add(TermKind::kTarget, target, sums);
    add(TermKind::kIntersection, intersection, sums);
    add(TermKind::kCrossEntropyForeground, surprise, sums);
    if (f_.plan.masked) add(TermKind::kCount, count, sums);
  }

  void add(TermKind kind, V lanes, V* sums) const {
    if (asks(kind)) sums[column(kind)] += lanes;
  }

  // maximum_ becomes Σ_c q_c, q_c = s_c p_c + h_c.
  void take_total_slope(int64_t size) const {
    clear(Rows<T>{maximum_, 0}, Extent{1, size});
    for (int64_t c = 0; c < p_.C; ++c) {
      for_each_slope(c, size, [&](int64_t x, V, V q) GEOLOSS_LAMBDA_INLINE {
        (V::load(maximum_ + x) + q).store(maximum_ + x);
      });
    }
  }

  // Calls function(x, s, q) for a channel.
  template <class Function>
  GEOLOSS_SIMD void for_each_slope(int64_t c, int64_t size, Function function) const {
    const SlopeCoefficients<T>& k = gradient_.coefficients(c);
    const T* const powers = powers_ + c * pitch(p_);
    const V channel(static_cast<T>(c)), elsewhere(k.constant), at_label(k.constant + k.of_target);
    const V log_at_label(k.log_of_target);
    with_static(f_.plan.masked, [&](auto masked) GEOLOSS_LAMBDA_INLINE {
      for_each_lane(size, [&](int64_t x) GEOLOSS_LAMBDA_INLINE {
        const V s = V::load(powers + x) * V::load(total_ + x);
        const auto is_label = V::load(labels_ + x) == channel;
        V q = s * select(is_label, at_label, elsewhere) + select(is_label, log_at_label, V(T(0)));
        if (masked) q = select(V::load(valid_ + x) == V(T(0)), V(T(0)), q);
        function(x, s, q);
      });
    });
  }

  void write_gradient_of_channel(int64_t c, const Block& strip) const {
    T* const gradient = powers_ + c * pitch(p_);
    for_each_slope(c, strip.rows() * p_.W, [&](int64_t x, V s, V q) GEOLOSS_LAMBDA_INLINE {
      (q - s * V::load(maximum_ + x)).store(gradient + x);
    });
    const TensorView& view = p_.grad_input;
    const auto store = store_row<T>(view.dtype);
    const bool adjacent = view.stride_x == 1 && view.stride_y == p_.W;
    const int64_t width = adjacent ? strip.rows() * p_.W : p_.W;
    for (int64_t y = 0; y < strip.rows(); y += width / p_.W)
      store(view.data, f_.offset(view, c, strip.z, strip.y_begin + y), view.stride_x, width,
            gradient + y * p_.W);
  }

  const Fields<T>& f_;
  const GeoSumsParams& p_;
  const GradientStage<T>& gradient_;
  int64_t column_[kTermKinds];
  T *powers_, *labels_, *valid_, *maximum_, *total_, *label_power_;
};

}  // namespace geoloss::GEOLOSS_ISA
