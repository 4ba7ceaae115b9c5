"""How the work is cut into programs, and how they are started."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from geoloss_kernels.triton.arguments import Arguments
from geoloss_kernels.triton.plan import Plan

INTERPRETED = triton.knobs.runtime.interpret
"""Kernels run in Triton's interpreter, program by program and each operation in numpy: few, large tiles."""

WARPS = 4
LANES = 32 * WARPS
PROGRAMS = 2048
"""At least that many, where the volumes are large enough: 16 for each multiprocessor of a large GPU."""
MIN_PLANES = 4
"""Of a program: the plane ahead of its last is read twice."""
REDUCE_BLOCK = 1024


class Tiling(NamedTuple):
    """A volume in blocks of ``planes`` planes of a tile [block_y, block_x] each."""

    planes: int
    tiles_y: int
    tiles_x: int
    blocks: int
    block_y: int
    block_x: int
    warps: int

    def sizes(self) -> tuple[int, ...]:
        return self.planes, self.tiles_y, self.tiles_x, self.blocks


def tiling(arguments: Arguments, plan: Plan) -> Tiling:
    depth, height, width = arguments.volume
    elements = 2**14 if INTERPRETED else LANES * 4
    block_x = _block_x(width)
    block_y = min(elements // block_x, triton.next_power_of_2(height))
    tiles_x, tiles_y = triton.cdiv(width, block_x), triton.cdiv(height, block_y)
    planes = depth if INTERPRETED else _planes(depth, arguments.N * arguments.C * tiles_x * tiles_y)
    blocks = triton.cdiv(depth, planes) * tiles_x * tiles_y
    return Tiling(planes, tiles_y, tiles_x, blocks, block_y, block_x, WARPS)


def _block_x(width: int) -> int:
    """A power of two with few lanes beyond the row's end: 16 to 128 elements, or the row if it is shorter."""
    if INTERPRETED or width <= 16:
        return triton.next_power_of_2(width)
    return min((128, 64, 32, 16), key=lambda block: triton.cdiv(width, block) * block)


def _planes(depth: int, tiles: int) -> int:
    chunks = triton.cdiv(PROGRAMS, tiles)
    return min(depth, max(MIN_PLANES, triton.cdiv(depth, chunks)))


def run(kernel: Any, programs: int, near: Tensor, *arguments: Any, **options: Any) -> None:
    """Launch on the device of ``near``."""
    device = torch.cuda.device(near.device) if near.is_cuda else contextlib.nullcontext()
    with device:
        kernel[(programs,)](*arguments, **options)
