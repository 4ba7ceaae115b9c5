// Included first everywhere on Linux: binds what glibc 2.28 has, the oldest that torch's own wheels run on,
// where the linker would take the newest versions of the machine it links on.
#pragma once

#include <features.h>

#if defined(__GLIBC__)
// libstdc++'s shared_ptr asks glibc 2.32 whether the process has one thread, so as to count without atomics.
// This library's own answer is that it may have several.
extern "C" {
__attribute__((visibility("hidden"), weak)) char __libc_single_threaded = 0;
}

#if defined(__x86_64__)
// Those of 2.29 are the same functions without errno.
__asm__(".symver exp, exp@GLIBC_2.2.5");
__asm__(".symver log, log@GLIBC_2.2.5");
__asm__(".symver pow, pow@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver exp, exp@GLIBC_2.17");
__asm__(".symver log, log@GLIBC_2.17");
__asm__(".symver pow, pow@GLIBC_2.17");
#endif
#endif
