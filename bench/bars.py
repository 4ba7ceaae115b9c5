"""The bars that the fused losses are held to, at `SHAPE` in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.cases import COMPILED, EAGER, EDT, MEMORY, MONAI, OURS, SCIPY_ALONE
from bench.providers import SUM
from bench.timing import Measurement

SHAPE = (2, 1, 128, 128, 128)
EXTRA_BYTES = 1_000_000

Key = tuple[str, str]


@dataclass(frozen=True)
class Bar:
    """A ratio of two median times, forward and backward together where there is a backward step."""

    text: str
    numerator: Key
    denominator: Key
    limit: float
    at_most: bool = False


@dataclass(frozen=True)
class Verdict:
    text: str
    limit: str
    measured: str
    passed: bool | None = None
    """None where it was not measured."""


FOG: Key = ("fog", OURS)
DICE_FOG: Key = ("dice_fog", OURS)
BARS = (
    Bar("FOG: time in units of `input + target`", FOG, (MEMORY, SUM.name), 3.0, at_most=True),
    Bar("FOG: faster than the eager reference", ("fog", EAGER), FOG, 15.0),
    Bar("FOG: faster than torch.compile of the reference", ("fog", COMPILED), FOG, 4.0),
    Bar("Dice + FOG: faster than torch.compile of the reference", ("dice_fog", COMPILED), DICE_FOG, 4.0),
    Bar("Dice + FOG: not slower than MONAI DiceLoss alone", ("dice", MONAI), DICE_FOG, 1.0),
    Bar("Dice + FOG: faster than MONAI HausdorffDTLoss", ("hausdorff", MONAI), DICE_FOG, 200.0),
    Bar("Dice + FOG: faster than MONAI BoundaryLoss", ("boundary", MONAI), DICE_FOG, 100.0),
    Bar("BD: faster than MONAI BoundaryLoss", ("boundary", MONAI), ("boundary", OURS), 10.0),
    Bar("HD: faster than MONAI HausdorffDTLoss", ("hausdorff", MONAI), ("hausdorff", OURS), 15.0),
    Bar("EDT, few sites: not slower than edt", ("edt_sparse", EDT), ("edt_sparse", OURS), 1.0),
    Bar("EDT, many sites: not slower than edt", ("edt_dense", EDT), ("edt_dense", OURS), 1.0),
    Bar("EDT, few sites: faster than scipy", ("edt_sparse", SCIPY_ALONE), ("edt_sparse", OURS), 8.0),
    Bar("EDT, many sites: faster than scipy", ("edt_dense", SCIPY_ALONE), ("edt_dense", OURS), 8.0),
)


def judge(measurements: Sequence[Measurement]) -> list[Verdict]:
    """The bars whose measurements are there, on those at `SHAPE` in float32."""
    found = {
        (m.case.name, m.provider.name): m
        for m in measurements
        if m.shape == SHAPE and m.dtype == torch.float32
    }
    verdicts = [_judge_times(bar, found) for bar in BARS if {bar.numerator, bar.denominator} <= set(found)]
    return verdicts + [_judge_memory(found[key]) for key in (FOG, DICE_FOG) if key in found]


def _judge_times(bar: Bar, found: dict[Key, Measurement]) -> Verdict:
    above, below = (found[key] for key in (bar.numerator, bar.denominator))
    ratio = above.spread(above.whole).median / below.spread(below.whole).median
    passed = ratio <= bar.limit if bar.at_most else ratio >= bar.limit
    sign = "≤" if bar.at_most else "≥"
    return Verdict(bar.text, f"{sign} {bar.limit:g} x", f"{ratio:.2f} x", passed)


def _judge_memory(measurement: Measurement) -> Verdict:
    text = f"{measurement.case.title}: memory beyond input, target and gradient"
    extra = measurement.extra_bytes
    if extra is None:
        return Verdict(text, "< 1 MB", "not known on this system", False)
    return Verdict(text, "< 1 MB", f"{extra / 1e6:.2f} MB", extra < EXTRA_BYTES)
