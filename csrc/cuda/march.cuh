// geo_sums at the speed of memory: without a mask or a map, with rows that lie dense in memory;
// probabilities, a sigmoid, or a softmax over 2 to 4 channels of a label map; plain terms, but for log(1 - s)
// under a softmax, and one FOG with forward differences.
//
// A block takes a tile of rows and vectors and marches through a chunk of planes. A thread owns one vector of
// four voxels per plane, of one channel or of all that a softmax ties: it holds its plane in registers,
// decodes the next one, whose load was issued a plane earlier, and gets what lies beside it, the rows and
// vectors of other threads, through shared memory:
//
//   forward    load z + 2 │ error of z + 1 ──▶ shared │ Ψ of z, from registers (z, z + 1) and shared (z)
//   backward   load z + 2 │ error of z + 1, flux of z ──▶ shared │ gradient of z from the flux behind it
//
// with one barrier per plane: shared memory holds two planes of each field in turn. The difference looks
// ahead and its adjoint back, so that the flux of plane z - 1 stays in registers, and every element of the
// gradient is written once. Threads at a tile's rim own the halo: their voxels are in no sum and are not
// written.
//
// Every input is read once, but for the halo, which comes from the second-level cache: input + target
// forward, input + target + gradient backward.
#pragma once

#include "launch_params.h"
#include "march_plan.h"
#include "reduce.cuh"
#include "vectors.cuh"
#include "voxel.cuh"

namespace geoloss::cuda {

using stencil::PerAxis;

struct NoStencil {};
struct AnyElement {};

// Beside kPlainTerms plain terms, the stencil's.
constexpr int kStencilSum = kPlainTerms, kMarchSlots = kPlainTerms + 1;

// Target is the target's element where every vector is aligned, or AnyElement, known at run time, where it
// may not be. kTerms: exactly the plain terms that are wanted, or kAnyTerms to look them up at run time.
// kChannels: of a softmax, or 1.
template <class Input_, class Target_, class Stencil_, uint32_t kTerms_, int kChannels_ = 1>
struct MarchTraits {
  using Input = Input_;
  using Target = Target_;
  using Stencil = Stencil_;
  static constexpr uint32_t kTerms = kTerms_;
  static constexpr int kChannels = kChannels_;
  static constexpr bool kSoftmax = kChannels > 1;
  static constexpr bool kLean = !std::is_same_v<Target, AnyElement>;
  static constexpr bool kHasStencil = !std::is_same_v<Stencil, NoStencil>;
  static constexpr int kThreads = march_threads(kHasStencil, kLean, kChannels);
  static constexpr int kBlocksPerProcessor = kSoftmax ? 1 : kHasStencil || !kLean ? 2 : 3;
  // Rows, vectors and planes of the halo.
  static constexpr int kAfter = kHasStencil ? 1 : 0;
  static constexpr int before(bool backward) { return backward ? kAfter : 0; }

  // Of an exact set of terms nothing is left to ask at run time.
  GEOLOSS_DEVICE static uint32_t plain(const TermSelection& terms) {
    return kTerms == kAnyTerms ? terms.plain : kTerms;
  }
  GEOLOSS_DEVICE static bool wanted(const TermSelection& terms, int term) { return plain(terms) >> term & 1; }
  GEOLOSS_DEVICE static bool reads_logarithms(const TermSelection& terms) {
    return plain(terms) & kLogarithmTerms;
  }
  // The stencil comes last.
  GEOLOSS_DEVICE static int slot(const TermSelection& terms, int term) {
    return plain_slot(plain(terms), term);
  }
};

// Four numbers of a field.
struct alignas(16) Quad {
  float lane[kVector];
};

// Four voxels. Under a softmax, `target` holds their labels, and `logit` the logarithms of the predictions.
template <int kChannels>
struct Vector {
  float prediction[kChannels][kVector], target[kVector], logit[kChannels][kVector];

  GEOLOSS_DEVICE float target_of(int channel, int i) const {
    return kChannels == 1 ? target[i] : target[i] == static_cast<float>(channel) ? 1.0f : 0.0f;
  }
  GEOLOSS_DEVICE float error(int channel, int i) const {
    return prediction[channel][i] - target_of(channel, i);
  }
  GEOLOSS_DEVICE Quad errors(int channel) const {
    return {error(channel, 0), error(channel, 1), error(channel, 2), error(channel, 3)};
  }
  GEOLOSS_DEVICE Voxel<float> voxel(int channel, int i) const {
    return {prediction[channel][i], target_of(channel, i), 1.0f};
  }
};

template <class Target>
struct TargetWordsOf {
  using Type = WordsOf<Target>;
};
template <>
struct TargetWordsOf<AnyElement> {
  using Type = Words<4>;
};
template <class Target>
using TargetWords = typename TargetWordsOf<Target>::Type;

// Two planes of a field of each channel in shared memory, a vector for each thread of the block; one is read
// while the next is written. `ends` has the vectors' elements that the threads beside ask for, so that they
// are read without bank conflicts.
template <int kChannels>
struct Exchange {
  static constexpr size_t kBytesPerThread = 2 * kChannels * (sizeof(Quad) + sizeof(float));

  Quad* vectors;
  float* ends;
  int threads;

  GEOLOSS_DEVICE Exchange(unsigned char* shared, int threads)
      : vectors(reinterpret_cast<Quad*>(shared)),
        ends(reinterpret_cast<float*>(shared + 2 * kChannels * sizeof(Quad) * threads)),
        threads(threads) {}

  GEOLOSS_DEVICE void put(int z, int channel, int place, const Quad& vector, float end) const {
    vectors[index(z, channel, place)] = vector;
    ends[index(z, channel, place)] = end;
  }
  GEOLOSS_DEVICE Quad vector(int z, int channel, int place) const {
    return vectors[index(z, channel, place)];
  }
  GEOLOSS_DEVICE float end(int z, int channel, int place) const { return ends[index(z, channel, place)]; }

 private:
  GEOLOSS_DEVICE int index(int z, int channel, int place) const {
    return ((z & 1) * kChannels + channel) * threads + place;
  }
};

// Before the slots in shared memory.
template <class Traits>
GEOLOSS_INLINE size_t exchange_bytes(bool backward, int threads) {
  const int fields = Traits::kHasStencil ? (backward ? 2 : 1) : 0;
  return fields * Exchange<Traits::kChannels>::kBytesPerThread * threads;
}

// This thread's column of vectors.
template <class Traits, bool kBackward>
struct MarchColumn {
  static constexpr int kBefore = Traits::before(kBackward), kAfter = Traits::kAfter;
  static constexpr int kChannels = Traits::kChannels;
  using Input = typename Traits::Input;
  using Target = typename Traits::Target;
  using Voxels = Vector<kChannels>;

  const LaunchParams& params;
  const GeoSumsParams& p;
  const TileIndex tile;
  const int64_t n, c;     // c: the first of the thread's channels
  const int row, column;  // of the block's threads
  const int y, x;
  const bool takes_part;  // within the tile and its halo
  const bool inside;      // within the tile
  const int first_plane, last_plane;
  int next_plane;  // to load
  VectorColumn input, target;

  GEOLOSS_DEVICE explicit MarchColumn(const LaunchParams& params)
      : params(params),
        p(params.tensors),
        tile(tile_of_block(params, blockIdx.x)),
        n(tile.volume * kChannels / p.C),
        c(tile.volume * kChannels % p.C),
        row(threadIdx.x / params.tiling.block_columns),
        column(threadIdx.x % params.tiling.block_columns),
        y(larger(0, tile.y_begin - kBefore) + row),
        x(larger(0, tile.x_begin - kBefore * kVector) + column * kVector),
        takes_part(y < smaller(p.H, tile.y_end + kAfter) && x < smaller(p.W, tile.x_end + kAfter * kVector)),
        inside(takes_part && y >= tile.y_begin && y < tile.y_end && x >= tile.x_begin && x < tile.x_end),
        first_plane(larger(0, tile.z_begin - kBefore)),
        last_plane(smaller(p.D, tile.z_end + kAfter) - 1),
        next_plane(first_plane),
        input(vectors(p.input, params.tiling.input_aligned, c)),
        target(vectors(p.target, params.tiling.target_aligned, p.label_map ? 0 : c)) {}

  GEOLOSS_DEVICE int place() const { return threadIdx.x; }

  // The places of the threads beside. At the volume's border a voxel is its own neighbour, and at the halo's
  // rim nobody asks.
  GEOLOSS_DEVICE bool has_below() const { return y + 1 < p.H && row + 1 < params.tiling.block_rows; }
  GEOLOSS_DEVICE bool has_right() const {
    return takes_part && x + kVector < p.W && column + 1 < params.tiling.block_columns;
  }
  GEOLOSS_DEVICE int below() const { return place() + (has_below() ? params.tiling.block_columns : 0); }
  GEOLOSS_DEVICE int above() const { return place() - params.tiling.block_columns; }

  // A thread without vectors reads those of another.
  GEOLOSS_DEVICE VectorColumn vectors(const TensorView& view, bool aligned, int64_t channel) const {
    return vector_column(view, aligned, p.W, n, channel, first_plane, takes_part ? y : 0, takes_part ? x : 0);
  }

  GEOLOSS_DEVICE bool summed(int channel) const { return c + channel >= p.first_channel; }

  // Calls function(i) for the vector's elements that lie in the volume.
  template <class Function>
  GEOLOSS_DEVICE void for_each_element(Function function) const {
    if (Traits::kLean || input.count == kVector) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) function(i);
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        if (i < input.count) function(i);
      }
    }
  }

  struct Loaded {
    WordsOf<Input> input[kChannels];
    TargetWords<Target> target;
  };

  // The next plane; the last one again where there is none.
  GEOLOSS_DEVICE Loaded load() {
    Loaded loaded;
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      const int64_t offset = channel * p.input.stride_c;
      loaded.input[channel] =
          Traits::kLean ? input.template load_aligned<Input>(offset) : input.template load<Input>(offset);
    }
    if constexpr (Traits::kLean) {
      loaded.target = target.template load_aligned<Target>(0);
    } else {
      loaded.target = load_any(target);
    }
    if (next_plane < last_plane) {
      ++next_plane;
      input.advance(sizeof(Input));
      target.advance(Traits::kLean ? kTargetSize : size_of(p.target.dtype));
    }
    return loaded;
  }

  GEOLOSS_DEVICE Voxels decode(const Loaded& loaded) const {
    Voxels v;
    if constexpr (Traits::kLean) {
      geoloss::cuda::decode<Target>(loaded.target, v.target);
    } else {
      decode_any(loaded.target, p.target.dtype, v.target);
    }
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      geoloss::cuda::decode<Input>(loaded.input[channel], v.prediction[channel]);
    }
    activate(v);
    return v;
  }

 private:
  static constexpr int kTargetSize = sizeof(TargetWords<Target>) / kVector;

  GEOLOSS_DEVICE void activate(Voxels& v) const {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      if constexpr (Traits::kSoftmax) {
        softmax(v, i);
      } else {
        v.logit[0][i] = v.prediction[0][i];
        if (p.activation == Activation::kSigmoid) v.prediction[0][i] = sigmoid(v.prediction[0][i]);
        if (p.label_map) v.target[i] = v.target[i] == static_cast<float>(c) ? 1.0f : 0.0f;
      }
    }
  }

  GEOLOSS_DEVICE void softmax(Voxels& v, int i) const {
    float largest = v.prediction[0][i], total = 0;
#pragma unroll
    for (int channel = 1; channel < kChannels; ++channel)
      largest = maximum(largest, v.prediction[channel][i]);
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      v.logit[channel][i] = v.prediction[channel][i] - largest;
      v.prediction[channel][i] = exponential(v.logit[channel][i]);
      total += v.prediction[channel][i];
    }
    const float inverse = reciprocal(total);
    const float of_total = Traits::reads_logarithms(params.terms) ? logarithm(total) : 0.0f;
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      v.prediction[channel][i] *= inverse;
      v.logit[channel][i] -= of_total;
    }
  }
};

// φ of FOG at a thread's vector of plane z.
template <class Traits, bool kBackward>
struct MarchDifferences {
  using Operator = typename Traits::Stencil::Operator;
  using Norm = typename Traits::Stencil::Norm;

  const PerAxis<float> scale;
  Quad here, above, below;  // the error at (z, y), (z + 1, y) and (z, y + 1)
  float right;              // of the vector beside

  GEOLOSS_DEVICE MarchDifferences(const MarchColumn<Traits, kBackward>& column,
                                  const Exchange<Traits::kChannels>& exchange, int z, int channel,
                                  const Vector<Traits::kChannels>& of_z,
                                  const Vector<Traits::kChannels>& of_next)
      : scale(column.params.terms.request[0].scale32),
        here(of_z.errors(channel)),
        above(of_next.errors(channel)) {
    below = exchange.vector(z, channel, column.below());
    right = column.has_right() ? exchange.end(z, channel, column.place() + 1) : here.lane[kVector - 1];
  }

  GEOLOSS_DEVICE PerAxis<float> at(int i) const {
    stencil::Neighbourhood<float> u{};
    u.centre = here.lane[i];
    u.x_next = i + 1 < kVector ? here.lane[i + 1 < kVector ? i + 1 : i] : right;
    u.y_next = below.lane[i];
    u.z_next = above.lane[i];
    return multiply(scale, Operator::apply(u));
  }

  GEOLOSS_DEVICE float value(int i) const { return Norm::value(at(i)); }
  GEOLOSS_DEVICE PerAxis<float> flux(int i) const { return multiply(scale, Norm::slope(at(i))); }
};

// Leaves the error of a plane in shared memory for the threads beside.
template <class Column, int kChannels>
GEOLOSS_DEVICE void put_errors(const Column& column, const Exchange<kChannels>& exchange, int z,
                               const Vector<kChannels>& v) {
#pragma unroll
  for (int channel = 0; channel < kChannels; ++channel) {
    exchange.put(z, channel, column.place(), v.errors(channel), v.error(channel, 0));
  }
}

template <class Traits>
using MarchSums = float[Traits::kChannels][kMarchSlots];

// With the logarithms, where a term starts from one.
template <class Traits>
GEOLOSS_DEVICE Voxel<float> voxel_of(const MarchColumn<Traits, false>& column,
                                     const Vector<Traits::kChannels>& v, int channel, int i) {
  Voxel<float> voxel = v.voxel(channel, i);
  if (!Traits::reads_logarithms(column.params.terms)) return voxel;
  if constexpr (Traits::kSoftmax) {
    voxel.log_prediction_ = v.logit[channel][i];
  } else {
    voxel.set_logarithms(column.p.activation, v.logit[0][i]);
  }
  return voxel;
}

template <class Traits>
GEOLOSS_DEVICE void add_values(const MarchColumn<Traits, false>& column, const Vector<Traits::kChannels>& v,
                               MarchSums<Traits>& sums) {
  column.for_each_element([&](int i) GEOLOSS_LAMBDA_INLINE {
#pragma unroll
    for (int channel = 0; channel < Traits::kChannels; ++channel) {
      const Voxel<float> voxel = voxel_of(column, v, channel, i);
      for_each_plain_term([&]<class Term>(Term, auto number) GEOLOSS_LAMBDA_INLINE {
        if (Traits::wanted(column.params.terms, number)) sums[channel][number] += Term::value(voxel);
      });
    }
  });
}

template <class Traits>
GEOLOSS_DEVICE void march_voxel_values(MarchColumn<Traits, false>& column, MarchSums<Traits>& sums) {
  auto loaded = column.load();
#pragma unroll 1
  for (int z = column.first_plane; z < column.tile.z_end; ++z) {
    const auto here = column.decode(loaded);
    loaded = column.load();
    if (column.inside) add_values(column, here, sums);
  }
}

template <class Traits>
GEOLOSS_DEVICE void march_all_values(MarchColumn<Traits, false>& column, unsigned char* shared,
                                     MarchSums<Traits>& sums) {
  const Exchange<Traits::kChannels> error(shared, blockDim.x);
  int z = column.first_plane;
  auto here = column.decode(column.load());
  auto loaded = column.load();
  put_errors(column, error, z, here);
  __syncthreads();
#pragma unroll 2
  for (; z < column.tile.z_end; ++z) {
    const auto next = column.decode(loaded);
    loaded = column.load();
    if (column.inside) add_values(column, here, sums);
#pragma unroll
    for (int channel = 0; channel < Traits::kChannels; ++channel) {
      const MarchDifferences<Traits, false> differences(column, error, z, channel, here, next);
      if (!column.inside) continue;
      column.for_each_element(
          [&](int i) GEOLOSS_LAMBDA_INLINE { sums[channel][kStencilSum] += differences.value(i); });
    }
    put_errors(column, error, z + 1, next);
    __syncthreads();
    here = next;
  }
}

template <class Traits>
GEOLOSS_DEVICE void put_sums(const TermSelection& terms, const float (&sums)[kMarchSlots], float* of_slots) {
  for_each_plain_term([&](auto, auto number) GEOLOSS_LAMBDA_INLINE {
    if (Traits::wanted(terms, number)) put_warp_sums(Traits::slot(terms, number), sums[number], of_slots);
  });
  if constexpr (Traits::kHasStencil) {
    put_warp_sums(Traits::slot(terms, kStencilSum), sums[kStencilSum], of_slots);
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerProcessor)
    geo_sums_march_forward_kernel(const __grid_constant__ LaunchParams params) {
  GEOLOSS_DYNAMIC_SHARED(shared);
  MarchColumn<Traits, false> column(params);
  MarchSums<Traits> sums = {};
  if constexpr (Traits::kHasStencil) {
    march_all_values(column, shared, sums);
  } else {
    march_voxel_values(column, sums);
  }
  float* const of_slots = reinterpret_cast<float*>(shared + exchange_bytes<Traits>(false, blockDim.x));
#pragma unroll
  for (int channel = 0; channel < Traits::kChannels; ++channel) {
    if (!column.summed(channel)) continue;
    put_sums<Traits>(params.terms, sums[channel], of_slots);
    write_partial_sums(params, column.tile, column.n, column.c + channel, of_slots);
  }
}

// The gradient of a vector with respect to the input.
template <class Traits>
struct MarchGradient {
  static constexpr int kChannels = Traits::kChannels;
  using Input = typename Traits::Input;

  const MarchColumn<Traits, true>& column;
  VectorColumn to;       // of the plane that is written next
  const float* weights;  // shared: ∂L/∂S of each channel, [channels, kMarchSlots]

  GEOLOSS_DEVICE MarchGradient(const MarchColumn<Traits, true>& column, unsigned char* shared)
      : column(column),
        to(column.vectors(column.p.grad_input, column.params.tiling.gradient_aligned, column.c)),
        weights(reinterpret_cast<float*>(shared + exchange_bytes<Traits>(true, blockDim.x))) {
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      read_slope_weights(column.params, column.n, column.c + channel,
                         const_cast<float*>(weights) + channel * kMarchSlots);
    }
    __syncthreads();
  }

  // Plane by plane, from the first one that was loaded. of_stencil: ∂Σ Ψ/∂prediction
  GEOLOSS_DEVICE void write(int z, const Vector<kChannels>& v, const Quad (&of_stencil)[kChannels]) {
    if (z >= column.tile.z_begin && column.inside) {
      float gradient[kChannels][kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) gradient_at(v, i, of_stencil, gradient);
#pragma unroll
      for (int channel = 0; channel < kChannels; ++channel) {
        const int64_t offset = channel * column.p.grad_input.stride_c;
        if constexpr (Traits::kLean) {
          to.template store_aligned<Input>(offset, gradient[channel]);
        } else {
          to.template store<Input>(offset, gradient[channel]);
        }
      }
    }
    to.advance(sizeof(Input));
  }

 private:
  GEOLOSS_DEVICE float weight(int channel, int term) const {
    return weights[channel * kMarchSlots + Traits::slot(column.params.terms, term)];
  }

  GEOLOSS_DEVICE Slopes<float> slopes(int channel, const Voxel<float>& voxel, float of_stencil) const {
    Slopes<float> slopes;
    if (!column.summed(channel)) return slopes;
    if constexpr (Traits::kHasStencil) slopes.prediction = weight(channel, kStencilSum) * of_stencil;
    for_each_plain_term([&]<class Term>(Term, auto number) GEOLOSS_LAMBDA_INLINE {
      if (!Traits::wanted(column.params.terms, number)) return;
      slopes.template add<Term>(weight(channel, number), voxel);
    });
    return slopes;
  }

  GEOLOSS_DEVICE void gradient_at(const Vector<kChannels>& v, int i, const Quad (&of_stencil)[kChannels],
                                  float (&gradient)[kChannels][kVector]) const {
    const bool logarithms = Traits::reads_logarithms(column.params.terms);
    float total = 0;
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      const float s = v.prediction[channel][i];
      const Slopes<float> slope = slopes(channel, v.voxel(channel, i), of_stencil[channel].lane[i]);
      if constexpr (Traits::kSoftmax) {
        const float of_prediction = s * slope.prediction;
        gradient[channel][i] = logarithms ? of_prediction + slope.log_prediction : of_prediction;
        total += gradient[channel][i];
      } else {
        gradient[channel][i] = slope.of_input(column.p.activation, s, logarithms);
      }
    }
    if constexpr (Traits::kSoftmax) {
#pragma unroll
      for (int channel = 0; channel < kChannels; ++channel) {
        gradient[channel][i] -= v.prediction[channel][i] * total;
      }
    }
  }
};

// The flux of plane z, and what of the gradient a thread has from its own: nothing comes from outside of the
// volume.
template <class Operator>
struct MarchFlux {
  Quad along_y, along_z{};  // along_z: of the plane before, until `take` replaces it
  float last_along_x;

  // own: what the thread's own flux adds to the gradient.
  template <class Differences>
  GEOLOSS_DEVICE void take(const Differences& differences, Quad& own) {
    float before_along_x = 0;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const PerAxis<float> flux = differences.flux(i);
      own.lane[i] = Operator::adjoint(before_along_x, flux.x, 0.0f) + Operator::adjoint(0.0f, flux.y, 0.0f) +
                    Operator::adjoint(along_z.lane[i], flux.z, 0.0f);
      before_along_x = last_along_x = flux.x;
      along_y.lane[i] = flux.y;
      along_z.lane[i] = flux.z;
    }
  }

  GEOLOSS_DEVICE static void add_from_beside(const Quad& before_along_y, float before_along_x, Quad& own) {
    own.lane[0] += Operator::adjoint(before_along_x, 0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < kVector; ++i) own.lane[i] += Operator::adjoint(before_along_y.lane[i], 0.0f, 0.0f);
  }
};

template <class Traits>
GEOLOSS_DEVICE void march_voxel_gradients(MarchColumn<Traits, true>& column, unsigned char* shared) {
  MarchGradient<Traits> gradient(column, shared);
  const Quad no_stencil[Traits::kChannels] = {};
  auto loaded = column.load();
#pragma unroll 1
  for (int z = column.first_plane; z < column.tile.z_end; ++z) {
    const auto here = column.decode(loaded);
    loaded = column.load();
    gradient.write(z, here, no_stencil);
  }
}

template <class Traits>
GEOLOSS_DEVICE void march_stencil_gradients(MarchColumn<Traits, true>& column, unsigned char* shared) {
  using Operator = typename Traits::Stencil::Operator;
  constexpr int kChannels = Traits::kChannels;
  const Exchange<kChannels> error(shared, blockDim.x);
  const Exchange<kChannels> beside(shared + exchange_bytes<Traits>(false, blockDim.x), blockDim.x);
  MarchGradient<Traits> gradient(column, shared);
  MarchFlux<Operator> flux[kChannels];
  int z = column.first_plane;
  auto here = column.decode(column.load());
  auto loaded = column.load();
  put_errors(column, error, z, here);
  __syncthreads();
#pragma unroll 1
  for (; z < column.tile.z_end; ++z) {
    const auto next = column.decode(loaded);
    loaded = column.load();
    Quad of_stencil[kChannels];
    const int place = column.place();
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      const MarchDifferences<Traits, true> differences(column, error, z, channel, here, next);
      flux[channel].take(differences, of_stencil[channel]);
      beside.put(z, channel, place, flux[channel].along_y, flux[channel].last_along_x);
    }
    put_errors(column, error, z + 1, next);
    __syncthreads();
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      const Quad before_along_y = column.row > 0 ? beside.vector(z, channel, column.above()) : Quad{};
      const float before_along_x = column.column > 0 ? beside.end(z, channel, place - 1) : 0.0f;
      MarchFlux<Operator>::add_from_beside(before_along_y, before_along_x, of_stencil[channel]);
    }
    gradient.write(z, here, of_stencil);
    here = next;
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerProcessor)
    geo_sums_march_backward_kernel(const __grid_constant__ LaunchParams params) {
  GEOLOSS_DYNAMIC_SHARED(shared);
  MarchColumn<Traits, true> column(params);
  if constexpr (Traits::kHasStencil) {
    march_stencil_gradients(column, shared);
  } else {
    march_voxel_gradients(column, shared);
  }
}

}  // namespace geoloss::cuda
