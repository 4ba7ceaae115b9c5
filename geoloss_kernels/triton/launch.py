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

INTERPRETED_TILE = 2**14
"""Voxels of a tile in the interpreter."""

WARP = 64 if torch.version.hip else 32
"""Threads of a warp; of a wavefront of AMD's data-centre GPUs."""
WARPS = 4
"""Of a program; each has rows of the tile of its own."""
VECTOR_BYTES = 16
"""The most that a thread loads at a time."""
SAMPLES = 32
"""The most that a thread has in registers, of 32 bits: kernels stay far from spilling, and enough of them run
at a time to hide the latency of memory."""
PROGRAMS = 2048
"""At least that many, where the volumes are large enough: 16 for each multiprocessor of a large GPU."""
MIN_PLANES = 4
"""Of a program: the planes next to its own are read twice."""
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
    """A function of shapes and options, not of the GPU, so that results do not depend on it."""
    depth, height, width = arguments.volume
    lanes = WARP * _voxels_per_thread(plan, arguments.input.element_size())
    block_x = triton.next_power_of_2(width) if INTERPRETED else _block_x(width, lanes)
    tile = INTERPRETED_TILE if INTERPRETED else WARPS * lanes
    block_y = max(1, min(tile // block_x, triton.next_power_of_2(height)))
    tiles_x, tiles_y = triton.cdiv(width, block_x), triton.cdiv(height, block_y)
    planes = depth if INTERPRETED else _planes(depth, arguments.N * arguments.C * tiles_x * tiles_y)
    blocks = triton.cdiv(depth, planes) * tiles_x * tiles_y
    return Tiling(planes, tiles_y, tiles_x, blocks, block_y, block_x, WARPS)


def _voxels_per_thread(plan: Plan, itemsize: int) -> int:
    """As many as a load of the input brings, if their samples find room in the registers."""
    samples = sum(len(field) for field in (plan.valid, plan.prediction, plan.target, plan.error))
    words = (samples + 2 * len(plan.normalised) + plan.gathered) * max(1, itemsize // 4)
    room = max(1, SAMPLES // max(1, words))
    return min(VECTOR_BYTES // itemsize, 2 ** (room.bit_length() - 1))


def _block_x(width: int, lanes: int) -> int:
    """A power of two that leaves few lanes beyond a row's end, at most ``lanes``."""
    sizes = [lanes >> shift for shift in range(4) if lanes >> shift >= 16]
    return min(sizes, key=lambda size: triton.cdiv(width, size) * size)


def _planes(depth: int, tiles: int) -> int:
    chunks = triton.cdiv(PROGRAMS, tiles)
    return min(depth, max(MIN_PLANES, triton.cdiv(depth, chunks)))


def run(kernel: Any, programs: int, near: Tensor, *arguments: Any, **options: Any) -> None:
    """Launch on the device of ``near``."""
    device = torch.cuda.device(near.device) if near.is_cuda else contextlib.nullcontext()
    with device:
        kernel[(programs,)](*arguments, **options)
