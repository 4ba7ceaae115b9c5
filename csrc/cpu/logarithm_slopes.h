// What a program's slopes h and b with respect to log s and log(1 - s) add to the gradient, as rows of
// weights that a channel's terms have in common do in gradient_stage.h: through
//   no activation   h / s - b / (1 - s), the divisors clamped
//   a sigmoid       h (1 - s) - b s
//   a softmax       q_j - s_j Σ_c q_c with q_c = h_c - b_c s_c / (1 - s_c), but for the channel of the
//   maximum
#pragma once

#include "fields.h"
#include "other_channels.h"

namespace geoloss::GEOLOSS_ISA {

// The slopes of one program; null rows: it has none.
template <class T>
struct LogarithmSlopes {
  ChannelRows<const T> of_prediction, of_complement;
  ChannelRows<const T> valid;
  const T* weight;  // [channels], 0 for one that is not summed

  using V = Lanes<T>;

  GEOLOSS_SIMD V at(const ChannelRows<const T>& slopes, int64_t c, int64_t y, int64_t x) const {
    if (!slopes.first || weight[c] == 0) return V(T(0));
    const V slope = V(weight[c]) * V::load(slopes.at(c, y, x));
    if (!valid.first) return slope;
    return select(V::load(valid.at(c, y, x)) == V(T(0)), V(T(0)), slope);
  }
  GEOLOSS_SIMD V h(int64_t c, int64_t y, int64_t x) const { return at(of_prediction, c, y, x); }
  GEOLOSS_SIMD V b(int64_t c, int64_t y, int64_t x) const { return at(of_complement, c, y, x); }
};

template <class T>
void add_through_none(const Fields<T>& f, const Block& block, const LogarithmSlopes<T>& slopes,
                      const ChannelRows<T>& gradient) {
  using V = Lanes<T>;
  const Rows<const T> prediction = f.rows(kPrediction, 0, block);
  for_each_vector<T>(f.extent(block), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
    T* const to = gradient.at(0, y, x);
    const V s = V::load(prediction.at(y, x));
    const V through_prediction = slopes.h(0, y, x) * terms::clamped_logarithm_slope(s);
    const V through_complement = slopes.b(0, y, x) * terms::clamped_logarithm_slope(V(T(1)) - s);
    (V::load(to) + through_prediction - through_complement).store(to);
  });
}

template <class T>
void add_through_sigmoid(const Fields<T>& f, const Block& block, const LogarithmSlopes<T>& slopes,
                         const ChannelRows<T>& gradient) {
  using V = Lanes<T>;
  const Rows<const T> prediction = f.rows(kPrediction, 0, block);
  for_each_vector<T>(f.extent(block), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
    T* const to = gradient.at(0, y, x);
    const V s = V::load(prediction.at(y, x));
    (V::load(to) + slopes.h(0, y, x) * (V(T(1)) - s) - slopes.b(0, y, x) * s).store(to);
  });
}

template <class T>
void add_through_softmax(const Fields<T>& f, const Block& block, const LogarithmSlopes<T>& slopes,
                         const ChannelRows<T>& gradient) {
  using V = Lanes<T>;
  const int64_t channels = f.tiling.channels;
  const ChannelRows<const T> softmax = f.channels_of(f.has(kSoftmax) ? kSoftmax : kPrediction, block);
  for_each_vector<T>(f.extent(block), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
    V total(T(0));
    for (int64_t c = 0; c < channels; ++c) total += slopes.h(c, y, x);
    for (int64_t c = 0; c < channels; ++c) {
      T* const to = gradient.at(c, y, x);
      (V::load(to) + slopes.h(c, y, x) - V::load(softmax.at(c, y, x)) * total).store(to);
    }
  });
}

template <class T>
void add_complements_through_softmax(const Fields<T>& f, const Block& block, const LogarithmSlopes<T>& slopes,
                                     const ChannelRows<T>& gradient) {
  using V = Lanes<T>;
  const int64_t channels = f.tiling.channels;
  const ChannelRows<const T> softmax = f.channels_of(f.has(kSoftmax) ? kSoftmax : kPrediction, block);
  const ChannelRows<const T> logits = f.channels_of(kLogit, block);
  for_each_vector<T>(f.extent(block), [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
    const OtherChannels<T> others(logits.at(0, y, x), logits.pitch, channels);
    const auto q = [&](int64_t c, V s) GEOLOSS_LAMBDA_INLINE {
      return select(others.is_maximum(c), V(T(0)), -slopes.b(c, y, x) * s / (V(T(1)) - s));
    };
    V total(T(0)), of_maximum(T(0));
    for (int64_t c = 0; c < channels; ++c) {
      const V s = V::load(softmax.at(c, y, x));
      total += q(c, s);
      of_maximum += select(others.is_maximum(c), slopes.b(c, y, x) * s, V(T(0)));
    }
    for (int64_t c = 0; c < channels; ++c) {
      T* const to = gradient.at(c, y, x);
      const V s = V::load(softmax.at(c, y, x));
      const V share = others.share(V::load(logits.at(c, y, x)), c);
      const V moved = of_maximum * (share - select(others.is_maximum(c), V(T(1)), V(T(0))));
      (V::load(to) + q(c, s) - s * total + moved).store(to);
    }
  });
}

template <class T>
void add_through_activation(const Fields<T>& f, const Block& block, const LogarithmSlopes<T>& slopes,
                            const ChannelRows<T>& gradient) {
  switch (f.p.activation) {
    case Activation::kNone: return add_through_none(f, block, slopes, gradient);
    case Activation::kSigmoid: return add_through_sigmoid(f, block, slopes, gradient);
    case Activation::kSoftmax:
      if (slopes.of_prediction.first) add_through_softmax(f, block, slopes, gradient);
      if (slopes.of_complement.first) add_complements_through_softmax(f, block, slopes, gradient);
  }
}

}  // namespace geoloss::GEOLOSS_ISA
