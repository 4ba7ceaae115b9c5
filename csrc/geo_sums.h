// What geo_sums and its backward work on: plain data, the same for every backend, without torch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace geoloss {

enum class DType : int32_t {
  kFloat64,
  kFloat32,
  kFloat16,
  kBFloat16,
  kBool,
  kUInt8,
  kUInt16,
  kUInt32,
  kUInt64,
  kInt8,
  kInt16,
  kInt32,
  kInt64
};

enum class Activation : int32_t { kNone, kSigmoid, kSoftmax };

// A strided volume per batch element and channel; a stride of 0 repeats. `data` is null where there is none.
struct TensorView {
  void* data;
  DType dtype;
  int64_t stride_n, stride_c, stride_z, stride_y, stride_x;  // in elements
};

constexpr int kMaxTerms = 16;

struct GeoSumsParams {
  int64_t N, C, D, H, W;
  TensorView input;   // [N, C, D, H, W]
  TensorView target;  // the same, or [N, 1, D, H, W] where label_map
  TensorView mask;    // [N, 1 or C, D, H, W], zero where a voxel is left out
  TensorView map;     // [N, 1 or C, D, H, W], weights of the map terms
  bool label_map;     // target holds class numbers: g of channel c is (target == c)
  bool has_ignore_index;
  double ignore_index;
  Activation activation;
  int64_t first_channel;      // 1 leaves the background channel out of every sum
  double inverse_spacing[3];  // along z, y, x
  bool axis_chosen[3];        // z, y, x: the axes FOG differentiates along
  int64_t term_count;         // K
  const char* terms[kMaxTerms];

  TensorView grad_input;  // backward only: [N, C, D, H, W]
  const void*
      grad_sums;  // backward only: [N, C - first_channel, K], contiguous, fp64 for fp64 input, else fp32
};

}  // namespace geoloss
