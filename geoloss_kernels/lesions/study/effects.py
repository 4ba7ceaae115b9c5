"""From the cells of a study to effects: each row against the row it is compared with, metric by metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.study.cells import Cell
from geoloss_kernels.lesions.study.comparison import NOTHING, Array, Effect, estimate, holm, pool
from geoloss_kernels.lesions.study.measurements import SIZES, TABLE_THRESHOLD, Details, Measurements
from geoloss_kernels.metrics import LesionMetrics
from geoloss_kernels.metrics.lesions import lesion_f1

TEST = "test"
SIGNIFICANT = 0.05

Pair = tuple[str, str]
"""A method and its baseline."""


@dataclass(frozen=True)
class Metric:
    """What is compared: a number for each subject, and whether more of it is better."""

    title: str
    value: Callable[[LesionMetrics, Details], float]
    more_is_better: bool = True


def _lppv(metrics: LesionMetrics, _: Details) -> float:
    """The paper's; 0 where nothing is predicted but there is something to find."""
    return 0.0 if metrics.reference_lesions and not metrics.predicted_lesions else metrics.lppv


def _lf1(metrics: LesionMetrics, details: Details) -> float:
    return lesion_f1(metrics.ltpr, _lppv(metrics, details))


def _of_size(size: str, rate: str, _: LesionMetrics, details: Details) -> float:
    return float(getattr(details.sizes[size], rate))


METRICS = {
    "dice": Metric("DSC", lambda metrics, _: metrics.dice),
    "lf1": Metric("L-F1", _lf1),
    "ltpr": Metric("LTPR", lambda metrics, _: metrics.ltpr),
    "lppv": Metric("LPPV", _lppv),
    "hausdorff_95": Metric("HD95 mm", lambda _, details: details.hausdorff_95, more_is_better=False),
}
SIZE_TITLES = {"below_10": "below 10 voxels", "10_to_50": "of 10 to 50 voxels", "above_50": "above 50 voxels"}
SIZE_METRICS = {
    f"{rate}_{size}": Metric(title, partial(_of_size, size, rate))
    for size in SIZES
    for rate, title in (("ltpr", "LTPR"), ("lppv", "LPPV"), ("lf1", "L-F1"))
}
ALL_METRICS = {**METRICS, **SIZE_METRICS}


@dataclass(frozen=True)
class Comparisons:
    """Effects of one data set, or of several together.

    Attributes:
        effects: Pair -> metric -> effect.
        corrected: Pair -> metric -> p, corrected for the number of pairs by Holm's method.
    """

    effects: Mapping[Pair, Mapping[str, Effect]]
    corrected: Mapping[Pair, Mapping[str, float]]

    @classmethod
    def of(cls, effects: Mapping[Pair, Mapping[str, Effect]]) -> Comparisons:
        """Corrects each metric over the pairs."""
        ps = {name: holm([found[name].p for found in effects.values()]) for name in ALL_METRICS}
        return cls(
            effects,
            {pair: {name: ps[name][rank] for name in ALL_METRICS} for rank, pair in enumerate(effects)},
        )

    @property
    def level(self) -> float:
        """At which the first of the pairs has to be significant."""
        return SIGNIFICANT / max(1, len(self.effects))

    def verdict(self, pair: Pair, metric: str) -> int:
        """1 if the method is shown to be better than its baseline, -1 if worse, 0 if neither.

        One seed shows nothing: the luck of a training may look like an effect of a loss.
        """
        if self.effects[pair][metric].seeds < 2 or not self.corrected[pair][metric] < SIGNIFICANT:
            return 0
        better = self.effects[pair][metric].value > 0
        return 1 if better == ALL_METRICS[metric].more_is_better else -1


def compare(cells: Sequence[Cell], pairs: Iterable[Pair]) -> Comparisons:
    """Effects on the test subjects of one data set, of cells that are measured.

    Raises:
        InputError: a subject is not the same in all cells.
    """
    measured = {(cell.method, cell.seed): cell.measurements(TEST) for cell in cells}
    check_same_references(cells, measured)
    units = cells[0].data.units if cells else {}
    return Comparisons.of(
        {
            pair: {name: _effect(measured, units, pair, metric) for name, metric in ALL_METRICS.items()}
            for pair in pairs
        }
    )


def pool_comparisons(of_sets: Sequence[Comparisons]) -> Comparisons:
    """Mean effects over data sets, of each pair over those that have it."""
    pairs = dict.fromkeys(pair for found in of_sets for pair in found.effects)
    return Comparisons.of(
        {
            pair: {
                name: pool([found.effects[pair][name] for found in of_sets if pair in found.effects])
                for name in ALL_METRICS
            }
            for pair in pairs
        }
    )


def differences(
    first: Sequence[Measurements], second: Sequence[Measurements], units: Mapping[str, str], metric: Metric
) -> Array:
    """``[seeds, units]``: mean over the subjects of a unit of ``first`` minus ``second``, seed by seed.

    NaN where a subject of the unit has no value in one of them.
    """
    names = list(first[0].subjects)
    values = [
        [
            [metric.value(found.subjects[name][TABLE_THRESHOLD], found.details[name]) for name in names]
            for found in side
        ]
        for side in (first, second)
    ]
    by_subject = np.array(values[0]) - np.array(values[1])
    of_unit: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        of_unit.setdefault(units.get(name, name), []).append(index)
    return np.stack([by_subject[:, members].mean(axis=1) for members in of_unit.values()], axis=1)


def check_same_references(cells: Sequence[Cell], measured: Mapping[tuple[str, int], Measurements]) -> None:
    """Results of several machines belong together only if they were tested on the same subjects.

    Raises:
        InputError: names two files and a subject whose references differ.
    """
    first: dict[str, tuple[int, int]] | None = None
    for cell in cells:
        found = {
            name: (counts.reference_voxels, counts.reference_lesions)
            for name, counts in measured[cell.method, cell.seed].at().items()
        }
        first = found if first is None else first
        for name in sorted({*first, *found}):
            if first.get(name) != found.get(name):
                raise InputError(
                    f"{cell.measurements_file(TEST)}: expected the subjects of "
                    f"{cells[0].measurements_file(TEST)}, got another reference of {name}"
                )


def _effect(
    measured: Mapping[tuple[str, int], Measurements], units: Mapping[str, str], pair: Pair, metric: Metric
) -> Effect:
    """Over the seeds that both rows have."""
    method, baseline = pair
    seeds = sorted({seed for name, seed in measured if name == method and (baseline, seed) in measured})
    if not seeds:
        return NOTHING
    first, second = ([measured[name, seed] for seed in seeds] for name in (method, baseline))
    return estimate(differences(first, second, units, metric))


def is_known(effect: Effect) -> bool:
    """Whether anything could be compared."""
    return not math.isnan(effect.value)
