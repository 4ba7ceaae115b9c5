// geo_ratio and its slope, a few numbers for each volume and channel.
//
// First the fractions that pool every volume and channel: the block's threads share the rows of S, and their
// sums in float64 are added up in a fixed order. Then, forward, the threads share the groups of the other
// fractions, each of which one thread adds up, and one block ends in the loss; backward, a thread has an
// element of the gradient, and adds up anew the groups that its row is in, which takes few numbers more.
// Both read S and write their result, some kilobytes.
#pragma once

#include "portable.cuh"
#include "ratio_numbers.h"
#include "reduce.cuh"

namespace geoloss::cuda {

constexpr int kRatioThreads = 256;

// The sum over the block, in every thread.
GEOLOSS_DEVICE double block_sum(double of_thread, double* of_warps) {
  const double of_warp = warp_sum(of_thread);
  if (threadIdx.x % kWarpSize == 0) of_warps[threadIdx.x / kWarpSize] = of_warp;
  __syncthreads();
  double total = 0;
  for (int warp = 0; warp < kRatioThreads / kWarpSize; ++warp) total += of_warps[warp];
  __syncthreads();
  return total;
}

// Of a fraction and a group: n · S + n_0 and d · S + d_0.
struct Parts {
  double numerator, denominator;

  GEOLOSS_DEVICE bool empty() const { return numerator == 0 && denominator == 0; }
  GEOLOSS_DEVICE double ratio() const { return empty() ? 0 : numerator / denominator; }
};

struct RatioShared {
  double of_warps[kRatioThreads / kWarpSize];
  Parts pooled[kMaxFractions];  // of fractions of everything
};

// The fractions on the sums [N, C, K].
template <class T, int kCapacity>
struct FractionsOf {
  const Ratio<kCapacity>& ratio;
  const T* sums;
  RatioShared& shared;

  // By all threads of the block, before the members below.
  GEOLOSS_DEVICE void pool() const {
    for (int j = 0; j < ratio.count; ++j) {
      const Fraction f = ratio.fraction(j);
      if (f.pooling != Pooling::kAll) continue;
      const Parts of_thread = linear_parts(f, group_of(f, ratio.N, ratio.C, 0), threadIdx.x, kRatioThreads);
      const double numerator = block_sum(of_thread.numerator, shared.of_warps);
      const double denominator = block_sum(of_thread.denominator, shared.of_warps);
      if (threadIdx.x == 0)
        shared.pooled[j] = {numerator + f.numerator[ratio.K], denominator + f.denominator[ratio.K]};
    }
    __syncthreads();
  }

  GEOLOSS_DEVICE Parts parts(int j, const Fraction& f, int64_t group) const {
    if (f.pooling == Pooling::kAll) return shared.pooled[j];
    const Parts linear = linear_parts(f, group_of(f, ratio.N, ratio.C, group), 0, 1);
    return {linear.numerator + f.numerator[ratio.K], linear.denominator + f.denominator[ratio.K]};
  }

  // What a group adds to the loss before the reduction.
  GEOLOSS_DEVICE double value(int j, const Fraction& f, int64_t group) const {
    return parts(j, f, group).ratio() * ratio_weight(f, group_of(f, ratio.N, ratio.C, group).c_begin);
  }

  // ∂ value / ∂ S[n, c, k] of the group that (n, c) is in
  GEOLOSS_DEVICE double slope(int j, const Fraction& f, int64_t group, int64_t c, int64_t k) const {
    const Parts of_group = parts(j, f, group);
    if (of_group.empty()) return 0;
    const double n = f.numerator[k] * share_weight(f, f.numerator_weights, c);
    const double d = f.denominator[k] * share_weight(f, f.denominator_weights, c);
    const double of_denominator = d == 0 ? 0 : of_group.ratio() * d;
    return ratio_weight(f, c) * (n - of_denominator) / of_group.denominator;
  }

  // Of the row (n, c) in the fraction; c is not skipped.
  GEOLOSS_DEVICE int64_t group_of_row(const Fraction& f, int64_t n, int64_t c) const {
    if (f.pooling == Pooling::kAll) return 0;
    return (f.pooling == Pooling::kBatch ? 0 : n * (ratio.C - f.skip)) + c - f.skip;
  }

 private:
  // Of a group's rows first, first + step, ..., without the constants.
  GEOLOSS_DEVICE Parts linear_parts(const Fraction& f, const Group& group, int64_t first,
                                    int64_t step) const {
    const int64_t channels = group.c_end - group.c_begin, rows = (group.n_end - group.n_begin) * channels;
    Parts total{0, 0};
    for (int64_t i = first; i < rows; i += step) {
      const int64_t n = group.n_begin + i / channels, c = group.c_begin + i % channels;
      const T* const row = sums + (n * ratio.C + c) * ratio.K;
      total.numerator += share_weight(f, f.numerator_weights, c) * linear(f.numerator, row, ratio.K);
      total.denominator += share_weight(f, f.denominator_weights, c) * linear(f.denominator, row, ratio.K);
    }
    return total;
  }

  GEOLOSS_DEVICE double channel_weight(int32_t row, int64_t c) const {
    return row == kUnweighted ? 1 : static_cast<const T*>(ratio.channel_weights)[row * ratio.C + c];
  }

  // The weight of a channel in the parts of a fraction that pools the channels, and in the ratio of others.
  GEOLOSS_DEVICE double share_weight(const Fraction& f, int32_t row, int64_t c) const {
    return f.pooling == Pooling::kAll ? channel_weight(row, c) : 1;
  }
  GEOLOSS_DEVICE double ratio_weight(const Fraction& f, int64_t c) const {
    return f.pooling == Pooling::kAll ? 1 : channel_weight(f.numerator_weights, c);
  }
};

// The loss without a reduction, a number for each group. Every fraction has the same groups.
template <class T, int kCapacity>
GEOLOSS_DEVICE void write_ratios(const FractionsOf<T, kCapacity>& fractions, T* ratios) {
  const Ratio<kCapacity>& ratio = fractions.ratio;
  const int64_t groups = group_count(ratio.fraction(0), ratio.N, ratio.C);
  for (int64_t group = threadIdx.x; group < groups; group += kRatioThreads) {
    double total = 0;
    for (int j = 0; j < ratio.count; ++j) total += fractions.value(j, ratio.fraction(j), group);
    ratios[group] = static_cast<T>(total);
  }
}

template <class T, int kCapacity>
GEOLOSS_DEVICE void write_reduced_ratio(const FractionsOf<T, kCapacity>& fractions, T* loss) {
  const Ratio<kCapacity>& ratio = fractions.ratio;
  double of_thread = 0;
  for (int j = 0; j < ratio.count; ++j) {
    const Fraction f = ratio.fraction(j);
    const int64_t groups = group_count(f, ratio.N, ratio.C);
    double share = 0;
    for (int64_t group = threadIdx.x; group < groups; group += kRatioThreads)
      share += fractions.value(j, f, group);
    of_thread += ratio.reduction == Reduction::kMean ? share / static_cast<double>(groups) : share;
  }
  const double total = block_sum(of_thread, fractions.shared.of_warps);
  if (threadIdx.x == 0) *loss = static_cast<T>(total);
}

// Of one block. loss: one number, or one for each group
template <class T, int kCapacity>
GEOLOSS_DEVICE void write_loss(const Ratio<kCapacity>& ratio, const T* sums, T* loss) {
  __shared__ RatioShared shared;
  const FractionsOf<T, kCapacity> fractions{ratio, sums, shared};
  fractions.pool();
  if (ratio.reduction == Reduction::kNone) {
    write_ratios(fractions, loss);
  } else {
    write_reduced_ratio(fractions, loss);
  }
}

// sums: [N, C, K]
template <class T, int kCapacity>
__global__ void __launch_bounds__(kRatioThreads)
    geo_ratio_kernel(const __grid_constant__ Ratio<kCapacity> ratio, const T* sums, T* loss) {
  write_loss(ratio, sums, loss);
}

// The second stage of geo_sums and geo_ratio in one, for sums of few tiles: a launch takes longer than they
// do.
template <class T, int kCapacity>
__global__ void __launch_bounds__(kRatioThreads)
    geo_loss_reduce_kernel(const __grid_constant__ PartialSums<T> partial,
                           const __grid_constant__ Ratio<kCapacity> ratio, T* sums, T* loss) {
  partial.write(threadIdx.x / kWarpSize, kRatioThreads / kWarpSize, sums);
  __syncthreads();
  write_loss(ratio, sums, loss);
}

// sums, grad_sums: [N, C, K]; grad_loss: of the loss's shape
template <class T, int kCapacity>
__global__ void __launch_bounds__(kRatioThreads)
    geo_ratio_backward_kernel(const __grid_constant__ Ratio<kCapacity> ratio, const T* grad_loss,
                              const T* sums, T* grad_sums) {
  __shared__ RatioShared shared;
  const FractionsOf<T, kCapacity> fractions{ratio, sums, shared};
  fractions.pool();
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kRatioThreads + threadIdx.x;
  if (element >= ratio.N * ratio.C * ratio.K) return;
  const int64_t k = element % ratio.K, c = element / ratio.K % ratio.C, n = element / ratio.K / ratio.C;
  double total = 0;
  for (int j = 0; j < ratio.count; ++j) {
    const Fraction f = ratio.fraction(j);
    if (c < f.skip) continue;
    const int64_t group = fractions.group_of_row(f, n, c);
    double weight = grad_loss[ratio.reduction == Reduction::kNone ? group : 0];
    if (ratio.reduction == Reduction::kMean) weight /= static_cast<double>(group_count(f, ratio.N, ratio.C));
    total += weight * fractions.slope(j, f, group, c, k);
  }
  grad_sums[element] = static_cast<T>(total);
}

// sums: [N, C, K]; loss: one number, or without a reduction one for each group
template <class T>
cudaError_t launch_ratio(const RatioArguments& arguments, const T* sums, int64_t N, int64_t C, int64_t K,
                         T* loss, cudaStream_t stream) {
  return with_ratio(arguments, N, C, K, [&]<int kCapacity>(const Ratio<kCapacity>& ratio) {
    GEOLOSS_LAUNCH((geo_ratio_kernel<T, kCapacity>), 1, kRatioThreads, 0, stream, ratio, sums, loss);
    return cudaGetLastError();
  });
}

// Of sums with elements.
template <class T>
cudaError_t launch_ratio_backward(const RatioArguments& arguments, const T* grad_loss, const T* sums,
                                  int64_t N, int64_t C, int64_t K, T* grad_sums, cudaStream_t stream) {
  return with_ratio(arguments, N, C, K, [&]<int kCapacity>(const Ratio<kCapacity>& ratio) {
    const auto blocks = static_cast<unsigned>((N * C * K + kRatioThreads - 1) / kRatioThreads);
    GEOLOSS_LAUNCH((geo_ratio_backward_kernel<T, kCapacity>), blocks, kRatioThreads, 0, stream, ratio,
                   grad_loss, sums, grad_sums);
    return cudaGetLastError();
  });
}

}  // namespace geoloss::cuda
