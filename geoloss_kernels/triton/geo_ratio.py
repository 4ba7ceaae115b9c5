"""geo_ratio in Triton: Eq. 1 on the sums S [N, C, K] of volumes, and its slope.

The twin of csrc/geo_ratio.h. The loss is a sum of fractions (n · S + n_0) / (d · S + d_0), each taken of a
group: a volume's channel; a channel, S summed over the batch (pooling "batch"); or everything, S summed over
batch and channels ("all"). Class weights multiply a channel's fraction or, pooled over channels, the
channel's share in numerator or denominator. A fraction 0 / 0 is 0 and has the slope 0: a volume without valid
voxels adds nothing. A sum of weight 0 is left out, also if it is not finite.

    forward    one program, a lane for each group; a pooled group's lane goes through its volumes
    backward   a lane for each volume's channel, which takes the sums of its groups anew

Everything is added up in float64 and in a fixed order. The sums are a few kilobytes and stay in cache. Which
weights are 0 is compiled in, their numbers are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from geoloss_kernels.triton import launch
from geoloss_kernels.triton.fractions import Fractions, check_grad_ratio, fractions_of
from geoloss_kernels.triton.numbers import number

BLOCK = 128


class Batch(NamedTuple):
    """What a ratio is taken of."""

    sums: Any
    """[N, C, K]"""
    channel_weights: Any
    """[W, C], or None"""
    numbers: Any
    """the weights that are not 0, see `numbers.exactly`"""
    N: Any
    C: Any


class Lanes(NamedTuple):
    """A volume's channel for each lane; ``inside`` tells which lanes have one."""

    n: Any
    c: Any
    inside: Any


class Quotient(NamedTuple):
    """Of a fraction in each lane's group."""

    dividend: Any
    divisor: Any


@triton.jit
def weight_of_channel(ROW: tl.constexpr, batch, lanes):
    weights = batch.channel_weights + ROW.weights * batch.C + lanes.c
    return tl.load(weights, mask=lanes.inside, other=0).to(tl.float64)


@triton.jit
def linear(ROW: tl.constexpr, K: tl.constexpr, batch, lanes):
    """Σ_k row_k S_k of each lane, 0 outside."""
    total = tl.zeros(lanes.inside.shape, tl.float64)
    for i in tl.static_range(len(ROW.entries)):
        place = (lanes.n * batch.C + lanes.c) * K + ROW.entries[i].column
        addend = tl.load(batch.sums + place, mask=lanes.inside, other=0).to(tl.float64)
        total += number(batch.numbers[ROW.entries[i].number], tl.float64) * addend
    return total


@triton.jit
def affine(F: tl.constexpr, ROW: tl.constexpr, K: tl.constexpr, batch, lanes, BLOCK: tl.constexpr):
    """The row of the fraction F, in each lane's group."""
    total = tl.zeros(lanes.inside.shape, tl.float64)
    if ROW.constant is not None:
        total += number(batch.numbers[ROW.constant], tl.float64)
    if F.pooling == "volume":
        total += linear(ROW, K, batch, lanes)
    elif F.pooling == "batch":
        for n in range(0, batch.N):
            total += linear(ROW, K, batch, Lanes(n=n, c=lanes.c, inside=lanes.inside))
    else:
        total += tl.sum(pooled_lanes(F, ROW, K, batch, BLOCK), 0)
    return total


@triton.jit
def pooled_lanes(F: tl.constexpr, ROW: tl.constexpr, K: tl.constexpr, batch, BLOCK: tl.constexpr):
    """Of all volumes and channels, what each lane has of their sum."""
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, batch.N * (batch.C - F.skip), BLOCK):
        lanes = lanes_of(F, batch, first, BLOCK)
        share = linear(ROW, K, batch, lanes)
        if ROW.weights >= 0:
            share *= weight_of_channel(ROW, batch, lanes)
        total += share
    return total


@triton.jit
def lanes_of(F: tl.constexpr, batch, first, BLOCK: tl.constexpr):
    """Of the volumes' channels that the fraction F does not leave out, those from ``first`` on."""
    i = first + tl.arange(0, BLOCK)
    channels = batch.C - F.skip
    return Lanes(n=i // channels, c=F.skip + i % channels, inside=i < batch.N * channels)


@triton.jit
def quotient(F: tl.constexpr, K: tl.constexpr, batch, lanes, BLOCK: tl.constexpr):
    return Quotient(
        dividend=affine(F, F.numerator, K, batch, lanes, BLOCK),
        divisor=affine(F, F.denominator, K, batch, lanes, BLOCK),
    )


@triton.jit
def is_empty(q):
    return (q.dividend == 0) & (q.divisor == 0)


@triton.jit
def factor(F: tl.constexpr, batch, lanes):
    """What the ratio of each lane's group is multiplied by."""
    if F.pooling != "all" and F.numerator.weights >= 0:
        return weight_of_channel(F.numerator, batch, lanes)
    else:
        return tl.full(lanes.inside.shape, 1, tl.float64)


@triton.jit
def ratio(F: tl.constexpr, K: tl.constexpr, batch, lanes, BLOCK: tl.constexpr):
    """The fraction F in each lane's group, 0 outside."""
    q = quotient(F, K, batch, lanes, BLOCK)
    value = factor(F, batch, lanes) * (q.dividend / q.divisor)
    return tl.where(is_empty(q) | (lanes.inside == 0), 0, value)


@triton.jit
def group_count(F: tl.constexpr, batch):
    if F.pooling == "all":
        return 1
    elif F.pooling == "batch":
        return batch.C - F.skip
    else:
        return batch.N * (batch.C - F.skip)


@triton.jit
def groups_of(F: tl.constexpr, batch, first, BLOCK: tl.constexpr):
    """Of each group from ``first`` on, a volume's channel."""
    lanes = lanes_of(F, batch, first, BLOCK)
    inside = first + tl.arange(0, BLOCK) < group_count(F, batch)
    return Lanes(n=lanes.n, c=lanes.c, inside=inside)


@triton.jit
def write_ratios(P: tl.constexpr, K: tl.constexpr, batch, result, BLOCK: tl.constexpr):
    """Without a reduction: all fractions have the same groups."""
    count = group_count(P.each[0], batch)
    for first in range(0, count, BLOCK):
        lanes = groups_of(P.each[0], batch, first, BLOCK)
        total = tl.zeros((BLOCK,), tl.float64)
        for j in tl.static_range(len(P.each)):
            total += ratio(P.each[j], K, batch, lanes, BLOCK)
        value = total.to(result.dtype.element_ty)
        tl.store(result + first + tl.arange(0, BLOCK), value, mask=lanes.inside)


@triton.jit
def reduced_ratio(F: tl.constexpr, REDUCTION: tl.constexpr, K: tl.constexpr, batch, BLOCK: tl.constexpr):
    """Sum or mean of a fraction over its groups; the mean of none is not a number."""
    count = group_count(F, batch)
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, count, BLOCK):
        total += ratio(F, K, batch, groups_of(F, batch, first, BLOCK), BLOCK)
    value = tl.sum(total, 0)
    if REDUCTION == "mean":
        value /= tl.cast(count, tl.float64)
    return value


@triton.jit(do_not_specialize=["N", "C"])
def geo_ratio_fwd_kernel(
    sums,  # as in `Batch`
    channel_weights,
    numbers,
    N,
    C,
    result,  # [], or [N, C - skip], [1, C - skip] or [1, 1] without a reduction
    K: tl.constexpr,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    batch = Batch(sums=sums, channel_weights=channel_weights, numbers=numbers, N=N, C=C)
    if P.reduction == "none":
        write_ratios(P, K, batch, result, BLOCK)
    else:
        total = tl.full((), 0, tl.float64)
        for j in tl.static_range(len(P.each)):
            total += reduced_ratio(P.each[j], P.reduction, K, batch, BLOCK)
        tl.store(result, total.to(result.dtype.element_ty))


@triton.jit
def gradient_of_group(F: tl.constexpr, REDUCTION: tl.constexpr, grad_ratio, batch, lanes):
    """∂L / ∂ ratio of each lane's group."""
    if REDUCTION == "none" and F.pooling != "all":
        group = lanes.c - F.skip
        if F.pooling == "volume":
            group += lanes.n * (batch.C - F.skip)
        return tl.load(grad_ratio + group, mask=lanes.inside, other=0).to(tl.float64)
    else:
        gradient = tl.load(grad_ratio).to(tl.float64)
        if REDUCTION == "mean":
            gradient /= tl.cast(group_count(F, batch), tl.float64)
        return gradient


@triton.jit
def share_in_group(F: tl.constexpr, ROW: tl.constexpr, batch, lanes):
    """What the row of a pooled group has of each lane's channel."""
    if F.pooling == "all" and ROW.weights >= 0:
        return weight_of_channel(ROW, batch, lanes)
    else:
        return tl.full(lanes.inside.shape, 1, tl.float64)


@triton.jit
def with_slopes_added(
    F: tl.constexpr,
    REDUCTION: tl.constexpr,
    K: tl.constexpr,
    grad_ratio,
    batch,
    lanes,
    slopes,
    BLOCK: tl.constexpr,
):
    """∂L/∂S_k of each lane for each k, with what the fraction F adds."""
    kept = Lanes(n=lanes.n, c=lanes.c, inside=lanes.inside & (lanes.c >= F.skip))
    q = quotient(F, K, batch, kept, BLOCK)
    left_out = is_empty(q) | (kept.inside == 0)
    gradient = gradient_of_group(F, REDUCTION, grad_ratio, batch, kept)
    of_dividend = gradient * factor(F, batch, kept) / q.divisor
    of_divisor = -of_dividend * (q.dividend / q.divisor) * share_in_group(F, F.denominator, batch, kept)
    of_dividend *= share_in_group(F, F.numerator, batch, kept)
    totals = ()
    for k in tl.static_range(K):
        slope = slopes[k]
        if F.numerator.place_of(k) >= 0:
            weight = number(batch.numbers[F.numerator.place_of(k)], tl.float64)
            slope += tl.where(left_out, 0, weight * of_dividend)
        if F.denominator.place_of(k) >= 0:
            weight = number(batch.numbers[F.denominator.place_of(k)], tl.float64)
            slope += tl.where(left_out, 0, weight * of_divisor)
        totals = totals + (slope,)
    return totals


@triton.jit(do_not_specialize=["N", "C"])
def geo_ratio_bwd_kernel(
    grad_ratio,  # of the ratio's shape
    sums,  # as in `Batch`
    channel_weights,
    numbers,
    N,
    C,
    grad_sums,  # [N, C, K]
    K: tl.constexpr,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    batch = Batch(sums=sums, channel_weights=channel_weights, numbers=numbers, N=N, C=C)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lanes = Lanes(n=i // C, c=i % C, inside=i < N * C)
    slopes = ()
    for _ in tl.static_range(K):
        slopes = slopes + (tl.zeros((BLOCK,), tl.float64),)
    for j in tl.static_range(len(P.each)):
        slopes = with_slopes_added(P.each[j], P.reduction, K, grad_ratio, batch, lanes, slopes, BLOCK)
    for k in tl.static_range(K):
        tl.store(grad_sums + i * K + k, slopes[k].to(grad_sums.dtype.element_ty), mask=lanes.inside)


def _batch_arguments(sums: Tensor, channel_weights: Tensor | None, fractions: Fractions) -> tuple[Any, ...]:
    """The kernels' arguments of a `Batch`."""
    weights = None if channel_weights is None else channel_weights.detach().contiguous()
    return (sums.detach().contiguous(), weights, fractions.numbers, sums.shape[0], sums.shape[1])


def geo_ratio(
    sums: Tensor,
    channel_weights: Tensor | None,
    fractions: Sequence[int],
    weights: Sequence[float],
    reduction: int,
) -> Tensor:
    read = fractions_of(sums, channel_weights, fractions, weights, reduction)
    result = sums.new_empty(read.plan.shape(sums))
    if result.numel() > 0:
        launch.run(
            geo_ratio_fwd_kernel,
            1,
            sums,
            *_batch_arguments(sums, channel_weights, read),
            result,
            K=sums.shape[2],
            P=read.plan,
            BLOCK=BLOCK,
        )
    return result


def geo_ratio_backward(
    grad_ratio: Tensor,
    sums: Tensor,
    channel_weights: Tensor | None,
    fractions: Sequence[int],
    weights: Sequence[float],
    reduction: int,
) -> Tensor:
    read = fractions_of(sums, channel_weights, fractions, weights, reduction)
    check_grad_ratio(grad_ratio, sums, read)
    grad_sums = sums.new_empty(sums.shape)
    if grad_sums.numel() > 0:
        launch.run(
            geo_ratio_bwd_kernel,
            triton.cdiv(sums.shape[0] * sums.shape[1], BLOCK),
            sums,
            grad_ratio.detach().contiguous(),
            *_batch_arguments(sums, channel_weights, read),
            grad_sums,
            K=sums.shape[2],
            P=read.plan,
            BLOCK=BLOCK,
        )
    return grad_sums
