"""A subject's files in, a lesion probability map on their grid out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lga.belief import Belief, belief_map
from geoloss_kernels.lga.growth import GrowthOptions, grow_lesions
from geoloss_kernels.lga.tissue import WHITE, Array, Mask, segment_tissue
from geoloss_kernels.training.errors import InputError
from geoloss_kernels.training.subjects import Subject
from geoloss_kernels.training.volumes import Grid, load_images

MODALITIES = ("t1", "flair")
PACKAGES = ("nilearn", "SimpleITK")


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
    grid = _cropped(whole, brain)
    box = grid.crop
    t1, flair, brain = t1[box], flair[box], brain[box]
    priors = _priors(t1, brain, grid)
    tissue = segment_tissue(t1, brain, priors)
    return Preparation(belief_map(t1, flair, brain, tissue, priors[WHITE] * brain), grid)


def grow(preparation: Preparation, kappa: float = 0.3) -> Array:
    """The lesion probability on the grid of the subject's files: 1 to 2 s at 1 mm."""
    return preparation.grid.to_file(grow_lesions(preparation.belief, GrowthOptions(kappa)))


def segment(subject: Subject, kappa: float = 0.3) -> Array:
    """`prepare` and `grow` in one."""
    return grow(prepare(subject), kappa)


def _cropped(grid: Grid, brain: Mask) -> Grid:
    (box,) = ndimage.find_objects(brain.astype(np.uint8))
    return Grid(grid.shape, grid.affine, box, grid.space_code)


def _priors(t1: Array, brain: Mask, grid: Grid) -> Array:
    from geoloss_kernels.lga.priors import tissue_priors

    return tissue_priors(t1, brain, _affine_of_box(grid))


def _affine_of_box(grid: Grid) -> NDArray[np.float64]:
    """From voxels of the RAS-ordered, cropped volume to mm."""
    to_canonical = orientations.inv_ornt_aff(orientations.io_orientation(grid.affine), grid.shape)
    affine: NDArray[np.float64] = grid.affine @ to_canonical
    start = [axis.start or 0 for axis in grid.crop]
    affine[:3, 3] += affine[:3, :3] @ start
    return affine
