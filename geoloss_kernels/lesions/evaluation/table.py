"""Evaluation tables: a row per subject, then their means, and over how many subjects each mean is."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from geoloss_kernels.lesions.files import write_text
from geoloss_kernels.metrics import LesionMetrics, LesionSummary, SurfaceDistances, summarise
from geoloss_kernels.metrics.lesions import lesion_f1, nan_mean

RATE_COLUMNS = {
    "DSC": "dice",
    "LTPR": "ltpr",
    "LPPV": "lppv",
    "L-F1": "lf1",
    "LPPV (predicted)": "lppv_predicted",
    "L-F1 (predicted)": "lf1_predicted",
}
HARMONIC_MEANS = ("L-F1", "L-F1 (predicted)")
"""Of the mean rates, in the rows of means; every other column is averaged."""
DISTANCE_COLUMNS = {"HD95 mm": "hausdorff_95", "ASD mm": "average"}
COUNT_COLUMNS = ("reference lesions", "predicted lesions", "reference ml", "predicted ml")
COLUMNS = (*RATE_COLUMNS, *DISTANCE_COLUMNS, *COUNT_COLUMNS)
MEAN, MEAN_WITH_ZEROS, DEFINED = "mean", "mean (undefined as 0)", "subjects in mean"


@dataclass(frozen=True)
class SubjectResult:
    name: str
    metrics: LesionMetrics
    voxel_volume: float
    """mm³"""
    surfaces: SurfaceDistances

    @property
    def values(self) -> list[float]:
        """In the order of ``COLUMNS``."""
        millilitres = self.voxel_volume / 1000
        return [
            *_rates(self.metrics),
            *(getattr(self.surfaces, attribute) for attribute in DISTANCE_COLUMNS.values()),
            self.metrics.reference_lesions,
            self.metrics.predicted_lesions,
            self.metrics.reference_voxels * millilitres,
            self.metrics.predicted_voxels * millilitres,
        ]


@dataclass(frozen=True)
class EvaluationTable:
    """Results by subject; ``summary`` is the mean row, its L-F1 that of the mean LTPR and LPPV."""

    results: Sequence[SubjectResult]

    @property
    def summary(self) -> LesionSummary:
        return summarise(result.metrics for result in self.results)

    def rows(self) -> list[tuple[str, list[float]]]:
        """Name and values of each subject, then the means over the subjects that define them, the means with
        what is undefined as 0, and the number of subjects that define each."""
        columns = {
            name: [result.values[index] for result in self.results] for index, name in enumerate(COLUMNS)
        }
        filled = {name: [0.0 if math.isnan(value) else value for value in c] for name, c in columns.items()}
        counts = {name: float(sum(not math.isnan(value) for value in c)) for name, c in columns.items()}
        return [
            *((result.name, result.values) for result in self.results),
            (MEAN, _means(columns)),
            (MEAN_WITH_ZEROS, _means(filled)),
            (DEFINED, list((counts | dict.fromkeys(HARMONIC_MEANS, math.nan)).values())),
        ]

    def to_csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["subject", *COLUMNS])
        writer.writerows([name, *(format(value, ".6g") for value in values)] for name, values in self.rows())
        return text.getvalue()

    def to_markdown(self) -> str:
        header = ["subject", *COLUMNS]
        lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
        for name, values in self.rows():
            rates, others = values[: len(RATE_COLUMNS)], values[len(RATE_COLUMNS) :]
            decimals = ".0f" if name == DEFINED else ".3f"
            cells = [*_cells(rates, decimals), *_cells(others, ".2f")]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def write(self, out_dir: Path) -> tuple[Path, Path]:
        """Write ``metrics.csv`` and ``metrics.md``; returns both paths."""
        csv_file, markdown_file = out_dir / "metrics.csv", out_dir / "metrics.md"
        write_text(csv_file, self.to_csv())
        write_text(markdown_file, self.to_markdown())
        return csv_file, markdown_file


def _rates(metrics: LesionMetrics) -> list[float]:
    return [getattr(metrics, attribute) for attribute in RATE_COLUMNS.values()]


def _means(columns: dict[str, list[float]]) -> list[float]:
    means = {name: nan_mean(column) for name, column in columns.items()}
    means["L-F1"] = lesion_f1(means["LTPR"], means["LPPV"])
    means["L-F1 (predicted)"] = lesion_f1(means["LTPR"], means["LPPV (predicted)"])
    return list(means.values())


def _cells(values: Iterable[float], decimals: str) -> list[str]:
    """Numbers without needless zeros after a whole count; a dash for NaN."""
    return ["–" if math.isnan(value) else format(value, decimals).removesuffix(".00") for value in values]
