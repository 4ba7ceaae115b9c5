"""Evaluation tables: a row per subject, a mean row, as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from geoloss_kernels.lesions.errors import InputError, LesionLabelError
from geoloss_kernels.lesions.files import write_text
from geoloss_kernels.lesions.imaging.reading import load_images, load_mask
from geoloss_kernels.lesions.prediction.prediction import Model, predict_subject, save_prediction
from geoloss_kernels.lesions.subjects.layouts import IMAGE_SUFFIXES
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.metrics import LesionMetrics, LesionSummary, lesion_metrics, summarise
from geoloss_kernels.metrics.lesions import nan_mean

RATE_COLUMNS = {
    "DSC": "dice",
    "LTPR": "ltpr",
    "LPPV": "lppv",
    "L-F1": "lf1",
    "LPPV (predicted)": "lppv_predicted",
    "L-F1 (predicted)": "lf1_predicted",
}
COUNT_COLUMNS = ("reference lesions", "predicted lesions", "reference ml", "predicted ml")


@dataclass(frozen=True)
class SubjectResult:
    name: str
    metrics: LesionMetrics
    voxel_volume: float
    """mm³"""

    @property
    def counts(self) -> list[float]:
        """The values of ``COUNT_COLUMNS``."""
        millilitres = self.voxel_volume / 1000
        return [
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
        """Name and values of each subject, then of the mean; values in the order of the columns."""
        rows = [(result.name, _rates(result.metrics) + result.counts) for result in self.results]
        counts = [
            nan_mean(column) for column in zip(*(result.counts for result in self.results), strict=True)
        ]
        return [*rows, ("mean", _rates(self.summary) + counts)]

    def to_csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["subject", *RATE_COLUMNS, *COUNT_COLUMNS])
        writer.writerows([name, *(format(value, ".6g") for value in values)] for name, values in self.rows())
        return text.getvalue()

    def to_markdown(self) -> str:
        header = ["subject", *RATE_COLUMNS, *COUNT_COLUMNS]
        lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
        for name, values in self.rows():
            rates, counts = values[: len(RATE_COLUMNS)], values[len(RATE_COLUMNS) :]
            cells = [_cell(value, ".3f") for value in rates] + [_cell(value, ".2f") for value in counts]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def write(self, out_dir: Path) -> tuple[Path, Path]:
        """Write ``metrics.csv`` and ``metrics.md``; returns both paths."""
        csv_file, markdown_file = out_dir / "metrics.csv", out_dir / "metrics.md"
        write_text(csv_file, self.to_csv())
        write_text(markdown_file, self.to_markdown())
        return csv_file, markdown_file


def evaluate(
    model: Model,
    subjects: Sequence[Subject],
    out_dir: Path | None = None,
    *,
    threshold: float | None = None,
    min_lesion_size: int | None = None,
    lesion_label: int | None = None,
    on_subject: Callable[[SubjectResult], None] | None = None,
) -> EvaluationTable:
    """Predict every subject and compare with its mask, on the full grid of the files.

    With ``out_dir``, writes the table and ``predictions/<subject>_{mask,probability}.nii.gz``. ``threshold``
    and ``min_lesion_size`` are those of ``predict_subject``; ``on_subject`` is called after each subject.

    Raises:
        InputError: there is no subject, or one has no mask.
    """
    if not subjects:
        raise InputError("subjects: expected at least one to evaluate, got none")
    label = model.config.lesion_label if lesion_label is None else lesion_label
    results = []
    for subject in subjects:
        if subject.mask is None:
            raise InputError(f"subject {subject.name} has no lesion mask to evaluate against")
        prediction = predict_subject(model, subject, threshold=threshold, min_lesion_size=min_lesion_size)
        like = (prediction.grid, subject.images[model.config.modalities[0]])
        reference = load_mask(subject.mask, label, like=like)
        metrics = lesion_metrics(prediction.mask, reference)
        results.append(SubjectResult(subject.name, metrics, prediction.grid.voxel_volume))
        if out_dir is not None:
            save_prediction(prediction, out_dir / "predictions")
        if on_subject is not None:
            on_subject(results[-1])
    table = EvaluationTable(results)
    if out_dir is not None:
        table.write(out_dir)
    return table


def evaluate_folders(
    predictions: Path, references: Path, out_dir: Path | None = None, *, lesion_label: int | None = None
) -> EvaluationTable:
    """Compare mask files of two folders by name: ``<subject>[_mask].nii[.gz]`` on both sides.

    Raises:
        InputError: a reference has no prediction, their grids differ, or a prediction is not of 0 and 1.
    """
    predicted, expected = _masks_by_subject(predictions), _masks_by_subject(references)
    results = []
    for name, reference_file in expected.items():
        if name not in predicted:
            raise InputError(f"{predictions}: no prediction for {reference_file.name}")
        _, grid = load_images({"reference": reference_file})
        try:
            prediction = load_mask(predicted[name], like=(grid, reference_file))
        except LesionLabelError as error:  # the label is that of the references
            raise InputError(error.problem) from None
        metrics = lesion_metrics(prediction, load_mask(reference_file, lesion_label))
        results.append(SubjectResult(name, metrics, grid.voxel_volume))
    table = EvaluationTable(results)
    if out_dir is not None:
        table.write(out_dir)
    return table


def _masks_by_subject(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    masks: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((ending for ending in IMAGE_SUFFIXES if path.name.lower().endswith(ending)), None)
        if suffix is None or path.name[: -len(suffix)].endswith("_probability"):
            continue
        name = path.name[: -len(suffix)].removesuffix("_mask")
        if name in masks:
            raise InputError(f"{path}: a second mask of {name}, beside {masks[name].name}")
        masks[name] = path
    if not masks:
        raise InputError(f"{folder}: no NIfTI file (.nii or .nii.gz)")
    return masks


def _rates(metrics: LesionMetrics | LesionSummary) -> list[float]:
    return [getattr(metrics, attribute) for attribute in RATE_COLUMNS.values()]


def _cell(value: float, specification: str) -> str:
    """A number without needless zeros after a whole count; a dash for NaN."""
    return "–" if math.isnan(value) else format(value, specification).removesuffix(".00")
