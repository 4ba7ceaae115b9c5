// distance_transform on a GPU: the exact Euclidean distance, axis by axis.
//
//   rows      along x, a warp per row, 32 voxels at a time: the votes of the lanes are the row's bits, and
//   the
//             nearest bit of the other class is found by counting zeros; once from the left, once from the
//             right
//   columns   along y, then along z: the lower envelope of parabolas, min over d of f[y + d] + (h d)². A
//   thread
//             has a voxel, and looks at the voxels d to either side until (h d)² is no less than its best,
//             because nothing from there on can improve it: r steps, r being the distance itself
//
// One signed array holds the squared distances of both classes, positive in the foreground and negative in
// the background: a voxel's distance to its own class is 0 and needs no memory. A block has 32 neighbouring
// lines, so that a warp reads whole lines of the cache, and what its threads look at again stays in the L1
// cache. Where all of a block's lines are without a voxel of the other class, which is what most planes of a
// mask of lesions are, the block looks at each voxel once.
//
// Arithmetic is in fp32 where it is exact, for cubic voxels, counted in voxels, and in fp64 elsewhere.
//
// Moves mask + distance + four times an array in between (in 2-D twice), of 4 or 8 bytes per voxel.
#pragma once

#include <cmath>

#include "../distance_transform.h"
#include "../macros.h"
#include "portable.cuh"

namespace geoloss::cuda {

constexpr int kDistanceLanes = 32, kDistanceWarps = 8;
constexpr int kPositionsOfBlock = 64;  // along the line, of a block's voxels
constexpr int kStepsAtOnce = 4;

// What the passes hand on, [N, C, D, H, W] each.
template <class T>
struct DistanceField {
  T* square;         // signed; infinite where the other class has not been met
  int32_t* nearest;  // y W + x of the voxel of the other class, -1 where none has been met; or null
};

// The lines of a pass: voxel i of line (outer, inner) lies at (outer length + i) stride + inner.
struct Lines {
  int64_t outer;
  int32_t length, stride;  // inner counts up to the stride
  double size;             // h
};

GEOLOSS_DEVICE bool has_a_bit(uint64_t bits) { return bits != 0; }

// Nonzero, exactly: without regard to a float's sign, and to how small it is.
GEOLOSS_DEVICE bool is_foreground(const TensorView& mask, int64_t offset) {
  const void* const data = mask.data;
  switch (mask.dtype) {
    case DType::kFloat64: return has_a_bit(static_cast<const uint64_t*>(data)[offset] << 1);
    case DType::kFloat32: return has_a_bit(static_cast<const uint32_t*>(data)[offset] << 1);
    case DType::kFloat16:
    case DType::kBFloat16: return has_a_bit(static_cast<const uint16_t*>(data)[offset] & 0x7fff);
    case DType::kUInt64:
    case DType::kInt64: return has_a_bit(static_cast<const uint64_t*>(data)[offset]);
    case DType::kUInt32:
    case DType::kInt32: return has_a_bit(static_cast<const uint32_t*>(data)[offset]);
    case DType::kUInt16:
    case DType::kInt16: return has_a_bit(static_cast<const uint16_t*>(data)[offset]);
    default: return has_a_bit(static_cast<const uint8_t*>(data)[offset]);
  }
}

GEOLOSS_DEVICE int32_t first_bit(unsigned bits) { return __ffs(static_cast<int>(bits)) - 1; }
GEOLOSS_DEVICE int32_t last_bit(unsigned bits) { return 31 - __clz(static_cast<int>(bits)); }

// A warp's 32 voxels of a row.
struct RowChunk {
  int32_t x;
  bool inside, foreground;
  unsigned bits[2];  // of the voxels in the background, and in the foreground

  GEOLOSS_DEVICE RowChunk(const TensorView& mask, int64_t row, int32_t first, int32_t width) {
    x = first + static_cast<int32_t>(threadIdx.x);
    inside = x < width;
    foreground = inside && is_foreground(mask, row + x * mask.stride_x);
    bits[1] = __ballot_sync(0xffffffffu, foreground);
    bits[0] = __ballot_sync(0xffffffffu, inside) & ~bits[1];
  }

  // Of the two numbers of the classes, that of the class which the lane's voxel is not of.
  template <class U>
  GEOLOSS_DEVICE U of_other_class(const U (&of_class)[2]) const {
    return foreground ? of_class[0] : of_class[1];
  }
};

template <class T>
GEOLOSS_DEVICE T infinity() {
  return static_cast<T>(INFINITY);
}

// Six blocks at a time leave room for 40 registers; for eight, ptxas would spill.
// size: h along x
template <class T>
__global__ void __launch_bounds__(kDistanceLanes* kDistanceWarps, 6)
    distance_rows_kernel(const __grid_constant__ DistanceParams p, double size, DistanceField<T> out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kDistanceWarps + threadIdx.y;
  if (row >= p.N * p.C * p.D * p.H) return;
  const int64_t y = row % p.H, z = row / p.H % p.D, volume = row / p.H / p.D;
  const TensorView& mask = p.mask;
  const int64_t in_mask =
      volume / p.C * mask.stride_n + volume % p.C * mask.stride_c + z * mask.stride_z + y * mask.stride_y;
  const int32_t width = static_cast<int32_t>(p.W), lane = static_cast<int32_t>(threadIdx.x);
  T* const squares = out.square + row * p.W;

  int32_t met[2] = {-1, -1};  // the last voxel of each class that lies before the chunk
  for (int32_t first = 0; first < width; first += kDistanceLanes) {
    const RowChunk chunk(mask, in_mask, first, width);
    const unsigned before = chunk.of_other_class(chunk.bits) & ((1u << lane) - 1);
    if (chunk.inside) {
      const int32_t site = before ? first + last_bit(before) : chunk.of_other_class(met);
      squares[chunk.x] = static_cast<T>(site);
    }
    for (int i = 0; i < 2; ++i) met[i] = chunk.bits[i] ? first + last_bit(chunk.bits[i]) : met[i];
  }

  met[0] = met[1] = -1;  // the first voxel behind the chunk
  for (int32_t first = (width - 1) / kDistanceLanes * kDistanceLanes; first >= 0; first -= kDistanceLanes) {
    const RowChunk chunk(mask, in_mask, first, width);
    const unsigned behind = chunk.of_other_class(chunk.bits) & (0xfffffffeu << lane);
    if (chunk.inside) {
      const int32_t left = static_cast<int32_t>(squares[chunk.x]);
      const int32_t right = behind ? first + first_bit(behind) : chunk.of_other_class(met);
      const bool is_left = left >= 0 && (right < 0 || chunk.x - left <= right - chunk.x);
      const int32_t site = is_left ? left : right;
      const T distance = static_cast<T>(size) * static_cast<T>(is_left ? chunk.x - left : right - chunk.x);
      const T square = site < 0 ? infinity<T>() : distance * distance;
      squares[chunk.x] = chunk.foreground ? square : -square;
      if (out.nearest) {
        out.nearest[row * p.W + chunk.x] = site < 0 ? -1 : static_cast<int32_t>(row % p.H) * width + site;
      }
    }
    for (int i = 0; i < 2; ++i) met[i] = chunk.bits[i] ? first + first_bit(chunk.bits[i]) : met[i];
  }
}

// Whether no voxel of a block's lines has a distance to be found: all are infinite, and of one class.
template <class T>
GEOLOSS_DEVICE bool without_other_class(const T* line, const Lines& lines, bool inside) {
  __shared__ bool agree[2][kDistanceWarps];
  bool all[2] = {true, true};
  for (int32_t i = static_cast<int32_t>(threadIdx.y); inside && i < lines.length; i += kDistanceWarps) {
    const T square = line[static_cast<int64_t>(i) * lines.stride];
    all[0] = all[0] && square == -infinity<T>();
    all[1] = all[1] && square == infinity<T>();
  }
  for (int i = 0; i < 2; ++i) {
    const bool whole_warp = __all_sync(0xffffffffu, all[i]);
    if (threadIdx.x == 0) agree[i][threadIdx.y] = whole_warp;
  }
  __syncthreads();
  all[0] = all[1] = true;
  for (int warp = 0; warp < kDistanceWarps; ++warp) {
    all[0] = all[0] && agree[0][warp];
    all[1] = all[1] && agree[1][warp];
  }
  return all[0] || all[1];
}

GEOLOSS_DEVICE float min(float a, float b) { return fminf(a, b); }
GEOLOSS_DEVICE float max(float a, float b) { return fmaxf(a, b); }
GEOLOSS_DEVICE double min(double a, double b) { return fmin(a, b); }
GEOLOSS_DEVICE double max(double a, double b) { return fmax(a, b); }

template <class T>
struct Nearest {
  T square;        // to the nearest voxel of the other class, not signed
  int32_t offset;  // of the voxel of the line that leads to it
};

// The envelope at voxel i. Beyond its ends a line repeats its last voxel, which comes too late to matter. Of
// voxels that are equally near one with the least offset counts.
template <class T, bool kOffset>
GEOLOSS_DEVICE Nearest<T> envelope_at(const T* line, const Lines& lines, int32_t i) {
  const int64_t stride = lines.stride;
  const int32_t last = lines.length - 1, reach = i > last - i ? i : last - i;
  const T own = line[i * stride], sign = own > 0 ? T(1) : T(-1), size = static_cast<T>(lines.size);
  Nearest<T> best{own * sign, 0};
  for (int32_t first = 1; first <= reach; first += kStepsAtOnce) {
    const T least = size * static_cast<T>(first);
    if (!(least * least < best.square)) break;
#pragma unroll
    for (int32_t d = first; d < first + kStepsAtOnce; ++d) {
      const T before = sign * line[(i > d ? i - d : 0) * stride];
      const T after = sign * line[(i + d < last ? i + d : last) * stride];
      const T distance = size * (static_cast<T>(first) + static_cast<T>(d - first));
      // A voxel of the other class is a distance of 0 away from itself, however far its sign says.
      const T candidate = max(min(before, after), T(0)) + distance * distance;
      if constexpr (kOffset) {
        best.offset = candidate < best.square ? (after < before ? d : -d) : best.offset;
      }
      best.square = min(candidate, best.square);
    }
  }
  return best;
}

GEOLOSS_DEVICE void write_distance(const DistanceParams& p, int64_t at, double distance) {
  if (p.fp64) {
    static_cast<double*>(p.distance)[at] = distance;
  } else {
    static_cast<float*>(p.distance)[at] = static_cast<float>(distance);
  }
}

// unit: of squares, in mm
template <class T>
GEOLOSS_DEVICE void finish(const DistanceParams& p, int64_t at, T square, bool foreground, double unit) {
  const double distance =
      square == infinity<T>() ? p.without_boundary : sqrt(static_cast<double>(square)) * unit;
  if (p.side != Side::kSigned || !foreground) return write_distance(p, at, distance);
  write_distance(p, at, square == infinity<T>() ? -distance : 1 - distance);
}

template <class T, bool kLast, bool kNearest>
__global__ void __launch_bounds__(kDistanceLanes* kDistanceWarps)
    distance_columns_kernel(const __grid_constant__ DistanceParams p, const __grid_constant__ Lines lines,
                            DistanceField<T> in, DistanceField<T> out, double unit) {
  const int32_t tiles = (lines.stride + kDistanceLanes - 1) / kDistanceLanes;
  const int32_t parts = (lines.length + kPositionsOfBlock - 1) / kPositionsOfBlock;
  const int64_t block = blockIdx.x, outer = block / tiles / parts;
  const int32_t inner =
      static_cast<int32_t>(block % tiles) * kDistanceLanes + static_cast<int32_t>(threadIdx.x);
  const int32_t begin = static_cast<int32_t>(block / tiles % parts) * kPositionsOfBlock;
  const int32_t end = begin + kPositionsOfBlock < lines.length ? begin + kPositionsOfBlock : lines.length;
  const bool inside = inner < lines.stride;
  const int64_t start = outer * lines.length * lines.stride + inner;
  const T* const line = in.square + start;

  const bool nothing_to_find = without_other_class(line, lines, inside);
  if (!inside) return;
  for (int32_t i = begin + static_cast<int32_t>(threadIdx.y); i < end; i += kDistanceWarps) {
    const int64_t at = start + static_cast<int64_t>(i) * lines.stride;
    const bool foreground = in.square[at] > 0;
    const bool unwanted = p.side == Side::kForeground && !foreground;
    Nearest<T> best{unwanted ? T(0) : infinity<T>(), 0};
    if (!unwanted && !nothing_to_find) best = envelope_at<T, kNearest>(line, lines, i);
    if constexpr (kLast) {
      finish(p, at, best.square, foreground, unit);
    } else {
      out.square[at] = foreground ? best.square : unwanted ? T(-1) : -best.square;
    }
    if constexpr (kNearest) {
      // A voxel of the other class, and one that is not asked for, leads to itself.
      const int64_t via = at + static_cast<int64_t>(best.offset) * lines.stride;
      const bool is_site = unwanted || (in.square[via] > 0) != foreground;
      const int64_t plane = p.H * p.W;
      const int64_t in_plane = is_site ? via % plane : in.nearest[via];
      if constexpr (kLast) {
        p.nearest[at] = in_plane < 0 ? -1 : via / plane % p.D * plane + in_plane;
      } else {
        out.nearest[at] = static_cast<int32_t>(in_plane);
      }
    }
  }
}

inline bool has_cubic_voxels(const DistanceParams& p) {
  return p.spacing[0] == p.spacing[1] && p.spacing[1] == p.spacing[2];
}

// Whether fp32 is exact: squares are integers, and small enough.
inline bool fp32_is_exact(const DistanceParams& p) {
  return has_cubic_voxels(p) && p.D * p.D + p.H * p.H + p.W * p.W < (int64_t{1} << 24);
}

// Of the arrays that the passes hand on.
template <class T>
int64_t distance_workspace_bytes(const DistanceParams& p) {
  const int64_t voxels = p.N * p.C * p.D * p.H * p.W, arrays = p.D > 1 ? 2 : 1;
  return arrays * voxels * static_cast<int64_t>(sizeof(T) + (p.nearest ? sizeof(int32_t) : 0));
}

template <class T, bool kLast>
cudaError_t launch_columns(const DistanceParams& p, const Lines& lines, const DistanceField<T>& in,
                           const DistanceField<T>& out, cudaStream_t stream) {
  const int64_t tiles = (lines.stride + kDistanceLanes - 1) / kDistanceLanes;
  const int64_t parts = (lines.length + kPositionsOfBlock - 1) / kPositionsOfBlock;
  const double unit = has_cubic_voxels(p) ? p.spacing[2] : 1;
  const auto launch = [&](auto kernel) {
    GEOLOSS_LAUNCH(kernel, static_cast<unsigned>(tiles * parts * lines.outer),
                   dim3(kDistanceLanes, kDistanceWarps), 0, stream, p, lines, in, out, unit);
  };
  if (p.nearest) {
    launch(distance_columns_kernel<T, kLast, true>);
  } else {
    launch(distance_columns_kernel<T, kLast, false>);
  }
  return cudaGetLastError();
}

// workspace: of distance_workspace_bytes, aligned as a T is
template <class T>
cudaError_t launch_distance_transform(const DistanceParams& p, void* workspace, cudaStream_t stream) {
  const int64_t volumes = p.N * p.C, voxels = volumes * p.D * p.H * p.W;
  DistanceField<T> fields[2]{};
  const int arrays = p.D > 1 ? 2 : 1;
  for (int i = 0; i < arrays; ++i) {
    fields[i].square = static_cast<T*>(workspace) + i * voxels;
    if (p.nearest) {
      fields[i].nearest =
          reinterpret_cast<int32_t*>(static_cast<T*>(workspace) + arrays * voxels) + i * voxels;
    }
  }
  const auto size = [&](int axis) { return has_cubic_voxels(p) ? 1 : p.spacing[axis]; };
  const int64_t rows = volumes * p.D * p.H;
  GEOLOSS_LAUNCH(distance_rows_kernel<T>, static_cast<unsigned>((rows + kDistanceWarps - 1) / kDistanceWarps),
                 dim3(kDistanceLanes, kDistanceWarps), 0, stream, p, size(2), fields[0]);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;

  const auto axis = [&](int64_t outer, int64_t length, int64_t stride, double h) {
    return Lines{outer, static_cast<int32_t>(length), static_cast<int32_t>(stride), h};
  };
  const Lines along_y = axis(volumes * p.D, p.H, p.W, size(1));
  if (p.D == 1) return launch_columns<T, true>(p, along_y, fields[0], fields[1], stream);
  const cudaError_t error = launch_columns<T, false>(p, along_y, fields[0], fields[1], stream);
  if (error != cudaSuccess) return error;
  return launch_columns<T, true>(p, axis(volumes, p.D, p.H * p.W, size(0)), fields[1], fields[0], stream);
}

}  // namespace geoloss::cuda
