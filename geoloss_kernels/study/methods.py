"""The rows of the paper's tables: what segments the subjects."""

from __future__ import annotations

LST = "lst"
BASELINE = "dice"

METHODS = {
    LST: "LST (LGA)",
    "dice": "Dice",
    "dice+hausdorff": "Dice + HD",
    "dice+boundary": "Dice + BD",
    "dice+fog": "Dice + FOG",
    "dice+fog_sagittal": "Dice + FOG S",
    "dice+fog_coronal": "Dice + FOG C",
    "dice+fog_axial": "Dice + FOG A",
    "dice+sog": "Dice + SOG one",
    "dice+sog_two_sided": "Dice + SOG two",
}
"""Name -> title. All but LST are names of ``training.LOSSES``, and mean a network trained with that loss."""
