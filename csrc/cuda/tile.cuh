// geo_sums for every option: masks, softmax over any number of channels, label maps, any dtype and layout,
// any set of terms.
//
// A block takes a tile of one volume. It puts prediction and target of the tile and of a halo as deep as the
// stencils reach into shared memory, once per voxel, activated and masked; then each thread evaluates the
// terms at its column of voxels from there. The gradient gathers: the flux Ψ'(φ) is computed anew at each
// voxel whose flux reaches this one, and every element is written once. Under softmax a block goes through
// all channels of its tile, one after the other, after it has noted the largest logit and the sum of
// exponentials of each voxel; the gradient goes twice, for the mean Σ s_c G_c and then for s_c (G_c - mean).
//
// Moves input + target forward, input + target + gradient backward; the halo comes from the second-level
// cache, where the tile beside has just brought it.
#pragma once

#include "elements.cuh"
#include "launch_params.h"
#include "reduce.cuh"
#include "voxel.cuh"

namespace geoloss::cuda {

using stencil::Neighbourhood;
using stencil::PerAxis;

// Smaller for fp64, so that everything fits into the 64 KB that every GPU has.
template <class T>
struct TileShape {
  static constexpr int kWidth = 32, kHeight = sizeof(T) == 8 ? 4 : 8, kPlanes = sizeof(T) == 8 ? 2 : 4;
  static constexpr int kThreads = kWidth * kHeight;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kVoxels = kThreads * kPlanes;
};

// What softmax over the channels needs to know of a voxel. The inverse is 0 where no channel is valid.
template <class T>
struct Normaliser {
  T largest, inverse_total;
};

// A tile and its halo in shared memory. The places outside of the volume are neither filled nor read.
template <class T>
struct Box {
  int z_first, y_first, x_first, planes, height, width;
  T* prediction;  // 0 at invalid voxels, as the target
  T* target;
  Normaliser<T>* softmax;  // null under another activation
  T* mean;                 // of the tile's voxels; with `softmax`
  T* of_slots;             // [slots, warps]: sums, or weights
  uint8_t* valid;          // null where every voxel is valid

  GEOLOSS_INLINE static int volume(int reach) {
    using Shape = TileShape<T>;
    return (Shape::kPlanes + 2 * reach) * (Shape::kHeight + 2 * reach) * (Shape::kWidth + 2 * reach);
  }

  GEOLOSS_INLINE static size_t bytes(const LaunchParams& params, int reach) {
    const bool tied = params.tensors.activation == Activation::kSoftmax;
    const size_t per_voxel = 2 * sizeof(T) + (tied ? sizeof(Normaliser<T>) : 0) + 1;
    return volume(reach) * per_voxel + TileShape<T>::kVoxels * sizeof(T) +
           kTermCount * TileShape<T>::kWarps * sizeof(T);
  }

  GEOLOSS_DEVICE Box(const LaunchParams& params, const TileIndex& tile, int reach, unsigned char* shared) {
    using Shape = TileShape<T>;
    const bool tied = params.tensors.activation == Activation::kSoftmax;
    z_first = tile.z_begin - reach, planes = Shape::kPlanes + 2 * reach;
    y_first = tile.y_begin - reach, height = Shape::kHeight + 2 * reach;
    x_first = tile.x_begin - reach, width = Shape::kWidth + 2 * reach;
    T* next = reinterpret_cast<T*>(shared);
    const auto take = [&](int count) GEOLOSS_LAMBDA_INLINE { return (next += count) - count; };
    softmax = tied ? reinterpret_cast<Normaliser<T>*>(take(2 * volume(reach))) : nullptr;
    prediction = take(volume(reach));
    target = take(volume(reach));
    mean = take(Shape::kVoxels);
    of_slots = take(kTermCount * Shape::kWarps);
    valid = is_masked(params.tensors) ? reinterpret_cast<uint8_t*>(next) : nullptr;
  }

  GEOLOSS_DEVICE int index(int z, int y, int x) const {
    return ((z - z_first) * height + (y - y_first)) * width + (x - x_first);
  }
};

// Batch element n as the tensors hold it.
template <class T>
struct Source {
  const GeoSumsParams& p;
  int64_t n;

  GEOLOSS_DEVICE T input(int64_t c, int z, int y, int x) const {
    return load_element<T>(p.input, offset_of(p.input, n, c, z, y, x));
  }

  GEOLOSS_DEVICE T label(int64_t c, int z, int y, int x) const {
    return load_element<T>(p.target, offset_of(p.target, n, p.label_map ? 0 : c, z, y, x));
  }

  GEOLOSS_DEVICE T target(int64_t c, T label) const {
    return p.label_map ? T(label == static_cast<T>(c)) : label;
  }

  GEOLOSS_DEVICE bool valid(int64_t c, int z, int y, int x, T label) const {
    if (p.has_ignore_index && label == static_cast<T>(p.ignore_index)) return false;
    return !p.mask.data || load_element<T>(p.mask, offset_of(p.mask, n, c, z, y, x)) != T(0);
  }

  GEOLOSS_DEVICE T map(int64_t c, int z, int y, int x) const {
    return load_element<T>(p.map, offset_of(p.map, n, c, z, y, x));
  }
};

// A block's share of the work.
template <class T>
struct Tile {
  using Shape = TileShape<T>;

  const LaunchParams& params;
  const GeoSumsParams& p;
  const TileIndex tile;
  const Source<T> source;
  const int64_t first_channel;  // of the volume: first_channel + 0, 1, ...
  const Box<T> box;
  const int y, x;  // of this thread's column

  GEOLOSS_DEVICE Tile(const LaunchParams& params, int reach, unsigned char* shared)
      : params(params),
        p(params.tensors),
        tile(tile_of_block(params, blockIdx.x)),
        source{p, tile.volume * params.tiling.channels / p.C},
        first_channel(tile.volume * params.tiling.channels % p.C),
        box(params, tile, reach, shared),
        y(tile.y_begin + threadIdx.x / Shape::kWidth),
        x(tile.x_begin + threadIdx.x % Shape::kWidth) {}

  // Calls function(z) for each voxel of this thread's column.
  template <class Function>
  GEOLOSS_DEVICE void for_each_voxel(Function function) const {
    if (y >= tile.y_end || x >= tile.x_end) return;
#pragma unroll 1
    for (int z = tile.z_begin; z < tile.z_end; ++z) function(z);
  }

  GEOLOSS_DEVICE void fill_softmax() const {
    for_each_place([&](int place, int z, int row, int column)
                       GEOLOSS_LAMBDA_INLINE { box.softmax[place] = normaliser(z, row, column); });
    __syncthreads();
  }

  GEOLOSS_DEVICE void fill(int64_t c) const {
    for_each_place([&](int place, int z, int row, int column) GEOLOSS_LAMBDA_INLINE {
      const T label = source.label(c, z, row, column);
      const bool valid = source.valid(c, z, row, column, label);
      if (box.valid) box.valid[place] = valid;
      box.target[place] = valid ? source.target(c, label) : T(0);
      box.prediction[place] = valid ? activated(c, z, row, column) : T(0);
    });
    __syncthreads();
  }

  // At one of the tile's voxels, under softmax: the probability of channel c, masked or not.
  GEOLOSS_DEVICE T softmax_prediction(int64_t c, int z, int row, int column) const {
    const Normaliser<T> of_voxel = box.softmax[box.index(z, row, column)];
    if (of_voxel.inverse_total == T(0)) return T(0);
    return exponential(source.input(c, z, row, column) - of_voxel.largest) * of_voxel.inverse_total;
  }

  GEOLOSS_DEVICE T& mean(int z) const { return box.mean[(z - tile.z_begin) * Shape::kThreads + threadIdx.x]; }

 private:
  // Calls function(place, z, y, x) for the box's places within the volume, shared out among the threads.
  template <class Function>
  GEOLOSS_DEVICE void for_each_place(Function function) const {
    const int places = box.planes * box.height * box.width;
#pragma unroll 1
    for (int place = threadIdx.x; place < places; place += Shape::kThreads) {
      const int z = box.z_first + place / box.width / box.height;
      const int row = box.y_first + place / box.width % box.height;
      const int column = box.x_first + place % box.width;
      const bool in_volume = z >= 0 && z < p.D && row >= 0 && row < p.H && column >= 0 && column < p.W;
      if (in_volume) function(place, z, row, column);
    }
  }

  GEOLOSS_DEVICE T activated(int64_t c, int z, int row, int column) const {
    if (p.activation == Activation::kSoftmax) return softmax_prediction(c, z, row, column);
    const T value = source.input(c, z, row, column);
    return p.activation == Activation::kSigmoid ? sigmoid(value) : value;
  }

  // Read where the voxel is valid in any channel.
  GEOLOSS_DEVICE Normaliser<T> normaliser(int z, int row, int column) const {
    bool readable = !box.valid;
#pragma unroll 1
    for (int64_t c = 0; c < p.C && !readable; ++c) {
      readable = source.valid(c, z, row, column, source.label(c, z, row, column));
    }
    if (!readable) return {T(0), T(0)};
    T largest = source.input(0, z, row, column), total = 0;
#pragma unroll 1
    for (int64_t c = 1; c < p.C; ++c) largest = maximum(largest, source.input(c, z, row, column));
#pragma unroll 1
    for (int64_t c = 0; c < p.C; ++c) total += exponential(source.input(c, z, row, column) - largest);
    return {largest, 1 / total};
  }
};

// A voxel of the box and what lies around it, indices clamped to the volume.
template <class T>
struct Place {
  const GeoSumsParams& p;
  const Box<T>& box;
  int z, y, x;

  GEOLOSS_DEVICE Voxel<T> voxel() const {
    const int i = box.index(z, y, x);
    return {box.prediction[i], box.target[i], !box.valid || box.valid[i] ? T(1) : T(0), T(0), T(0)};
  }

  template <int kReachBack = 1>
  GEOLOSS_DEVICE Neighbourhood<Voxel<T>> voxels() const {
    return around<kReachBack>([](const Place& place) GEOLOSS_LAMBDA_INLINE { return place.voxel(); });
  }

  GEOLOSS_DEVICE Place moved(int dz, int dy, int dx) const {
    return {p, box, clamped(z + dz, p.D), clamped(y + dy, p.H), clamped(x + dx, p.W)};
  }

  // With kReachBack = 0, the place itself for the previous ones, which may lie outside of the box.
  template <int kReachBack = 1, class Function>
  GEOLOSS_DEVICE auto around(Function function) const -> Neighbourhood<decltype(function(*this))> {
    return {function(*this),          function(moved(0, 0, -kReachBack)),
            function(moved(0, 0, 1)), function(moved(0, -kReachBack, 0)),
            function(moved(0, 1, 0)), function(moved(-kReachBack, 0, 0)),
            function(moved(1, 0, 0))};
  }

 private:
  GEOLOSS_DEVICE static int clamped(int index, int64_t size) { return larger(0, smaller(index, size - 1)); }
};

template <class Value, class Function>
GEOLOSS_DEVICE auto each(const Neighbourhood<Value>& n, Function function)
    -> Neighbourhood<decltype(function(n.centre))> {
  return {function(n.centre), function(n.x_previous), function(n.x_next), function(n.y_previous),
          function(n.y_next), function(n.z_previous), function(n.z_next)};
}

template <class T>
GEOLOSS_DEVICE Neighbourhood<T> errors(const Neighbourhood<Voxel<T>>& n) {
  return each(n, [](const Voxel<T>& v) GEOLOSS_LAMBDA_INLINE { return v.error(); });
}
template <class T>
GEOLOSS_DEVICE Neighbourhood<T> predictions(const Neighbourhood<Voxel<T>>& n) {
  return each(n, [](const Voxel<T>& v) GEOLOSS_LAMBDA_INLINE { return v.prediction(); });
}
template <class T>
GEOLOSS_DEVICE Neighbourhood<T> targets(const Neighbourhood<Voxel<T>>& n) {
  return each(n, [](const Voxel<T>& v) GEOLOSS_LAMBDA_INLINE { return v.target(); });
}
template <class T>
GEOLOSS_DEVICE Neighbourhood<T> validity(const Neighbourhood<Voxel<T>>& n) {
  return each(n, [](const Voxel<T>& v) GEOLOSS_LAMBDA_INLINE { return v.valid(); });
}

// A stencil term at a voxel: what it adds to the sum, and its gradient with respect to the prediction there.
template <class T, class Operator, class Norm>
struct FirstOrderAt {
  GEOLOSS_DEVICE static T value(const Place<T>& at) {
    const auto voxels = at.template voxels<Operator::kReachBack>();
    return Norm::value(multiply(weights(at, voxels), Operator::apply(errors(voxels))));
  }

  GEOLOSS_DEVICE static T gradient(const Place<T>& at) {
    constexpr T border = Operator::kBorder;
    const PerAxis<T> centre = flux(at);
    PerAxis<T> previous = multiply({border, border, border}, centre);
    PerAxis<T> next = previous;
    if (at.x > 0) previous.x = flux(at.moved(0, 0, -1)).x;
    if (at.y > 0) previous.y = flux(at.moved(0, -1, 0)).y;
    if (at.z > 0) previous.z = flux(at.moved(-1, 0, 0)).z;
    if constexpr (Operator::kReachBack > 0) {
      if (at.x + 1 < at.p.W) next.x = flux(at.moved(0, 0, 1)).x;
      if (at.y + 1 < at.p.H) next.y = flux(at.moved(0, 1, 0)).y;
      if (at.z + 1 < at.p.D) next.z = flux(at.moved(1, 0, 0)).z;
    }
    return Operator::adjoint(previous.x, centre.x, next.x) + Operator::adjoint(previous.y, centre.y, next.y) +
           Operator::adjoint(previous.z, centre.z, next.z);
  }

 private:
  GEOLOSS_DEVICE static PerAxis<T> flux(const Place<T>& at) {
    const auto voxels = at.template voxels<Operator::kReachBack>();
    const auto weight = weights(at, voxels);
    return multiply(weight, Norm::slope(multiply(weight, Operator::apply(errors(voxels)))));
  }

  GEOLOSS_DEVICE static PerAxis<T> weights(const Place<T>& at, const Neighbourhood<Voxel<T>>& voxels) {
    const PerAxis<T> scale = first_order_scale<T>(at.p);
    return at.box.valid ? multiply(scale, Operator::counts(validity(voxels))) : scale;
  }
};

// |e| ψ. The gradient is that of |e|, and where two-sided the self-adjoint Laplacian of |e| ∂ψ/∂Δs.
template <class T, bool kTwoSided, bool kSigned>
struct SecondOrderAt {
  GEOLOSS_DEVICE static T value(const Place<T>& at) {
    const auto voxels = at.voxels();
    return absolute(voxels.centre.error()) * psi(at, voxels);
  }

  GEOLOSS_DEVICE static T gradient(const Place<T>& at) {
    const auto voxels = at.voxels();
    T total = sign(voxels.centre.error()) * psi(at, voxels);
    if constexpr (kTwoSided) {
      const auto fluxes = at.around([](const Place<T>& place) GEOLOSS_LAMBDA_INLINE { return flux(place); });
      total += transform(at, fluxes, validity(voxels));
    }
    return total;
  }

 private:
  GEOLOSS_DEVICE static T psi(const Place<T>& at, const Neighbourhood<Voxel<T>>& voxels) {
    const auto valid = validity(voxels);
    const T of_target = magnitude(transform(at, targets(voxels), valid));
    if constexpr (!kTwoSided) return of_target;
    return of_target + magnitude(transform(at, predictions(voxels), valid));
  }

  GEOLOSS_DEVICE static T flux(const Place<T>& at) {
    if constexpr (kSigned) return absolute(at.voxel().error());
    const auto voxels = at.voxels();
    return absolute(voxels.centre.error()) * sign(transform(at, predictions(voxels), validity(voxels)));
  }

  GEOLOSS_DEVICE static T magnitude(T transformed) { return kSigned ? transformed : absolute(transformed); }

  GEOLOSS_DEVICE static T transform(const Place<T>& at, const Neighbourhood<T>& u,
                                    const Neighbourhood<T>& valid) {
    const PerAxis<T> scale = second_order_scale<T>(at.p);
    return at.box.valid ? stencil::masked_laplacian(u, valid, scale) : stencil::laplacian(u, scale);
  }
};

template <class T, class Operator, class Norm>
GEOLOSS_DEVICE FirstOrderAt<T, Operator, Norm> term_at(stencil::FirstOrder<Operator, Norm>) {
  return {};
}
template <class T, bool kTwoSided, bool kSigned>
GEOLOSS_DEVICE SecondOrderAt<T, kTwoSided, kSigned> term_at(stencil::SecondOrder<kTwoSided, kSigned>) {
  return {};
}

// The voxel with all that terms may ask of it. c is the channel that the box is filled with.
template <class T>
GEOLOSS_DEVICE Voxel<T> voxel_at(const Tile<T>& tile, int64_t c, const Place<T>& at) {
  Voxel<T> voxel = at.voxel();
  if (voxel.valid_ == T(0)) return voxel;
  if (tile.p.activation == Activation::kSigmoid) voxel.logit_ = tile.source.input(c, at.z, at.y, at.x);
  if (tile.p.map.data) voxel.map_ = tile.source.map(c, at.z, at.y, at.x);
  return voxel;
}

template <class T>
GEOLOSS_DEVICE void add_values(const Tile<T>& tile, int64_t c, int z, T (&sums)[kTermCount]) {
  const uint32_t wanted = tile.params.terms.wanted;
  const Place<T> at{tile.p, tile.box, z, tile.y, tile.x};
  const Voxel<T> voxel = voxel_at(tile, c, at);
  if (voxel.valid_ == T(0)) return;
  for_each_voxel_term([&]<class Term>(Term, auto number) GEOLOSS_LAMBDA_INLINE {
    if (wanted >> number & 1) sums[number] += Term::value(voxel);
  });
  for_each_stencil_term([&](auto term, auto number) GEOLOSS_LAMBDA_INLINE {
    if (wanted >> number & 1) sums[number] += decltype(term_at<T>(term))::value(at);
  });
}

template <class T>
__global__ void __launch_bounds__(TileShape<T>::kThreads, 1)
    geo_sums_tile_forward_kernel(const __grid_constant__ LaunchParams params, int reach) {
  GEOLOSS_DYNAMIC_SHARED(shared);
  const Tile<T> tile(params, reach, shared);
  if (tile.box.softmax) tile.fill_softmax();
#pragma unroll 1
  for (int64_t c = tile.first_channel; c < tile.first_channel + params.tiling.channels; ++c) {
    if (c < params.tensors.first_channel) continue;
    tile.fill(c);
    T sums[kTermCount] = {};
    tile.for_each_voxel([&](int z) GEOLOSS_LAMBDA_INLINE { add_values(tile, c, z, sums); });
    write_partial_sums(params, tile.tile, tile.source.n, c, sums, tile.box.of_slots);
  }
}

// The slopes of a volume's terms: with respect to the prediction, and to the logit where a term reads that.
template <class T>
struct Slopes {
  T prediction = 0, logit = 0;
};

// tile.box.of_slots: ∂L/∂S of the channel's wanted terms, [slots]
template <class T>
GEOLOSS_DEVICE Slopes<T> slopes(const Tile<T>& tile, int64_t c, int z) {
  const uint32_t wanted = tile.params.terms.wanted;
  const T* const weights = tile.box.of_slots;
  Slopes<T> slopes;
  if (c < tile.p.first_channel) return slopes;
  const Place<T> at{tile.p, tile.box, z, tile.y, tile.x};
  const Voxel<T> voxel = voxel_at(tile, c, at);
  if (voxel.valid_ == T(0)) return slopes;
  for_each_voxel_term([&]<class Term>(Term, auto number) GEOLOSS_LAMBDA_INLINE {
    if constexpr (Term::kDependsOnPrediction) {
      if (!(wanted >> number & 1)) return;
      T& slope = Term::kFromLogit ? slopes.logit : slopes.prediction;
      slope += weights[slot_of(wanted, number)] * Term::slope(voxel);
    }
  });
  for_each_stencil_term([&](auto term, auto number) GEOLOSS_LAMBDA_INLINE {
    if (!(wanted >> number & 1)) return;
    slopes.prediction += weights[slot_of(wanted, number)] * decltype(term_at<T>(term))::gradient(at);
  });
  if (tile.p.activation == Activation::kSigmoid)
    slopes.prediction *= voxel.prediction() * (1 - voxel.prediction());
  return slopes;
}

// Calls function(c, z, slopes) for each voxel of this thread, channel by channel.
template <class T, class Function>
GEOLOSS_DEVICE void for_each_slope(const Tile<T>& tile, Function function) {
#pragma unroll 1
  for (int64_t c = tile.first_channel; c < tile.first_channel + tile.params.tiling.channels; ++c) {
    read_slope_weights(tile.params, tile.source.n, c, tile.box.of_slots);
    tile.fill(c);
    tile.for_each_voxel([&](int z) GEOLOSS_LAMBDA_INLINE { function(c, z, slopes(tile, c, z)); });
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(TileShape<T>::kThreads, 1)
    geo_sums_tile_backward_kernel(const __grid_constant__ LaunchParams params, int reach) {
  GEOLOSS_DYNAMIC_SHARED(shared);
  const Tile<T> tile(params, reach, shared);
  const auto write = [&](int64_t c, int z, T gradient) GEOLOSS_LAMBDA_INLINE {
    const TensorView& view = params.tensors.grad_input;
    store_element(view, offset_of(view, tile.source.n, c, z, tile.y, tile.x), gradient);
  };
  const auto softmax = [&](int64_t c, int z)
                           GEOLOSS_LAMBDA_INLINE { return tile.softmax_prediction(c, z, tile.y, tile.x); };
  if (!tile.box.softmax) {
    for_each_slope(tile, [&](int64_t c, int z, Slopes<T> slopes)
                             GEOLOSS_LAMBDA_INLINE { write(c, z, slopes.prediction + slopes.logit); });
    return;
  }
  tile.fill_softmax();
  tile.for_each_voxel([&](int z) GEOLOSS_LAMBDA_INLINE { tile.mean(z) = 0; });
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {
    const bool writing = pass == 1;
    for_each_slope(tile, [&](int64_t c, int z, Slopes<T> slopes) GEOLOSS_LAMBDA_INLINE {
      if (writing) {
        write(c, z, softmax(c, z) * (slopes.prediction - tile.mean(z)));
      } else {
        tile.mean(z) += softmax(c, z) * slopes.prediction;
      }
    });
  }
}

}  // namespace geoloss::cuda
