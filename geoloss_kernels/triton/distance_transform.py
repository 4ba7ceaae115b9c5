"""distance_transform in Triton: the exact Euclidean distance, axis by axis.

A pass takes the lower envelope of parabolas along one axis, min over d of f[i + d] + (h d)²: first along x,
of the mask, where f is 0 or infinite, then along y and z. A program has a tile of voxels of neighbouring
lines, and looks at the voxels d to either side of each until (h d)² is no less than the worst of the tile's
best, because nothing from there on can improve any: r steps, r being the largest distance in the tile. Where
all of a tile's lines are without a voxel of the other class, it looks at each voxel once.

One signed array holds the squared distances of both classes, positive in the foreground and negative in the
background: a voxel's distance to its own class is 0 and needs no memory. Arithmetic is in fp32 where it is
exact, for cubic voxels, counted in voxels, and in fp64 elsewhere.

Moves mask + distance + four times an array in between (in 2-D twice), of 4 or 8 bytes per voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from geoloss_kernels.tensor_checks import DTYPES
from geoloss_kernels.triton import launch
from geoloss_kernels.triton.columns import check
from geoloss_kernels.triton.numbers import Parts, exactly, number, real_of

SIDES = ("foreground", "both", "signed")
STEPS = 2
"""Between two looks at whether a tile's distances have been found."""
LINES = 32
"""Of a tile: their voxels side by side fill whole lines of the cache."""
POSITION_BYTES = 64
"""Of a tile, along its lines: as many squares as its threads have registers for."""
EXACT_SQUARES = 2**24
"""float32 holds all integers below."""


class Lines(NamedTuple):
    """Voxel i of line l lies at (l // stride) stride length + l % stride + i stride. ``size``: h."""

    count: Any
    length: Any
    stride: Any
    size: Any


class Field(NamedTuple):
    """What a pass hands on: signed squares, infinite where the other class has not been met, and the index
    y W + x of the voxel of the other class, -1 where none has been met; None where it is not asked for."""

    square: Any
    nearest: Any


@triton.jit
def square_at(source, at, inside, OF_MASK: tl.constexpr, REAL: tl.constexpr):
    """The signed square; of a mask, the one that no other voxel has been compared for."""
    value = tl.load(source + at, mask=inside, other=0)
    if OF_MASK:
        value = tl.where(value != 0, float("inf"), float("-inf")).to(REAL)
    return value


@triton.jit
def has_both_classes(
    source, start, on_line, lines, OF_MASK: tl.constexpr, POSITIONS: tl.constexpr, REAL: tl.constexpr
):
    """Whether the lines have a distance to be found: not all squares are infinite and of one class."""
    not_in_background = False
    not_in_foreground = False
    for first in range(0, lines.length, POSITIONS):
        i = (first + tl.arange(0, POSITIONS)[:, None]).to(tl.int64)
        inside = on_line & (i < lines.length)
        square = square_at(source, start + i * lines.stride, inside, OF_MASK, REAL)
        highest = tl.max(tl.where(inside, square, float("-inf")))
        lowest = tl.min(tl.where(inside, square, float("inf")))
        not_in_background = not_in_background | (highest > float("-inf"))
        not_in_foreground = not_in_foreground | (lowest < float("inf"))
    return not_in_background & not_in_foreground


@triton.jit
def write_field(out, at, inside, square, in_foreground, wanted):
    signed = tl.where(in_foreground, square, tl.where(wanted, -square, -1))
    tl.store(out + at, signed, mask=inside)


@triton.jit
def write_distance(out, at, inside, square, in_foreground, unit, without_boundary, SIGNED: tl.constexpr):
    """``unit``: of squares, in mm"""
    is_found = square < float("inf")
    mm = tl.sqrt(square.to(tl.float64)) * number(unit, tl.float64)
    distance = tl.where(is_found, mm, number(without_boundary, tl.float64))
    if SIGNED:
        inside_value = tl.where(is_found, 1 - distance, -distance)
        distance = tl.where(in_foreground, inside_value, distance)
    tl.store(out + at, distance.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["parts", "D"])
def distance_transform_kernel(
    source: Field,  # of the first pass, square is the mask, uint8
    out: Field,  # of the last pass, distances and indices in the volume
    lines: Lines,
    parts,  # of a line, POSITIONS each
    D,
    plane,  # H W
    unit,
    without_boundary,
    SIDE: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    REAL: tl.constexpr,
    POSITIONS: tl.constexpr,
    LINES: tl.constexpr,
    STEPS: tl.constexpr,
):
    program = tl.program_id(0)
    line = (program // parts).to(tl.int64) * LINES + tl.arange(0, LINES)[None, :]
    i = (program % parts).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)[:, None]
    on_line = line < lines.count
    start = line // lines.stride * lines.stride * lines.length + line % lines.stride
    at = start + i * lines.stride
    inside = on_line & (i < lines.length)
    own = square_at(source.square, at, inside, FIRST, REAL)
    in_foreground = own > 0
    wanted = inside & (in_foreground | (SIDE != "foreground"))
    sign = tl.where(in_foreground, 1, -1).to(REAL)
    size = number(lines.size, REAL)

    best = tl.where(wanted, own * sign, 0)
    offset = tl.zeros((POSITIONS, LINES), tl.int32)
    d = 1
    more = has_both_classes(source.square, start, on_line, lines, FIRST, POSITIONS, REAL)
    more = more & (tl.max(best) > size * size)
    while more:
        for _ in tl.static_range(STEPS):
            # Beyond its ends a line repeats its last voxel, which comes too late to matter.
            before_at = start + tl.maximum(i - d, 0) * lines.stride
            after_at = start + tl.minimum(i + d, lines.length - 1) * lines.stride
            before = sign * square_at(source.square, before_at, inside, FIRST, REAL)
            after = sign * square_at(source.square, after_at, inside, FIRST, REAL)
            # A voxel of the other class is a distance of 0 away from itself, however far its sign says.
            step = size * d * (size * d)
            candidate = tl.maximum(tl.minimum(before, after), 0) + step
            nearer = candidate < best
            offset = tl.where(nearer, tl.where(after < before, d, -d), offset)
            best = tl.where(nearer, candidate, best)
            d += 1
        more = (d < lines.length) & (tl.max(best) > size * d * (size * d))

    if LAST:
        write_distance(out.square, at, inside, best, in_foreground, unit, without_boundary, SIDE == "signed")
    else:
        write_field(out.square, at, inside, best, in_foreground, wanted)
    if out.nearest is not None:
        # A voxel of the other class, and one that is not asked for, leads to itself.
        via = at + offset.to(tl.int64) * lines.stride
        via_foreground = square_at(source.square, via, inside, FIRST, REAL) > 0
        is_site = (via_foreground != in_foreground) | ~wanted
        met = -1 if FIRST else tl.load(source.nearest + via, mask=inside, other=-1).to(tl.int64)
        in_plane = tl.where(is_site, via % plane, met)
        if LAST:
            in_plane = tl.where(in_plane < 0, -1, via // plane % D * plane + in_plane)
        tl.store(out.nearest + at, in_plane.to(out.nearest.dtype.element_ty), mask=inside)


class Transform(NamedTuple):
    """The arguments of the operators, checked."""

    mask: Tensor
    spacing: Sequence[float]
    side: int
    without_boundary: float
    dtype: torch.dtype

    def check(self) -> Transform:
        spatial = self.mask.ndim - 2
        check(
            spatial in (2, 3),
            f"mask: expected [N, C, H, W] or [N, C, D, H, W], got {list(self.mask.shape)}",
        )
        check(self.dtype in (torch.float32, torch.float64), "dtype: expected float32 or float64")
        check(len(self.spacing) == spatial, f"spacing: expected {spatial} numbers, got {len(self.spacing)}")
        plane = self.mask.shape[-2] * self.mask.shape[-1]
        check(
            plane < 2**31,
            f"mask: expected planes of less than 2^31 voxels, got {list(self.mask.shape)}",
        )
        check(self.mask.dtype in DTYPES, "mask: expected a floating, integer or bool dtype")
        for size in self.spacing:
            check(size > 0, f"spacing: expected positive numbers, got {size:g}")
        check(
            0 <= self.side < len(SIDES),
            f"side: expected 0 (foreground), 1 (both) or 2 (signed), got {self.side}",
        )
        return self

    @property
    def is_cubic(self) -> bool:
        return len(set(self.spacing)) == 1

    @property
    def real(self) -> torch.dtype:
        """Of the squares: one in which they are exact, or float64."""
        diagonal = sum(length**2 for length in self.mask.shape[2:])
        return torch.float32 if self.is_cubic and diagonal < EXACT_SQUARES else torch.float64


def _as_bytes(mask: Tensor) -> Tensor:
    """1 where the mask is not zero, contiguous."""
    if mask.dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch compares none of them
        mask = mask.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[mask.element_size()])
    foreground = mask if mask.dtype == torch.bool else mask != 0
    return foreground.contiguous().view(torch.uint8)


def _finite_or_infinite(value: float) -> Parts:
    return exactly([value])[0] if math.isfinite(value) else (value, 0.0, 0.0)


def _run(transform: Transform, distance: Tensor, indices: Tensor | None) -> None:
    mask = transform.mask
    if mask.numel() == 0:
        return
    source = Field(_as_bytes(mask), None)
    for axis in reversed(range(1, mask.ndim - 2)):
        between = Field(
            mask.new_empty(mask.shape, dtype=transform.real),
            None if indices is None else mask.new_empty(mask.shape, dtype=torch.int32),
        )
        _run_pass(transform, axis, source, between)
        source = between
    _run_pass(transform, 0, source, Field(distance, indices))


def _run_pass(transform: Transform, axis: int, source: Field, out: Field) -> None:
    """Along the spatial axis ``axis``; 0 comes last."""
    shape = transform.mask.shape[2:]
    length, stride = shape[axis], math.prod(shape[axis + 1 :])
    size = 1.0 if transform.is_cubic else transform.spacing[axis]
    lines = Lines(transform.mask.numel() // length, length, stride, exactly([size])[0])
    positions = triton.next_power_of_2(length)
    if not launch.INTERPRETED:
        positions = min(POSITION_BYTES // transform.real.itemsize, positions)
    width = max(1, launch.INTERPRETED_TILE // positions) if launch.INTERPRETED else LINES
    parts = triton.cdiv(length, positions)
    launch.run(
        distance_transform_kernel,
        triton.cdiv(lines.count, width) * parts,
        transform.mask,
        source,
        out,
        lines,
        parts,
        shape[0] if len(shape) == 3 else 1,
        shape[-2] * shape[-1],
        exactly([transform.spacing[0] if transform.is_cubic else 1.0])[0],
        _finite_or_infinite(transform.without_boundary),
        SIDE=SIDES[transform.side],
        FIRST=axis == len(shape) - 1,
        LAST=axis == 0,
        REAL=real_of(transform.real),
        POSITIONS=positions,
        LINES=width,
        STEPS=STEPS,
    )


def distance_transform(
    mask: Tensor, spacing: Sequence[float], side: int, without_boundary: float, dtype: torch.dtype
) -> Tensor:
    transform = Transform(mask.detach(), spacing, side, without_boundary, dtype).check()
    distance = mask.new_empty(mask.shape, dtype=dtype)
    _run(transform, distance, None)
    return distance


def distance_transform_with_indices(
    mask: Tensor, spacing: Sequence[float], side: int, without_boundary: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    transform = Transform(mask.detach(), spacing, side, without_boundary, dtype).check()
    distance = mask.new_empty(mask.shape, dtype=dtype)
    indices = mask.new_empty(mask.shape, dtype=torch.int64)
    _run(transform, distance, indices)
    return distance, indices
