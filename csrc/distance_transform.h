// What distance_transform works on: plain data, the same for every backend, without torch.
#pragma once

#include "geo_sums.h"

namespace geoloss {

// Of a voxel, the distance to the nearest voxel on the other side of the mask's boundary: of the foreground
// alone (0 in the background), of both sides, or with Kervadec's sign: 1 - distance in the foreground.
enum class Side : int32_t { kForeground, kBoth, kSigned };

struct DistanceParams {
  int64_t N, C, D, H, W;
  TensorView mask;    // [N, C, D, H, W], nonzero in the foreground
  double spacing[3];  // along z, y, x
  Side side;
  double without_boundary;  // magnitude of the distance where the other side has no voxel
  bool fp64;                // of the distances; else fp32
  void* distance;           // [N, C, D, H, W], contiguous
  int64_t* nearest;         // [N, C, D, H, W], contiguous: (z H + y) W + x of the voxel that the distance
                            // leads to, -1 where there is none; or null
};

}  // namespace geoloss
