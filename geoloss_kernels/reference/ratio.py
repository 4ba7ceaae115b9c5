"""`geo_ratio`: Eq. 1 on the sums of volumes, and the operator `geo_loss`: on those of `geo_sums`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels.reference.sums import geo_sums
from geoloss_kernels.reference.voxels import Voxels

POOLED_DIMENSIONS: tuple[tuple[int, ...], ...] = ((), (0,), (0, 1))
"""Of S [N, C, K], by the number of a fraction's pooling."""


def ratio_and_sums(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    channel_weights: Tensor | None,
    maps: Sequence[Tensor],
    *options: Any,
    programs: Sequence[Callable[[Voxels], Tensor]] = (),
) -> tuple[Tensor, Tensor]:
    """The operator `geo_loss`: `geo_ratio` of `geo_sums`, differentiable, and the sums, as constants.

    ``options``: the remaining ones of `geo_sums`, then those of `geo_ratio`.
    """
    sums = geo_sums(input, target, mask, maps, *options[:-3], programs=programs)
    return geo_ratio(sums, channel_weights, *options[-3:]), sums.detach()


def geo_ratio(
    sums: Tensor,
    channel_weights: Tensor | None,
    fractions: Sequence[int],
    weights: Sequence[float],
    reduction: int,
) -> Tensor:
    """The loss of the sums S [N, C, K]: a sum of fractions (n · S + n_0) / (d · S + d_0), reduced.

    Args:
        channel_weights: [W, C], class weights.
        fractions: for each pooling (0 a ratio of each volume and channel, 1 of each channel, S summed over
            the batch, 2 one ratio, S summed over batch and channels), the number of leading channels that are
            left out, and the rows of ``channel_weights`` of numerator and denominator or -1.
        weights: for each the K + 1 numbers n, the constant last, and the K + 1 numbers d.
        reduction: 0 leaves the ratios apart, 1 averages, 2 adds up.

    Class weights multiply the ratio of a channel or, where channels are summed, each channel's share. A sum
    of weight 0 is left out, also if it is infinite. A fraction 0 / 0 counts as 0: a volume without valid
    voxels adds nothing. Differentiable, also twice.
    """
    row = sums.shape[-1] + 1
    count = len(fractions) // 4
    if not count or len(fractions) != 4 * count or len(weights) != 2 * count * row:
        raise ValueError(
            f"fractions and weights: expected 4 integers and 2 · {row} floats for each fraction, "
            f"got {len(fractions)} and {len(weights)}"
        )
    total = sums.new_zeros(())
    for j in range(count):
        rows = sums.new_tensor(weights[2 * j * row : 2 * (j + 1) * row]).view(2, row)
        ratio = _fraction(sums, channel_weights, fractions[4 * j : 4 * j + 4], rows)
        total = total + (ratio.mean() if reduction == 1 else ratio.sum() if reduction == 2 else ratio)
    return total


def _fraction(sums: Tensor, channel_weights: Tensor | None, integers: Sequence[int], rows: Tensor) -> Tensor:
    """One fraction [N, C'], [1, C'] or [1, 1]; ``rows``: [2, K + 1]."""
    pooling, skip, *weight_rows = integers
    pools_channels = pooling == 2
    parts = []
    for numbers, weight_row in zip(rows, weight_rows, strict=True):
        linear = _linear(sums[:, skip:], numbers[:-1])
        if pools_channels and channel_weights is not None and weight_row >= 0:
            linear = linear * channel_weights[weight_row, skip:]
        if POOLED_DIMENSIONS[pooling]:
            linear = linear.sum(POOLED_DIMENSIONS[pooling], keepdim=True)
        parts.append(linear + numbers[-1])
    ratio = divide(*parts)
    if not pools_channels and channel_weights is not None and weight_rows[0] >= 0:
        ratio = ratio * channel_weights[weight_rows[0], skip:]
    return ratio


def _linear(sums: Tensor, numbers: Tensor) -> Tensor:
    """Σ_k numbers_k S_k: [N, C, K] -> [N, C]."""
    return (torch.where(numbers == 0, torch.zeros_like(sums), sums) * numbers).sum(-1)


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 with a gradient of 0 where both are 0."""
    empty = (numerator == 0) & (denominator == 0)
    quotient = numerator / torch.where(empty, torch.ones_like(denominator), denominator)
    return torch.where(empty, torch.zeros_like(quotient), quotient)
