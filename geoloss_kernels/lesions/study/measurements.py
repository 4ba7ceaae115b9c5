"""What is kept of a row on a set of subjects: lesion counts at nine thresholds, whence all rates follow."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lesions.files import write_text
from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.imaging.reading import load_mask
from geoloss_kernels.lesions.imaging.writing import save_image
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.training.inference import to_mask
from geoloss_kernels.metrics import LesionMetrics, LesionSummary, lesion_metrics, summarise

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of Fig. 3."""
TABLE_THRESHOLD = 0.5
"""Of the tables."""

Segment = Callable[[Subject], tuple[NDArray[np.float32], Grid]]
"""Lesion probabilities of a subject in its files' grid."""


@dataclass(frozen=True)
class Measurements:
    """Subject -> threshold -> counts; ``notes`` are settings that were chosen on the way."""

    subjects: Mapping[str, Mapping[float, LesionMetrics]]
    notes: Mapping[str, float] = field(default_factory=dict)

    def at(self, threshold: float = TABLE_THRESHOLD) -> dict[str, LesionMetrics]:
        """Counts of each subject at one threshold."""
        return {name: by_threshold[threshold] for name, by_threshold in self.subjects.items()}

    def summary(self, threshold: float = TABLE_THRESHOLD) -> LesionSummary:
        """Mean rates over the subjects; L-F1 follows from the mean LTPR and LPPV, as in the paper's rows."""
        return summarise(self.at(threshold).values())

    def write(self, path: Path) -> None:
        """Writes JSON, whole or not at all: the file is the sign that the measurement is done."""
        subjects = {
            name: {str(threshold): asdict(metrics) for threshold, metrics in by_threshold.items()}
            for name, by_threshold in self.subjects.items()
        }
        write_text(path, json.dumps({"notes": dict(self.notes), "subjects": subjects}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Measurements:
        """Reads what ``write`` has written."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        subjects = {
            name: {float(threshold): LesionMetrics(**counts) for threshold, counts in by_threshold.items()}
            for name, by_threshold in content["subjects"].items()
        }
        return cls(subjects, content["notes"])


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
    measured = {}
    for subject in subjects:
        probability, grid = segment(subject)
        assert subject.mask is not None
        reference = load_mask(subject.mask, like=(grid, next(iter(subject.images.values()))))
        measured[subject.name] = {
            threshold: lesion_metrics(lesion_mask(probability, grid, min_lesion_volume, threshold), reference)
            for threshold in THRESHOLDS
        }
        save_image(mask_file(masks, subject), lesion_mask(probability, grid, min_lesion_volume), grid)
    return Measurements(measured, notes or {})


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
