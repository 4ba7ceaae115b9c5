"""No speed without correctness: what has to be green before anything is timed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.cases import Case
from bench.inputs import Volumes
from bench.providers import Loss

ROOT = Path(__file__).parents[1]
SUITE = ("tests/test_parity.py", "tests/test_reference.py")
TOLERANCE = {torch.float32: 1e-5}


def run_suite() -> tuple[str, bool]:
    """Run the parity tests, or those of the reference if there are none; returns their name, and if green."""
    suite = next(name for name in SUITE if (ROOT / name).exists())
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", suite]
    return suite, subprocess.run(command, cwd=ROOT).returncode == 0


def disagreements(cases: Sequence[Case], volumes: Volumes) -> list[str]:
    """Every provider whose loss or gradient is not the reference's in float64, with its error.

    The error of the loss is relative, that of the gradient is ‖a - b‖ / ‖b‖.
    """
    found = []
    for case in cases:
        if case.reference is None:
            continue
        volume = case.input_of(volumes)
        expected = _loss_and_gradient(case.reference, volume.double(), volumes.target.double())
        for provider in case.providers:
            if provider.loss is None:
                continue
            actual = _loss_and_gradient(provider.loss, volume, volumes.target)
            errors = [_relative_error(*pair) for pair in zip(actual, expected, strict=True)]
            if not all(error <= TOLERANCE[volume.dtype] for error in errors):
                found.append(
                    f"{case.name}: {provider.name}: relative error of the loss {errors[0]:.1e}, "
                    f"of the gradient {errors[1]:.1e}, tolerance {TOLERANCE[volume.dtype]:.0e}"
                )
    return found


def _loss_and_gradient(loss: Loss, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = input.detach().clone().requires_grad_()
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm(actual.double() - expected) / torch.linalg.vector_norm(expected))
