"""Losses by name, as a training configuration names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

import geoloss_kernels as gk
from geoloss_kernels.lesions.training.loss_schedules import Weights

Spacing = tuple[float, float, float]
Builder = Callable[..., nn.Module]


def _with_dice(module: Callable[..., nn.Module], term: str, **options: Any) -> Builder:
    """λ_dice Dice + λ_term ``term``."""

    def build(weights: Weights, spacing: Spacing | None, **reduction: bool) -> nn.Module:
        lambdas = {"lambda_dice": weights.dice, f"lambda_{term}": weights.geometric}
        return module(sigmoid=True, spacing=spacing, **lambdas, **options, **reduction)

    return build


def _without_weights(module: Callable[..., nn.Module], **options: Any) -> Builder:
    """A loss of one term, without differences or distances."""

    def build(weights: Weights, spacing: Spacing | None, **reduction: bool) -> nn.Module:
        return module(sigmoid=True, **options, **reduction)

    return build


LOSSES: dict[str, Builder] = {
    "dice": _without_weights(gk.DiceLoss),
    "dice+fog": _with_dice(gk.DiceFOGLoss, "fog"),
    "dice+fog_sagittal": _with_dice(gk.DiceFOGLoss, "fog", axes=("sagittal",)),
    "dice+fog_coronal": _with_dice(gk.DiceFOGLoss, "fog", axes=("coronal",)),
    "dice+fog_axial": _with_dice(gk.DiceFOGLoss, "fog", axes=("axial",)),
    "dice+fog_l1": _with_dice(gk.DiceFOGLoss, "fog", norm="l1"),
    "dice+fog_l2_squared": _with_dice(gk.DiceFOGLoss, "fog", norm="l2_squared"),
    "dice+fog_central": _with_dice(gk.DiceFOGLoss, "fog", operator="central"),
    "dice+sog": _with_dice(gk.DiceSOGLoss, "sog"),
    "dice+sog_two_sided": _with_dice(gk.DiceSOGLoss, "sog", two_sided=True),
    "dice+boundary": _with_dice(gk.DiceBoundaryLoss, "boundary"),
    "dice+hausdorff": _with_dice(gk.DiceHausdorffDTLoss, "hausdorff", include_background=True),
    "bce": _without_weights(gk.BCELoss),
    "tversky": _without_weights(gk.TverskyLoss, alpha=0.3, beta=0.7),
}
"""Name -> builder(weights of the terms, voxel spacing in mm or None for the paper's unit spacing, and the
losses' options ``batch`` and ``ddp``).

"tversky" weighs false negatives by 0.7 and false positives by 0.3 (Salehi et al. 2017, for MS lesions).
Every loss takes logits ``[N, 1, x, y, z]`` and a binary target of the same shape, axes in RAS order.
"""


def build_loss(
    name: str,
    coefficient: float = 1.0,
    spacing: Spacing | None = None,
    dice_weight: float = 1.0,
    *,
    batch: bool = False,
    ddp: bool = False,
) -> nn.Module:
    """Build the loss ``name`` of ``LOSSES``: dice_weight · Dice + coefficient · its geometric term.

    ``batch`` and ``ddp`` are those of `geoloss_kernels.functional.Options`.

    Raises:
        ValueError: ``name`` is not in the registry.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {name!r}")
    return LOSSES[name](Weights(dice_weight, coefficient), spacing, batch=batch, ddp=ddp)
