"""Θ of Eq. 1: voxel-wise volumetric correlation Θ(s_v, g_v) of probability s and target g."""

from __future__ import annotations

import torch
from torch import Tensor

from geoloss_kernels.reference.activation import clamped_log


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
    return surprise(g, clamped_log(s))


def cross_entropy_background(s: Tensor, g: Tensor) -> Tensor:
    """-(1 - g) log(1 - s), see `clamped_log`."""
    return surprise(1 - g, clamped_log(1 - s))


def cross_entropy(s: Tensor, g: Tensor, pos_weight: float = 1.0) -> Tensor:
    """-(w g log s + (1 - g) log(1 - s)): (weighted) binary cross-entropy."""
    return pos_weight * cross_entropy_foreground(s, g) + cross_entropy_background(s, g)


def surprise(weight: Tensor, logarithm: Tensor) -> Tensor:
    """-weight · logarithm; 0 where the weight is 0, also if the logarithm is infinite."""
    return -weight * torch.where(weight == 0, torch.zeros_like(logarithm), logarithm)
