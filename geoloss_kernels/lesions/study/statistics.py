"""From measurements to rows of a table: means, their spread over seeds, paired tests against Dice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from geoloss_kernels.lesions.study.cells import Cell
from geoloss_kernels.lesions.study.cost import Cost
from geoloss_kernels.lesions.study.measurements import TABLE_THRESHOLD, Measurements
from geoloss_kernels.lesions.study.methods import BASELINE
from geoloss_kernels.lesions.study.paper import Rates
from geoloss_kernels.metrics import LesionMetrics
from geoloss_kernels.metrics.lesions import lesion_f1, nan_mean


@dataclass(frozen=True)
class Row:
    """A method's results on one set of subjects.

    Attributes:
        method: Name in ``TITLES``.
        seeds: Trainings.
        subjects: That were tested on.
        mean: Rates averaged over subjects and seeds; L-F1 is that of the averaged LTPR and LPPV.
        spread: Standard deviation of the rates over the seeds; NaN with one seed.
        p: Of the Wilcoxon signed-rank test against Dice, over the subjects, for "dice" and "lf1"; NaN without
            Dice or for Dice itself.
        cost: Mean over the seeds; None for a method without training.
    """

    method: str
    seeds: int
    subjects: int
    mean: Rates
    spread: Rates
    p: Mapping[str, float]
    cost: Cost | None


def make_rows(cells: Sequence[Cell], test_set: str) -> dict[str, Row]:
    """Method -> row, of the cells of one data set."""
    by_method: dict[str, list[Cell]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, []).append(cell)
    measured = {
        method: [cell.measurements(test_set) for cell in found] for method, found in by_method.items()
    }
    baseline = measured.get(BASELINE)
    return {
        method: _row(method, measured[method], baseline, [cell.cost() for cell in found])
        for method, found in by_method.items()
    }


def mean_rates(measurements: Sequence[Measurements], threshold: float = TABLE_THRESHOLD) -> Rates:
    """Rates averaged over subjects and seeds; L-F1 is that of the averaged LTPR and LPPV."""
    summaries = [measured.summary(threshold) for measured in measurements]
    dice, lppv, ltpr = (nan_mean([getattr(s, name) for s in summaries]) for name in ("dice", "lppv", "ltpr"))
    return Rates(dice, lppv, ltpr, lesion_f1(ltpr, lppv))


def paired_p(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """p of the two-sided Wilcoxon signed-rank test over the subjects for which both values are defined.

    1 where all differences are 0, NaN where there is none.
    """
    differences = np.array([first[name] - second[name] for name in first])
    differences = differences[~np.isnan(differences)]
    if not differences.size:
        return math.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def by_subject(
    measurements: Sequence[Measurements], rate: Callable[[LesionMetrics], float]
) -> dict[str, float]:
    """Subject -> mean of a rate over the seeds."""
    counts = [measured.at() for measured in measurements]
    return {name: nan_mean([rate(of_seed[name]) for of_seed in counts]) for name in counts[0]}


def _row(
    method: str,
    measurements: Sequence[Measurements],
    baseline: Sequence[Measurements] | None,
    costs: Sequence[Cost | None],
) -> Row:
    def p(rate: str) -> float:
        if baseline is None or method == BASELINE:
            return math.nan
        return paired_p(
            *(by_subject(found, lambda m: float(getattr(m, rate))) for found in (measurements, baseline))
        )

    by_seed = np.array([mean_rates([measured]) for measured in measurements])
    spread = by_seed.std(axis=0, ddof=1) if len(by_seed) > 1 else np.full(4, math.nan)
    return Row(
        method,
        len(measurements),
        len(measurements[0].subjects),
        mean_rates(measurements),
        Rates(*map(float, spread)),
        {rate: p(rate) for rate in ("dice", "lf1")},
        _mean_cost([cost for cost in costs if cost is not None]),
    )


def _mean_cost(costs: Sequence[Cost]) -> Cost | None:
    if not costs:
        return None
    memory = [cost.loss_bytes for cost in costs if cost.loss_bytes is not None]
    return Cost(
        nan_mean([cost.loss_seconds for cost in costs]),
        nan_mean([cost.step_seconds for cost in costs]),
        max(memory, default=None),
        nan_mean([cost.training_seconds for cost in costs]),
    )
