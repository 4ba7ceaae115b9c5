"""A network's head and its loss: `HeadLoss` beside convolution and loss; `python -m bench.head`.

Time in one process, all contenders in turn; the growth of the resident memory in a fresh process for each.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import geoloss_kernels as gk
from bench import machine
from geoloss_kernels.lesions.reporting.memory import peak_growth

FUSED, UNFUSED, MONAI = "HeadLoss", "convolution, then ours", "convolution, then MONAI"
CONTENDERS = (FUSED, UNFUSED, MONAI)
WARM_UP_SIZE = 20
TOLERANCES = {FUSED: 1e-5, UNFUSED: 1e-4, MONAI: 1e-4}
"""Relative to float64. The convolution's gradient of the bias is off by 3e-5 with two threads."""
OPTIONS = {"softmax": True, "to_onehot_y": True}

Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """Features [N, F, L, L, L] and their classes, and what the fused loss may take of the others."""

    shape: tuple[int, int, int, int, int]
    classes: int
    most_time: dict[str, float]
    most_memory: dict[str, float]

    def __str__(self) -> str:
        volumes, features, *_, size = self.shape
        return f"{volumes} x {features} x {size}³, {self.classes} classes"


SETTINGS = (
    Setting((1, 32, 64, 64, 64), 105, {UNFUSED: 1.2, MONAI: 0.4}, {UNFUSED: 0.3, MONAI: 0.12}),
    Setting((4, 16, 96, 96, 96), 2, {UNFUSED: 1.1}, {UNFUSED: 1.0}),
)


def make_step(contender: str, head: nn.Module) -> Step:
    """Dice + cross-entropy of features and labels."""
    if contender == FUSED:
        return gk.HeadLoss(gk.DiceCELoss(**OPTIONS), head)
    if contender == UNFUSED:
        loss: Any = gk.DiceCELoss(**OPTIONS)
    else:
        from monai.losses import DiceCELoss

        loss = DiceCELoss(**OPTIONS)
    return lambda features, labels: loss(head(features), labels)


def make_inputs(shape: Sequence[int], classes: int) -> tuple[Tensor, Tensor]:
    volumes, _, *spatial = shape
    return torch.randn(*shape, requires_grad=True), torch.randint(0, classes, (volumes, 1, *spatial))


def differentiate(step: Step, head: nn.Module, inputs: tuple[Tensor, Tensor]) -> list[Tensor]:
    value = step(*inputs)
    return [value.detach(), *torch.autograd.grad(value, [inputs[0], *head.parameters()])]


def faults(setting: Setting) -> list[str]:
    """Where a contender differs from float64, on the volumes that are timed."""
    features, labels = make_inputs(setting.shape, setting.classes)
    head = nn.Conv3d(setting.shape[1], setting.classes, 1)
    exact_head = copy.deepcopy(head).double()
    exact_inputs = features.detach().double().requires_grad_(), labels
    exact = differentiate(make_step(UNFUSED, exact_head), exact_head, exact_inputs)
    found = []
    for contender, tolerance in TOLERANCES.items():
        ours = differentiate(make_step(contender, head), head, (features, labels))
        for name, a, b in zip(("value", "features", "weight", "bias"), ours, exact, strict=True):
            error = float((a - b).abs().max() / b.abs().max())
            if not error <= tolerance:
                found.append(f"{setting}: {contender}: {name}: relative error {error:.1e}")
    return found


def measure_times(setting: Setting, rounds: int) -> dict[str, float]:
    """Median seconds of forward and backward."""
    inputs = make_inputs(setting.shape, setting.classes)
    head = nn.Conv3d(setting.shape[1], setting.classes, 1)
    steps = {name: make_step(name, head) for name in CONTENDERS}
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    order = random.Random(0)
    for number in range(rounds + 1):
        for name in order.sample(CONTENDERS, len(CONTENDERS)):
            start = perf_counter()
            differentiate(steps[name], head, inputs)
            if number > 0:
                seconds[name].append(perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure_memory(setting: Setting, contender: str, threads: int) -> int:
    """Bytes by which a fresh process grows in a step."""
    arguments = ["--memory", contender, str(SETTINGS.index(setting)), "--threads", str(threads)]
    run = subprocess.run(
        [sys.executable, "-m", "bench.head", *arguments], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


def growth(setting: Setting, contender: str) -> int:
    """Bytes by which the resident memory of this process peaks in a step."""
    head = nn.Conv3d(setting.shape[1], setting.classes, 1)
    step = make_step(contender, head)
    small = make_inputs((*setting.shape[:2], *[WARM_UP_SIZE] * 3), setting.classes)
    for _ in range(2):  # threads and allocators come into being, code is loaded
        differentiate(step, head, small)
    inputs = make_inputs(setting.shape, setting.classes)
    grown = peak_growth(lambda: differentiate(step, head, inputs), lambda: None, repeats=1)
    if grown is None:
        raise RuntimeError("memory: expected a system that tells a process's peak")
    return grown


def table(setting: Setting, times: dict[str, float], memory: dict[str, int]) -> str:
    lines = [
        f"### {setting}",
        "",
        "| | ms | HeadLoss's share | bar | MB | HeadLoss's share | bar |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in CONTENDERS:
        columns = [
            *_columns(1e3, times, name, setting.most_time),
            *_columns(1e-6, memory, name, setting.most_memory),
        ]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _columns(unit: float, values: Any, name: str, bars: dict[str, float]) -> tuple[str, str, str]:
    share = values[FUSED] / values[name]
    bar = ""
    if name in bars:
        bar = f"≤ {bars[name]:g} {'met' if share <= bars[name] else 'MISSED'}"
    return f"{unit * values[name]:.1f}", "" if name == FUSED else f"{share:.3f}", bar


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.head", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", nargs=2, metavar=("CONTENDER", "SETTING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.memory is not None:
        contender, number = options.memory
        print(growth(SETTINGS[int(number)], contender))
        return 0
    print("\n".join(f"{key}: {value}" for key, value in machine.describe("cpu").items()), end="\n\n")
    wrong = [fault for setting in SETTINGS for fault in faults(setting)]
    if wrong:
        print("\n".join(["The gate is red; nothing was timed.", *wrong]))
        return 1
    for setting in SETTINGS:
        memory = {name: measure_memory(setting, name, options.threads) for name in CONTENDERS}
        print(table(setting, measure_times(setting, options.rounds), memory), end="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
