"""The rows of the tables: what segments the subjects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

LST = "lst"
BASELINE = "dice"
FOG = "dice+fog"

METHODS = {
    LST: "LST (LGA)",
    BASELINE: "Dice",
    "dice+hausdorff": "Dice + HD",
    "dice+boundary": "Dice + BD",
    FOG: "Dice + FOG",
    "dice+fog_sagittal": "Dice + FOG S",
    "dice+fog_coronal": "Dice + FOG C",
    "dice+fog_axial": "Dice + FOG A",
    "dice+sog": "Dice + SOG one",
    "dice+sog_two_sided": "Dice + SOG two",
}
"""Name -> title of the paper's rows. All but LST are names of the trainer's losses, and mean a network
trained with that loss."""


@dataclass(frozen=True)
class Variant:
    """A row that the paper does not have.

    Attributes:
        title: Of the row.
        loss: Its name among the trainer's losses.
        options: Further configuration.
        longer: Times as many steps as the other rows have.
        baseline: The row that it is compared with.
    """

    title: str
    loss: str = FOG
    options: Mapping[str, Any] = field(default_factory=dict)
    longer: int = 1
    baseline: str = BASELINE


VARIANTS = {
    "dice+fog_weight_0.1": Variant("Dice + 0.1 FOG", options={"loss_coefficient": 0.1}),
    "dice+fog_weight_10": Variant("Dice + 10 FOG", options={"loss_coefficient": 10.0}),
    "dice+fog_l1": Variant("Dice + FOG, l1 norm", "dice+fog_l1"),
    "dice+fog_l2_squared": Variant("Dice + FOG, squared l2 norm", "dice+fog_l2_squared"),
    "dice+fog_central": Variant("Dice + FOG, central differences", "dice+fog_central"),
    "dice+fog_spacing": Variant("Dice + FOG, spacing in mm", options={"spacing_aware": True}),
    "dice+ce": Variant("Dice + CE", "dice+ce"),
    "dice+ce+fog": Variant("Dice + CE + FOG", "dice+ce+fog", baseline="dice+ce"),
    "dice_3x_steps": Variant("Dice, 3x steps", "dice", longer=3),
    "dice+fog_3x_steps": Variant("Dice + FOG, 3x steps", longer=3, baseline="dice_3x_steps"),
}
"""Name -> further rows, to see what the effect of FOG hangs on."""

FOG_FORMS = (FOG, "dice+fog_central", "dice+fog_l2_squared", "dice+fog_l1", "dice+fog_spacing")
"""Rows that differ in how FOG takes and measures the differences."""

TITLES = {**METHODS, **{name: variant.title for name, variant in VARIANTS.items()}}


def training_options(method: str) -> dict[str, Any]:
    """What a method sets in a ``TrainingConfig``; not for LST."""
    variant = VARIANTS.get(method)
    return {"loss": method} if variant is None else {"loss": variant.loss, **variant.options}


def times_as_long(method: str) -> int:
    """How many times the steps of the other rows a method is trained."""
    return VARIANTS[method].longer if method in VARIANTS else 1


def contrasts(methods: Collection[str]) -> list[tuple[str, str]]:
    """Which losses are compared with which: of the usual length with Dice, some with their baselines."""
    losses = [method for method in TITLES if method not in (LST, BASELINE) and times_as_long(method) == 1]
    pairs = [(method, BASELINE) for method in losses]
    pairs += [(name, row.baseline) for name, row in VARIANTS.items() if row.baseline != BASELINE]
    return [pair for pair in pairs if {*pair} <= {*methods}]
