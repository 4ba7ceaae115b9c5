"""Peak memory of a call: on the CPU as Linux counts it, on a GPU as PyTorch does."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def peak_growth(
    call: Callable[[], Any], release: Callable[[], None] = lambda: None, repeats: int = 3
) -> int | None:
    """Bytes by which the resident memory peaks above its start during ``call``: the least of ``repeats``.

    ``release`` drops before each what the last call left, which would hide as much of the next one's.
    Counts whatever allocates: PyTorch, NumPy, C++. The kernel counts per core in batches, so that some
    100 kB are noise. None where the kernel does not tell.
    """
    if not CLEAR_REFS.exists():
        return None
    return min(_growth(call, release) for _ in range(repeats))


def cuda_peak_growth(call: Callable[[], Any], release: Callable[[], None]) -> int:
    """Bytes by which PyTorch's memory on the current GPU peaks above its start, after ``release``."""
    release()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def _growth(call: Callable[[], Any], release: Callable[[], None]) -> int:
    release()
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    CLEAR_REFS.write_text(RESET_PEAK)
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return max(0, peak - before)


def _status(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"{STATUS}: expected a line {field}, found none")
    return 1024 * int(match[1])
