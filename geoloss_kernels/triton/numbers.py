"""Numbers on their way to a kernel.

A Python float reaches a kernel as a float32. Three of them add up to a float64.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import torch
import triton
import triton.language as tl

Parts = tuple[float, float, float]


def exactly(numbers: Iterable[float]) -> tuple[Parts, ...]:
    """Each number as three float32 of decreasing size; the first is the number rounded to float32."""
    return tuple(_parts(number) for number in numbers)


def _parts(number: float) -> Parts:
    first = _float32(number)
    second = _float32(number - first)
    return first, second, _float32(number - first - second)


def _float32(number: float) -> float:
    return struct.unpack("f", struct.pack("f", number))[0]


def real_of(dtype: torch.dtype) -> Any:
    """The arithmetic type for tensors of ``dtype``."""
    return tl.float64 if dtype == torch.float64 else tl.float32


@triton.jit
def number(parts, REAL: tl.constexpr):
    """The number that `exactly` took apart, in the arithmetic type."""
    if tl.float64 == REAL:
        return tl.cast(parts[0], tl.float64) + tl.cast(parts[1], tl.float64) + tl.cast(parts[2], tl.float64)
    else:
        return tl.cast(parts[0], tl.float32)
