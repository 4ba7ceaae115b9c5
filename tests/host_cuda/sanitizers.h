// What AddressSanitizer and ThreadSanitizer are told of fibers, barriers and guards; nothing without them.
//
// For ThreadSanitizer this file is compiled with CUDA_ON_HOST_TSAN and not with -fsanitize=thread: it would
// take the scheduler's own data for the kernels'.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(CUDA_ON_HOST_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* object);
void __tsan_release(void* object);
}
#endif

namespace cuda_on_host::sanitizers {

#if defined(__SANITIZE_ADDRESS__)

inline void* host_shadow;
inline const void* host_bottom;
inline size_t host_size;

inline void forget_stack(void* bottom, size_t size) { __asan_unpoison_memory_region(bottom, size); }
inline void forbid(void* memory, size_t size) { __asan_poison_memory_region(memory, size); }
inline void permit(void* memory, size_t size) { __asan_unpoison_memory_region(memory, size); }
inline void leave_host(void* /*fiber*/, void* bottom, size_t size) {
  __sanitizer_start_switch_fiber(&host_shadow, bottom, size);
}
inline void arrived_in_host() { __sanitizer_finish_switch_fiber(host_shadow, nullptr, nullptr); }
// A fiber that leaves for good saves nothing.
inline void leave_fiber(void** saved) { __sanitizer_start_switch_fiber(saved, host_bottom, host_size); }
inline void arrived_in_fiber(void* saved) {
  __sanitizer_finish_switch_fiber(saved, &host_bottom, &host_size);
}

#else

inline void forget_stack(void*, size_t) {}
inline void forbid(void*, size_t) {}
inline void permit(void*, size_t) {}

#if defined(CUDA_ON_HOST_TSAN)

inline void* host_fiber;
constexpr unsigned kUnordered = 1;  // a switch by itself orders nothing

inline void leave_host(void* fiber, void*, size_t) {
  host_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber, kUnordered);
}
inline void leave_fiber(void**) { __tsan_switch_to_fiber(host_fiber, kUnordered); }

#else

inline void leave_host(void*, void*, size_t) {}
inline void leave_fiber(void**) {}

#endif

inline void arrived_in_host() {}
inline void arrived_in_fiber(void*) {}

#endif

#if defined(CUDA_ON_HOST_TSAN)

inline void* new_fiber() { return __tsan_create_fiber(0); }

// Everything before the `release`s of an object is ordered before everything after an `acquire`.
inline void acquire(void* object) { __tsan_acquire(object); }
inline void release(void* object) { __tsan_release(object); }

#else

inline void* new_fiber() { return nullptr; }
inline void acquire(void*) {}
inline void release(void*) {}

#endif

}  // namespace cuda_on_host::sanitizers
