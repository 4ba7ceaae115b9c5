// The fields of a tile, of each channel: what the terms read at a voxel, and where its rows are.
//
// Rows of a tensor that already are what the kernels read (of the arithmetic type, unmasked, whole vectors)
// are not copied: they are in place. Other fields have buffers in the workspace: rings of planes where a
// stencil reads beside a voxel, else a block of rows.
#pragma once

#include "blocks.h"
#include "geo_sums_kernel.h"
#include "plan.h"

namespace geoloss::GEOLOSS_ISA {

// Everything is 0 at invalid voxels but kSoftmax, the prediction before that, where it differs, and kLogit.
enum Field {
  kPrediction,
  kTarget,
  kError,
  kValid,
  kLogit,
  kLogPrediction,
  kLogComplement,
  kSoftmax,
  kMap,
  kFieldCount = kMap + kMaxMaps
};

constexpr Field map_field(int number) { return static_cast<Field>(kMap + number); }

constexpr int64_t kBlockElements = 1024;  // of a field: all fields of a block fit the first-level cache

template <class T>
class Fields {
 public:
  using V = Lanes<T>;

  const GeoSumsParams& p;
  const cpu::Tiling& tiling;
  const Plan<T> plan;
  const bool backward;
  int64_t n, c;  // the batch element and the first channel
  Box tile;
  int64_t halo_before, halo_after;  // rows and planes produced around the tile

  Fields(const GeoSumsParams& params, const cpu::Tiling& tiling_, bool backward_, int64_t index)
      : p(params), tiling(tiling_), plan(params), backward(backward_) {
    const int64_t volume = index / (tiling.tiles_z * tiling.tiles_y);
    n = volume * tiling.channels / p.C;
    c = volume * tiling.channels % p.C;
    const int64_t z = index / tiling.tiles_y % tiling.tiles_z * tiling.planes;
    const int64_t y = index % tiling.tiles_y * tiling.rows;
    tile = {z, min(z + tiling.planes, p.D), y, min(y + tiling.rows, p.H)};
    halo_before = backward ? plan.reach() : plan.back;
    halo_after = backward ? plan.reach() : plan.ahead;
    choose();
  }

  Extent extent(const Block& b) const { return {b.rows(), p.W}; }
  int64_t rows_begin() const { return max(0, tile.y_begin - halo_before); }
  int64_t rows_end() const { return min(p.H, tile.y_end + halo_after); }

  // A power of two.
  int64_t block_rows() const {
    int64_t rows = 1;
    while (2 * rows * p.W * tiling.channels <= kBlockElements) rows *= 2;
    return rows;
  }

  // Null where the field is not wanted.
  Rows<const T> rows(Field field, int64_t channel, const Block& b) const {
    if (!wanted_[field]) return {};
    return in_place_[field] ? tensor_rows(tensor(field), channel, b) : rows_of(ring_[field], channel, b);
  }

  // From one channel's rows of a field to the next's.
  int64_t pitch_of(Field field) const { return in_place_[field] ? tensor(field).stride_c : channel_pitch; }

  // Null where nothing is stored.
  Rows<T> buffer(Field field, int64_t channel, const Block& b) const {
    if (!wanted_[field] || in_place_[field]) return {};
    return rows_of(ring_[field], channel, b);
  }

  ChannelRows<const T> channels_of(Field field, const Block& b) const {
    return {rows(field, 0, b), pitch_of(field)};
  }

  NeighbourRows<T> neighbours(Field field, int64_t channel, const Block& b) const {
    return in_place_[field] ? neighbours_in_place(tensor(field), channel, b)
                            : neighbours_in_ring(ring_[field], channel, b);
  }

  NeighbourRows<T> neighbours_in_ring(const Ring<T>& ring, int64_t channel, const Block& b) const {
    const T* centre = ring.row(b.z, b.y_begin);
    const auto distance = [&](int64_t z, int64_t y) { return ring.row(z, y) - centre; };
    return {rows_of(ring, channel, b), distance(b.z, max(b.y_begin - 1, 0)),
            distance(b.z, min(b.y_begin + 1, p.H - 1)), distance(max(b.z - 1, 0), b.y_begin),
            distance(min(b.z + 1, p.D - 1), b.y_begin)};
  }

  Rows<T> tensor_rows(const TensorView& view, int64_t channel, const Block& b) const {
    return {static_cast<T*>(view.data) + offset(view, c + channel, b.z, b.y_begin), view.stride_y};
  }

  Rows<T> rows_of(const Ring<T>& ring, int64_t channel, const Block& b) const {
    return {ring.row(b.z, b.y_begin) + channel * channel_pitch, ring.row_pitch};
  }

  int64_t offset(const TensorView& view, int64_t channel, int64_t z, int64_t y) const {
    return n * view.stride_n + channel * view.stride_c + z * view.stride_z + y * view.stride_y;
  }

  // The tensor's own rows are of the arithmetic type and end with a whole vector: no copy is made of them.
  bool readable_in_place(const TensorView& view) const {
    constexpr DType arithmetic = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
    return view.data && view.dtype == arithmetic && view.stride_x == 1 && p.W % V::kCount == 0;
  }

  bool has(Field field) const { return wanted_[field]; }
  bool all_in_place() const { return all_in_place_; }
  // No error is stored: its stencils read prediction and target.
  bool error_in_place() const { return error_in_place_; }

  // Gives each buffer its place in the workspace; the fields' are the first of a channel's.
  T* take_buffers(T* next) {
    for (int field = 0; field < kFieldCount; ++field) {
      if (wanted_[field] && !in_place_[field]) ring_[field] = take_ring(next, plan.ring_planes());
    }
    return next;
  }

  Ring<T> take_ring(T*& next, int64_t planes) const {
    if (plan.reach() == 0) return take_block(next);
    const int64_t rows = min(p.H, tiling.rows + halo_before + halo_after);
    Ring<T> ring{next + V::kCount - rows_begin() * row_pitch(), planes - 1, rows * row_pitch(), -1,
                 row_pitch()};
    next += planes * rows * row_pitch();
    return ring;
  }

  Ring<T> take_block(T*& next) const {
    Ring<T> ring{next + V::kCount, 0, 0, block_rows() - 1, row_pitch()};
    next += block_rows() * row_pitch();
    return ring;
  }

  T* take_row(T*& next) const {
    T* row = next + V::kCount;
    next += row_pitch();
    return row;
  }

  int64_t channel_pitch = 0;  // between one channel's rows and the next's

 private:
  int64_t row_pitch() const { return (ceil_divide(p.W, V::kCount) + 2) * V::kCount; }

  // The logarithms are read by the terms' values, and by programs: the terms' slopes have no need of them.
  void choose() {
    const bool plain = !plan.masked && !plan.on_fields;
    const bool complement = plan.has(terms::Variable::kLogComplement);
    const bool softmax = p.activation == Activation::kSoftmax;
    wanted_[kPrediction] = wanted_[kTarget] = true;
    wanted_[kValid] = plan.masked;
    wanted_[kLogPrediction] =
        (!backward && plan.has(terms::Variable::kLogPrediction)) || plan.reads(FieldKind::kLogPrediction);
    wanted_[kLogComplement] = (!backward && complement) || plan.reads(FieldKind::kLogComplement);
    wanted_[kLogit] = softmax && (complement || plan.reads(FieldKind::kLogComplement));
    wanted_[kSoftmax] = plan.masked && softmax && backward;
    for (int map = 0; map < kMaxMaps; ++map) wanted_[map_field(map)] = plan.reads_map[map];
    in_place_[kPrediction] = plain && p.activation == Activation::kNone && readable_in_place(p.input);
    in_place_[kTarget] = plain && !p.label_map && readable_in_place(p.target);
    for (int map = 0; map < kMaxMaps; ++map)
      in_place_[map_field(map)] = !plan.masked && readable_in_place(p.maps[map]);
    error_in_place_ = plan.on_error && plan.in_place && plain && in_place_[kTarget];
    wanted_[kError] = plan.on_error && !error_in_place_;
    all_in_place_ = true;
    for (int field = 0; field < kFieldCount; ++field) all_in_place_ &= !wanted_[field] || in_place_[field];
  }

  const TensorView& tensor(Field field) const {
    if (field >= kMap) return p.maps[field - kMap];
    return field == kTarget ? p.target : p.input;
  }

  NeighbourRows<T> neighbours_in_place(const TensorView& view, int64_t channel, const Block& b) const {
    return {tensor_rows(view, channel, b), b.y_begin > 0 ? -view.stride_y : 0,
            b.y_begin + 1 < p.H ? view.stride_y : 0, b.z > 0 ? -view.stride_z : 0,
            b.z + 1 < p.D ? view.stride_z : 0};
  }

  bool wanted_[kFieldCount] = {}, in_place_[kFieldCount] = {};
  bool all_in_place_, error_in_place_;
  Ring<T> ring_[kFieldCount];
};

// map: the number of the map that the terms read.
template <class T>
VoxelRows<T> voxel_rows(const Fields<T>& fields, int64_t c, const Block& b, int map) {
  return {fields.rows(kPrediction, c, b),    fields.rows(kTarget, c, b),
          fields.rows(kValid, c, b),         fields.rows(kLogPrediction, c, b),
          fields.rows(kLogComplement, c, b), fields.rows(map_field(map), c, b)};
}

}  // namespace geoloss::GEOLOSS_ISA
