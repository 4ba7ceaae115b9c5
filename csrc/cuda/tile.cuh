// geo_sums for every option: masks, softmax over any number of channels, label maps, any dtype and layout,
// any set of terms, stencils and map terms with parameters of their own.
//
// A block takes a tile of one volume. It puts prediction and target of the tile and of a halo as deep as the
// stencils reach into shared memory, once per voxel, activated and masked; then each thread evaluates the
// terms at its column of voxels from there: the plain terms together, and one request after the other, whose
// kind is the whole block's. The gradient gathers: the flux Ψ'(φ) is computed anew at each voxel whose flux
// reaches this one, and every element is written once.
//
// Under softmax a block goes through all channels of its tile, one after the other, after it has noted the
// largest logit and the sum of exponentials of each voxel. With p, h and b the slopes with respect to s, log
// s and log(1 - s), and a the channel of the largest logit, the gradient is q_c - s_c Σ q with q = s p + h -
// b s / (1 - s): the channels are gone through twice, for the sum and for the gradient. In channel a, where 1
// - s may vanish, b comes in by the share t of the other channels instead: -b_a s_a, and b_a s_a t_j for
// them.
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
  T* total;                // Σ q, of the tile's voxels; with `softmax`
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
           kMaxSlots * TileShape<T>::kWarps * sizeof(T);
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
    total = take(Shape::kVoxels);
    of_slots = take(kMaxSlots * Shape::kWarps);
    valid = params.tensors.masked() ? reinterpret_cast<uint8_t*>(next) : nullptr;
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

  GEOLOSS_DEVICE T map(int number, int64_t c, int z, int y, int x) const {
    return load_element<T>(p.maps[number], offset_of(p.maps[number], n, c, z, y, x));
  }
};

// The channels of a voxel but that of the (first) largest logit.
template <class T>
struct Others {
  int64_t except;
  T largest, total;  // of their logits, and Σ exp(logit - largest)

  // The softmax among them of the one with this logit.
  GEOLOSS_DEVICE T share(T logit) const { return exponential(logit - largest) / total; }
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

  // Whether that is the channel of the voxel's (first) largest logit.
  GEOLOSS_DEVICE bool is_largest(int64_t c, int z, int row, int column) const {
    const T largest = box.softmax[box.index(z, row, column)].largest;
    bool is_largest = source.input(c, z, row, column) == largest;
#pragma unroll 1
    for (int64_t j = 0; j < c && is_largest; ++j) is_largest = source.input(j, z, row, column) != largest;
    return is_largest;
  }

  // Reads all channels, so that nobody has to keep it: few calls ask, and the first-level cache has them.
  GEOLOSS_DEVICE Others<T> others(int z, int row, int column) const {
    const T lowest = T(-3.4e38f), largest = box.softmax[box.index(z, row, column)].largest;
    Others<T> others{0, lowest, T(0)};
    while (others.except + 1 < p.C && source.input(others.except, z, row, column) != largest) ++others.except;
#pragma unroll 1
    for (int64_t c = 0; c < p.C; ++c) {
      if (c != others.except) others.largest = maximum(others.largest, source.input(c, z, row, column));
    }
#pragma unroll 1
    for (int64_t c = 0; c < p.C; ++c) {
      if (c != others.except) others.total += exponential(source.input(c, z, row, column) - others.largest);
    }
    return others;
  }

  GEOLOSS_DEVICE T& total(int z) const {
    return box.total[(z - tile.z_begin) * Shape::kThreads + threadIdx.x];
  }

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
// `scale` is the request's.
template <class T, class Operator, class Norm>
struct FirstOrderAt {
  GEOLOSS_DEVICE static T value(const Place<T>& at, const PerAxis<T>& scale) {
    const auto voxels = at.template voxels<Operator::kReachBack>();
    return Norm::value(multiply(weights(at, voxels, scale), Operator::apply(errors(voxels))));
  }

  GEOLOSS_DEVICE static T gradient(const Place<T>& at, const PerAxis<T>& scale) {
    constexpr T border = Operator::kBorder;
    const PerAxis<T> centre = flux(at, scale);
    PerAxis<T> previous = multiply({border, border, border}, centre);
    PerAxis<T> next = previous;
    if (at.x > 0) previous.x = flux(at.moved(0, 0, -1), scale).x;
    if (at.y > 0) previous.y = flux(at.moved(0, -1, 0), scale).y;
    if (at.z > 0) previous.z = flux(at.moved(-1, 0, 0), scale).z;
    if constexpr (Operator::kReachBack > 0) {
      if (at.x + 1 < at.p.W) next.x = flux(at.moved(0, 0, 1), scale).x;
      if (at.y + 1 < at.p.H) next.y = flux(at.moved(0, 1, 0), scale).y;
      if (at.z + 1 < at.p.D) next.z = flux(at.moved(1, 0, 0), scale).z;
    }
    return Operator::adjoint(previous.x, centre.x, next.x) + Operator::adjoint(previous.y, centre.y, next.y) +
           Operator::adjoint(previous.z, centre.z, next.z);
  }

 private:
  GEOLOSS_DEVICE static PerAxis<T> flux(const Place<T>& at, const PerAxis<T>& scale) {
    const auto voxels = at.template voxels<Operator::kReachBack>();
    const auto weight = weights(at, voxels, scale);
    return multiply(weight, Norm::slope(multiply(weight, Operator::apply(errors(voxels)))));
  }

  GEOLOSS_DEVICE static PerAxis<T> weights(const Place<T>& at, const Neighbourhood<Voxel<T>>& voxels,
                                           const PerAxis<T>& scale) {
    return at.box.valid ? multiply(scale, Operator::counts(validity(voxels))) : scale;
  }
};

// |e| ψ. The gradient is that of |e|, and where two-sided the self-adjoint Laplacian of |e| ∂ψ/∂Δs.
template <class T, bool kTwoSided, bool kSigned>
struct SecondOrderAt {
  GEOLOSS_DEVICE static T value(const Place<T>& at, const PerAxis<T>& scale) {
    const auto voxels = at.voxels();
    return absolute(voxels.centre.error()) * psi(at, voxels, scale);
  }

  GEOLOSS_DEVICE static T gradient(const Place<T>& at, const PerAxis<T>& scale) {
    const auto voxels = at.voxels();
    T total = sign(voxels.centre.error()) * psi(at, voxels, scale);
    if constexpr (kTwoSided) {
      const auto fluxes =
          at.around([&](const Place<T>& place) GEOLOSS_LAMBDA_INLINE { return flux(place, scale); });
      total += transform(at, fluxes, validity(voxels), scale);
    }
    return total;
  }

 private:
  GEOLOSS_DEVICE static T psi(const Place<T>& at, const Neighbourhood<Voxel<T>>& voxels,
                              const PerAxis<T>& scale) {
    const auto valid = validity(voxels);
    const T of_target = magnitude(transform(at, targets(voxels), valid, scale));
    if constexpr (!kTwoSided) return of_target;
    return of_target + magnitude(transform(at, predictions(voxels), valid, scale));
  }

  GEOLOSS_DEVICE static T flux(const Place<T>& at, const PerAxis<T>& scale) {
    if constexpr (kSigned) return absolute(at.voxel().error());
    const auto voxels = at.voxels();
    return absolute(voxels.centre.error()) *
           sign(transform(at, predictions(voxels), validity(voxels), scale));
  }

  GEOLOSS_DEVICE static T magnitude(T transformed) { return kSigned ? transformed : absolute(transformed); }

  GEOLOSS_DEVICE static T transform(const Place<T>& at, const Neighbourhood<T>& u,
                                    const Neighbourhood<T>& valid, const PerAxis<T>& scale) {
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

// Calls function(body) with the body of a stencil's kind.
template <class T, class Function>
GEOLOSS_DEVICE void with_stencil(TermKind kind, Function function) {
  for_each_term(stencil::StencilTerms{}, [&](auto term, auto) GEOLOSS_LAMBDA_INLINE {
    if (decltype(term)::kKind == kind) function(term_at<T>(term));
  });
}

// Calls function(term) with the map term of that kind.
template <class Function>
GEOLOSS_DEVICE void with_map_term(TermKind kind, Function function) {
  for_each_term(terms::VoxelTerms{}, [&]<class Term>(Term term, auto) GEOLOSS_LAMBDA_INLINE {
    if constexpr (reads_map(Term::kKind)) {
      if (Term::kKind == kind) function(term);
    }
  });
}

// One of the thread's voxels, of the channel c that the box is filled with.
template <class T>
struct TileVoxel {
  const Tile<T>& tile;
  const int64_t c;
  const Place<T> at;
  Voxel<T> voxel;

  GEOLOSS_DEVICE TileVoxel(const Tile<T>& tile, int64_t c, int z)
      : tile(tile), c(c), at{tile.p, tile.box, z, tile.y, tile.x}, voxel(at.voxel()) {}

  GEOLOSS_DEVICE bool valid() const { return voxel.valid_ != T(0); }

  GEOLOSS_DEVICE bool is_largest() const { return tile.is_largest(c, at.z, at.y, at.x); }

  GEOLOSS_DEVICE bool wants(uint32_t terms) const { return tile.params.terms.plain & terms; }

  GEOLOSS_DEVICE T request_value(const Request& request) {
    T value = 0;
    if (is_stencil(request.kind)) {
      with_stencil<T>(request.kind,
                      [&](auto body) GEOLOSS_LAMBDA_INLINE { value = body.value(at, request.scale<T>()); });
    } else {
      set_map(request);
      with_map_term(request.kind,
                    [&]<class Term>(Term) GEOLOSS_LAMBDA_INLINE { value = Term::value(voxel); });
    }
    return value;
  }

  // weight: ∂L/∂S of the request
  GEOLOSS_DEVICE void add_request_slope(const Request& request, T weight, Slopes<T>& slopes) {
    if (is_stencil(request.kind)) {
      with_stencil<T>(request.kind, [&](auto body) GEOLOSS_LAMBDA_INLINE {
        slopes.prediction += weight * body.gradient(at, request.scale<T>());
      });
    } else {
      set_map(request);
      with_map_term(request.kind, [&]<class Term>(Term)
                                      GEOLOSS_LAMBDA_INLINE { slopes.template add<Term>(weight, voxel); });
    }
  }

  GEOLOSS_DEVICE void set_logarithms() {
    if (!tile.box.softmax) {
      voxel.set_logarithms(tile.p.activation, tile.source.input(c, at.z, at.y, at.x));
      return;
    }
    const Normaliser<T> of_voxel = tile.box.softmax[tile.box.index(at.z, at.y, at.x)];
    const T logit = tile.source.input(c, at.z, at.y, at.x), total = -logarithm(of_voxel.inverse_total);
    voxel.log_prediction_ = (logit - of_voxel.largest) - total;
    if (!wants(kComplementTerms)) return;
    if (is_largest()) {
      const Others<T> others = tile.others(at.z, at.y, at.x);
      voxel.log_complement_ = logarithm(others.total) + (others.largest - of_voxel.largest) - total;
    } else {
      voxel.log_complement_ = logarithm_1p(-voxel.prediction_);
    }
  }

 private:
  GEOLOSS_DEVICE void set_map(const Request& request) {
    voxel.map_ = tile.source.map(request.map, c, at.z, at.y, at.x);
  }
};

template <class T>
GEOLOSS_DEVICE void put_plain_sums(const Tile<T>& tile, int64_t c) {
  const uint32_t plain = tile.params.terms.plain;
  T sums[kPlainTerms] = {};
  tile.for_each_voxel([&](int z) GEOLOSS_LAMBDA_INLINE {
    TileVoxel<T> of(tile, c, z);
    if (!of.valid()) return;
    if (of.wants(kLogarithmTerms)) of.set_logarithms();
    for_each_plain_term([&]<class Term>(Term, auto number) GEOLOSS_LAMBDA_INLINE {
      if (plain >> number & 1) sums[number] += Term::value(of.voxel);
    });
  });
  for_each_plain_term([&](auto, auto number) GEOLOSS_LAMBDA_INLINE {
    if (plain >> number & 1) put_warp_sums(plain_slot(plain, number), sums[number], tile.box.of_slots);
  });
}

template <class T>
GEOLOSS_DEVICE void put_request_sums(const Tile<T>& tile, int64_t c) {
  const TermSelection& terms = tile.params.terms;
#pragma unroll 1
  for (int i = 0; i < terms.requests; ++i) {
    T sum = 0;
    tile.for_each_voxel([&](int z) GEOLOSS_LAMBDA_INLINE {
      TileVoxel<T> of(tile, c, z);
      if (of.valid()) sum += of.request_value(terms.request[i]);
    });
    put_warp_sums(terms.plain_count + i, sum, tile.box.of_slots);
  }
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
    if (params.terms.plain) put_plain_sums(tile, c);
    put_request_sums(tile, c);
    write_partial_sums(params, tile.tile, tile.source.n, c, tile.box.of_slots);
  }
}

// tile.box.of_slots: ∂L/∂S of what is summed in the channel, [slots]
template <class T>
GEOLOSS_DEVICE Slopes<T> slopes(const Tile<T>& tile, TileVoxel<T>& of) {
  const TermSelection& terms = tile.params.terms;
  const T* const weights = tile.box.of_slots;
  Slopes<T> slopes;
  if (of.c < tile.p.first_channel || !of.valid()) return slopes;
  for_each_plain_term([&]<class Term>(Term, auto number) GEOLOSS_LAMBDA_INLINE {
    if (!(terms.plain >> number & 1)) return;
    slopes.template add<Term>(weights[plain_slot(terms.plain, number)], of.voxel);
  });
#pragma unroll 1
  for (int i = 0; i < terms.requests; ++i) {
    of.add_request_slope(terms.request[i], weights[terms.plain_count + i], slopes);
  }
  return slopes;
}

// Calls function(voxel, slopes) for each TileVoxel of this thread, channel by channel.
template <class T, class Function>
GEOLOSS_DEVICE void for_each_slope(const Tile<T>& tile, Function function) {
#pragma unroll 1
  for (int64_t c = tile.first_channel; c < tile.first_channel + tile.params.tiling.channels; ++c) {
    read_slope_weights(tile.params, tile.source.n, c, tile.box.of_slots);
    tile.fill(c);
    tile.for_each_voxel([&](int z) GEOLOSS_LAMBDA_INLINE {
      TileVoxel<T> of(tile, c, z);
      function(of, slopes(tile, of));
    });
    __syncthreads();
  }
}

template <class T>
GEOLOSS_DEVICE void write_gradient(const TileVoxel<T>& of, T gradient) {
  const TensorView& view = of.tile.p.grad_input;
  store_element(view, offset_of(view, of.tile.source.n, of.c, of.at.z, of.at.y, of.at.x), gradient);
}

// q of a channel
template <class T>
GEOLOSS_DEVICE T softmax_slope(const TileVoxel<T>& of, const Slopes<T>& slopes) {
  const T s = of.voxel.prediction();
  T slope = s * slopes.prediction + slopes.log_prediction;
  if (of.wants(kComplementTerms) && of.valid() && !of.is_largest()) {
    slope -= slopes.log_complement * s / (1 - s);
  }
  return slope;
}

// What log(1 - s) of the channel with the largest logit adds to the gradient of this one.
template <class T>
GEOLOSS_DEVICE T largest_complement_gradient(const TileVoxel<T>& of) {
  const Tile<T>& tile = of.tile;
  const Place<T>& at = of.at;
  const Source<T>& source = tile.source;
  if (tile.box.softmax[tile.box.index(at.z, at.y, at.x)].inverse_total == T(0)) return 0;
  const Others<T> others = tile.others(at.z, at.y, at.x);
  const int64_t a = others.except;
  const T label = source.label(a, at.z, at.y, at.x);
  if (!source.valid(a, at.z, at.y, at.x, label)) return 0;
  const int slot = plain_slot(tile.params.terms.plain, static_cast<int>(TermKind::kCrossEntropyBackground));
  const T weight = slope_weight<T>(tile.params, source.n, a, slot);
  const T slope = weight * (source.target(a, label) - 1) * tile.softmax_prediction(a, at.z, at.y, at.x);
  return of.c == a ? -slope : slope * others.share(source.input(of.c, at.z, at.y, at.x));
}

template <class T>
GEOLOSS_DEVICE void write_softmax_gradients(const Tile<T>& tile) {
  const bool complements = tile.params.terms.plain & kComplementTerms;
  tile.fill_softmax();
  tile.for_each_voxel([&](int z) GEOLOSS_LAMBDA_INLINE { tile.total(z) = 0; });
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {
    const bool writing = pass == 1;
    for_each_slope(tile, [&](const TileVoxel<T>& of, const Slopes<T>& slopes) GEOLOSS_LAMBDA_INLINE {
      const T slope = softmax_slope(of, slopes);
      if (!writing) {
        tile.total(of.at.z) += slope;
        return;
      }
      const T s = tile.softmax_prediction(of.c, of.at.z, of.at.y, of.at.x);
      T gradient = slope - s * tile.total(of.at.z);
      if (complements) gradient += largest_complement_gradient(of);
      write_gradient(of, gradient);
    });
  }
}

template <class T>
__global__ void __launch_bounds__(TileShape<T>::kThreads, 1)
    geo_sums_tile_backward_kernel(const __grid_constant__ LaunchParams params, int reach) {
  GEOLOSS_DYNAMIC_SHARED(shared);
  const Tile<T> tile(params, reach, shared);
  if (tile.box.softmax) {
    write_softmax_gradients(tile);
    return;
  }
  const bool logarithms = params.terms.plain & kLogarithmTerms;
  for_each_slope(tile, [&](const TileVoxel<T>& of, const Slopes<T>& slopes) GEOLOSS_LAMBDA_INLINE {
    write_gradient(of, slopes.of_input(params.tensors.activation, of.voxel.prediction(), logarithms));
  });
}

}  // namespace geoloss::cuda
