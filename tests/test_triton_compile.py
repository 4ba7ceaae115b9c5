"""The Triton kernels compiled for GPUs that are not there: no spills, few registers, wide loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(900)

TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx90a", "gfx942")
REGISTERS = {
    **{"voxel-wise": 64, "voxel-wise softmax": 96, "stencil": 128, "stencil softmax": 255},
    **{"program": 96, "program with stencils": 255},
}
"""The most that a thread of the kernels over voxels may take."""
WIDE = {"sm": ("LDG.E.128", "STG.E.128"), "gf": ("_load_dwordx4", "_store_dwordx4")}

Kernel = dict[str, Any]


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def kernels(target: str, tmp_path_factory: pytest.TempPathFactory) -> list[Kernel]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    script = Path(__file__).with_name("triton_compiler.py")
    run = subprocess.run(
        [sys.executable, str(script), target], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def kind(kernel: Kernel) -> str:
    if kernel["loss"] == "focal":
        return "program"
    if kernel["loss"].startswith("open"):
        return "program with stencils"
    reach = "stencil" if any(name in kernel["loss"] for name in ("fog", "sog")) else "voxel-wise"
    return f"{reach} softmax" if kernel.get("activation") == "softmax" else reach


def wide(kernel: Kernel, target: str, operation: int) -> int:
    """How many loads (0) or stores (1) of 16 bytes the kernel has."""
    name = WIDE[target[:2]][operation]
    return sum(count for instruction, count in kernel["memory"].items() if name in instruction)


def test_nothing_is_spilled(kernels):
    assert len(kernels) >= 20
    assert not [kernel for kernel in kernels if kernel["spills"]]


def test_registers(kernels):
    over_voxels = [kernel for kernel in kernels if kernel["kernel"].startswith("geo_sums")]
    assert len(over_voxels) >= 10
    assert not [kernel for kernel in over_voxels if kernel["registers"] > REGISTERS[kind(kernel)]]


def test_a_loss_is_three_launches_and_its_gradient_two(kernels):
    of_dice = [
        kernel["kernel"] for kernel in kernels if (kernel["loss"], kernel["dtype"]) == ("dice", "bfloat16")
    ]
    forward = ["geo_sums_fwd_kernel", "add_partial_kernel", "geo_ratio_fwd_kernel"]
    assert of_dice == [*forward, "geo_ratio_bwd_kernel", "geo_sums_bwd_kernel"]


def test_the_gradient_of_stencils_of_programs_is_one_launch_more(kernels):
    of_open = [kernel["kernel"] for kernel in kernels if kernel["loss"] == "open fog"][:6]
    forward = ["geo_sums_fwd_kernel", "add_partial_kernel", "geo_ratio_fwd_kernel"]
    assert of_open == [*forward, "geo_ratio_bwd_kernel", "geo_sums_flux_kernel", "geo_sums_bwd_kernel"]


def test_distance_transforms_are_compiled(kernels):
    """Three passes each in both arithmetics."""
    passes = [kernel for kernel in kernels if kernel["loss"] == "distances"]
    assert [kernel["dtype"] for kernel in passes] == ["float32"] * 3 + ["float64"] * 3
    assert not [kernel for kernel in passes if kernel["registers"] > REGISTERS["stencil"]]


def test_ratios_are_compiled(kernels):
    """Five of them forward and backward, in float64 for any sums."""
    ratios = [kernel for kernel in kernels if kernel["loss"] == "ratios"]
    assert [kernel["kernel"] for kernel in ratios] == ["geo_ratio_fwd_kernel", "geo_ratio_bwd_kernel"] * 5
    assert not [kernel for kernel in ratios if kernel["registers"] > REGISTERS["stencil"]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_voxel_wise_kernels_read_and_write_16_bytes_at_a_time(kernels, target, dtype):
    of_dice = {
        kernel["kernel"]: kernel
        for kernel in kernels
        if kernel["loss"] == "dice" and kernel["dtype"] == dtype and "width" not in kernel
    }
    assert wide(of_dice["geo_sums_fwd_kernel"], target, 0) == 2
    assert wide(of_dice["geo_sums_bwd_kernel"], target, 0) == 2
    assert wide(of_dice["geo_sums_bwd_kernel"], target, 1) == 1


def test_rows_of_a_stencil_are_read_16_bytes_at_a_time(kernels, target):
    """Forward: a voxel and its neighbours along y and z; those along x are not aligned."""
    (forward,) = (
        kernel
        for kernel in kernels
        if (kernel["loss"], kernel["dtype"], kernel["kernel"]) == ("fog", "float32", "geo_sums_fwd_kernel")
    )
    assert wide(forward, target, 0) >= 4


def test_rows_that_are_no_whole_vectors_are_not(kernels, target):
    odd = [kernel for kernel in kernels if kernel.get("width") == 129]
    assert (len(odd) > 0) == (target == "sm_90")
    assert not any(wide(kernel, target, 0) for kernel in odd if kernel["kernel"].startswith("geo_sums"))
