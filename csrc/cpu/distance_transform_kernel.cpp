// distance_transform on the CPU: the exact Euclidean distance, axis by axis.
//
//   planes   for each plane z: two scans along y count the voxels to the next one of the other class; the
//   lower
//            envelope of parabolas along x turns the counts into squared distances within the plane
//   rows     for each row y: the envelope along z of all planes' rows y, the root, the sign
//
// The squared distances in between lie in an array of their own, of 2 bytes per voxel for cubic voxels and
// distances below 256 voxels, 4 beyond, 8 for other spacings: all integers exact, everything else in fp64.
// The two classes of voxels, foreground and background, are transformed one after the other; where a plane or
// a block has voxels of one class only, which is nearly everywhere in a mask of lesions, the other costs
// nothing. `min_plus.h` has the envelope and what it costs.
//
// Moves mask + distance + twice the array in between, and that at most 4 MB at a time.
//
// This file is compiled once per instruction set, into the namespace GEOLOSS_ISA.
#include "distance_transform_kernel.h"

#include <type_traits>

#include "min_plus.h"
#include "rows.h"

namespace geoloss::GEOLOSS_ISA {
namespace {

using cpu::DistancePlanes;

constexpr int64_t kBlockVectors = 2;

int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

template <class T>
constexpr int64_t kBlock = kBlockVectors * Lanes<T>::kCount;

// Rows in between hold whole blocks.
template <class T>
int64_t pitch(const DistanceParams& p) {
  return round_up(p.W, kBlock<T>);
}

// Infinite inputs on either side of a line, so that the envelope may look beyond its ends.
int64_t margin(int64_t length) { return length + kStepsAtOnce; }

bool cubic(const DistanceParams& p) { return p.spacing[0] == p.spacing[1] && p.spacing[1] == p.spacing[2]; }

// The unit of squared distances: voxels where they are cubic, else mm.
double voxel_size(const DistanceParams& p, int axis) { return cubic(p) ? 1 : p.spacing[axis]; }

bool wanted(const DistanceParams& p, int voxel_class) {
  return voxel_class == 1 || p.side != Side::kForeground;
}

// Voxels along y, in integers as wide as T.
template <class T>
using Count = std::conditional_t<sizeof(T) == 2, uint16_t, int32_t>;
template <class T>
constexpr Count<T> kNoneInLine = sizeof(T) == 2 ? 0xffff : 0x7fffffff;

template <class T>
GEOLOSS_INLINE Count<T> next_count(Count<T> count) {
  return count + (count != kNoneInLine<T>);
}

// (h d)², infinity where that is beyond T.
template <class T>
GEOLOSS_INLINE T squared(Count<T> d, double size) {
  if constexpr (sizeof(T) == 2) {
    return d > 255 ? kInfinity<T> : static_cast<T>(d * d);
  } else {
    const T distance = static_cast<T>(size) * static_cast<T>(d);
    return d == kNoneInLine<T> ? kInfinity<T> : distance * distance;
  }
}

GEOLOSS_INLINE int64_t signed_offset(uint16_t offset) { return static_cast<int16_t>(offset); }
GEOLOSS_INLINE int64_t signed_offset(double offset) { return static_cast<int64_t>(offset); }

// Carves arrays, each aligned to 64 bytes, out of a workspace; with a null workspace it measures one.
class Arrays {
 public:
  explicit Arrays(void* workspace) : begin_(static_cast<char*>(workspace)) {}
  template <class U>
  U* take(int64_t count) {
    U* array = begin_ ? reinterpret_cast<U*>(begin_ + used_) : nullptr;
    used_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(U)), 64));
    return array;
  }
  size_t used() const { return used_; }

 private:
  char* begin_;
  size_t used_ = 0;
};

template <class T>
void write_steps(T* steps, int64_t length, double size) {
  for (int64_t d = 0; d < length + kStepsAtOnce; ++d) steps[d] = squared<T>(static_cast<Count<T>>(d), size);
}

template <class U>
void fill(U* values, int64_t count, U value) {
  for (int64_t i = 0; i < count; ++i) values[i] = value;
}

// Distances within planes.
template <class T, bool kNearest>
class PlanePass {
 public:
  PlanePass(const DistanceParams& params, const DistancePlanes& planes, void* workspace)
      : p(params), out(planes), W(params.W), row_pitch(pitch<T>(params)) {
    Arrays arrays(workspace);
    foreground = arrays.take<bool>(p.H * row_pitch);
    count_down = arrays.take<Count<T>>(p.H * row_pitch);
    count_up = arrays.take<Count<T>>(row_pitch);
    const int64_t beyond = margin(row_pitch);
    line = arrays.take<T>(beyond + row_pitch + beyond) + (workspace ? beyond : 0);
    steps = arrays.take<T>(W + kStepsAtOnce);
    offset_x = arrays.take<T>(row_pitch);
    offset_y = arrays.take<int32_t>(row_pitch);
    bytes = arrays.used();
    if (!workspace) return;
    fill(line - beyond, beyond + row_pitch + beyond, kInfinity<T>);
    write_steps(steps, W, voxel_size(p, 2));
  }

  void transform(int64_t plane) {
    const int64_t volume = out.first_volume + plane / p.D;
    read_mask(volume / p.C, volume % p.C, plane % p.D);
    bool* present = out.present + 2 * plane;
    present[1] = any_foreground(true);
    present[0] = any_foreground(false);
    for (int voxel_class = 0; voxel_class < 2; ++voxel_class) {
      if (!wanted(p, voxel_class)) continue;
      const int64_t start = plane * p.H * row_pitch;
      T* distance = static_cast<T*>(out.squared[voxel_class]) + start;
      int32_t* nearest = kNearest ? out.nearest[voxel_class] + start : nullptr;
      if (present[0] && present[1]) {
        scan_down(voxel_class == 1);
        scan_up(voxel_class == 1, distance, nearest);
      } else {
        fill_plane(distance, nearest, present[voxel_class]);
      }
    }
  }

  size_t bytes;

 private:
  void read_mask(int64_t n, int64_t c, int64_t z) {
    const TensorView& mask = p.mask;
    const auto load = load_row<bool>(mask.dtype);
    for (int64_t y = 0; y < p.H; ++y) {
      const int64_t offset = n * mask.stride_n + c * mask.stride_c + z * mask.stride_z + y * mask.stride_y;
      load(mask.data, offset, mask.stride_x, W, foreground + y * row_pitch);
    }
  }

  // Whether there is a voxel with this value.
  bool any_foreground(bool value) const {
    for (int64_t y = 0; y < p.H; ++y) {
      if (__builtin_memchr(foreground + y * row_pitch, value, W)) return true;
    }
    return false;
  }

  // A plane with one class of voxels: infinity for those that are of this class, 0 for those that are not.
  void fill_plane(T* distance, int32_t* nearest, bool of_this_class) const {
    for (int64_t y = 0; y < p.H; ++y) {
      fill(distance + y * row_pitch, W, of_this_class ? kInfinity<T> : T(0));
      fill(distance + y * row_pitch + W, row_pitch - W, T(0));
      for (int64_t x = 0; kNearest && x < W; ++x) {
        nearest[y * row_pitch + x] = of_this_class ? -1 : static_cast<int32_t>(y * W + x);
      }
    }
  }

  // Voxels up to the last one of the other class that came before.
  void scan_down(bool voxel_class) {
    fill(count_up, row_pitch, kNoneInLine<T>);
    const Count<T>* previous = count_up;
    for (int64_t y = 0; y < p.H; ++y) {
      Count<T>* count = count_down + y * row_pitch;
      const bool* is_foreground = foreground + y * row_pitch;
      for (int64_t x = 0; x < W; ++x) {
        count[x] = is_foreground[x] == voxel_class ? next_count<T>(previous[x]) : 0;
      }
      previous = count;
    }
  }

  // The same upwards, the nearer of the two, and the envelope along x.
  void scan_up(bool voxel_class, T* distance, int32_t* nearest) {
    fill(count_up, row_pitch, kNoneInLine<T>);
    const double size = voxel_size(p, 1);
    for (int64_t y = p.H - 1; y >= 0; --y) {
      const Count<T>* down = count_down + y * row_pitch;
      const bool* is_foreground = foreground + y * row_pitch;
      for (int64_t x = 0; x < W; ++x) {
        const Count<T> up = is_foreground[x] == voxel_class ? next_count<T>(count_up[x]) : 0;
        count_up[x] = up;
        line[x] = squared<T>(up < down[x] ? up : down[x], size);
        if constexpr (kNearest) offset_y[x] = up < down[x] ? up : -static_cast<int32_t>(down[x]);
      }
      for (int64_t x = 0; x < W; x += kBlock<T>) envelope(x, distance + y * row_pitch);
      for (int64_t x = 0; kNearest && x < W; ++x) {
        const int64_t at = x + signed_offset(offset_x[x]);
        nearest[y * row_pitch + x] = static_cast<int32_t>((y + offset_y[at]) * W + at);
      }
    }
  }

  GEOLOSS_SIMD void envelope(int64_t x, T* distance) const {
    using V = Lanes<T>;
    V best[kBlockVectors], offset[kBlockVectors];
    for (int64_t k = 0; k < kBlockVectors; ++k) {
      best[k] = start(x + k * V::kCount);
      offset[k] = V(T(0));
    }
    const int64_t reach = max(x + kBlock<T> - 1, W - 1 - x);
    lower_to_envelope<kNearest>(line + x, 1, steps, reach < W ? reach : W - 1, best, offset);
    for (int64_t k = 0; k < kBlockVectors; ++k) {
      best[k].store(distance + x + k * V::kCount);
      if constexpr (kNearest) offset[k].store(offset_x + x + k * V::kCount);
    }
  }

  // The line's lanes at x. Those beyond the row are 0, or their infinity would ask for every step there is.
  GEOLOSS_SIMD Lanes<T> start(int64_t x) const {
    using V = Lanes<T>;
    if (W - x >= V::kCount) return V::load(line + x);
    return W > x ? select(V::first(W - x), V::load(line + x), V(T(0))) : V(T(0));
  }

  const DistanceParams& p;
  const DistancePlanes& out;
  int64_t W, row_pitch;
  bool* foreground;      // [H, pitch]
  Count<T>* count_down;  // [H, pitch]
  Count<T>* count_up;    // [pitch]
  T* line;               // [pitch], with a margin of infinity on either side
  T* steps;
  T* offset_x;  // [pitch]
  int32_t* offset_y;
};

// The distance to the other class, in mm, from its square.
template <class T, class Out>
GEOLOSS_INLINE Out root(T square, double scale) {
  if constexpr (sizeof(T) < 8 && sizeof(Out) == 4) {
    if (scale == 1) return std::sqrt(static_cast<float>(square));
  }
  return static_cast<Out>(scale * std::sqrt(static_cast<double>(square)));
}

// Distances in a row of all planes.
template <class T, bool kNearest, class Out>
class RowPass {
 public:
  RowPass(const DistanceParams& params, const DistancePlanes& planes, void* workspace)
      : p(params), in(planes), row_pitch(pitch<T>(params)), scale(cubic(params) ? params.spacing[0] : 1) {
    Arrays arrays(workspace);
    const int64_t beyond = margin(p.D) * kBlock<T>;
    const int64_t inputs = beyond + p.D * kBlock<T> + beyond;
    for (T*& column : columns) column = arrays.take<T>(inputs) + (workspace ? beyond : 0);
    steps = arrays.take<T>(p.D + kStepsAtOnce);
    bytes = arrays.used();
    if (!workspace) return;
    for (T* column : columns) fill(column - beyond, inputs, kInfinity<T>);
    write_steps(steps, p.D, voxel_size(p, 0));
  }

  bool transform(int64_t row) {
    const int64_t volume = row / p.H, y = row % p.H;
    bool present[2] = {false, false};
    for (int64_t z = 0; z < p.D; ++z) {
      for (int i = 0; i < 2; ++i) present[i] |= in.present[2 * (volume * p.D + z) + i];
    }
    if (!present[0] || !present[1]) {
      fill_row(volume, y, present[1]);
      return true;
    }
    bool fits = true;
    for (int64_t x = 0; x < p.W; x += kBlock<T>) fits &= transform_block(volume, y, x);
    return fits;
  }

  size_t bytes;

 private:
  Out* output(int64_t volume, int64_t z, int64_t y) const {
    return static_cast<Out*>(p.distance) + output_index(volume, z, y);
  }
  int64_t output_index(int64_t volume, int64_t z, int64_t y) const {
    return (((in.first_volume + volume) * p.D + z) * p.H + y) * p.W;
  }
  int64_t input_index(int64_t volume, int64_t z, int64_t y) const {
    return ((volume * p.D + z) * p.H + y) * row_pitch;
  }

  // A volume with one class of voxels.
  void fill_row(int64_t volume, int64_t y, bool foreground) const {
    double value = p.without_boundary;
    if (p.side == Side::kSigned && foreground) value = -value;
    const bool is_zero = p.side == Side::kForeground && !foreground;
    for (int64_t z = 0; z < p.D; ++z) {
      fill(output(volume, z, y), p.W, static_cast<Out>(is_zero ? 0 : value));
      for (int64_t x = 0; kNearest && x < p.W; ++x) {
        p.nearest[output_index(volume, z, y) + x] = is_zero ? (z * p.H + y) * p.W + x : -1;
      }
    }
  }

  bool transform_block(int64_t volume, int64_t y, int64_t x) {
    bool some[2] = {false, false};
    for (int i = 0; i < 2; ++i) some[i] = wanted(p, i) && gather(i, volume, y, x);
    const int64_t width = p.W - x < kBlock<T> ? p.W - x : kBlock<T>;
    Lanes<T> largest(T(0));
    alignas(64) T square[2][kBlock<T>] = {};
    alignas(64) T offset[2][kBlock<T>] = {};
    for (int64_t z = 0; z < p.D; ++z) {
      for (int i = 0; i < 2; ++i) {
        if (some[i]) envelope(i, z, square[i], offset[i], largest);
      }
      write(square, some, width, output(volume, z, y) + x);
      if constexpr (kNearest) write_nearest(square, offset, volume, z, y, x, width);
    }
    return sizeof(T) > 2 || !any_above(largest, Lanes<T>(kInfinity<T> - 1));
  }

  // The column of blocks at (y, x); whether any of its distances is not 0.
  bool gather(int voxel_class, int64_t volume, int64_t y, int64_t x) {
    using V = Lanes<T>;
    const T* source = static_cast<const T*>(in.squared[voxel_class]);
    V largest(T(0));
    for (int64_t z = 0; z < p.D; ++z) {
      const T* from = source + input_index(volume, z, y) + x;
      T* to = columns[voxel_class] + z * kBlock<T>;
      for (int64_t k = 0; k < kBlock<T>; k += V::kCount) {
        const V squares = V::load(from + k);
        largest = larger(largest, squares);
        squares.store(to + k);
      }
    }
    return any_above(largest, V(T(0)));
  }

  GEOLOSS_SIMD void envelope(int voxel_class, int64_t z, T* square, T* offsets, Lanes<T>& largest) const {
    using V = Lanes<T>;
    const T* f = columns[voxel_class] + z * kBlock<T>;
    V best[kBlockVectors], offset[kBlockVectors];
    for (int64_t k = 0; k < kBlockVectors; ++k) {
      best[k] = V::load(f + k * V::kCount);
      offset[k] = V(T(0));
    }
    lower_to_envelope<kNearest>(f, kBlock<T>, steps, max(z, p.D - 1 - z), best, offset);
    for (int64_t k = 0; k < kBlockVectors; ++k) {
      best[k].store(square + k * V::kCount);
      largest = larger(largest, best[k]);
      if constexpr (kNearest) offset[k].store(offsets + k * V::kCount);
    }
  }

  void write(const T (&square)[2][kBlock<T>], const bool (&some)[2], int64_t width, Out* out) const {
    if (p.side == Side::kSigned && some[1]) {
      for (int64_t j = 0; j < width; ++j) {
        const Out inside = static_cast<Out>(1 - root<T, double>(square[1][j], scale));
        out[j] = square[1][j] > 0 ? inside : root<T, Out>(square[0][j], scale);
      }
    } else {
      for (int64_t j = 0; j < width; ++j) {
        out[j] = root<T, Out>(square[0][j] > square[1][j] ? square[0][j] : square[1][j], scale);
      }
    }
  }

  void write_nearest(const T (&square)[2][kBlock<T>], const T (&offset)[2][kBlock<T>], int64_t volume,
                     int64_t z, int64_t y, int64_t x, int64_t width) const {
    for (int64_t j = 0; j < width; ++j) {
      const int voxel_class = !wanted(p, 0) || square[1][j] > 0;
      const int64_t at = z + signed_offset(offset[voxel_class][j]);
      const int64_t in_plane = in.nearest[voxel_class][input_index(volume, at, y) + x + j];
      p.nearest[output_index(volume, z, y) + x + j] = at * p.H * p.W + in_plane;
    }
  }

  const DistanceParams& p;
  const DistancePlanes& in;
  int64_t row_pitch;
  double scale;   // mm of the unit that squares count in
  T* columns[2];  // [D, block], with a margin of infinity on either side
  T* steps;
};

template <class T>
size_t workspace(const DistanceParams& p) {
  const DistancePlanes none{};
  const size_t plane = PlanePass<T, false>(p, none, nullptr).bytes;
  const size_t row = RowPass<T, false, float>(p, none, nullptr).bytes;
  return plane > row ? plane : row;
}

template <class T, bool kNearest>
void planes_of(const DistanceParams& p, const DistancePlanes& planes, int64_t begin, int64_t end,
               void* workspace) {
  PlanePass<T, kNearest> pass(p, planes, workspace);
  for (int64_t plane = begin; plane < end; ++plane) pass.transform(plane);
}

template <class T>
void planes(const DistanceParams& p, const DistancePlanes& planes, int64_t begin, int64_t end,
            void* workspace) {
  (p.nearest ? planes_of<T, true> : planes_of<T, false>)(p, planes, begin, end, workspace);
}

template <class T, bool kNearest, class Out>
bool rows_of(const DistanceParams& p, const DistancePlanes& planes, int64_t begin, int64_t end,
             void* workspace) {
  RowPass<T, kNearest, Out> pass(p, planes, workspace);
  bool fits = true;
  for (int64_t row = begin; row < end; ++row) fits &= pass.transform(row);
  return fits;
}

template <class T>
bool rows(const DistanceParams& p, const DistancePlanes& planes, int64_t begin, int64_t end,
          void* workspace) {
  if (p.fp64)
    return (p.nearest ? rows_of<T, true, double> : rows_of<T, false, double>)(p, planes, begin, end,
                                                                              workspace);
  return (p.nearest ? rows_of<T, true, float> : rows_of<T, false, float>)(p, planes, begin, end, workspace);
}

}  // namespace

template <class T>
const cpu::DistanceKernel& distance_kernel() {
  static constexpr cpu::DistanceKernel kernel{sizeof(T), pitch<T>, workspace<T>, planes<T>, rows<T>};
  return kernel;
}

template const cpu::DistanceKernel& distance_kernel<uint16_t>();
template const cpu::DistanceKernel& distance_kernel<float>();
template const cpu::DistanceKernel& distance_kernel<double>();

}  // namespace geoloss::GEOLOSS_ISA
