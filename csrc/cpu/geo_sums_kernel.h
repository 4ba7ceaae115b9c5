// The compiled variants of the CPU kernel, one per instruction set.
#pragma once

#include "../geo_sums.h"

namespace geoloss::cpu {

// The volume is cut into tiles by its shape alone, so that sums do not depend on the number of threads.
struct Tiling {
  int64_t rows, planes;      // of a tile
  int64_t tiles_y, tiles_z;  // per volume
  int64_t volumes;           // N·C, or N where softmax ties the channels
  int64_t channels;          // per volume: 1, or C
  int64_t tiles() const { return volumes * tiles_z * tiles_y; }
};

// Each function works on one tile with `workspace` bytes of zeroed, 64-byte aligned scratch memory, of which
// every thread has its own.
struct GeoSumsKernel {
  Tiling (*tiling)(const GeoSumsParams&, bool backward);
  size_t (*workspace)(const GeoSumsParams&, const Tiling&, bool backward);
  void (*forward)(const GeoSumsParams&, const Tiling&, int64_t tile, void* workspace, double* partial_sums);
  void (*backward)(const GeoSumsParams&, const Tiling&, int64_t tile, void* workspace);
};

}  // namespace geoloss::cpu

#define GEOLOSS_DECLARE_VARIANT(isa)           \
  namespace geoloss::isa {                     \
  template <class T> /* of the arithmetic */   \
  const cpu::GeoSumsKernel& geo_sums_kernel(); \
  }

GEOLOSS_DECLARE_VARIANT(baseline)
#if defined(__x86_64__)
GEOLOSS_DECLARE_VARIANT(avx2)
GEOLOSS_DECLARE_VARIANT(avx512)
#endif
