// The compiled variants of the CPU kernel of distance_transform, one per instruction set and arithmetic.
#pragma once

#include "../distance_transform.h"

namespace geoloss::cpu {

// A group of volumes between the two passes, with an entry per class of voxels: 0 background, 1 foreground.
struct DistancePlanes {
  int64_t first_volume;  // n C + c
  int64_t volumes;
  void* squared[2];     // [volumes, D, H, pitch], distance within the plane; null: not asked for
  int32_t* nearest[2];  // the same shape, y W + x of the voxel that it leads to; null: not asked for
  bool* present;        // [volumes, D, 2]: does the plane have voxels of the class?
};

// Every thread has its own workspace of zeroed, 64-byte aligned memory.
struct DistanceKernel {
  size_t element_bytes;
  int64_t (*pitch)(const DistanceParams&);
  size_t (*workspace)(const DistanceParams&);
  // Distances within the planes `begin` to `end` of the group.
  void (*planes)(const DistanceParams&, const DistancePlanes&, int64_t begin, int64_t end, void* workspace);
  // Distances in the rows `begin` to `end`, [volumes, H], of every plane; false if one is beyond the
  // arithmetic's range.
  bool (*rows)(const DistanceParams&, const DistancePlanes&, int64_t begin, int64_t end, void* workspace);
};

}  // namespace geoloss::cpu

#define GEOLOSS_DECLARE_VARIANT(isa)            \
  namespace geoloss::isa {                      \
  template <class T> /* of the arithmetic */    \
  const cpu::DistanceKernel& distance_kernel(); \
  }

GEOLOSS_DECLARE_VARIANT(baseline)
#if defined(__x86_64__)
GEOLOSS_DECLARE_VARIANT(avx2)
GEOLOSS_DECLARE_VARIANT(avx512)
#endif
#undef GEOLOSS_DECLARE_VARIANT
