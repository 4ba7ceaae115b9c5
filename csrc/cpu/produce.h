// The first stage of the pipeline: reads input, target, mask and maps, and applies the activation.
//
// Under a softmax the logarithms come from the logits z with m their maximum: log s = z - m - log Σ e^(z -
// m). The complement of the channel of the maximum, 1 - s, may vanish to rounding while its logarithm is
// finite: it is the share of the other channels, Σ e^(z - m2) e^(m2 - m) / Σ e^(z - m), m2 the largest of
// them.
#pragma once

#include "fields.h"
#include "other_channels.h"

namespace geoloss::GEOLOSS_ISA {

template <class T>
class Producer {
 public:
  using V = Lanes<T>;

  Producer(const Fields<T>& fields)
      : f_(fields),
        p_(fields.p),
        input_in_place_(!fields.plan.masked && fields.readable_in_place(p_.input)) {}

  // Rows that all channels share.
  void take_buffers(T*& next) {
    labels_ = f_.take_block(next);
    readable_ = f_.take_block(next);
  }

  void produce(const Block& b) const {
    if (f_.all_in_place()) return;
    if (p_.label_map) load(p_.target, 0, b, shared_rows(labels_, b));
    for_each_channel([&](int64_t c) {
      if (const auto target = f_.buffer(kTarget, c, b)) produce_target(c, b, target);
      if (const auto valid = f_.buffer(kValid, c, b)) produce_valid(c, b, valid);
      for (int map = 0; map < kMaxMaps; ++map) produce_map(map, c, b);
    });
    if (f_.buffer(kPrediction, 0, b)) produce_prediction(b);
    if (p_.activation == Activation::kNone) take_logarithms(b);
    for_each_channel([&](int64_t c) { finish_rows(c, b); });
  }

 private:
  template <class Function>
  void for_each_channel(Function function) const {
    for (int64_t c = 0; c < f_.tiling.channels; ++c) function(c);
  }

  Rows<T> shared_rows(const Ring<T>& ring, const Block& b) const { return f_.rows_of(ring, 0, b); }

  void load(const TensorView& view, int64_t c, const Block& b, Rows<T> rows) const {
    if (f_.readable_in_place(view))
      return copy(Rows<const T>(f_.tensor_rows(view, c - f_.c, b)), rows, f_.extent(b));
    const auto load = load_row<T>(view.dtype);
    for (int64_t y = 0; y < b.rows(); ++y) {
      load(view.data, f_.offset(view, c, b.z, b.y_begin + y), view.stride_x, p_.W, rows.at(y));
    }
  }

  void produce_target(int64_t c, const Block& b, Rows<T> target) const {
    if (!p_.label_map) return load(p_.target, f_.c + c, b, target);
    const V label(static_cast<T>(f_.c + c));
    const Rows<T> labels = shared_rows(labels_, b);
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      select(V::load(labels.at(y, x)) == label, V(T(1)), V(T(0))).store(target.at(y, x));
    });
  }

  // Needs the target's rows as they were loaded, before ignored voxels are taken out of them.
  void produce_valid(int64_t c, const Block& b, Rows<T> valid) const {
    if (p_.mask.data) load(p_.mask, f_.c + c, b, valid);
    const Rows<T> target = f_.buffer(kTarget, c, b);
    const Rows<T> ignored_in = p_.label_map ? shared_rows(labels_, b) : target;
    const V ignore_index(static_cast<T>(p_.ignore_index));
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      V ok(T(1));
      if (p_.mask.data) ok = select(V::load(valid.at(y, x)) != V(T(0)), ok, V(T(0)));
      if (p_.has_ignore_index) ok = select(V::load(ignored_in.at(y, x)) == ignore_index, V(T(0)), ok);
      ok.store(valid.at(y, x));
      select(ok == V(T(0)), V(T(0)), V::load(target.at(y, x))).store(target.at(y, x));
    });
  }

  void produce_map(int number, int64_t c, const Block& b) const {
    const Rows<T> map = f_.buffer(map_field(number), c, b);
    if (!map) return;
    load(p_.maps[number], f_.c + c, b, map);
    leave_out(f_.rows(kValid, c, b), map, f_.extent(b), T(0));
  }

  void produce_prediction(const Block& b) const {
    if (p_.activation == Activation::kSigmoid && input_in_place_) {
      apply_sigmoid(f_.tensor_rows(p_.input, 0, b), b);
    } else {
      load_input(b);
      if (p_.activation == Activation::kSigmoid) apply_sigmoid(f_.buffer(kPrediction, 0, b), b);
      if (p_.activation == Activation::kSoftmax) apply_softmax(b);
    }
    if (f_.plan.masked && p_.activation != Activation::kNone) mask_prediction(b);
  }

  void load_input(const Block& b) const {
    const Rows<const T> valid = readable(b);
    for_each_channel([&](int64_t c) {
      const Rows<T> prediction = f_.buffer(kPrediction, c, b);
      load(p_.input, f_.c + c, b, prediction);
      leave_out(valid, prediction, f_.extent(b), T(0));
      if (const auto logit = f_.buffer(kLogit, c, b)) copy(Rows<const T>(prediction), logit, f_.extent(b));
    });
  }

  void mask_prediction(const Block& b) const {
    for_each_channel([&](int64_t c) {
      const Rows<T> prediction = f_.buffer(kPrediction, c, b);
      if (const auto softmax = f_.buffer(kSoftmax, c, b))
        copy(Rows<const T>(prediction), softmax, f_.extent(b));
      leave_out(f_.rows(kValid, c, b), prediction, f_.extent(b), T(0));
    });
  }

  // Where the activation may read the input: where the voxel is valid in any channel that it ties together.
  Rows<const T> readable(const Block& b) const {
    if (!f_.plan.masked || f_.tiling.channels == 1) return f_.rows(kValid, 0, b);
    const Rows<T> result = shared_rows(readable_, b);
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      V any(T(0));
      for (int64_t c = 0; c < f_.tiling.channels; ++c)
        any = maximum(any, V::load(f_.rows(kValid, c, b).at(y, x)));
      any.store(result.at(y, x));
    });
    return result;
  }

  // Of probabilities.
  void take_logarithms(const Block& b) const {
    const Rows<const T> prediction = f_.rows(kPrediction, 0, b);
    const Rows<T> log_prediction = f_.buffer(kLogPrediction, 0, b);
    const Rows<T> log_complement = f_.buffer(kLogComplement, 0, b);
    if (!log_prediction && !log_complement) return;
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      const V s = V::load(prediction.at(y, x));
      if (log_prediction) terms::clamped_logarithm(s).store(log_prediction.at(y, x));
      if (log_complement) terms::clamped_logarithm(V(T(1)) - s).store(log_complement.at(y, x));
    });
  }

  void apply_sigmoid(Rows<const T> logits, const Block& b) const {
    const Rows<T> prediction = f_.buffer(kPrediction, 0, b);
    const Rows<T> log_prediction = f_.buffer(kLogPrediction, 0, b);
    const Rows<T> log_complement = f_.buffer(kLogComplement, 0, b);
    const Rows<const T> target = f_.rows(kTarget, 0, b);
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      prefetch<kRead>(logits.at(y, x));
      prefetch<kRead>(target.at(y, x));
      const V logit = V::load(logits.at(y, x));
      if (log_prediction || log_complement) {
        const V tail = logarithm_1p(exponential(-absolute(logit)));  // of both softplus
        if (log_prediction) (-(maximum(-logit, V(T(0))) + tail)).store(log_prediction.at(y, x));
        if (log_complement) (-(maximum(logit, V(T(0))) + tail)).store(log_complement.at(y, x));
      }
      sigmoid(logit).store(prediction.at(y, x));
    });
  }

  void apply_softmax(const Block& b) const {
    const int64_t channels = f_.tiling.channels, pitch = f_.channel_pitch;
    const Rows<T> first = f_.buffer(kPrediction, 0, b);
    const Rows<T> first_logarithm = f_.buffer(kLogPrediction, 0, b);
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      T* const channel = first.at(y, x);
      T* const log_channel = first_logarithm ? first_logarithm.at(y, x) : nullptr;
      V largest = V::load(channel);
      for (int64_t c = 1; c < channels; ++c) largest = maximum(largest, V::load(channel + c * pitch));
      V total(T(0));
      for (int64_t c = 0; c < channels; ++c) {
        const V difference = V::load(channel + c * pitch) - largest;
        if (log_channel) difference.store(log_channel + c * pitch);
        const V power = exponential(difference);
        total += power;
        power.store(channel + c * pitch);
      }
      const V inverse = V(T(1)) / total;
      for (int64_t c = 0; c < channels; ++c)
        (V::load(channel + c * pitch) * inverse).store(channel + c * pitch);
      if (!log_channel) return;
      const V log_total = logarithm(total);
      for (int64_t c = 0; c < channels; ++c)
        (V::load(log_channel + c * pitch) - log_total).store(log_channel + c * pitch);
    });
    if (f_.has(kLogComplement)) take_log_complements(b);
  }

  void take_log_complements(const Block& b) const {
    const int64_t channels = f_.tiling.channels, pitch = f_.channel_pitch;
    const Rows<const T> logits = f_.rows(kLogit, 0, b), predictions = f_.rows(kPrediction, 0, b);
    const Rows<T> complements = f_.buffer(kLogComplement, 0, b);
    for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      const OtherChannels<T> others(logits.at(y, x), pitch, channels);
      const V of_largest = others.log_share();
      for (int64_t c = 0; c < channels; ++c) {
        const V of_small = logarithm_1p(-V::load(predictions.at(y, x) + c * pitch));  // s <= 1/2
        select(others.is_maximum(c), of_largest, of_small).store(complements.at(y, x) + c * pitch);
      }
    });
  }

  void finish_rows(int64_t c, const Block& b) const {
    for (const Field field : {kLogPrediction, kLogComplement}) {
      if (const auto logarithm = f_.buffer(field, c, b))
        leave_out(f_.rows(kValid, c, b), logarithm, f_.extent(b), T(0));
    }
    if (const auto error = f_.buffer(kError, c, b)) {
      const Rows<const T> prediction = f_.rows(kPrediction, c, b);
      const Rows<const T> target = f_.rows(kTarget, c, b);
      for_each_vector<T>(f_.extent(b), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
        prefetch<kRead>(prediction.at(y, x));
        prefetch<kRead>(target.at(y, x));
        (V::load(prediction.at(y, x)) - V::load(target.at(y, x))).store(error.at(y, x));
      });
      extend(error, f_.extent(b), T(1));
    }
    if (f_.plan.on_fields) {
      extend(f_.buffer(kPrediction, c, b), f_.extent(b), T(1));
      extend(f_.buffer(kTarget, c, b), f_.extent(b), T(1));
    }
    if (const auto valid = f_.buffer(kValid, c, b)) extend(valid, f_.extent(b), T(1));
  }

  const Fields<T>& f_;
  const GeoSumsParams& p_;
  const bool input_in_place_;
  Ring<T> labels_, readable_;
};

}  // namespace geoloss::GEOLOSS_ISA
