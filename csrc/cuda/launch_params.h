// What a kernel of geo_sums gets beside the tensors: the terms, the tiles, and where partial sums go.
#pragma once

#include "../geo_sums.h"
#include "term_selection.h"

namespace geoloss::cuda {

// Cut by the volume's shape alone, so that sums depend neither on the device nor on the run.
struct Tiling {
  int64_t volumes;                    // N·C', or N where softmax ties the channels
  int32_t channels;                   // per volume: 1, or C
  int32_t width, height, planes;      // of a tile, in voxels
  int32_t tiles_x, tiles_y, tiles_z;  // per volume

  int32_t block_columns, block_rows;  // of the threads of a marching block, with the halo's
  bool input_aligned, target_aligned, gradient_aligned;  // their vectors are, for a marching block
  bool lean;                                             // see MarchTraits

  GEOLOSS_INLINE int64_t tiles_per_volume() const { return int64_t{1} * tiles_x * tiles_y * tiles_z; }
  GEOLOSS_INLINE int64_t blocks() const { return volumes * tiles_per_volume(); }
};

struct LaunchParams {
  GeoSumsParams tensors;
  TermSelection terms;
  Tiling tiling;
  bool marches;        // the marching kernel takes it
  void* partial_sums;  // forward: [N·C', slots, tiles per volume], of arithmetic type
};
static_assert(sizeof(LaunchParams) <= 4096, "of parameters every driver takes so many bytes");

// The tile of a block.
struct TileIndex {
  int64_t volume, tile;  // the tile's number within its volume
  int32_t z_begin, z_end, y_begin, y_end, x_begin, x_end;
};

GEOLOSS_INLINE int32_t smaller(int64_t a, int64_t b) { return static_cast<int32_t>(a < b ? a : b); }
GEOLOSS_INLINE int32_t larger(int64_t a, int64_t b) { return static_cast<int32_t>(a > b ? a : b); }

GEOLOSS_INLINE TileIndex tile_of_block(const LaunchParams& params, int64_t block) {
  const Tiling& t = params.tiling;
  TileIndex tile;
  tile.volume = block / t.tiles_per_volume();
  tile.tile = block % t.tiles_per_volume();
  const int32_t in_volume = static_cast<int32_t>(tile.tile);
  tile.x_begin = in_volume % t.tiles_x * t.width;
  tile.y_begin = in_volume / t.tiles_x % t.tiles_y * t.height;
  tile.z_begin = in_volume / t.tiles_x / t.tiles_y * t.planes;
  tile.x_end = smaller(tile.x_begin + t.width, params.tensors.W);
  tile.y_end = smaller(tile.y_begin + t.height, params.tensors.H);
  tile.z_end = smaller(tile.z_begin + t.planes, params.tensors.D);
  return tile;
}

}  // namespace geoloss::cuda
