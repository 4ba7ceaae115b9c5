"""Page faults of the process, and how glibc allocates its memory."""

from __future__ import annotations

import ctypes
import resource

# Of mallopt(3): above which size a block is a mapping of its own, and how much free memory stays.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_INT = (1 << 31) - 1
NEVER = -1


def keep_freed_memory() -> None:
    """Make glibc's malloc reuse freed memory and not return it to the kernel.

    Otherwise a large result may be a fresh mapping, and the first touch of its pages costs more than the
    arithmetic, at some calls and not at others. Raises RuntimeError where glibc is not the C library.
    """
    libc = ctypes.CDLL(None)
    done = hasattr(libc, "mallopt") and (
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_INT) and libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    )
    if not done:
        raise RuntimeError("allocator: 'keep' needs glibc's mallopt; use --allocator system")


def reserve(size: int) -> None:
    """Touch ``size`` bytes of the heap, less than 2 GiB, and free them; needs `keep_freed_memory`.

    glibc before 2.38 seldom reuses the hole that an aligned block leaves for the next block of the same size,
    so that the heap walks on for a while; now it walks over pages that are there.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(size))
    if block is None:
        raise MemoryError(f"reserve: expected {size} bytes to be free")
    ctypes.memset(block, 1, size)
    libc.free(ctypes.c_void_p(block))


def page_faults() -> int:
    """Pages that the process has touched first so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
