// A thread of control with a stack of its own. One of them runs at a time, within the one thread of the host.
#pragma once

#include <cstddef>

// Portable, and ten times slower than a few lines of assembler.
#if !defined(__x86_64__) && !defined(CUDA_ON_HOST_UCONTEXT)
#define CUDA_ON_HOST_UCONTEXT
#endif

#if defined(CUDA_ON_HOST_UCONTEXT)
#include <ucontext.h>
#endif

namespace cuda_on_host {

class Fiber {
 public:
  void set_stack(unsigned char* bottom, size_t size);
  // The next resume() calls entry(), which has to end in finish().
  void restart(void (*entry)());

  // From the host: runs the fiber until it yields or finishes.
  void resume();
  // From the fiber: back to the host.
  void yield();
  [[noreturn]] void finish();

 private:
  static void begin();

  unsigned char* stack_ = nullptr;
  size_t stack_size_ = 0;
  void (*entry_)() = nullptr;
  void* asan_stack_ = nullptr;  // what AddressSanitizer and ThreadSanitizer know the fiber by
  void* tsan_fiber_ = nullptr;
#if !defined(CUDA_ON_HOST_UCONTEXT)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace cuda_on_host
