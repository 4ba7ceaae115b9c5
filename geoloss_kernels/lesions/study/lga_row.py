"""The row LST: the lesion growth algorithm, its threshold κ chosen on the validation subjects.

Bias fields are removed first, as LST has SPM do: the algorithm compares intensities of the whole brain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.imaging.reading import load_mask
from geoloss_kernels.lesions.lga import MODALITIES, Preparation, grow, prepare
from geoloss_kernels.lesions.preprocessing.preprocessing import correct_subject
from geoloss_kernels.lesions.study.measurements import Segment, lesion_mask
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.metrics import dice_coefficient
from geoloss_kernels.metrics.lesions import nan_mean

KAPPAS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Tried on the validation subjects; LST's manual advises 0.05 to 1."""


MIN_LESION_VOLUME = 15.0
"""mm³; LST reports no smaller lesion."""


def choose_kappa(validation: Sequence[Subject]) -> float:
    """The κ of ``KAPPAS`` with the highest mean DSC; of equal ones the smallest."""
    by_subject = [_scores(subject) for subject in validation]
    means = [nan_mean(scores) for scores in zip(*by_subject, strict=True)]
    return KAPPAS[int(np.nan_to_num(means).argmax())]


def segmenter(kappa: float) -> Segment:
    """Segments subjects by lesion growth."""

    def segment(subject: Subject) -> tuple[NDArray[np.float32], Grid]:
        preparation = _prepare(subject)
        return grow(preparation, kappa), preparation.grid

    return segment


def _prepare(subject: Subject) -> Preparation:
    with TemporaryDirectory() as folder:
        return prepare(correct_subject(subject, MODALITIES, Path(folder)))


def _scores(subject: Subject) -> list[float]:
    """DSC of each κ."""
    assert subject.mask is not None
    preparation = _prepare(subject)
    reference = load_mask(subject.mask, like=(preparation.grid, subject.images[MODALITIES[0]]))
    masks = (lesion_mask(grow(preparation, kappa), preparation.grid, MIN_LESION_VOLUME) for kappa in KAPPAS)
    return [dice_coefficient(mask, reference) for mask in masks]
