"""The interpreter of programs and the stencils of open formulas, compiled alone and called on rows."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "host_programs"
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-DGEOLOSS_ISA=host")
_LEVELS = {"baseline": "", "avx2": "-march=x86-64-v3", "avx512": "-march=x86-64-v4"}
PADDING = 64
"""elements at either end of a row"""


def instruction_sets() -> list[str]:
    """Those that this machine runs."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["baseline"]
    best = torch.backends.cpu.get_cpu_capability()
    return list(_LEVELS)[: {"AVX2": 2, "AVX512": 3}.get(best, 1)]


@functools.cache
def library(instruction_set: str) -> ctypes.CDLL:
    flags = [*FLAGS, *WARNINGS, *filter(None, [_LEVELS[instruction_set]]), f"-I{ROOT / 'csrc'}"]
    digest = hashlib.sha256(repr(flags).encode())
    for source in sorted([*ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/cpu/*.h"), HERE / "programs.cpp"]):
        digest.update(source.read_bytes())
    built = BUILD / f"{digest.hexdigest()[:16]}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        new = f"{built}.{os.getpid()}"
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, *flags, str(HERE / "programs.cpp"), "-o", new], check=True)
        os.replace(new, built)
    return ctypes.CDLL(str(built))


def padded(volume: Tensor, fill: float = torch.nan) -> Tensor:
    """Rows with `PADDING` elements of ``fill`` at either end."""
    return torch.nn.functional.pad(volume, (PADDING, PADDING), value=fill).contiguous()


def unpadded(volume: Tensor) -> Tensor:
    return volume[..., PADDING:-PADDING]


def with_clamped_ends(volume: Tensor) -> Tensor:
    """`padded`, with the voxel beside each row's end that the pipeline writes there."""
    result = padded(volume)
    result[..., PADDING - 1] = volume[..., 0]
    result[..., volume.shape[-1] + PADDING] = volume[..., -1]
    return result


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Of its first voxel; null for None."""
    if tensor is None:
        return ctypes.c_void_p()
    return ctypes.c_void_p(tensor.data_ptr() + PADDING * tensor.element_size())


def _suffix(tensor: Tensor) -> str:
    return {torch.float32: "float", torch.float64: "double"}[tensor.dtype]


def run_program(
    integers: Sequence[int],
    numbers: Sequence[float],
    fields: Sequence[Tensor],
    outputs: int,
    instruction_set: str,
    like: Tensor,
) -> list[Tensor]:
    """What the program makes of rows [rows, width]; NaN lies around them. ValueError where it is refused."""
    rows, width = like.shape
    inputs = [padded(field) for field in fields]
    results = [padded(torch.full_like(like, torch.nan)) for _ in range(outputs)]
    function = getattr(library(instruction_set), f"run_program_{_suffix(like)}")
    function.restype = ctypes.c_char_p
    fault = function(
        (ctypes.c_int64 * len(integers))(*integers),
        ctypes.c_int64(len(integers)),
        (ctypes.c_double * len(numbers))(*numbers),
        ctypes.c_int64(len(numbers)),
        (ctypes.c_void_p * len(inputs))(*map(address, inputs)),
        ctypes.c_int64(len(inputs)),
        (ctypes.c_void_p * len(results))(*map(address, results)),
        ctypes.c_int64(len(results)),
        ctypes.c_int64(rows),
        ctypes.c_int64(width),
        ctypes.c_int64(width + 2 * PADDING),
    )
    if fault is not None:
        raise ValueError(fault.decode())
    return [unpadded(result) for result in results]


def stencil_and_adjoint(
    codes: Sequence[int],
    weights: Sequence[float],
    centre: float,
    needs_all: bool,
    u: Tensor,
    valid: Tensor | None,
    flux: Tensor,
    instruction_set: str,
) -> tuple[Tensor, Tensor]:
    """φ(u) of volumes [D, H, W], and the adjoint of ``flux``."""
    inside = u if valid is None else torch.where(valid, u, 0)
    volumes = [with_clamped_ends(inside), None if valid is None else with_clamped_ends(valid.to(u.dtype))]
    result, own, gradient = (padded(torch.zeros_like(u)) for _ in range(3))
    reached = padded(flux)
    getattr(library(instruction_set), f"stencil_{_suffix(u)}")(
        ctypes.c_int64(len(codes)),
        (ctypes.c_int64 * len(codes))(*codes),
        (ctypes.c_double * len(codes))(*weights),
        ctypes.c_double(centre),
        ctypes.c_bool(needs_all),
        (ctypes.c_int64 * 3)(*u.shape),
        ctypes.c_int64(u.shape[-1] + 2 * PADDING),
        *map(address, (*volumes, result, reached, own, gradient)),
    )
    return unpadded(result), unpadded(gradient)
