"""The arguments of geo_ratio, checked, and as its kernels take them.

The checks and their messages are those of csrc/checks.h.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from geoloss_kernels.triton.columns import check
from geoloss_kernels.triton.numbers import Parts, exactly

MAX_FRACTIONS = 16
INTEGERS = 4
"""Of the operators' ``fractions`` for each: pooling, skip, and the rows of class weights."""
POOLINGS = ("volume", "batch", "all")
REDUCTIONS = ("none", "mean", "sum")


class Entry(NamedTuple):
    """A weight that is not 0: of which sum, and its place among the call's numbers."""

    column: int
    number: int


@dataclass(frozen=True)
class Row:
    """A linear function of the sums: numerator or denominator of a fraction.

    Attributes:
        entries: a sum of weight 0 has none, so that it is left out also if it is not finite.
        constant: the place of the constant among the call's numbers, None if it is 0.
        weights: the row of channel_weights, -1 for none.
    """

    entries: tuple[Entry, ...]
    constant: int | None
    weights: int

    def place_of(self, column: int) -> int:
        """Where the call's numbers have the weight of a column, -1 if it is 0."""
        return dict(self.entries).get(column, -1)


@dataclass(frozen=True)
class Fraction:
    """One fraction, as the kernels are compiled for it; ``skip``: leading channels that are left out."""

    pooling: str
    skip: int
    numerator: Row
    denominator: Row


@dataclass(frozen=True)
class RatioPlan:
    """Compile-time options of the kernels: the fractions, and "none", "mean" or "sum"."""

    each: tuple[Fraction, ...]
    reduction: str

    def shape(self, sums: Tensor) -> tuple[int, ...]:
        """Of the ratio: [], or without a reduction a number for each group."""
        if self.reduction != "none":
            return ()
        first = self.each[0]
        if first.pooling == "all":
            return (1, 1)
        return (1 if first.pooling == "batch" else sums.shape[0], sums.shape[1] - first.skip)


class Fractions(NamedTuple):
    """All fractions of a ratio: what is compiled in, and the numbers, which are not."""

    plan: RatioPlan
    numbers: tuple[Parts, ...]


def check_sums(sums: Tensor) -> None:
    check(sums.ndim == 3, f"sums: expected [N, C, K], got {list(sums.shape)}")
    check(sums.dtype in (torch.float32, torch.float64), "sums: expected float32 or float64")


def fractions_of(
    sums: Tensor,
    channel_weights: Tensor | None,
    fractions: Sequence[int],
    weights: Sequence[float],
    reduction: int,
) -> Fractions:
    check_sums(sums)
    read = _read(tuple(fractions), tuple(weights), reduction, sums.shape[1], sums.shape[2])
    rows = max(row.weights for each in read.plan.each for row in (each.numerator, each.denominator)) + 1
    _check_channel_weights(channel_weights, sums, rows)
    return read


@functools.lru_cache(maxsize=256)
def _read(
    fractions: tuple[int, ...], weights: tuple[float, ...], reduction: int, channels: int, terms: int
) -> Fractions:
    row = terms + 1
    count = len(fractions) // INTEGERS
    check(
        0 < count <= MAX_FRACTIONS and len(fractions) % INTEGERS == 0,
        f"fractions: expected {INTEGERS} integers for each of 1 to {MAX_FRACTIONS} fractions, "
        f"got {len(fractions)}",
    )
    check(
        len(weights) == count * 2 * row,
        f"weights: expected {count * 2 * row} numbers, 2 (K + 1) for each fraction, got {len(weights)}",
    )
    check(
        0 <= reduction < len(REDUCTIONS),
        f"reduction: expected 0 (none), 1 (mean) or 2 (sum), got {reduction}",
    )
    numbers: list[float] = []
    each = []
    for j in range(count):
        pooling, skip, *weight_rows = fractions[INTEGERS * j : INTEGERS * (j + 1)]
        check(
            0 <= pooling < len(POOLINGS) and 0 <= skip < channels,
            "fractions: expected pooling from 0 to 2 and fewer channels skipped than there are, "
            f"got {pooling} and {skip}",
        )
        check(
            REDUCTIONS[reduction] != "none" or fractions[INTEGERS * j :][:2] == fractions[:2],
            "reduction: expected fractions of one pooling and skip with reduction none",
        )
        parts = (weights[first * row : (first + 1) * row] for first in (2 * j, 2 * j + 1))
        rows = (_row(part, place, numbers) for part, place in zip(parts, weight_rows, strict=True))
        each.append(Fraction(POOLINGS[pooling], skip, *rows))
    return Fractions(RatioPlan(tuple(each), REDUCTIONS[reduction]), exactly(numbers))


def _row(weights: Sequence[float], channel_weights: int, numbers: list[float]) -> Row:
    """The weights that are not 0 are added to ``numbers``."""
    *linear, constant = weights
    entries = []
    for column, weight in enumerate(linear):
        if weight != 0:
            entries.append(Entry(column, len(numbers)))
            numbers.append(weight)
    if constant != 0:
        numbers.append(constant)
    return Row(tuple(entries), len(numbers) - 1 if constant != 0 else None, channel_weights)


def _check_channel_weights(channel_weights: Tensor | None, sums: Tensor, rows: int) -> None:
    """``rows``: how many the fractions name."""
    if rows <= 0:
        return
    fits = (
        channel_weights is not None
        and channel_weights.ndim == 2
        and channel_weights.shape[0] >= rows
        and channel_weights.shape[1] == sums.shape[1]
        and channel_weights.dtype == sums.dtype
        and channel_weights.device == sums.device
    )
    given = "none" if channel_weights is None else f"shape {list(channel_weights.shape)}"
    check(
        fits,
        f"channel_weights: expected at least {rows} rows of {sums.shape[1]} numbers in sums' dtype and on "
        f"its device, got {given}",
    )


def check_grad_ratio(grad_ratio: Tensor, sums: Tensor, fractions: Fractions) -> None:
    fits = tuple(grad_ratio.shape) == fractions.plan.shape(sums) and grad_ratio.dtype == sums.dtype
    check(
        fits,
        f"grad_ratio: expected the shape of the ratio in sums' dtype, got {list(grad_ratio.shape)}",
    )
