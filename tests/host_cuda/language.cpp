// Small kernels about the stand-in for CUDA itself: indices, shared memory, exchanges within a warp, and each
// of its errors. Prints what is not as CUDA has it.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda_on_host.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr cudaStream_t kStream = nullptr;

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("%s\n", what);
  ++failures;
}

void expect_error(const char* message, const std::function<void()>& launch) {
  try {
    launch();
  } catch (const cuda_on_host::Error& error) {
    if (std::strstr(error.what(), message)) return;
    std::printf("expected '%s', got '%s'\n", message, error.what());
    ++failures;
    return;
  }
  std::printf("expected '%s', got no error\n", message);
  ++failures;
}

__global__ void count_visits(int* visits) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  ++visits[block * blockDim.x * blockDim.y * blockDim.z + thread];
}

void test_indices() {
  std::vector<int> visits(2 * 3 * 2 * 4 * 5 * 3, 0);
  GEOLOSS_LAUNCH(count_visits, dim3(2, 3, 2), dim3(4, 5, 3), 0, kStream, visits.data());
  for (const int each : visits) expect(each == 1, "every thread of a three-dimensional launch runs once");
}

__global__ void note_turn(int* turns, int* count) { turns[(*count)++] = blockIdx.x * 2 + threadIdx.x; }

void test_schedules() {
  using cuda_on_host::Order;
  std::vector<int> turns(4);
  for (const bool reverse : {false, true}) {
    cuda_on_host::set_schedule(reverse ? Order::kReverse : Order::kForward, 0);
    int count = 0;
    GEOLOSS_LAUNCH(note_turn, 2, 2, 0, kStream, turns.data(), &count);
    for (int i = 0; i < 4; ++i) expect(turns[i] == (reverse ? 3 - i : i), "a schedule orders the threads");
  }
  cuda_on_host::set_schedule(Order::kForward, 0);
}

__global__ void read_shared(bool* all_nan) {
  __shared__ double fixed[2];
  GEOLOSS_DYNAMIC_SHARED(bytes);
  float* const dynamic = reinterpret_cast<float*>(bytes);
  *all_nan &= std::isnan(fixed[threadIdx.x]) && std::isnan(dynamic[threadIdx.x]);
  __syncthreads();
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
}

void test_shared_memory() {
  bool all_nan = true;
  GEOLOSS_LAUNCH(read_shared, 3, 2, 2 * sizeof(float), kStream, &all_nan);
  expect(all_nan, "shared memory holds NaN when a block begins");
}

struct Shuffled {
  int from_index, up, down, across;
};

__global__ void shuffle(Shuffled* results, int width) {
  const int lane = threadIdx.x % warpSize;
  results[threadIdx.x] = {__shfl_sync(kAll, lane, 3, width), __shfl_up_sync(kAll, lane, 2, width),
                          __shfl_down_sync(kAll, lane, 2, width), __shfl_xor_sync(kAll, lane, 5, width)};
}

void test_shuffles() {
  for (const int width : {8, 32}) {
    std::vector<Shuffled> results(64);
    GEOLOSS_LAUNCH(shuffle, 1, 64, 0, kStream, results.data(), width);
    for (int thread = 0; thread < 64; ++thread) {
      const int lane = thread % 32, first = lane / width * width, in_segment = lane % width;
      const Shuffled& ours = results[thread];
      expect(ours.from_index == first + 3, "__shfl_sync");
      expect(ours.up == (in_segment < 2 ? lane : lane - 2), "__shfl_up_sync");
      expect(ours.down == (in_segment + 2 < width ? lane + 2 : lane), "__shfl_down_sync");
      expect(ours.across == (lane ^ 5), "__shfl_xor_sync");
    }
  }
}

__global__ void vote(unsigned* ballot, bool* any, bool* all) {
  const unsigned half = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
  *ballot = __ballot_sync(kAll, threadIdx.x % 2);
  any[threadIdx.x] = __any_sync(half, threadIdx.x == 3);
  all[threadIdx.x] = __all_sync(half, threadIdx.x >= 16);
  __syncwarp();
}

void test_votes() {
  unsigned ballot = 0;
  bool any[32], all[32];
  GEOLOSS_LAUNCH(vote, 1, 32, 0, kStream, &ballot, any, all);
  expect(ballot == 0xaaaaaaaau && __popc(ballot) == 16, "__ballot_sync");
  expect(any[0] && any[15] && !any[16], "__any_sync, of the mask's lanes");
  expect(!all[0] && all[16] && all[31], "__all_sync, of the mask's lanes");
}

__global__ void do_nothing() {}

__global__ void meet_at_two_barriers() {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void exit_before_a_barrier(int* passed) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  ++*passed;
}

__global__ void exit_before_a_shuffle() {
  if (threadIdx.x != 7) __shfl_sync(kAll, 1, 0);
}

__global__ void wait_instead_of_shuffling() {
  if (threadIdx.x == 7) __syncthreads();
  __shfl_sync(kAll, 1, 0);
}

__global__ void shuffle_at_two_places() {
  if (threadIdx.x < 16) {
    __shfl_sync(kAll, 1, 0);
  } else {
    __shfl_sync(kAll, 1, 0);
  }
}

__global__ void leave_itself_out() { __syncwarp(threadIdx.x == 5 ? ~(1u << 5) : kAll); }

__global__ void read_a_lane_left_out() {
  if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 20);
}

__global__ void write_past_the_end(size_t bytes) {
  GEOLOSS_DYNAMIC_SHARED(shared);
  shared[bytes] = 0;
}

void test_errors() {
  expect_error("divergent barrier", [] { GEOLOSS_LAUNCH(meet_at_two_barriers, 1, 64, 0, kStream); });
  expect_error("names lane 7", [] { GEOLOSS_LAUNCH(exit_before_a_shuffle, 1, 32, 0, kStream); });
  expect_error("deadlock", [] { GEOLOSS_LAUNCH(wait_instead_of_shuffling, 1, 32, 0, kStream); });
  expect_error("meet at language.cpp", [] { GEOLOSS_LAUNCH(shuffle_at_two_places, 1, 32, 0, kStream); });
  expect_error("leaves out itself", [] { GEOLOSS_LAUNCH(leave_itself_out, 1, 32, 0, kStream); });
  expect_error("its mask leaves out", [] { GEOLOSS_LAUNCH(read_a_lane_left_out, 1, 32, 0, kStream); });
  expect_error("a write past", [] { GEOLOSS_LAUNCH(write_past_the_end, 1, 1, 100, kStream, 100); });
  expect_error("block of (1025, 1, 1)", [] { GEOLOSS_LAUNCH(do_nothing, 1, 1025, 0, kStream); });
  expect_error("block of (1, 1, 65)", [] { GEOLOSS_LAUNCH(do_nothing, 1, dim3(1, 1, 65), 0, kStream); });
  expect_error("grid of (0, 1, 1)", [] { GEOLOSS_LAUNCH(do_nothing, 0, 32, 0, kStream); });
  expect_error("grid of (1, 65536, 1)", [] { GEOLOSS_LAUNCH(do_nothing, dim3(1, 65536), 32, 0, kStream); });
  expect_error("launched at language.cpp", [] { GEOLOSS_LAUNCH(do_nothing, 0, 32, 0, kStream); });
}

void test_limits_of_shared_memory() {
  constexpr auto kLargest = cudaFuncAttributeMaxDynamicSharedMemorySize;
  const auto launch = [](int bytes) { GEOLOSS_LAUNCH(do_nothing, 1, 32, bytes, kStream); };
  launch(48 * 1024);
  expect_error("may have 49152", [&] { launch(48 * 1024 + 1); });
  expect(cudaFuncSetAttribute(do_nothing, kLargest, 64 * 1024) == cudaSuccess, "64 KB may be asked for");
  launch(64 * 1024);
  expect_error("may have 65536", [&] { launch(64 * 1024 + 1); });
  expect(cudaFuncSetAttribute(do_nothing, kLargest, 64 * 1024 + 1) != cudaSuccess, "no more than 64 KB");
}

void test_exited_threads_are_not_waited_for() {
  int passed = 0;
  GEOLOSS_LAUNCH(exit_before_a_barrier, 1, 64, 0, kStream, &passed);
  expect(passed == 40, "a barrier waits for the threads that have not exited");
}

}  // namespace

int main() {
  test_indices();
  test_schedules();
  test_shared_memory();
  test_shuffles();
  test_votes();
  test_errors();
  test_limits_of_shared_memory();
  test_exited_threads_are_not_waited_for();
  return failures != 0;
}
