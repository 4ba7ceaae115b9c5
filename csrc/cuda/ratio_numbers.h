// The arguments of geo_ratio as its kernels take them: by value, so without a copy to the device, and safe in
// a CUDA graph.
#pragma once

#include <algorithm>

#include "../geo_ratio.h"

namespace geoloss::cuda {

// What geo_ratio gets beside the sums, on the host.
struct RatioArguments {
  const Fraction* fractions;
  int64_t count;
  Reduction reduction;
  const void* channel_weights;  // on the device, [W, C] of the sums' type; or null
};

// kCapacity: of numbers. A launch with fewer bytes of parameters is faster, and more than 4 KB need CUDA 12.1
// and a driver of its time.
template <int kCapacity>
struct Ratio {
  int64_t N, C, K;  // of the sums
  int32_t count;
  Reduction reduction;
  const void* channel_weights;
  Fraction fractions[kMaxFractions];  // their pointers are the host's: see `fraction`
  double numbers[kCapacity];          // [count, 2, K + 1]

  GEOLOSS_INLINE Fraction fraction(int j) const {
    Fraction f = fractions[j];
    f.numerator = numbers + 2 * j * (K + 1);
    f.denominator = f.numerator + K + 1;
    return f;
  }
};

constexpr int kUsualNumbers = 128;
constexpr int kMostNumbers = kMaxFractions * 2 * (kMaxTerms + 1);

template <int kCapacity>
Ratio<kCapacity> ratio_of(const RatioArguments& a, int64_t N, int64_t C, int64_t K) {
  Ratio<kCapacity> ratio{N, C, K, static_cast<int32_t>(a.count), a.reduction, a.channel_weights, {}, {}};
  std::copy_n(a.fractions, a.count, ratio.fractions);
  double* next = ratio.numbers;
  for (int64_t j = 0; j < a.count; ++j) {
    next = std::copy_n(a.fractions[j].numerator, K + 1, next);
    next = std::copy_n(a.fractions[j].denominator, K + 1, next);
  }
  return ratio;
}

// Calls launch(ratio) with room for as many numbers as there are.
template <class Launch>
auto with_ratio(const RatioArguments& a, int64_t N, int64_t C, int64_t K, Launch launch) {
  if (a.count * 2 * (K + 1) <= kUsualNumbers) return launch(ratio_of<kUsualNumbers>(a, N, C, K));
  return launch(ratio_of<kMostNumbers>(a, N, C, K));
}

}  // namespace geoloss::cuda
