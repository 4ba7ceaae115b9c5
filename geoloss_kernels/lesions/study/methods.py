"""The rows of the tables: what segments the subjects."""

from __future__ import annotations

from collections.abc import Mapping
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
    """A change of Dice + FOG: its title, its name among the trainer's losses, further configuration."""

    title: str
    loss: str = FOG
    options: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = {
    "dice+fog_weight_0.1": Variant("Dice + 0.1 FOG", options={"loss_coefficient": 0.1}),
    "dice+fog_weight_10": Variant("Dice + 10 FOG", options={"loss_coefficient": 10.0}),
    "dice+fog_l1": Variant("Dice + FOG, l1 norm", "dice+fog_l1"),
    "dice+fog_l2_squared": Variant("Dice + FOG, squared l2 norm", "dice+fog_l2_squared"),
    "dice+fog_central": Variant("Dice + FOG, central differences", "dice+fog_central"),
    "dice+fog_spacing": Variant("Dice + FOG, spacing in mm", options={"spacing_aware": True}),
}
"""Name -> further rows, which the paper does not have, to see what the effect of FOG hangs on."""

TITLES = {**METHODS, **{name: variant.title for name, variant in VARIANTS.items()}}


def training_options(method: str) -> dict[str, Any]:
    """What a method sets in a ``TrainingConfig``; not for LST."""
    variant = VARIANTS.get(method)
    return {"loss": method} if variant is None else {"loss": variant.loss, **variant.options}
