"""What is kept of a row on a set of subjects: lesion counts at nine thresholds, whence all rates follow.

At the threshold of the tables there are also the Hausdorff distance and counts by the size of the lesions, in
a file of its own: small enough to be kept for years, and enough for every test of a report.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import read_text, write_text
from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.imaging.reading import load_mask
from geoloss_kernels.lesions.imaging.writing import save_image
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.training.inference import to_mask
from geoloss_kernels.metrics import (
    LesionMetrics,
    LesionSummary,
    label_lesions,
    lesion_metrics,
    summarise,
    surface_distances,
)
from geoloss_kernels.metrics.lesions import lesion_f1

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of Fig. 3."""
TABLE_THRESHOLD = 0.5
"""Of the tables."""
SIZES = {"below_10": (1, 9), "10_to_50": (10, 50), "above_50": (51, None)}
"""Classes of lesions: fewest and most voxels."""

COUNTS = tuple(count.name for count in fields(LesionMetrics))

Segment = Callable[[Subject], tuple[NDArray[np.float32], Grid]]
"""Lesion probabilities of a subject in its files' grid."""


@dataclass(frozen=True)
class SizeCounts:
    """Lesions of one class of sizes, each of the size that it has in its own mask."""

    reference_lesions: int
    detected_lesions: int
    predicted_lesions: int
    confirmed_lesions: int

    @property
    def ltpr(self) -> float:
        """Reference lesions of the class that are found; NaN without any."""
        return self.detected_lesions / self.reference_lesions if self.reference_lesions else math.nan

    @property
    def lppv(self) -> float:
        """Predicted lesions of the class that touch a reference lesion; NaN without any."""
        return self.confirmed_lesions / self.predicted_lesions if self.predicted_lesions else math.nan

    @property
    def lf1(self) -> float:
        """The harmonic mean of the two; NaN without a lesion of the class."""
        return lesion_f1(self.ltpr, self.lppv)


@dataclass(frozen=True)
class Details:
    """What is measured at ``TABLE_THRESHOLD`` alone.

    Attributes:
        hausdorff_95: The 95 % Hausdorff distance in mm, see ``metrics.surface_distances``.
        sizes: Counts of the classes of ``SIZES``.
    """

    hausdorff_95: float
    sizes: Mapping[str, SizeCounts]


@dataclass(frozen=True)
class Measurements:
    """Results of one training on a set of subjects.

    Attributes:
        subjects: Subject -> threshold -> counts; those of ``TABLE_THRESHOLD`` are always there, the others
            only where the subjects were measured.
        details: Subject -> what is measured at ``TABLE_THRESHOLD`` alone.
        notes: Settings that were chosen on the way.
    """

    subjects: Mapping[str, Mapping[float, LesionMetrics]]
    details: Mapping[str, Details] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)

    def at(self, threshold: float = TABLE_THRESHOLD) -> dict[str, LesionMetrics]:
        """Counts of each subject at one threshold."""
        return {name: by_threshold[threshold] for name, by_threshold in self.subjects.items()}

    def summary(self, threshold: float = TABLE_THRESHOLD) -> LesionSummary:
        """Mean rates over the subjects; L-F1 follows from the mean LTPR and LPPV, as in the paper's rows."""
        return summarise(self.at(threshold).values())

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Those that are there for every subject."""
        return tuple(t for t in THRESHOLDS if all(t in found for found in self.subjects.values()))

    def write(self, path: Path) -> None:
        """Writes a CSV file of ``TABLE_THRESHOLD``, whole or not at all: the sign that all is measured."""
        of_sizes = [f"{count.name}_{size}" for size in SIZES for count in fields(SizeCounts)]
        rows: list[list[object]] = [["subject", *COUNTS, "hausdorff_95_mm", *of_sizes, *self.notes]]
        for name, metrics in self.at().items():
            details = self.details[name]
            sizes = [count for size in SIZES for count in astuple(details.sizes[size])]
            distance = format(details.hausdorff_95, ".6g")
            rows.append([name, *astuple(metrics), distance, *sizes, *self.notes.values()])
        _write_csv(path, rows)

    def write_thresholds(self, path: Path) -> None:
        """Writes a CSV file of all thresholds."""
        rows: list[list[object]] = [["subject", "threshold", *COUNTS]]
        for name, by_threshold in self.subjects.items():
            rows += [[name, threshold, *astuple(metrics)] for threshold, metrics in by_threshold.items()]
        _write_csv(path, rows)

    @classmethod
    def read(cls, path: Path, thresholds: Path | None = None) -> Measurements:
        """Reads what ``write`` has written, and ``write_thresholds`` where that file is there.

        Raises:
            InputError: the file is damaged.
        """
        try:
            subjects, details, notes = _read_subjects(path)
            if thresholds is not None and thresholds.is_file():
                for line in _read_csv(thresholds):
                    subjects[line["subject"]][float(line["threshold"])] = _counts(line)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: expected measurements of a study, got {error!r}") from None
        return cls(subjects, details, notes)


def measure(
    segment: Segment,
    subjects: Sequence[Subject],
    masks: Path,
    *,
    min_lesion_volume: float = 0.0,
    notes: Mapping[str, float] | None = None,
) -> Measurements:
    """Segments subjects and compares them with their references, on the full grid of the files.

    Args:
        segment: What is measured.
        subjects: With masks.
        masks: Folder for the segmentations at ``TABLE_THRESHOLD``.
        min_lesion_volume: Smaller segmented lesions are removed; in mm³.
        notes: To keep with the result.
    """
    measured, details = {}, {}
    for subject in subjects:
        probability, grid = segment(subject)
        assert subject.mask is not None
        reference = load_mask(subject.mask, like=(grid, next(iter(subject.images.values()))))
        box = _box(probability, reference)
        measured[subject.name] = {
            threshold: lesion_metrics(
                lesion_mask(probability[box], grid, min_lesion_volume, threshold), reference[box]
            )
            for threshold in THRESHOLDS
        }
        mask = lesion_mask(probability, grid, min_lesion_volume)
        details[subject.name] = measure_details(mask, reference, grid.file_spacing)
        save_image(mask_file(masks, subject), mask, grid)
    return Measurements(measured, details, notes or {})


def measure_details(
    mask: NDArray[np.uint8], reference: NDArray[np.uint8], spacing: Sequence[float]
) -> Details:
    """Distance and counts by size of a segmentation; ``spacing`` in mm along the axes of the arrays."""
    box = _box(mask, reference)
    predicted, expected = (label_lesions(array[box])[0] for array in (mask, reference))
    common = (predicted > 0) & (expected > 0)
    # Voxels of each lesion, and whether it touches one of the other mask.
    (of_reference, detected), (of_prediction, confirmed) = (
        (np.bincount(labels.ravel())[1:], np.isin(np.arange(1, labels.max(initial=0) + 1), labels[common]))
        for labels in (expected, predicted)
    )
    sizes = {}
    for name, (least, most) in SIZES.items():
        expected_here, predicted_here = (
            (voxels >= least) & (voxels <= (math.inf if most is None else most))
            for voxels in (of_reference, of_prediction)
        )
        lesions = (expected_here, expected_here & detected, predicted_here, predicted_here & confirmed)
        sizes[name] = SizeCounts(*(int(each.sum()) for each in lesions))
    return Details(surface_distances(mask, reference, spacing).hausdorff_95, sizes)


def lesion_mask(
    probability: NDArray[np.float32],
    grid: Grid,
    min_lesion_volume: float,
    threshold: float = TABLE_THRESHOLD,
) -> NDArray[np.uint8]:
    """Voxels above the threshold, without lesions smaller than ``min_lesion_volume`` mm³."""
    return to_mask(probability, threshold, math.ceil(min_lesion_volume / grid.voxel_volume))


def mask_file(folder: Path, subject: Subject) -> Path:
    """Where ``measure`` writes the segmentation of a subject."""
    return folder / f"{subject.name}_mask.nii.gz"


def _box(values: NDArray[Any], reference: NDArray[np.uint8]) -> tuple[slice, ...]:
    """What holds every voxel that is a lesion in either, at any of the thresholds."""
    boxes = ndimage.find_objects(((values > min(THRESHOLDS)) | (reference > 0)).astype(np.uint8))
    return boxes[0] if boxes else (slice(0, 1),) * reference.ndim


def _read_subjects(
    path: Path,
) -> tuple[dict[str, dict[float, LesionMetrics]], dict[str, Details], dict[str, float]]:
    subjects, details, notes = {}, {}, {}
    known = {"subject", *COUNTS, "hausdorff_95_mm"}
    known |= {f"{count.name}_{size}" for size in SIZES for count in fields(SizeCounts)}
    for line in _read_csv(path):
        sizes = {
            size: SizeCounts(*(int(line[f"{count.name}_{size}"]) for count in fields(SizeCounts)))
            for size in SIZES
        }
        subjects[line["subject"]] = {TABLE_THRESHOLD: _counts(line)}
        details[line["subject"]] = Details(float(line["hausdorff_95_mm"]), sizes)
        notes = {name: float(value) for name, value in line.items() if name not in known}
    return subjects, details, notes


def _counts(line: Mapping[str, str]) -> LesionMetrics:
    return LesionMetrics(**{name: int(line[name]) for name in COUNTS})


def _read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_text(path))))


def _write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
