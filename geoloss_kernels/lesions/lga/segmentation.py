"""A subject's files in, a lesion probability map on their grid out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.imaging.grid import Grid, bounding_box
from geoloss_kernels.lesions.imaging.itk import naming_itk_errors
from geoloss_kernels.lesions.imaging.reading import load_images
from geoloss_kernels.lesions.lga.belief import Belief, belief_map
from geoloss_kernels.lesions.lga.growth import GrowthOptions, grow_lesions
from geoloss_kernels.lesions.lga.priors import tissue_priors
from geoloss_kernels.lesions.lga.tissue import WHITE, Array, segment_tissue
from geoloss_kernels.lesions.subjects.subject import Subject

MODALITIES = ("t1", "flair")
PACKAGES = ("nilearn", "SimpleITK")
LARGEST_BRAIN_MM = 500
"""Registration fills the brain with cubes of 2 mm, and memory with a brain of voxels that are metres wide."""


@dataclass(frozen=True)
class Preparation:
    """All that does not depend on kappa."""

    belief: Belief
    grid: Grid
    """Of the files, with the box of the brain."""


def prepare(subject: Subject) -> Preparation:
    """Segment the tissues and make the belief map: 10 to 15 s at 1 mm.

    Args:
        subject: T1 and FLAIR on one grid, brain-extracted (0 outside of the brain), without bias fields
            (``geoloss preprocess`` does all but the extraction).

    Raises:
        InputError: names the image that is missing or does not fit.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise InputError(f"lga needs {', '.join(missing)}: pip install 'geoloss-kernels[lga]'")
    for modality in MODALITIES:
        if modality not in subject.images:
            raise InputError(f"subject {subject.name} has no {modality} image, which lga needs")
    images, whole = load_images({modality: subject.images[modality] for modality in MODALITIES})
    t1, flair = (whole.to_volume(images[modality]) for modality in MODALITIES)
    brain = (t1 > 0) & (flair > 0)
    if not brain.any():
        raise InputError(f"{subject.images['flair']}: expected a brain, voxels above 0 that T1 has, too")
    box = bounding_box(brain)
    extent = max(np.multiply([axis.stop - axis.start for axis in box], whole.spacing))
    if extent > LARGEST_BRAIN_MM:
        raise InputError(
            f"{subject.images['t1']}: expected a brain of at most {LARGEST_BRAIN_MM} mm, got {extent:.0f} mm"
        )
    grid = replace(whole, crop=box)
    t1, flair, brain = t1[box], flair[box], brain[box]
    with naming_itk_errors(subject.images["t1"], "cannot be registered to the template"):
        priors = tissue_priors(t1, brain, grid.volume_affine)
    tissue = segment_tissue(t1, brain, priors)
    return Preparation(belief_map(t1, flair, brain, tissue, priors[WHITE] * brain), grid)


def grow(preparation: Preparation, kappa: float = GrowthOptions.kappa) -> Array:
    """The lesion probability on the grid of the subject's files: up to 3 s at 1 mm.

    Args:
        preparation: from `prepare`, for any number of kappas.
        kappa: see `GrowthOptions`.

    Raises:
        ValueError: ``kappa`` is negative or not finite.
    """
    return preparation.grid.to_file(grow_lesions(preparation.belief, GrowthOptions(kappa)))


def segment(subject: Subject, kappa: float = GrowthOptions.kappa) -> Array:
    """`prepare` and `grow` in one."""
    return grow(prepare(subject), kappa)
