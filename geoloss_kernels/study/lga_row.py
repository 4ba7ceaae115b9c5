"""The row LST: the lesion growth algorithm, its threshold κ chosen on the validation subjects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lga import grow, prepare
from geoloss_kernels.metrics import dice_coefficient
from geoloss_kernels.metrics.lesions import nan_mean
from geoloss_kernels.study.measurements import TABLE_THRESHOLD, Segment
from geoloss_kernels.training.subjects import Subject
from geoloss_kernels.training.volumes import Grid, load_images, load_mask

KAPPAS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Tried on the validation subjects; LST's manual advises 0.05 to 1."""


def choose_kappa(validation: Sequence[Subject]) -> float:
    """The κ of ``KAPPAS`` with the highest mean DSC; of equal ones the smallest."""
    scores = np.array([_scores(subject) for subject in validation])
    means = [nan_mean(list(column)) for column in scores.T]
    return KAPPAS[int(np.nanargmax(means))]


def segmenter(kappa: float) -> Segment:
    """Segments subjects by lesion growth."""

    def segment(subject: Subject) -> tuple[NDArray[np.float32], Grid]:
        _, grid = load_images({"flair": subject.images["flair"]})
        return grow(prepare(subject), kappa), grid

    return segment


def _scores(subject: Subject) -> list[float]:
    """DSC of each κ."""
    assert subject.mask is not None
    preparation, reference = prepare(subject), load_mask(subject.mask)
    return [dice_coefficient(grow(preparation, kappa) > TABLE_THRESHOLD, reference) for kappa in KAPPAS]
