"""Bugs to plant in a copy of the kernels: what the checks do not see there, they do not see anywhere.

All are planted at once, so that one build has them all, and each run has one of them: see `planted.h`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from host_cuda import build


@dataclass(frozen=True)
class PlantedBug:
    """One place of the sources made wrong."""

    name: str
    file: str
    right: str
    wrong: str
    """the same if PLANTED is false"""
    caught_by: str
    """the build of `launches.cpp` that stops, "address" or "thread" """
    report: str
    """what it says"""


BUGS = (
    PlantedBug(
        name="no barrier before the sums of a block's warps are read",
        file="reduce.cuh",
        right="slots = params.terms.slots();\n  __syncthreads();",
        wrong="slots = params.terms.slots();\n  if (!PLANTED) __syncthreads();",
        caught_by="thread",
        report="data race",
    ),
    PlantedBug(
        name="no barrier before the sums of a block's warps are written again",
        file="ratio.cuh",
        right="total += of_warps[warp];\n  __syncthreads();",
        wrong="total += of_warps[warp];\n  if (!PLANTED) __syncthreads();",
        caught_by="thread",
        report="data race",
    ),
    PlantedBug(
        name="no barrier between the planes of a march",
        file="march.cuh",
        right="put_errors(column, error, z + 1, next);\n    __syncthreads();\n    here = next;",
        wrong="put_errors(column, error, z + 1, next);\n    if (!PLANTED) __syncthreads();\n    here = next;",
        caught_by="thread",
        report="data race",
    ),
    PlantedBug(
        name="one plane of a march in shared memory, where two take turns",
        file="march.cuh",
        right="return ((z & 1) * kChannels + channel) * threads + place;",
        wrong="return ((PLANTED ? 0 : z & 1) * kChannels + channel) * threads + place;",
        caught_by="thread",
        report="data race",
    ),
    PlantedBug(
        name="an idle thread of a march that looks beside itself",
        file="march.cuh",
        right="return takes_part && x + kVector < p.W",
        wrong="return (takes_part || PLANTED) && x + kVector < p.W",
        caught_by="thread",
        report="data race",
    ),
    PlantedBug(
        name="a halo that nobody fills",
        file="tile.cuh",
        right="if (in_volume) function(place, z, row, column);",
        wrong="if (in_volume && !(PLANTED && z < tile.z_begin)) function(place, z, row, column);",
        caught_by="thread",
        report="is not a number",
    ),
    PlantedBug(
        name="a write past the end of the gradient",
        file="tile.cuh",
        right="of.at.z, of.at.y, of.at.x), gradient);",
        wrong="of.at.z, of.at.y, of.at.x) + PLANTED, gradient);",
        caught_by="address",
        report="heap-buffer-overflow",
    ),
    PlantedBug(
        name="too little dynamic shared memory",
        file="tile.cuh",
        right="+ TileShape<T>::kVoxels * sizeof(T) +",
        wrong="+ (PLANTED ? 0 : TileShape<T>::kVoxels * sizeof(T)) +",
        caught_by="thread",
        report="a write past dynamic shared memory",
    ),
    PlantedBug(
        name="vectors in rows that are not aligned",
        file="march_plan.h",
        right="t.input_aligned = has_aligned_vectors(p.input, p.W);",
        wrong="t.input_aligned = PLANTED || has_aligned_vectors(p.input, p.W);",
        caught_by="address",
        report="misaligned address",
    ),
    PlantedBug(
        name="a barrier that some threads pass by",
        file="tile.cuh",
        right="slopes(tile, of));\n    });",
        wrong="slopes(tile, of));\n    });\n    if (PLANTED && threadIdx.x < 32) __syncthreads();",
        caught_by="address",
        report="divergent barrier",
    ),
    PlantedBug(
        name="a warp whose last lane does not take part",
        file="reduce.cuh",
        right="const T total = warp_sum(of_thread);",
        wrong="if (PLANTED && thread % kWarpSize == 31) return;\n  const T total = warp_sum(of_thread);",
        caught_by="address",
        report="deadlock",
    ),
    PlantedBug(
        name="no barrier before the sums of a launch are read for the loss",
        file="ratio.cuh",
        right="kRatioThreads / kWarpSize, sums);\n  __syncthreads();",
        wrong="kRatioThreads / kWarpSize, sums);\n  if (!PLANTED) __syncthreads();",
        caught_by="thread",
        report="data race",
    ),
    PlantedBug(
        name="no barrier before the pooled sums are read",
        file="ratio.cuh",
        right="    }\n    __syncthreads();\n  }\n\n  GEOLOSS_DEVICE Parts parts",
        wrong="    }\n    if (!PLANTED) __syncthreads();\n  }\n\n  GEOLOSS_DEVICE Parts parts",
        caught_by="thread",
        report="data race",
    ),
    PlantedBug(
        name="a gradient of the sums that is written past its end",
        file="ratio.cuh",
        right="if (element >= ratio.N * ratio.C * ratio.K) return;",
        wrong="if (element >= ratio.N * ratio.C * ratio.K + PLANTED) return;",
        caught_by="address",
        report="heap-buffer-overflow",
    ),
    PlantedBug(
        name="too little shared memory for as many requests as there may be",
        file="tile.cuh",
        right="kMaxSlots * TileShape<T>::kWarps * sizeof(T);",
        wrong="(PLANTED ? kPlainTerms : kMaxSlots) * TileShape<T>::kWarps * sizeof(T);",
        caught_by="address",
        report="use-after-poison",
    ),
    PlantedBug(
        name="no barrier before what a block's warps found is read",
        file="distance_transform.cuh",
        right="agree[i][threadIdx.y] = whole_warp;\n  }\n  __syncthreads();",
        wrong="agree[i][threadIdx.y] = whole_warp;\n  }\n  if (!PLANTED) __syncthreads();",
        caught_by="thread",
        report="data race",
    ),
    PlantedBug(
        name="a line that is read beyond its end",
        file="distance_transform.cuh",
        right="line[(i + d < last ? i + d : last) * stride]",
        wrong="line[(i + d < last || PLANTED ? i + d : last) * stride]",
        caught_by="address",
        report="heap-buffer-overflow",
    ),
    PlantedBug(
        name="a warp that reads the mask beyond the end of a row",
        file="distance_transform.cuh",
        right="foreground = inside && is_foreground",
        wrong="foreground = (inside || PLANTED) && is_foreground",
        caught_by="address",
        report="heap-buffer-overflow",
    ),
)


def plant() -> Path:
    """A copy of csrc with all of `BUGS`."""
    copy = build.BUILD / "planted" / "csrc"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(build.ROOT / "csrc", copy)
    for number, bug in enumerate(BUGS):
        file = copy / "cuda" / bug.file
        text = file.read_text()
        if text.count(bug.right) != 1:
            raise ValueError(f"{bug.name}: expected this once in {bug.file}:\n{bug.right}")
        wrong = bug.wrong.replace("PLANTED", f"(planted_bug == {number})")
        file.write_text(text.replace(bug.right, wrong))
    return copy
