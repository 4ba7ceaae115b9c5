// Runs the threads of a launch as fibers, block by block.
#include "cuda_on_host.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "fiber.h"
#include "sanitizers.h"

// The linker's names for the section of all static shared memory; null where no kernel has any.
extern "C" {
[[gnu::weak, gnu::visibility("hidden")]] extern unsigned char __start_cuda_shared[];
[[gnu::weak, gnu::visibility("hidden")]] extern unsigned char __stop_cuda_shared[];
}

namespace cuda_on_host {

RunningThread running;

namespace {

constexpr unsigned kMostThreads = 1024, kLanes = 32;
constexpr int kNaN = 0xff;  // in each byte, of every floating type

Order order = Order::kForward;
uint64_t seed = 0;
Statistics counted;
std::map<const void*, size_t> allowed_shared_bytes;

std::string text_of(const Place& place) {
  const std::string path = place.file_name();
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(place.line());
}

std::string text_of(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) +
         ")";
}

bool same(const Place& a, const Place& b) {
  return a.line() == b.line() && a.column() == b.column() && !std::strcmp(a.file_name(), b.file_name());
}

// In which order blocks or threads take their turns.
class Turns {
 public:
  explicit Turns(size_t count) : random_(seed), turns_(count) {
    std::iota(turns_.begin(), turns_.end(), 0u);
    if (order == Order::kReverse) std::reverse(turns_.begin(), turns_.end());
  }

  const std::vector<unsigned>& next_round() {
    if (order == Order::kRandom) std::shuffle(turns_.begin(), turns_.end(), random_);
    return turns_;
  }

 private:
  std::mt19937_64 random_;
  std::vector<unsigned> turns_;
};

// Dynamic shared memory between guards, aligned as CUDA promises and no better.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes) : bytes_(bytes), memory_(2 * kAlignment + 2 * kGuard + bytes, kMark) {
    const size_t misalignment = reinterpret_cast<uintptr_t>(memory_.data()) % (2 * kAlignment);
    begin_ = memory_.data() + 2 * kAlignment - misalignment + kGuard;
    sanitizers::forbid(begin_ - kGuard, kGuard);
    sanitizers::forbid(begin_ + bytes_, kGuard);
  }
  ~SharedMemory() { permit_guards(); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  unsigned char* begin() const { return begin_; }
  unsigned char* end() const { return begin_ + bytes_; }

  bool is_overrun() {
    permit_guards();
    const auto is_touched = [](unsigned char byte) { return byte != kMark; };
    return std::any_of(begin_ - kGuard, begin_, is_touched) ||
           std::any_of(begin_ + bytes_, begin_ + bytes_ + kGuard, is_touched);
  }

 private:
  static constexpr size_t kAlignment = 16, kGuard = 9 * kAlignment;
  static constexpr unsigned char kMark = 0xfb;

  void permit_guards() { sanitizers::permit(memory_.data(), memory_.size()); }

  size_t bytes_;
  std::vector<unsigned char> memory_;
  unsigned char* begin_;
};

enum class State : uint8_t { kReady, kAtBarrier, kInExchange, kDone };

struct Thread {
  Fiber fiber;
  uint3 index;
  unsigned warp, lane;
  State state;
  Place place;  // where it waits
};

// Objects for ThreadSanitizer to order memory by. Two take turns: with one, a thread that leaves a barrier
// late would be ordered after those that have come to the next already, and races would pass unseen.
struct Generations {
  char objects[2];
  unsigned current = 0;

  void* object() { return &objects[current % 2]; }
};

// The lanes of a warp that wait under one mask. A lane may bring its word to the next exchange before another
// has read the words of this one.
struct Exchange {
  unsigned mask;
  bool excuses_exited;
  unsigned arrived = 0;
  Word words[2][kLanes] = {};
  Generations generations = {};
};

struct Warp {
  unsigned alive = 0;
  std::deque<Exchange> exchanges;  // one for each mask and kind
};

class Block {
 public:
  Block();
  void set_shape(dim3 shape);
  void run(uint3 index, void (*body)(void*), void* context, Turns& turns);

  void wait_for_block(Place place);
  const Word* wait_for_lanes(unsigned mask, bool excuses_exited, const Word& brought, Place place);

 private:
  void begin(uint3 index);
  static void run_thread();
  void exit_current();
  bool take_turns(const std::vector<unsigned>& turns);
  void wait(State state, Place place);
  void release_barrier_when_complete();
  void release_when_complete(unsigned warp, Exchange& exchange);
  Exchange& exchange_for(Warp& warp, unsigned mask, bool excuses_exited);
  void fail(const std::string& error);
  std::string stuck() const;

  std::vector<Thread> threads_{kMostThreads};
  std::vector<Warp> warps_;
  unsigned size_ = 0, alive_ = 0, at_barrier_ = 0;
  Thread* current_ = nullptr;
  void (*body_)(void*) = nullptr;
  void* context_ = nullptr;
  std::string error_;  // the first
  Generations barriers_;
  char begun_, ended_;  // objects for ThreadSanitizer
};

Block& block() {
  static Block only;
  return only;
}

// Each thread's stack lies above a page that nobody may touch, for the life of the process.
Block::Block() {
  constexpr size_t kStack = 256 * 1024, kPage = 4096;
  void* const memory = mmap(nullptr, kMostThreads * kStack, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw Error("no memory for the threads' stacks");
  for (unsigned i = 0; i < kMostThreads; ++i) {
    // Stacks that all began at the start of a page would compete for the same lines of the cache.
    const size_t shift = i * 9 % 256 * 64;
    unsigned char* const bottom = static_cast<unsigned char*>(memory) + i * kStack;
    mprotect(bottom, kPage, PROT_NONE);
    threads_[i].fiber.set_stack(bottom + kPage, kStack - kPage - shift);
    threads_[i].warp = i / kLanes;
    threads_[i].lane = i % kLanes;
  }
}

void Block::set_shape(dim3 shape) {
  size_ = shape.x * shape.y * shape.z;
  for (unsigned i = 0; i < size_; ++i) {
    threads_[i].index = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
  }
  warps_.clear();
  warps_.resize((size_ + kLanes - 1) / kLanes);
  at_barrier_ = 0;
  error_.clear();
}

void Block::run(uint3 index, void (*body)(void*), void* context, Turns& turns) {
  body_ = body;
  context_ = context;
  begin(index);
  sanitizers::release(&begun_);
  while (alive_ && error_.empty()) {
    if (!take_turns(turns.next_round())) fail(stuck());
  }
  sanitizers::acquire(&ended_);
  if (!error_.empty()) throw Error("block " + text_of(index) + ": " + error_);
}

void Block::begin(uint3 index) {
  running.block = index;
  alive_ = size_;
  counted.threads += size_;
  for (unsigned i = 0; i < size_; ++i) {
    Thread& thread = threads_[i];
    thread.state = State::kReady;
    thread.fiber.restart(&Block::run_thread);
    warps_[thread.warp].alive |= 1u << thread.lane;
  }
}

// The whole life of a thread. An exception has to be dealt with before the fiber changes.
void Block::run_thread() {
  Block& b = block();
  sanitizers::acquire(&b.begun_);
  try {
    b.body_(b.context_);
  } catch (const std::exception& error) {
    b.fail("thread " + text_of(b.current_->index) + ": " + error.what());
  }
  sanitizers::release(&b.ended_);
  b.exit_current();
  b.current_->fiber.finish();
}

void Block::fail(const std::string& error) {
  if (error_.empty()) error_ = error;
}

void Block::exit_current() {
  current_->state = State::kDone;
  --alive_;
  release_barrier_when_complete();
  Warp& warp = warps_[current_->warp];
  warp.alive &= ~(1u << current_->lane);
  for (Exchange& exchange : warp.exchanges) release_when_complete(current_->warp, exchange);
}

// False if no thread can go on.
bool Block::take_turns(const std::vector<unsigned>& turns) {
  bool any = false;
  for (const unsigned i : turns) {
    Thread& thread = threads_[i];
    if (thread.state != State::kReady) continue;
    any = true;
    current_ = &thread;
    running.index = thread.index;
    running.lane = static_cast<int>(thread.lane);
    thread.fiber.resume();
    if (!error_.empty()) break;
  }
  return any;
}

void Block::wait(State state, Place place) {
  current_->state = state;
  current_->place = place;
}

void Block::wait_for_block(Place place) {
  void* const generation = barriers_.object();
  sanitizers::release(generation);
  wait(State::kAtBarrier, place);
  ++at_barrier_;
  release_barrier_when_complete();
  current_->fiber.yield();
  sanitizers::acquire(generation);
}

void Block::release_barrier_when_complete() {
  if (at_barrier_ == 0 || at_barrier_ < alive_) return;
  const Thread* first = nullptr;
  for (unsigned i = 0; i < size_; ++i) {
    Thread& thread = threads_[i];
    if (thread.state != State::kAtBarrier) continue;
    if (!first) first = &thread;
    if (!same(thread.place, first->place)) {
      fail("divergent barrier: thread " + text_of(first->index) + " waits at " + text_of(first->place) +
           ", thread " + text_of(thread.index) + " at " + text_of(thread.place));
    }
    thread.state = State::kReady;
  }
  at_barrier_ = 0;
  ++barriers_.current;
  ++counted.barriers;
}

const Word* Block::wait_for_lanes(unsigned mask, bool excuses_exited, const Word& brought, Place place) {
  if (!(mask >> current_->lane & 1)) throw Error(text_of(place) + ": the lane's mask leaves out itself");
  const unsigned warp = current_->warp;
  Exchange& exchange = exchange_for(warps_[warp], mask, excuses_exited);
  void* const generation = exchange.generations.object();
  Word* const words = exchange.words[exchange.generations.current % 2];
  words[current_->lane] = brought;
  sanitizers::release(generation);
  wait(State::kInExchange, place);
  exchange.arrived |= 1u << current_->lane;
  release_when_complete(warp, exchange);
  if (current_->state == State::kInExchange || !error_.empty()) current_->fiber.yield();
  sanitizers::acquire(generation);
  return words;
}

Exchange& Block::exchange_for(Warp& warp, unsigned mask, bool excuses_exited) {
  for (Exchange& exchange : warp.exchanges) {
    if (exchange.mask == mask && exchange.excuses_exited == excuses_exited) return exchange;
  }
  return warp.exchanges.emplace_back(Exchange{mask, excuses_exited});
}

void Block::release_when_complete(unsigned warp, Exchange& exchange) {
  if (!exchange.arrived) return;
  const unsigned missing = exchange.mask & ~exchange.arrived;
  const unsigned exited = missing & ~warps_[warp].alive;
  Thread* const lanes = &threads_[warp * kLanes];
  const Place place = lanes[__builtin_ctz(exchange.arrived)].place;
  if (exited && !exchange.excuses_exited) {
    fail(text_of(place) + ": the mask names lane " + std::to_string(__builtin_ctz(exited)) +
         ", which has exited or never was");
    return;
  }
  if (missing != exited) return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(exchange.arrived >> lane & 1)) continue;
    if (!same(lanes[lane].place, place)) {
      fail("lanes of a warp meet at " + text_of(place) + " and " + text_of(lanes[lane].place));
    }
    lanes[lane].state = State::kReady;
  }
  exchange.arrived = 0;
  ++exchange.generations.current;
  ++counted.exchanges;
}

std::string Block::stuck() const {
  std::string text = "deadlock:";
  Place last{};
  for (unsigned i = 0; i < size_; ++i) {
    const Thread& thread = threads_[i];
    if (thread.state == State::kDone || same(thread.place, last)) continue;
    text += " thread " + text_of(thread.index) + " waits at " + text_of(thread.place) + ";";
    last = thread.place;
  }
  return text;
}

void check_geometry(const Launch& launch) {
  const dim3 b = launch.block, g = launch.grid;
  const uint64_t threads = uint64_t{1} * b.x * b.y * b.z;
  if (threads == 0 || threads > kMostThreads || b.x > 1024 || b.y > 1024 || b.z > 64) {
    throw Error("block of " + text_of(uint3{b.x, b.y, b.z}) + " threads");
  }
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 0xffffu || g.z > 0xffffu) {
    throw Error("grid of " + text_of(uint3{g.x, g.y, g.z}) + " blocks");
  }
}

void check_shared_bytes(const Launch& launch) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  const auto asked = allowed_shared_bytes.find(launch.kernel);
  const size_t allowed = std::max(kWithoutAsking, asked == allowed_shared_bytes.end() ? 0 : asked->second);
  if (launch.shared_bytes > allowed) {
    throw Error(std::to_string(launch.shared_bytes) +
                " bytes of dynamic shared memory, where the kernel may have " + std::to_string(allowed));
  }
}

SharedMemory* dynamic;  // of the launch under way

void fill_with_nan(unsigned char* begin, const unsigned char* end) {
  if (begin != end) std::memset(begin, kNaN, static_cast<size_t>(end - begin));
}

void run_blocks(const Launch& launch, void (*body)(void*), void* context) {
  check_geometry(launch);
  check_shared_bytes(launch);
  const dim3 grid = running.grid_size = launch.grid, size = running.block_size = launch.block;
  SharedMemory shared(launch.shared_bytes);
  dynamic = &shared;
  block().set_shape(size);
  Turns of_blocks(size_t{1} * grid.x * grid.y * grid.z), of_threads(size_t{1} * size.x * size.y * size.z);
  for (const unsigned i : of_blocks.next_round()) {
    fill_with_nan(shared.begin(), shared.end());
    fill_with_nan(__start_cuda_shared, __stop_cuda_shared);
    block().run({i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, body, context, of_threads);
  }
  ++counted.launches;
  if (shared.is_overrun()) throw Error("a write past dynamic shared memory");
}

}  // namespace

void set_schedule(Order order, uint64_t seed) {
  cuda_on_host::order = order;
  cuda_on_host::seed = seed;
}

const Statistics& statistics() { return counted; }

void allow_shared_bytes(const void* kernel, size_t bytes) { allowed_shared_bytes[kernel] = bytes; }

void run(const Launch& launch, void (*body)(void*), void* context) {
  try {
    run_blocks(launch, body, context);
  } catch (const Error& error) {
    throw Error(std::string(launch.kernel_name) + ", launched at " + text_of(launch.place) + ": " +
                error.what());
  }
}

unsigned char* dynamic_shared() { return dynamic->begin(); }

void wait_for_block(Place place) { block().wait_for_block(place); }

void wait_for_warp(unsigned mask, Place place) { block().wait_for_lanes(mask, true, {}, place); }

const Word* exchange(unsigned mask, const Word& brought, Place place) {
  return block().wait_for_lanes(mask, false, brought, place);
}

unsigned ballot(unsigned mask, bool vote, Place place) {
  Word word{};
  word.bytes[0] = vote;
  const Word* const words = exchange(mask, word, place);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (mask >> lane & 1) votes |= static_cast<unsigned>(words[lane].bytes[0]) << lane;
  }
  return votes;
}

}  // namespace cuda_on_host
