// CUDA's language for a host compiler: the kernels of csrc/cuda, run without a GPU.
//
// Each thread of a block is a fiber, which runs until it waits for its block or its warp; blocks run one
// after the other. In which order, the schedule says, and the result of a sound kernel does not depend on it.
// Shared memory holds NaN when a block begins, and dynamic shared memory is as large as the launch asked for,
// to the byte. What CUDA leaves undefined is an `Error` that names the place: threads that wait at different
// barriers or not at all, exchanges within a warp that name a lane which does not take part, launches that no
// GPU accepts.
//
// Not shown: blocks that run at the same time, weak memory order, and the GPU's own rounding of elementary
// functions and of contracted multiplications and additions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define __shared__ static __attribute__((section("cuda_shared")))

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

namespace cuda_on_host {

using Place = std::source_location;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Order { kForward, kReverse, kRandom };

// Of the launches to come: the turns of the blocks, and of the threads within each.
void set_schedule(Order order, uint64_t seed);

struct Statistics {
  uint64_t launches, threads, barriers, exchanges;
};

// Of the launches so far.
const Statistics& statistics();

struct RunningThread {
  uint3 index, block;
  dim3 block_size, grid_size;
  int lane;
};
extern RunningThread running;

struct Launch {
  const char* kernel_name;
  const void* kernel;
  Place place;
  dim3 grid, block;
  size_t shared_bytes;
};

// Calls body(context) as every thread of the grid.
void run(const Launch& launch, void (*body)(void*), void* context);

template <class... Parameters, class... Arguments>
void launch(const char* kernel_name, Place place, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            void (*kernel)(Parameters...), Arguments... arguments) {
  using Call = std::pair<void (*)(Parameters...), std::tuple<Parameters...>>;
  Call call(kernel, std::tuple<Parameters...>(arguments...));
  run(
      {kernel_name, reinterpret_cast<const void*>(kernel), place, grid, block, shared_bytes},
      [](void* context) {
        const auto& [kernel, parameters] = *static_cast<const Call*>(context);
        std::apply(kernel, parameters);
      },
      &call);
}

void allow_shared_bytes(const void* kernel, size_t bytes);
unsigned char* dynamic_shared();

void wait_for_block(Place place);
void wait_for_warp(unsigned mask, Place place);

struct alignas(16) Word {
  unsigned char bytes[16];
};

// Waits for the lanes of the mask; returns what each of a warp's 32 lanes brought. Valid until the thread
// takes part in the exchange after the next.
const Word* exchange(unsigned mask, const Word& brought, Place place);

// The value of another lane. That one's bit has to be set in the mask.
template <class T>
T shuffled(unsigned mask, T value, int source, Place place) {
  static_assert(sizeof(T) <= sizeof(Word) && std::is_trivially_copyable_v<T>);
  Word word{};
  __builtin_memcpy(&word, &value, sizeof(T));
  const Word* const words = exchange(mask, word, place);
  if (!(mask >> source & 1)) throw Error("a shuffle reads a lane that its mask leaves out");
  __builtin_memcpy(&value, words + source, sizeof(T));
  return value;
}

unsigned ballot(unsigned mask, bool vote, Place place);

}  // namespace cuda_on_host

#define threadIdx (::cuda_on_host::running.index)
#define blockIdx (::cuda_on_host::running.block)
#define blockDim (::cuda_on_host::running.block_size)
#define gridDim (::cuda_on_host::running.grid_size)
constexpr int warpSize = 32;

#define GEOLOSS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
  ::cuda_on_host::launch(#kernel, ::cuda_on_host::Place::current(), grid, block, shared_bytes, stream, \
                         kernel __VA_OPT__(, ) __VA_ARGS__)
#define GEOLOSS_DYNAMIC_SHARED(name) unsigned char* const name = ::cuda_on_host::dynamic_shared()

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  constexpr int kMost = 64 * 1024;  // of compute capability 7.5
  if (bytes < 0 || bytes > kMost) return cudaErrorInvalidValue;
  cuda_on_host::allow_shared_bytes(reinterpret_cast<const void*>(kernel), static_cast<size_t>(bytes));
  return cudaSuccess;
}

inline void __syncthreads(cuda_on_host::Place place = cuda_on_host::Place::current()) {
  cuda_on_host::wait_for_block(place);
}

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       cuda_on_host::Place place = cuda_on_host::Place::current()) {
  cuda_on_host::wait_for_warp(mask, place);
}

// Segments of `width` lanes shuffle among themselves; a lane whose source lies outside of its segment keeps
// its own value.

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              cuda_on_host::Place place = cuda_on_host::Place::current()) {
  const int segment = cuda_on_host::running.lane & ~(width - 1);
  return cuda_on_host::shuffled(mask, value, segment | (source & (width - 1)), place);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = warpSize,
                 cuda_on_host::Place place = cuda_on_host::Place::current()) {
  const int lane = cuda_on_host::running.lane, source = lane - static_cast<int>(distance);
  return cuda_on_host::shuffled(mask, value, source < (lane & ~(width - 1)) ? lane : source, place);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = warpSize,
                   cuda_on_host::Place place = cuda_on_host::Place::current()) {
  const int lane = cuda_on_host::running.lane, source = lane + static_cast<int>(distance);
  return cuda_on_host::shuffled(mask, value, source > (lane | (width - 1)) ? lane : source, place);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize,
                  cuda_on_host::Place place = cuda_on_host::Place::current()) {
  const int lane = cuda_on_host::running.lane, source = lane ^ bits;
  return cuda_on_host::shuffled(mask, value, source > (lane | (width - 1)) ? lane : source, place);
}

inline unsigned __ballot_sync(unsigned mask, int vote,
                              cuda_on_host::Place place = cuda_on_host::Place::current()) {
  return cuda_on_host::ballot(mask, vote != 0, place);
}
inline int __any_sync(unsigned mask, int vote, cuda_on_host::Place place = cuda_on_host::Place::current()) {
  return cuda_on_host::ballot(mask, vote != 0, place) != 0;
}
inline int __all_sync(unsigned mask, int vote, cuda_on_host::Place place = cuda_on_host::Place::current()) {
  return cuda_on_host::ballot(mask, vote != 0, place) == mask;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(static_cast<unsigned>(bits)) : 32; }

template <class T>
T __ldg(const T* address) {
  return *address;
}
