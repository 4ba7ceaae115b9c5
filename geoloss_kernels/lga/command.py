"""Lesion growth from files to files, for one κ or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from geoloss_kernels.lga.segmentation import OUTER_CSF_MARGIN, Preparation, grow, prepare
from geoloss_kernels.training.errors import InputError
from geoloss_kernels.training.inference import Prediction, save_prediction, to_mask
from geoloss_kernels.training.subjects import Subject

Log = Callable[[str], None]


@dataclass(frozen=True)
class LesionGrowthOptions:
    """What to make of prepared images.

    Args:
        kappas: beliefs that make a seed, one or more.
        threshold: probability above which a voxel is lesion.
        min_lesion_volume: mm³; smaller lesions (26-connected) are removed. LST reports those from 15 mm³.
        outer_csf_margin: see ``prepare``.

    Raises:
        InputError: a value is out of range.
    """

    kappas: tuple[float, ...] = (0.3,)
    threshold: float = 0.5
    min_lesion_volume: float = 15.0
    outer_csf_margin: float = OUTER_CSF_MARGIN

    def __post_init__(self) -> None:
        for kappa in self.kappas:
            if not 0 < kappa < math.inf:
                raise InputError(f"kappa: expected positive numbers, got {kappa:g}")
        if not 0 <= self.threshold < 1:
            raise InputError(f"threshold: expected a number from 0 to below 1, got {self.threshold:g}")
        if not 0 <= self.min_lesion_volume < math.inf:
            raise InputError(f"min_lesion_volume: expected at least 0 mm³, got {self.min_lesion_volume:g}")
        if not 0 <= self.outer_csf_margin < math.inf:
            raise InputError(f"outer_csf_margin: expected at least 0 mm, got {self.outer_csf_margin:g}")


def segment_subjects(
    subjects: Sequence[Subject],
    out: Path,
    options: LesionGrowthOptions = LesionGrowthOptions(),
    log: Log = print,
) -> None:
    """Write ``<subject>_mask.nii.gz`` and ``<subject>_probability.nii.gz`` on the grid of each FLAIR.

    They lie in ``out``, or with several κ in ``out/kappa-<κ>``. A subject is prepared once for all κ.

    Raises:
        InputError: see ``prepare``.
    """
    for subject in subjects:
        preparation = prepare(subject, outer_csf_margin=options.outer_csf_margin)
        for kappa in options.kappas:
            folder = out if len(options.kappas) == 1 else out / f"kappa-{kappa:g}"
            prediction = predict(subject.name, preparation, kappa, options)
            mask_file, _ = save_prediction(prediction, folder)
            millilitres = int(prediction.mask.sum()) * prediction.grid.voxel_volume / 1000
            log(f"{subject.name}: {millilitres:.2f} ml of lesions, {mask_file}")


def predict(name: str, preparation: Preparation, kappa: float, options: LesionGrowthOptions) -> Prediction:
    """Probability map of one κ, and its mask without small lesions."""
    probability = grow(preparation, kappa)
    min_voxels = math.ceil(options.min_lesion_volume / preparation.grid.voxel_volume)
    mask = to_mask(probability, options.threshold, min_voxels)
    return Prediction(name, probability, mask, preparation.grid)
