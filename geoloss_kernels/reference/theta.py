"""Θ of Eq. 1: voxel-wise volumetric correlation Θ(s_v, g_v) of probability s and target g."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LOG_MINIMUM = -100.0
SLOPE_MINIMUM = 1e-12


def one(s: Tensor, g: Tensor) -> Tensor:
    """1: FOG."""
    return torch.ones_like(s)


def prediction(s: Tensor, g: Tensor) -> Tensor:
    """s: boundary loss."""
    return s


def target(s: Tensor, g: Tensor) -> Tensor:
    """g."""
    return g


def intersection(s: Tensor, g: Tensor) -> Tensor:
    """s g."""
    return s * g


def absolute_error(s: Tensor, g: Tensor) -> Tensor:
    """|s - g|: SOG. Its gradient is 0 where s = g."""
    return torch.abs(s - g)


def squared_error(s: Tensor, g: Tensor) -> Tensor:
    """(s - g)²: Hausdorff loss."""
    return (s - g) ** 2


def overlap_error(s: Tensor, g: Tensor) -> Tensor:
    """s + g - 2 s g: Dice."""
    return s + g - 2 * s * g


def tversky_error(s: Tensor, g: Tensor, alpha: float = 0.5, beta: float = 0.5) -> Tensor:
    """α s (1 - g) + β (1 - s) g: Tversky; α weighs false positives, β false negatives."""
    return alpha * s * (1 - g) + beta * (1 - s) * g


def cross_entropy_foreground(s: Tensor, g: Tensor) -> Tensor:
    """-g log s, see `clamped_log`."""
    return -g * clamped_log(s)


def cross_entropy_background(s: Tensor, g: Tensor) -> Tensor:
    """-(1 - g) log(1 - s), see `clamped_log`."""
    return -(1 - g) * clamped_log(1 - s)


def cross_entropy(s: Tensor, g: Tensor, pos_weight: float = 1.0) -> Tensor:
    """-(w g log s + (1 - g) log(1 - s)): (weighted) binary cross-entropy."""
    return pos_weight * cross_entropy_foreground(s, g) + cross_entropy_background(s, g)


def cross_entropy_foreground_with_logits(logits: Tensor, g: Tensor) -> Tensor:
    """-g log σ(x) = g log(1 + e^-x), stable for every x; 0 where g = 0, also at x = -inf."""
    return -g * logsigmoid(_where_weighted(logits, g))


def cross_entropy_background_with_logits(logits: Tensor, g: Tensor) -> Tensor:
    """-(1 - g) log(1 - σ(x)) = (1 - g) log(1 + e^x), stable for every x; 0 where g = 1, also at x = inf."""
    return -(1 - g) * logsigmoid(-_where_weighted(logits, 1 - g))


def clamped_log(s: Tensor) -> Tensor:
    """max(log s, -100) with slope 1 / max(s, 1e-12), finite at s = 0 as torch's binary_cross_entropy is."""
    return _ClampedLog.apply(s)


class _ClampedLog(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(s: Tensor) -> Tensor:
        return torch.log(s).clamp_min(LOG_MINIMUM)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        return grad / s.clamp_min(SLOPE_MINIMUM)


def _where_weighted(logits: Tensor, weight: Tensor) -> Tensor:
    """Logits, 0 where their weight is 0: an infinite logarithm times 0 would be NaN."""
    return torch.where(weight == 0, torch.zeros_like(logits), logits)
