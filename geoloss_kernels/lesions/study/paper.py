"""The numbers of Tables 1 to 3 of Zhang et al., ISBI 2021, as printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Rates(NamedTuple):
    """A row of a table, in the order of its columns."""

    dice: float
    lppv: float
    ltpr: float
    lf1: float


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: its data set and, by the name of the row in `methods.METHODS`, its numbers."""

    number: int
    caption: str
    dataset: str
    rows: Mapping[str, Rates]


TABLES = (
    PaperTable(
        1,
        "Ablation study on the GE-30 dataset",
        "ge30",
        {
            "dice": Rates(0.705, 0.580, 0.834, 0.684),
            "dice+fog": Rates(0.712, 0.627, 0.863, 0.726),
            "dice+fog_sagittal": Rates(0.715, 0.592, 0.898, 0.714),
            "dice+fog_coronal": Rates(0.708, 0.602, 0.889, 0.718),
            "dice+fog_axial": Rates(0.702, 0.586, 0.862, 0.698),
            "dice+sog": Rates(0.708, 0.606, 0.857, 0.710),
            "dice+sog_two_sided": Rates(0.706, 0.600, 0.855, 0.705),
        },
    ),
    PaperTable(
        2,
        "Performance comparison on the GE-30 dataset",
        "ge30",
        {
            "lst": Rates(0.594, 0.418, 0.708, 0.526),
            "dice": Rates(0.705, 0.580, 0.834, 0.684),
            "dice+hausdorff": Rates(0.502, 0.393, 0.608, 0.477),
            "dice+boundary": Rates(0.704, 0.594, 0.875, 0.708),
            "dice+fog": Rates(0.712, 0.627, 0.863, 0.726),
            "dice+sog": Rates(0.708, 0.606, 0.857, 0.710),
        },
    ),
    PaperTable(
        3,
        "Performance comparison on the SI-170 dataset",
        "si170",
        {
            "lst": Rates(0.559, 0.526, 0.870, 0.656),
            "dice": Rates(0.726, 0.598, 0.869, 0.725),
            "dice+hausdorff": Rates(0.635, 0.618, 0.845, 0.714),
            "dice+boundary": Rates(0.725, 0.637, 0.855, 0.730),
            "dice+fog": Rates(0.737, 0.666, 0.873, 0.756),
            "dice+sog": Rates(0.735, 0.664, 0.860, 0.749),
        },
    ),
)


def methods_of(dataset: str) -> set[str]:
    """The rows of all tables of a data set; empty if the paper does not have it."""
    return {method for table in TABLES if table.dataset == dataset for method in table.rows}


MISPRINTS = {(3, "dice"): 0.7085}
"""Table and row whose printed L-F1 is not the harmonic mean of its LTPR and LPPV, and that mean."""
