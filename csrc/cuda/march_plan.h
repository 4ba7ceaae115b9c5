// Which calls the marching kernel takes, and how it cuts a volume into tiles.
#pragma once

#include <cstdint>
#include <utility>

#include "launch_params.h"
#include "vectors.cuh"

namespace geoloss::cuda {

constexpr int kMostMarchChannels = 4;

// A large tile has a small halo, as far as registers and 48 KB of shared memory allow; without stencils there
// is none.
constexpr int march_threads(bool has_stencil, bool lean, int64_t channels) {
  if (channels > 2) return 128;
  return has_stencil && lean ? 384 : 256;
}

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

using MarchStencil = stencil::FirstOrderForwardL2;

inline bool has_dense_rows(const TensorView& view, int64_t W) { return view.stride_x == 1 || W == 1; }

// One FOG with the march's stencil, or none, and no map.
inline bool marches_for(const TermSelection& terms) {
  return terms.requests == 0 || (terms.requests == 1 && terms.request[0].kind == MarchStencil::kKind);
}

inline bool march_applies(const GeoSumsParams& p, const TermSelection& terms, bool backward) {
  const bool floats = p.input.dtype == DType::kFloat32 || p.input.dtype == DType::kFloat16 ||
                      p.input.dtype == DType::kBFloat16;
  const bool dense = has_dense_rows(p.input, p.W) && has_dense_rows(p.target, p.W) &&
                     (!backward || has_dense_rows(p.grad_input, p.W));
  const bool activation = p.activation != Activation::kSoftmax ||
                          (p.label_map && p.C <= kMostMarchChannels && !(terms.plain & kComplementTerms));
  return floats && dense && activation && !p.masked() && marches_for(terms);
}

// A 2-D image as a volume of H planes of one row, so that the march goes along y.
inline void march_along_z(LaunchParams& params) {
  GeoSumsParams& p = params.tensors;
  if (p.D > 1) return;
  std::swap(p.D, p.H);
  stencil::PerAxis<float>& scale = params.terms.request[0].scale32;
  std::swap(scale.z, scale.y);
  for (TensorView* view : {&p.input, &p.target, &p.grad_input}) std::swap(view->stride_z, view->stride_y);
}

namespace detail {

constexpr int kWarp = 32;
constexpr int64_t kMinPlanes = 16;       // of a tile: its halo planes are read twice
constexpr int64_t kWantedBlocks = 1024;  // several per processor of a large GPU

// One axis of a plane cut into equal tiles of at most `room` places, halo included; 0 tiles where nothing
// fits.
struct Cut {
  int64_t tiles, interior, places;
};

inline Cut cut(int64_t size, int64_t room, int64_t halo) {
  if (size <= room) return {1, size, size};
  if (room <= halo) return {0, 0, 0};
  const int64_t tiles = ceil_divide(size, room - halo), interior = ceil_divide(size, tiles);
  return {ceil_divide(size, interior), interior, interior + halo < size ? interior + halo : size};
}

// The tile whose threads, idle ones and the halo's included, are the fewest for a whole plane.
inline std::pair<Cut, Cut> cut_plane(int64_t vectors, int64_t rows, int64_t halo, int64_t threads) {
  std::pair<Cut, Cut> best{};
  int64_t fewest = INT64_MAX;
  for (int64_t columns = vectors < threads ? vectors : threads; columns > 0; columns = columns * 3 / 4) {
    const Cut x = cut(vectors, columns, halo);
    if (x.tiles == 0) break;
    const Cut y = cut(rows, threads / x.places, halo);
    const int64_t needed = ceil_divide(x.places * y.places, kWarp) * kWarp * x.tiles * y.tiles;
    if (y.tiles == 0 || needed >= fewest) continue;
    fewest = needed;
    best = {x, y};
  }
  return best;
}

}  // namespace detail

// Whether there is an instance of the kernel for just these terms and the target's dtype, and every vector is
// aligned.
inline bool is_lean(const GeoSumsParams& p, const TermSelection& terms, const Tiling& t, bool backward) {
  const bool exact = terms.stencils == 0 || terms.plain == kNoTerms || terms.plain == kDiceTerms ||
                     terms.plain == kSigmoidTraining;
  const bool common = p.target.dtype == p.input.dtype || p.target.dtype == DType::kFloat32 ||
                      p.target.dtype == DType::kUInt8 || p.target.dtype == DType::kBool;
  return exact && common && t.channels == 1 && t.input_aligned && t.target_aligned &&
         (t.gradient_aligned || !backward);
}

inline Tiling march_tiling(const GeoSumsParams& p, const TermSelection& terms, bool backward) {
  Tiling t{};
  t.channels = p.activation == Activation::kSoftmax ? static_cast<int32_t>(p.C) : 1;
  t.volumes = p.N * p.C / t.channels;
  t.input_aligned = has_aligned_vectors(p.input, p.W);
  t.target_aligned = has_aligned_vectors(p.target, p.W);
  t.gradient_aligned = backward && has_aligned_vectors(p.grad_input, p.W);
  t.lean = is_lean(p, terms, t, backward);
  const bool has_stencil = terms.stencils > 0;
  const int64_t halo = has_stencil ? (backward ? 2 : 1) : 0;
  const int64_t threads = march_threads(has_stencil, t.lean, t.channels);
  const auto [x, y] = detail::cut_plane(ceil_divide(p.W, kVector), p.H, halo, threads);
  t.width = static_cast<int32_t>(x.interior * kVector), t.height = static_cast<int32_t>(y.interior);
  t.tiles_x = static_cast<int32_t>(x.tiles), t.tiles_y = static_cast<int32_t>(y.tiles);
  t.block_columns = static_cast<int32_t>(x.places), t.block_rows = static_cast<int32_t>(y.places);
  const int64_t wanted = ceil_divide(detail::kWantedBlocks, t.volumes * t.tiles_x * t.tiles_y);
  const int64_t most = ceil_divide(p.D, detail::kMinPlanes);
  t.planes = static_cast<int32_t>(ceil_divide(p.D, wanted < most ? wanted : most));
  t.tiles_z = static_cast<int32_t>(ceil_divide(p.D, t.planes));
  return t;
}

}  // namespace geoloss::cuda
