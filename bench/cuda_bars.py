"""The bars that the losses and the distance transform are held to on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.bars import EXTRA_BYTES, Verdict
from bench.cases import COMPILED, EAGER, MEMORY, MONAI, OPERATORS, OURS, TRANSFORMS
from bench.inputs import Shape, format_shape
from bench.providers import COPY
from bench.settings import LARGE, TRAINING
from bench.timing import Measurement
from bench.training_step import StepTimes

FLOOR_LIMIT = 2.5
BANDWIDTH_LIMITS = {"forward": 0.85, "backward": 0.80}
SHARE_LIMIT = 0.02
DISTANCE_LOSS_LIMIT = 100.0
TRANSFORM_LIMIT = 1e-3  # s
NOT_MEASURED = "not measured"


def judge(measurements: Sequence[Measurement], steps: Sequence[StepTimes]) -> list[Verdict]:
    """Every bar; one whose measurements are missing says so and is neither passed nor failed."""
    found = _Found(measurements)
    return [
        *_bandwidths(found, "fog"),
        *_bandwidths(found, "dice_fog"),
        *_training_loss(found),
        *_distance_losses(found),
        *(_transform(found, name) for name in TRANSFORMS),
        *(_share(times) for times in steps),
        *(() if steps else [_verdict("Training step: share of the loss", None, SHARE_LIMIT, percent=True)]),
        *(_memory(found, name) for name in ("fog", "dice_fog")),
    ]


class _Found:
    """The measurements by their names."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._by_key = {(m.shape, m.dtype, m.case.name, m.provider.name): m for m in measurements}

    def get(self, shape: Shape, dtype: torch.dtype, case: str, provider: str) -> Measurement | None:
        return self._by_key.get((shape, dtype, case, provider))

    def seconds(self, case: str, provider: str, *phases: str) -> float | None:
        """The least median of the phases that were measured, at the shape and dtype of a training step."""
        measurement = self.get(TRAINING, torch.bfloat16, case, provider)
        if measurement is None:
            return None
        times = [measurement.spread(phase).median for phase in phases if phase in measurement.phases]
        return min(times, default=None)

    def copy_bandwidth(self, shape: Shape, dtype: torch.dtype) -> float | None:
        copy = self.get(shape, dtype, MEMORY, COPY.name)
        return None if copy is None else copy.bytes_per_second("forward")

    def best_copy_bandwidth(self) -> float | None:
        copies = [m for m in self._by_key.values() if m.provider.name == COPY.name]
        return max((m.bytes_per_second("forward") for m in copies), default=None)


def _bandwidths(found: _Found, name: str) -> list[Verdict]:
    """Of the kernels on large volumes, beside a copy of the same volumes."""
    verdicts = []
    for dtype in (torch.float32, torch.bfloat16):
        measurement = found.get(LARGE, dtype, name, OPERATORS)
        copy = found.copy_bandwidth(LARGE, dtype)
        for phase, limit in BANDWIDTH_LIMITS.items():
            text = (
                f"{name}, {format_shape(LARGE)}, {str(dtype).removeprefix('torch.')}: bandwidth of the "
                f"{phase} kernel in units of the copy's"
            )
            share = measurement.bytes_per_second(phase) / copy if measurement and copy else None
            verdicts.append(_verdict(text, share, limit, at_most=False, percent=True))
    return verdicts


def _training_loss(found: _Found) -> list[Verdict]:
    """Of Dice + FOG from bfloat16 logits, forward and backward in a CUDA graph."""
    ours = found.seconds("dice_fog", OURS, "graph")
    measurement = found.get(TRAINING, torch.bfloat16, "dice_fog", OURS)
    bandwidth = found.best_copy_bandwidth()
    floor = measurement.bytes_moved("both") / bandwidth if measurement and bandwidth else None
    prefix = f"Dice + FOG, {format_shape(TRAINING)}, bfloat16, CUDA graph"
    faster = (
        ("torch.compile of the reference", 1.5, found.seconds("dice_fog", COMPILED, "graph", "both")),
        ("the eager reference", 10.0, found.seconds("dice_fog", EAGER, "both")),
        ("MONAI HausdorffDTLoss", 1000.0, found.seconds("hausdorff", MONAI, "both")),
        ("MONAI BoundaryLoss", 1000.0, found.seconds("boundary", MONAI, "both")),
    )
    return [
        _verdict(f"{prefix}: time in units of the bytes' at the best copy", _ratio(ours, floor), FLOOR_LIMIT),
        *(
            _verdict(f"{prefix}: faster than {name}", _ratio(seconds, ours), limit, at_most=False)
            for name, limit, seconds in faster
        ),
        _verdict(
            f"Dice + FOG, {format_shape(TRAINING)}: host time in units of MONAI DiceLoss's",
            _ratio(found.seconds("dice_fog", OURS, "host"), found.seconds("dice", MONAI, "host")),
            1.0,
        ),
    ]


def _distance_losses(found: _Found) -> list[Verdict]:
    return [
        _verdict(
            f"{name}, {format_shape(TRAINING)}: faster than MONAI's",
            _ratio(found.seconds(name, MONAI, "both"), found.seconds(name, OURS, "both")),
            DISTANCE_LOSS_LIMIT,
            at_most=False,
        )
        for name in ("boundary", "hausdorff")
    ]


def _transform(found: _Found, name: str) -> Verdict:
    seconds = found.seconds(name, OURS, "forward")
    text = f"{name}, {format_shape(TRAINING)}: time"
    limit = f"≤ {1e3 * TRANSFORM_LIMIT:g} ms"
    if seconds is None:
        return Verdict(text, limit, NOT_MEASURED)
    return Verdict(text, limit, f"{1e3 * seconds:.3g} ms", seconds <= TRANSFORM_LIMIT)


def _share(times: StepTimes) -> Verdict:
    text = f"Training step of the U-Net, {format_shape(times.shape)}: share of the loss"
    return _verdict(text, times.share, SHARE_LIMIT, percent=True)


def _memory(found: _Found, name: str) -> Verdict:
    measurement = found.get(TRAINING, torch.bfloat16, name, OURS)
    text = f"{name}, {format_shape(TRAINING)}: memory beyond input, target and gradient"
    if measurement is None or measurement.extra_bytes is None:
        return Verdict(text, "< 1 MB", NOT_MEASURED)
    extra = measurement.extra_bytes
    return Verdict(text, "< 1 MB", f"{extra / 1e6:.2f} MB", extra < EXTRA_BYTES)


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def _verdict(
    text: str, value: float | None, limit: float, at_most: bool = True, percent: bool = False
) -> Verdict:
    shown = f"{'≤' if at_most else '≥'} {_show(limit, percent)}"
    if value is None:
        return Verdict(text, shown, NOT_MEASURED)
    return Verdict(text, shown, _show(value, percent), value <= limit if at_most else value >= limit)


def _show(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.3g} %"
    return f"{value:.0f} x" if value >= 100 else f"{value:.3g} x"
