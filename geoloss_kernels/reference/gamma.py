"""Γ of Eq. 1: the voxel-wise normalisation Γ(s_v, g_v), summed over the volume.

Γ = 1, hence ΣΓ = |Ω|, is ``gamma=None`` in `geo_loss`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def zero(s: Tensor, g: Tensor) -> Tensor:
    """0: with ``smooth_dr=1`` the normalisation ΣΓ = 1 of BCE as the paper prints it."""
    return torch.zeros_like(s)


def total(s: Tensor, g: Tensor) -> Tensor:
    """s + g: Dice."""
    return s + g


def tversky_total(s: Tensor, g: Tensor, alpha: float = 0.5, beta: float = 0.5) -> Tensor:
    """s g + α s (1 - g) + β (1 - s) g: Tversky."""
    return s * g + alpha * s * (1 - g) + beta * (1 - s) * g
