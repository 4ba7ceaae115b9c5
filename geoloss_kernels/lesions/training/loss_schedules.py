"""How the weights of a loss's two terms change from epoch to epoch: the schedules of the boundary loss.

Kervadec et al. 2019 and 2021. A geometric term alone, such as the boundary loss, has its minimum at an empty
prediction; it can take over only once Dice has found the lesions. Each function takes the ``epoch`` (1, 2,
...), the ``coefficient`` of the geometric term and the ``step`` per epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

LEAST_DICE = 0.1


class Weights(NamedTuple):
    """Of the terms of a loss."""

    dice: float = 1.0
    geometric: float = 1.0


WeightSchedule = Callable[[int, float, float], Weights]


def constant(epoch: int, coefficient: float, step: float = 0.01) -> Weights:
    """Dice + coefficient · term, throughout."""
    return Weights(1.0, coefficient)


def increase(epoch: int, coefficient: float, step: float = 0.01) -> Weights:
    """Dice + epoch · step · coefficient · term."""
    return Weights(1.0, coefficient * step * epoch)


def rebalance(epoch: int, coefficient: float, step: float = 0.01) -> Weights:
    """(1 - (epoch - 1) · step) Dice + epoch · step · coefficient · term; Dice keeps at least 0.1."""
    return Weights(max(LEAST_DICE, 1.0 - step * (epoch - 1)), coefficient * step * epoch)


SCHEDULES: dict[str, WeightSchedule] = {"constant": constant, "increase": increase, "rebalance": rebalance}
DEFAULT_SCHEDULES = {"dice+boundary": "rebalance"}
"""Of the losses whose default is not "constant"."""


def weights_at(
    epoch: int, loss: str, coefficient: float, schedule: str | None = None, step: float = 0.01
) -> Weights:
    """Weights of the terms of ``loss`` in ``epoch``; without a ``schedule``, by the loss's own.

    Raises:
        ValueError: ``schedule`` is not in ``SCHEDULES``.
    """
    name = schedule or DEFAULT_SCHEDULES.get(loss, "constant")
    if name not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {schedule!r}")
    return SCHEDULES[name](epoch, coefficient, step)
