"""No speed without correctness: what has to be green before anything is timed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.cases import OPERATORS, OURS, Case
from bench.inputs import Volumes
from bench.providers import Loss, Missing, Provider

ROOT = Path(__file__).parents[1]
PROCESSES = "8"
SUITE = ("tests/test_parity.py", "tests/test_reference.py")


@dataclass(frozen=True)
class Tolerance:
    loss: float
    gradient: float


# Half-precision volumes are computed in float32; the gradient is then rounded to 8 bits.
TOLERANCE = {
    torch.float32: Tolerance(1e-5, 1e-5),
    torch.bfloat16: Tolerance(1e-5, 2**-8),
}


def run_suite(device: str = "cpu") -> tuple[str, bool]:
    """Run the parity tests, or those of the reference if there are none; returns their name, and if green."""
    suite = next(name for name in SUITE if (ROOT / name).exists())
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *_parallel(device), suite]
    return suite, subprocess.run(command, cwd=ROOT).returncode == 0


def _parallel(device: str) -> list[str]:
    """Beside a GPU there are more backends to go through, and Triton's kernels to compile."""
    return ["-n", PROCESSES] if device == "cuda" and importlib.util.find_spec("xdist") else []


def without_broken_rivals(cases: Sequence[Case], volumes: Volumes) -> list[Case]:
    """The cases, each provider that is not ours and raises an error moved to the missing ones."""
    return [_without_broken_rivals(case, volumes) for case in cases]


def _without_broken_rivals(case: Case, volumes: Volumes) -> Case:
    errors = {provider.name: _error_of(provider, case, volumes) for provider in case.providers}
    working = [provider for provider in case.providers if errors[provider.name] is None]
    broken = [Missing(name, error) for name, error in errors.items() if error is not None]
    return replace(case, providers=working, missing=[*case.missing, *broken])


def _error_of(provider: Provider, case: Case, volumes: Volumes) -> str | None:
    if provider.name in (OURS, OPERATORS):
        return None
    input, target = case.input_of(volumes), case.target_of(volumes)
    try:
        if provider.loss is None:
            provider.prepare(input, target)
        else:
            _loss_and_gradient(provider.loss, input, target)
    except Exception as error:  # whatever a compiler or another package raises
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def disagreements(cases: Sequence[Case], volumes: Volumes) -> list[str]:
    """Every provider whose loss or gradient is not the reference's in float64, with its error.

    The error of the loss is relative, that of the gradient is ‖a - b‖ / ‖b‖.
    """
    found = []
    for case in cases:
        if case.reference is None:
            continue
        volume = case.input_of(volumes)
        target, tolerance = case.target_of(volumes), TOLERANCE[volume.dtype]
        expected = _loss_and_gradient(case.reference, volume.double(), case.exact_target_of(volumes))
        for provider in case.providers:
            if provider.loss is None:
                continue
            actual = _loss_and_gradient(provider.loss, volume, target)
            of_loss, of_gradient = (_relative_error(*pair) for pair in zip(actual, expected, strict=True))
            if not (of_loss <= tolerance.loss and of_gradient <= tolerance.gradient):
                found.append(
                    f"{case.name}: {provider.name}: relative error of the loss {of_loss:.1e} "
                    f"(tolerance {tolerance.loss:.0e}), of the gradient {of_gradient:.1e} "
                    f"(tolerance {tolerance.gradient:.0e})"
                )
    return found


def _loss_and_gradient(loss: Loss, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = input.detach().clone().requires_grad_()
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm(actual.double() - expected) / torch.linalg.vector_norm(expected))
