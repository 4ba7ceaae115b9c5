"""Compiles the Triton kernels for a GPU that is not there: ``python triton_compiler.py sm_90`` prints JSON.

The launchers run as they are, on CPU tensors, but for the launch itself: each kernel is compiled as it would
be started, and its machine code is read.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import geoloss_kernels as gk
from geoloss_kernels import formulas
from geoloss_kernels.call import ACTIVATIONS
from geoloss_kernels.formulas import CallTraits, Formula
from geoloss_kernels.passes import Geometry, Pass, passes
from geoloss_kernels.triton import distance_transform, geo_ratio, launch, operators

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
LOSSES: dict[str, Formula] = {
    "dice": formulas.dice(),
    "bce": formulas.bce(),
    "dice + cross-entropy": formulas.dice() + formulas.cross_entropy(label_smoothing=0.1),
    "fog": formulas.fog(),
    "fog central": formulas.fog(operator="central"),
    "dice + fog": formulas.dice() + formulas.fog(),
    "dice + sog": formulas.dice() + formulas.sog(),
    "sog two-sided": formulas.sog(two_sided=True),
    "dice + boundary": formulas.dice() + formulas.boundary(),
    "focal": formulas.focal(),
    "open fog": formulas.geo(
        theta=lambda s, g: 1, psi=lambda s, g, phi: gk.norm(phi(s) - phi(g)), phi=gk.phi.forward()
    ),
    "open fog of Sobel's edges": formulas.geo(
        theta=lambda s, g: 1, psi=lambda s, g, phi: gk.norm(phi(s) - phi(g)), phi=gk.phi.sobel()
    ),
    "open fog of 27 weights": formulas.geo(
        theta=lambda s, g: (s - g).square(),
        psi=lambda s, g, phi: (phi(s)[0] * phi(g)[0]).abs(),
        phi=gk.phi.stencil(torch.linspace(-1, 1, 27).reshape(1, 3, 3, 3)),
    ),
    "fog along two axes": formulas.fog(axes=0, spacing=(3.0, 1.0, 1.0)) + formulas.fog("l1", axes=(1, 2)),
}
RATIOS = (
    ([0, 0, -1, -1, 0, 0, 0, -1], 0),
    ([1, 2, 1, -1], 0),
    ([2, 0, 0, 1], 0),
    ([0, 0, 0, -1, 1, 2, 1, -1, 2, 0, 0, 1], 1),
    ([2, 1, -1, 0, 1, 0, -1, -1], 2),
)
"""Fractions and reductions as geo_ratio takes them."""
SIGNED = 2
NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class AbsentGPU:
    """Stands for the driver."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def compiled_kernels(target: GPUTarget) -> list[tuple[str, Any]]:
    """The list that every kernel launched from now on is added to, instead of being started."""
    kernels: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernels.append((self.__name__, run(self, *arguments, grid=grid, warmup=True, **options)))

    driver.set_active(AbsentGPU(target))
    launch.WARP = target.warp_size
    JITFunction.run = compile_only
    return kernels


def planned(loss: str, activation: str, channels: int) -> Pass:
    traits = CallTraits(activation, channels, label_map=channels > 1, reduction="mean")
    formula = LOSSES[loss].opened(3).formula
    (each,) = passes(formula, traits, True, False, Geometry(dimensions=3, spacing=None))
    return each


def arguments(
    loss: str, dtype: torch.dtype, activation: str = "sigmoid", width: int = 128, masked: bool = False
) -> tuple[Any, ...]:
    """Of geo_loss, for two volumes 128 x 128 x ``width``; with a softmax, four channels and a label map."""
    channels = 4 if activation == "softmax" else 1
    each = planned(loss, activation, channels)
    shape, shared = (2, channels, 128, 128, width), (2, 1, 128, 128, width)
    return (
        torch.zeros(shape, dtype=dtype),
        torch.zeros(shared, dtype=torch.uint8 if channels > 1 else dtype),
        torch.ones(shared, dtype=torch.bool) if masked else None,
        None,
        [torch.zeros(shape, dtype=dtype) for _ in each.maps],
        each.encoded.terms,
        each.encoded.parameters,
        ACTIVATIONS.index(activation),
        None,
        True,
        each.fractions,
        each.weights,
        each.reduction,
    )


def launch_everything(loss: str, **options: Any) -> None:
    """Every kernel of the loss, forward and backward."""
    given = arguments(loss, **options)
    value, sums = operators.geo_loss(*given)
    operators.geo_loss_backward(value, sums, *given)


def launch_distance_transform(dtype: torch.dtype) -> None:
    """Every pass, in the arithmetic ``dtype``: float32 for cubic voxels, float64 for others."""
    mask = torch.zeros(2, 1, 128, 128, 128, dtype=torch.bool)
    spacing = [1.0, 1.0, 1.0] if dtype == torch.float32 else [1.0, 2.0, 3.0]
    distance_transform.distance_transform_with_indices(mask, spacing, SIGNED, 0.0, torch.float32)


def launch_ratios() -> None:
    """Each pooling and reduction, with class weights, forward and backward."""
    sums, class_weights = torch.zeros(2, 3, 2), torch.ones(2, 3)
    row = [1.0, 0.5, 1e-5]
    for fractions, reduction in RATIOS:
        options = (class_weights, fractions, row * (len(fractions) // 2), reduction)
        ratio = geo_ratio.geo_ratio(sums, *options)
        geo_ratio.geo_ratio_backward(ratio, sums, *options)


def report(kernel: Any) -> dict[str, Any]:
    """Registers, spilled registers or bytes of stack, and how often each load and store occurs."""
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        spilled = re.findall(r"\.[vs]gpr_spill_count:\s+(\d+)", text)
        return {
            "registers": int(re.findall(r"\.vgpr_count:\s+(\d+)", text)[0]),
            "spills": sum(map(int, spilled)) + len(re.findall(r"\bscratch_(?:load|store)", text)),
            "memory": Counter(re.findall(r"\b(?:global|buffer)_(?:load|store)_\w+", text)),
        }
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = tool("cuobjdump", "-res-usage", file.name)
        code = tool("nvdisasm", file.name)
    (registers, stack), *_ = re.findall(r"REG:(\d+) STACK:(\d+)", usage)
    return {
        "registers": int(registers),
        "spills": int(stack) + len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "memory": Counter(re.findall(r"\b(?:LDG|STG)\.E[.\w]*", code)),
    }


def tool(name: str, *options: str) -> str:
    return subprocess.run([NVIDIA_TOOLS / name, *options], capture_output=True, text=True, check=True).stdout


def cases(target: str) -> Iterator[dict[str, Any]]:
    """Everything for one GPU, the most used for the others."""
    yield {"loss": "dice", "dtype": torch.bfloat16}
    yield {"loss": "dice + fog", "dtype": torch.float32, "activation": "softmax"}
    yield {"loss": "dice + cross-entropy", "dtype": torch.float32, "activation": "softmax"}
    for loss in LOSSES if target == "sm_90" else ("dice", "fog", "dice + fog", "focal", "open fog"):
        yield {"loss": loss, "dtype": torch.float32}
    if target == "sm_90":
        yield {"loss": "dice + fog", "dtype": torch.bfloat16}
        yield {"loss": "dice + fog", "dtype": torch.float32, "masked": True}
        yield {"loss": "dice + fog", "dtype": torch.float64}
        yield {"loss": "dice", "dtype": torch.float32, "width": 129}
        yield {"loss": "bce", "dtype": torch.float32, "activation": "softmax"}
        yield {"loss": "focal", "dtype": torch.float32, "activation": "softmax"}
        yield {"loss": "open fog", "dtype": torch.float32, "masked": True}
        yield {"loss": "open fog", "dtype": torch.float32, "activation": "softmax"}


def main(target: str) -> None:
    kernels = compiled_kernels(TARGETS[target])

    def compile_and_print(case: dict[str, Any], launch_all: Callable[[], None]) -> None:
        kernels.clear()
        launch_all()
        for name, kernel in kernels:
            described = {**case, "dtype": str(case["dtype"]).removeprefix("torch."), "kernel": name}
            print(json.dumps({**described, **report(kernel)}))

    for dtype in (torch.float32, torch.float64):
        compile_and_print({"loss": "distances", "dtype": dtype}, partial(launch_distance_transform, dtype))
    compile_and_print({"loss": "ratios", "dtype": torch.float32}, launch_ratios)
    for case in cases(target):
        compile_and_print(case, partial(launch_everything, **case))


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    main(sys.argv[1])
