"""geo_ratio in Triton: Eq. 1 on the sums of volumes, Σ_j (n_j · [S, 1]) / (d_j · [S, 1]), and its slope.

The twin of csrc/geo_ratio.h. A fraction 0 / 0 is 0 and has the slope 0: a volume without valid voxels adds
nothing. A sum of weight 0 is left out, also if it is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from geoloss_kernels.triton import launch
from geoloss_kernels.triton.arguments import check
from geoloss_kernels.triton.numbers import Parts, exactly, number, real_of

BLOCK = 128
Rows = tuple[tuple[Parts, ...], ...]
"""One row of K + 1 numbers per fraction."""


@triton.jit
def weighted(weight, sum):
    return tl.where(weight == 0, 0, weight * sum)


@triton.jit
def affine(row, sums, REAL: tl.constexpr):
    total = number(row[len(sums)], REAL)
    for k in tl.static_range(len(sums)):
        total += weighted(number(row[k], REAL), sums[k])
    return total


@triton.jit
def ratio_of(sums, numerator, denominator, REAL: tl.constexpr):
    """``sums``: a tuple of K numbers, or of K tiles of them."""
    ratio = tl.zeros_like(sums[0])
    for j in tl.static_range(len(numerator)):
        dividend = affine(numerator[j], sums, REAL)
        divisor = affine(denominator[j], sums, REAL)
        ratio += tl.where((dividend == 0) & (divisor == 0), 0, dividend / divisor)
    return ratio


@triton.jit
def ratio_slope(grad_ratio, sums, numerator, denominator, k: tl.constexpr, REAL: tl.constexpr):
    """∂ ratio / ∂ sums[k]."""
    slope = tl.zeros_like(sums[0])
    for j in tl.static_range(len(numerator)):
        dividend = affine(numerator[j], sums, REAL)
        divisor = affine(denominator[j], sums, REAL)
        inverse = 1 / divisor
        share = weighted(number(denominator[j][k], REAL), dividend * inverse)
        change = grad_ratio * (number(numerator[j][k], REAL) - share) * inverse
        slope += tl.where((dividend == 0) & (divisor == 0), 0, change)
    return slope


@triton.jit
def load_sums(sums, volume, inside, K: tl.constexpr):
    loaded = ()
    for k in tl.static_range(K):
        loaded = loaded + (tl.load(sums + volume * K + k, mask=inside, other=0),)
    return loaded


@triton.jit(do_not_specialize=["volumes"])
def geo_ratio_fwd_kernel(
    sums,  # [volumes, K]
    ratio,  # [volumes]
    numerator,
    denominator,
    volumes,
    K: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    volume = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = volume < volumes
    loaded = load_sums(sums, volume, inside, K)
    tl.store(ratio + volume, ratio_of(loaded, numerator, denominator, REAL), mask=inside)


@triton.jit(do_not_specialize=["volumes"])
def geo_ratio_bwd_kernel(
    grad_ratio,  # [volumes]
    sums,  # [volumes, K]
    grad_sums,  # [volumes, K]
    numerator,
    denominator,
    volumes,
    K: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    volume = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = volume < volumes
    gradient = tl.load(grad_ratio + volume, mask=inside, other=0)
    loaded = load_sums(sums, volume, inside, K)
    for k in tl.static_range(K):
        slope = ratio_slope(gradient, loaded, numerator, denominator, k, REAL)
        tl.store(grad_sums + volume * K + k, slope, mask=inside)


def check_ratio(shape: Sequence[int], numerator: Sequence[float], denominator: Sequence[float]) -> None:
    """``shape`` is that of the sums."""
    check(len(shape) == 3, f"sums: expected [N, C, K], got {list(shape)}")
    row, counts = shape[2] + 1, (len(numerator), len(denominator))
    check(
        counts[0] > 0 and counts[0] % row == 0 and counts[0] == counts[1],
        "numerator, denominator: expected the same number of rows of "
        f"K + 1 = {row} numbers, got {counts[0]} and {counts[1]} numbers",
    )


def check_sums(sums: Tensor) -> None:
    check(sums.dtype in (torch.float32, torch.float64), "sums: expected float32 or float64")


def rows_of(weights: Sequence[float], terms: int) -> Rows:
    """The weights of ``terms`` sums and a constant, one row per fraction."""
    numbers = exactly(weights)
    return tuple(numbers[first : first + terms + 1] for first in range(0, len(numbers), terms + 1))


def geo_ratio(sums: Tensor, numerator: Sequence[float], denominator: Sequence[float]) -> Tensor:
    check_sums(sums)
    check_ratio(sums.shape, numerator, denominator)
    ratio = sums.new_empty(sums.shape[:2])
    if (volumes := ratio.numel()) > 0:
        launch.run(
            geo_ratio_fwd_kernel,
            triton.cdiv(volumes, BLOCK),
            sums,
            sums.detach().contiguous(),
            ratio,
            rows_of(numerator, sums.shape[2]),
            rows_of(denominator, sums.shape[2]),
            volumes,
            K=sums.shape[2],
            REAL=real_of(sums.dtype),
            BLOCK=BLOCK,
        )
    return ratio


def geo_ratio_backward(
    grad_ratio: Tensor, sums: Tensor, numerator: Sequence[float], denominator: Sequence[float]
) -> Tensor:
    check_sums(sums)
    check_ratio(sums.shape, numerator, denominator)
    check(
        grad_ratio.shape == sums.shape[:2] and grad_ratio.dtype == sums.dtype,
        f"grad_ratio: expected [N, C] of sums' dtype, got {list(grad_ratio.shape)}",
    )
    grad_sums = sums.new_empty(sums.shape)
    if (volumes := grad_ratio.numel()) > 0:
        launch.run(
            geo_ratio_bwd_kernel,
            triton.cdiv(volumes, BLOCK),
            sums,
            grad_ratio.detach().contiguous(),
            sums.detach().contiguous(),
            grad_sums,
            rows_of(numerator, sums.shape[2]),
            rows_of(denominator, sums.shape[2]),
            volumes,
            K=sums.shape[2],
            REAL=real_of(sums.dtype),
            BLOCK=BLOCK,
        )
    return grad_sums
