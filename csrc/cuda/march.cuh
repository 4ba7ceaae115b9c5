// geo_sums at the speed of memory: volumes of probabilities or under a sigmoid, without a mask, with rows
// that lie dense in memory; voxel-wise terms, and FOG with forward differences.
//
// A block takes a tile of rows and vectors and marches through a chunk of planes. A thread owns one vector of
// four voxels per plane: it holds its plane in registers, decodes the next one, whose load was issued a plane
// earlier, and gets what lies beside it, the rows and vectors of other threads, through shared memory:
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

// Target is the target's element where every vector is aligned, or AnyElement, known at run time, where it
// may not be. kTerms: exactly the voxel-wise terms that are wanted, or kAnyTerms to look them up at run time.
template <class Input_, class Target_, class Stencil_, uint32_t kTerms_>
struct MarchTraits {
  using Input = Input_;
  using Target = Target_;
  using Stencil = Stencil_;
  static constexpr uint32_t kTerms = kTerms_;
  static constexpr bool kLean = !std::is_same_v<Target, AnyElement>;
  static constexpr bool kHasStencil = !std::is_same_v<Stencil, NoStencil>;
  static constexpr int kThreads = march_threads(kHasStencil, kLean);
  static constexpr int kBlocksPerProcessor = kHasStencil || !kLean ? 2 : 3;
  // Rows, vectors and planes of the halo.
  static constexpr int kAfter = kHasStencil ? 1 : 0;
  static constexpr int before(bool backward) { return backward ? kAfter : 0; }

  // Of an exact set of terms nothing is left to ask at run time.
  GEOLOSS_DEVICE static bool wanted(const TermSelection& terms, int term) {
    return kTerms == kAnyTerms ? terms.wanted >> term & 1 : kTerms >> term & 1;
  }
};

// Four voxels.
struct Vector {
  float prediction[kVector], target[kVector], logit[kVector];

  GEOLOSS_DEVICE float error(int i) const { return prediction[i] - target[i]; }
  GEOLOSS_DEVICE Voxel<float> voxel(int i) const { return {prediction[i], target[i], 1.0f, logit[i], 0.0f}; }
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

// Two planes of a field in shared memory, a vector for each thread of the block; one is read while the next
// is written. `ends` has the vectors' elements that the threads beside ask for, so that they are read without
// bank conflicts.
struct Exchange {
  struct alignas(16) Quad {
    float lane[kVector];
  };
  Quad* vectors;
  float* ends;
  int threads;

  static constexpr size_t kBytesPerThread = 2 * (sizeof(Quad) + sizeof(float));

  GEOLOSS_DEVICE Exchange(unsigned char* shared, int threads)
      : vectors(reinterpret_cast<Quad*>(shared)),
        ends(reinterpret_cast<float*>(shared + 2 * sizeof(Quad) * threads)),
        threads(threads) {}

  GEOLOSS_DEVICE void put(int z, int place, const Quad& vector, float end) const {
    vectors[(z & 1) * threads + place] = vector;
    ends[(z & 1) * threads + place] = end;
  }
  GEOLOSS_DEVICE Quad vector(int z, int place) const { return vectors[(z & 1) * threads + place]; }
  GEOLOSS_DEVICE float end(int z, int place) const { return ends[(z & 1) * threads + place]; }
};

// Before the slots in shared memory.
template <class Traits>
GEOLOSS_INLINE size_t exchange_bytes(bool backward, int threads) {
  return Traits::kHasStencil ? (backward ? 2 : 1) * Exchange::kBytesPerThread * threads : 0;
}

// This thread's column of vectors.
template <class Traits, bool kBackward>
struct MarchColumn {
  static constexpr int kBefore = Traits::before(kBackward), kAfter = Traits::kAfter;

  const LaunchParams& params;
  const GeoSumsParams& p;
  const TileIndex tile;
  const int64_t n, c;
  const int y, x;
  const bool takes_part;  // within the tile and its halo
  const int first_plane, last_plane;
  int next_plane;  // to load
  VectorColumn input, target;

  GEOLOSS_DEVICE explicit MarchColumn(const LaunchParams& params)
      : params(params),
        p(params.tensors),
        tile(tile_of_block(params, blockIdx.x)),
        n(tile.volume / p.C),
        c(tile.volume % p.C),
        y(larger(0, tile.y_begin - kBefore) + threadIdx.x / params.tiling.block_columns),
        x(larger(0, tile.x_begin - kBefore * kVector) + column() * kVector),
        takes_part(y < smaller(p.H, tile.y_end + kAfter) && x < smaller(p.W, tile.x_end + kAfter * kVector)),
        first_plane(larger(0, tile.z_begin - kBefore)),
        last_plane(smaller(p.D, tile.z_end + kAfter) - 1),
        next_plane(first_plane),
        input(vectors(p.input, params.tiling.input_aligned, c)),
        target(vectors(p.target, params.tiling.target_aligned, p.label_map ? 0 : c)) {}

  // Of the block's threads.
  GEOLOSS_DEVICE int columns() const { return params.tiling.block_columns; }
  GEOLOSS_DEVICE int column() const { return threadIdx.x % columns(); }
  GEOLOSS_DEVICE int row() const { return threadIdx.x / columns(); }

  // A thread without vectors reads those of another.
  GEOLOSS_DEVICE VectorColumn vectors(const TensorView& view, bool aligned, int64_t channel) const {
    return vector_column(view, aligned, p.W, n, channel, first_plane, takes_part ? y : 0, takes_part ? x : 0);
  }

  GEOLOSS_DEVICE int place() const { return threadIdx.x; }

  GEOLOSS_DEVICE bool inside() const {
    return takes_part && y >= tile.y_begin && y < tile.y_end && x >= tile.x_begin && x < tile.x_end;
  }

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

  using Input = typename Traits::Input;
  using Target = typename Traits::Target;
  struct Loaded {
    WordsOf<Input> input;
    TargetWords<Target> target;
  };
  static constexpr int kTargetSize = sizeof(TargetWords<Target>) / kVector;

  // The next plane; the last one again where there is none.
  GEOLOSS_DEVICE Loaded load() {
    Loaded loaded;
    if constexpr (Traits::kLean) {
      loaded = {input.template load_aligned<Input>(), target.template load_aligned<Target>()};
    } else {
      loaded = {input.template load<Input>(), load_any(target)};
    }
    if (next_plane < last_plane) {
      ++next_plane;
      input.advance(sizeof(Input));
      target.advance(Traits::kLean ? kTargetSize : size_of(p.target.dtype));
    }
    return loaded;
  }

  GEOLOSS_DEVICE Vector decode(const Loaded& loaded) const {
    Vector v;
    if constexpr (Traits::kLean) {
      geoloss::cuda::decode<Target>(loaded.target, v.target);
    } else {
      decode_any(loaded.target, p.target.dtype, v.target);
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      v.prediction[i] = v.logit[i] = element_of<Input>(loaded.input, i);
    }
    if (p.activation == Activation::kSigmoid) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) v.prediction[i] = sigmoid(v.prediction[i]);
    }
    if (p.label_map) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) v.target[i] = v.target[i] == static_cast<float>(c) ? 1.0f : 0.0f;
    }
    return v;
  }
};

GEOLOSS_DEVICE Exchange::Quad errors(const Vector& v) {
  return {v.error(0), v.error(1), v.error(2), v.error(3)};
}

// φ of FOG at a thread's vector of plane z.
template <class Traits, bool kBackward>
struct MarchDifferences {
  using Operator = typename Traits::Stencil::Operator;
  using Norm = typename Traits::Stencil::Norm;

  const PerAxis<float> scale;
  Exchange::Quad here, above, below;  // the error at (z, y), (z + 1, y) and (z, y + 1)
  float right;                        // of the vector beside

  GEOLOSS_DEVICE MarchDifferences(const MarchColumn<Traits, kBackward>& column, const Exchange& exchange,
                                  int z, const Vector& of_z, const Vector& of_next)
      : scale(first_order_scale<float>(column.p)), here(errors(of_z)), above(errors(of_next)) {
    // At the volume's border a voxel is its own neighbour, and at the halo's rim nobody asks.
    const int place = column.place(), rows = column.params.tiling.block_rows;
    const bool has_below = column.y + 1 < column.p.H && column.row() + 1 < rows;
    const bool has_right = column.x + kVector < column.p.W && column.column() + 1 < column.columns();
    below = exchange.vector(z, has_below ? place + column.columns() : place);
    right = has_right ? exchange.end(z, place + 1) : here.lane[kVector - 1];
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

template <class Traits>
GEOLOSS_DEVICE void add_values(const MarchColumn<Traits, false>& column, const Vector& v,
                               float (&sums)[kTermCount]) {
  column.for_each_element([&](int i) GEOLOSS_LAMBDA_INLINE {
    const Voxel<float> voxel = v.voxel(i);
    for_each_voxel_term([&]<class Term>(Term, auto number) GEOLOSS_LAMBDA_INLINE {
      if (Traits::wanted(column.params.terms, number)) sums[number] += Term::value(voxel);
    });
  });
}

template <class Traits>
GEOLOSS_DEVICE void march_voxel_values(MarchColumn<Traits, false>& column, float (&sums)[kTermCount]) {
  auto loaded = column.load();
#pragma unroll 1
  for (int z = column.first_plane; z < column.tile.z_end; ++z) {
    const Vector here = column.decode(loaded);
    loaded = column.load();
    if (column.inside()) add_values(column, here, sums);
  }
}

template <class Traits>
GEOLOSS_DEVICE void march_all_values(MarchColumn<Traits, false>& column, const Exchange& error,
                                     float (&sums)[kTermCount]) {
  int z = column.first_plane;
  Vector here = column.decode(column.load());
  auto loaded = column.load();
  error.put(z, column.place(), errors(here), here.error(0));
  __syncthreads();
#pragma unroll 1
  for (; z < column.tile.z_end; ++z) {
    const Vector next = column.decode(loaded);
    loaded = column.load();
    const MarchDifferences<Traits, false> differences(column, error, z, here, next);
    if (column.inside()) {
      add_values(column, here, sums);
      column.for_each_element([&](int i) GEOLOSS_LAMBDA_INLINE {
        sums[number_of_stencil<typename Traits::Stencil>()] += differences.value(i);
      });
    }
    error.put(z + 1, column.place(), errors(next), next.error(0));
    __syncthreads();
    here = next;
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerProcessor)
    geo_sums_march_forward_kernel(const __grid_constant__ LaunchParams params) {
  GEOLOSS_DYNAMIC_SHARED(shared);
  MarchColumn<Traits, false> column(params);
  const Exchange exchange(shared, blockDim.x);
  float sums[kTermCount] = {};

  if constexpr (Traits::kHasStencil) {
    march_all_values(column, exchange, sums);
  } else {
    march_voxel_values(column, sums);
  }
  if (column.c < params.tensors.first_channel) return;
  float* const of_slots = reinterpret_cast<float*>(shared + exchange_bytes<Traits>(false, blockDim.x));
  write_partial_sums(params, column.tile, column.n, column.c, sums, of_slots);
}

// The gradient of a vector with respect to the input.
template <class Traits>
struct MarchGradient {
  const MarchColumn<Traits, true>& column;
  VectorColumn to;       // of the plane that is written next
  const float* weights;  // shared: ∂L/∂S of the wanted terms, [slots]

  GEOLOSS_DEVICE MarchGradient(const MarchColumn<Traits, true>& column, unsigned char* shared)
      : column(column),
        to(column.vectors(column.p.grad_input, column.params.tiling.gradient_aligned, column.c)),
        weights(reinterpret_cast<float*>(shared + exchange_bytes<Traits>(true, blockDim.x))) {
    read_slope_weights(column.params, column.n, column.c, const_cast<float*>(weights));
    __syncthreads();
  }

  GEOLOSS_DEVICE float weight(int term) const { return weights[slot_of(column.params.terms.wanted, term)]; }

  // Plane by plane, from the first one that was loaded. of_stencil: ∂Σ Ψ/∂prediction
  GEOLOSS_DEVICE void write(int z, const Vector& v, const float (&of_stencil)[kVector]) {
    if (z >= column.tile.z_begin && column.inside()) {
      float values[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        values[i] = column.c < column.p.first_channel ? 0.0f : at(v.voxel(i), of_stencil[i]);
      }
      if constexpr (Traits::kLean) {
        to.template store_aligned<typename Traits::Input>(values);
      } else {
        to.template store<typename Traits::Input>(values);
      }
    }
    to.advance(sizeof(typename Traits::Input));
  }

 private:
  GEOLOSS_DEVICE float at(const Voxel<float>& voxel, float of_stencil) const {
    float slope = 0, logit_slope = 0;
    if constexpr (Traits::kHasStencil)
      slope = weight(number_of_stencil<typename Traits::Stencil>()) * of_stencil;
    for_each_voxel_term([&]<class Term>(Term, auto number) GEOLOSS_LAMBDA_INLINE {
      if constexpr (Term::kDependsOnPrediction) {
        if (!Traits::wanted(column.params.terms, number)) return;
        (Term::kFromLogit ? logit_slope : slope) += weight(number) * Term::slope(voxel);
      }
    });
    if (column.p.activation == Activation::kSigmoid) slope *= voxel.prediction() * (1 - voxel.prediction());
    return slope + logit_slope;
  }
};

// The flux of plane z, and what of the gradient a thread has from its own: nothing comes from outside of the
// volume.
template <class Operator>
struct MarchFlux {
  float own[kVector];
  Exchange::Quad along_y, along_z{};  // along_z: of the plane before, until `take` replaces it
  float last_along_x;

  template <class Differences>
  GEOLOSS_DEVICE void take(const Differences& differences) {
    float before_along_x = 0;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const PerAxis<float> flux = differences.flux(i);
      own[i] = Operator::adjoint(before_along_x, flux.x, 0.0f) + Operator::adjoint(0.0f, flux.y, 0.0f) +
               Operator::adjoint(along_z.lane[i], flux.z, 0.0f);
      before_along_x = last_along_x = flux.x;
      along_y.lane[i] = flux.y;
      along_z.lane[i] = flux.z;
    }
  }

  GEOLOSS_DEVICE void add_from_beside(const Exchange::Quad& before_along_y, float before_along_x) {
    own[0] += Operator::adjoint(before_along_x, 0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < kVector; ++i) own[i] += Operator::adjoint(before_along_y.lane[i], 0.0f, 0.0f);
  }
};

template <class Traits>
GEOLOSS_DEVICE void march_voxel_gradients(MarchColumn<Traits, true>& column, unsigned char* shared) {
  MarchGradient<Traits> gradient(column, shared);
  const float no_stencil[kVector] = {};
  auto loaded = column.load();
#pragma unroll 1
  for (int z = column.first_plane; z < column.tile.z_end; ++z) {
    const Vector here = column.decode(loaded);
    loaded = column.load();
    gradient.write(z, here, no_stencil);
  }
}

template <class Traits>
GEOLOSS_DEVICE void march_stencil_gradients(MarchColumn<Traits, true>& column, unsigned char* shared) {
  using Operator = typename Traits::Stencil::Operator;
  const Exchange error(shared, blockDim.x);
  const Exchange beside(shared + Exchange::kBytesPerThread * blockDim.x, blockDim.x);
  MarchGradient<Traits> gradient(column, shared);
  MarchFlux<Operator> flux;
  int z = column.first_plane;
  Vector here = column.decode(column.load());
  auto loaded = column.load();
  error.put(z, column.place(), errors(here), here.error(0));
  __syncthreads();
#pragma unroll 1
  for (; z < column.tile.z_end; ++z) {
    const Vector next = column.decode(loaded);
    loaded = column.load();
    flux.take(MarchDifferences<Traits, true>(column, error, z, here, next));
    beside.put(z, column.place(), flux.along_y, flux.last_along_x);
    error.put(z + 1, column.place(), errors(next), next.error(0));
    __syncthreads();
    flux.add_from_beside(
        column.row() > 0 ? beside.vector(z, column.place() - column.columns()) : Exchange::Quad{},
        column.column() > 0 ? beside.end(z, column.place() - 1) : 0.0f);
    gradient.write(z, here, flux.own);
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
