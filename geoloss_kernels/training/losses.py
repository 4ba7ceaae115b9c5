"""Losses by name, as a training configuration names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

import geoloss_kernels as gk

Spacing = tuple[float, float, float]
Builder = Callable[[float, Spacing | None], nn.Module]


def _fog(**options: Any) -> Builder:
    return lambda weight, spacing: gk.DiceFOGLoss(sigmoid=True, lambda_fog=weight, spacing=spacing, **options)


def _sog(**options: Any) -> Builder:
    return lambda weight, spacing: gk.DiceSOGLoss(sigmoid=True, lambda_sog=weight, spacing=spacing, **options)


def _boundary(weight: float, spacing: Spacing | None) -> nn.Module:
    return gk.DiceBoundaryLoss(sigmoid=True, lambda_boundary=weight, spacing=spacing)


def _hausdorff(weight: float, spacing: Spacing | None) -> nn.Module:
    return gk.DiceHausdorffDTLoss(
        include_background=True, sigmoid=True, lambda_hausdorff=weight, spacing=spacing
    )


LOSSES: dict[str, Builder] = {
    "dice": lambda weight, spacing: gk.DiceLoss(sigmoid=True),
    "dice+fog": _fog(),
    "dice+fog_sagittal": _fog(axes=("sagittal",)),
    "dice+fog_coronal": _fog(axes=("coronal",)),
    "dice+fog_axial": _fog(axes=("axial",)),
    "dice+sog": _sog(),
    "dice+sog_two_sided": _sog(two_sided=True),
    "dice+boundary": _boundary,
    "dice+hausdorff": _hausdorff,
    "bce": lambda weight, spacing: gk.BCELoss(sigmoid=True),
    "tversky": lambda weight, spacing: gk.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7),
}
"""Name -> builder(coefficient of the geometric term, voxel spacing in mm or None for the paper's unit
spacing).

"dice+boundary" keeps its coefficient throughout (Kervadec et al. 2019 and the paper raise it while training).
"tversky" weighs false negatives by 0.7 and false positives by 0.3 (Salehi et al. 2017, for MS lesions).
Every loss takes logits ``[N, 1, x, y, z]`` and a binary target of the same shape, axes in RAS order.
"""


def build_loss(name: str, coefficient: float = 1.0, spacing: Spacing | None = None) -> nn.Module:
    """Build the loss ``name`` of ``LOSSES``.

    Raises:
        ValueError: ``name`` is not in the registry.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {name!r}")
    return LOSSES[name](coefficient, spacing)
