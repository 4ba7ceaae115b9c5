"""Losses by name, as a training configuration names them: formulas joined by +."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import geoloss_kernels as gk
from geoloss_kernels import formulas
from geoloss_kernels.formulas import Formula

Spacing = tuple[float, float, float]

REGION_TERMS: dict[str, Callable[[], Formula]] = {
    "dice": formulas.dice,
    "ce": formulas.cross_entropy,
    "bce": formulas.bce,
    # Weighs false negatives by 0.7 and false positives by 0.3 (Salehi et al. 2017, for MS lesions).
    "tversky": partial(formulas.tversky, alpha=0.3, beta=0.7),
}
GEOMETRIC_TERMS: dict[str, Callable[..., Formula]] = {
    "fog": formulas.fog,
    "fog_sagittal": partial(formulas.fog, axes=("sagittal",)),
    "fog_coronal": partial(formulas.fog, axes=("coronal",)),
    "fog_axial": partial(formulas.fog, axes=("axial",)),
    "fog_l1": partial(formulas.fog, norm="l1"),
    "fog_l2_squared": partial(formulas.fog, norm="l2_squared"),
    "fog_central": partial(formulas.fog, operator="central"),
    "sog": formulas.sog,
    "sog_two_sided": partial(formulas.sog, two_sided=True),
    "boundary": formulas.boundary,
    "hausdorff": formulas.hausdorff,
}
"""Made with ``spacing``, the voxel size in mm, or None for the paper's unit spacing."""

LOSSES = (
    "dice",
    *(f"dice+{term}" for term in GEOMETRIC_TERMS),
    "dice+ce",
    *(f"dice+ce+{term}" for term in GEOMETRIC_TERMS),
    "bce",
    "tversky",
)
"""Every loss takes logits ``[N, 1, x, y, z]`` and a binary target of the same shape, axes in RAS order."""


def build_loss(
    name: str,
    coefficient: float = 1.0,
    spacing: Spacing | None = None,
    dice_weight: float = 1.0,
    *,
    batch: bool = False,
    ddp: bool = False,
) -> gk.FormulaLoss:
    """Build the loss ``name`` of ``LOSSES``: dice_weight · region terms + coefficient · geometric terms.

    ``batch`` and ``ddp`` are those of `geoloss_kernels.call.Options`.

    Raises:
        ValueError: ``name`` is not in the registry.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {name!r}")
    terms = name.split("+")
    is_alone = len(terms) == 1
    weighted = [
        (1.0 if is_alone else dice_weight) * REGION_TERMS[term]()
        if term in REGION_TERMS
        else coefficient * GEOMETRIC_TERMS[term](spacing=spacing)
        for term in terms
    ]
    formula = sum(weighted[1:], start=weighted[0])
    return gk.FormulaLoss(formula, sigmoid=True, batch=batch, ddp=ddp)
