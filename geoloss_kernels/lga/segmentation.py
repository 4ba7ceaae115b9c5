"""The lesion growth algorithm of the Lesion Segmentation Toolbox, from images to probability maps.

Schmidt, Gaser, Arsic, Buck, Förschler, Berthele, Hoshi, Ilg, Schmid, Zimmer, Hemmer, Mühlau: An automated
tool for detection of FLAIR-hyperintense white-matter lesions in multiple sclerosis. NeuroImage 59:3774-3783,
2012; with the toolbox's documentation. There SPM segments T1 and warps the prior; here a mixture of Gaussians
on nilearn's MNI152 maps does the one (``tissue.py``), and an affine registration the other (``priors.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lga.belief import Beliefs, lesion_beliefs
from geoloss_kernels.lga.growth import grow_lesions
from geoloss_kernels.lga.priors import register_priors
from geoloss_kernels.lga.tissue import CSF, WHITE, segment_tissues
from geoloss_kernels.training.errors import InputError
from geoloss_kernels.training.subjects import Subject
from geoloss_kernels.training.volumes import Grid, load_images

Volume = NDArray[np.float32]
Box = tuple[slice, slice, slice]

MODALITIES = ("t1", "flair")
BRAIN = "brain"
"""Name of the brain mask among a subject's images."""
BRAIN_LITRES = (0.3, 2.8)
"""From a child's to the largest, with their CSF; a head has more."""
OUTER_CSF_MARGIN = 0.0
"""mm"""
OUTER_CSF_DEPTH = 15.0
"""mm below the surface of the brain, beyond which CSF is that of the ventricles"""


@dataclass(frozen=True)
class Preparation:
    """Everything that does not depend on κ: one serves any number of calls of ``grow``."""

    beliefs: Beliefs
    grid: Grid
    box: Box
    """Where the beliefs lie in the grid of the files: the brain's bounding box."""


def segment(
    subject: Subject,
    kappa: float = 0.3,
    phi: float = 1.0,
    *,
    outer_csf_margin: float = OUTER_CSF_MARGIN,
    seed: int = 0,
) -> Volume:
    """Lesion probability (float32) on the grid of the subject's files: ``grow(prepare(subject), kappa)``."""
    return grow(prepare(subject, outer_csf_margin=outer_csf_margin, seed=seed), kappa, phi)


def prepare(subject: Subject, *, outer_csf_margin: float = OUTER_CSF_MARGIN, seed: int = 0) -> Preparation:
    """Steps 1 to 4: reads the images, brings the atlas to them, segments the tissues, computes the beliefs.

    Args:
        subject: needs ``t1`` and ``flair`` on one grid, without skull and bias field. The brain is where both
            are not 0, or where the image ``brain`` is not, if there is one.
        outer_csf_margin: mm from the CSF around the brain within which no lesion is looked for.
        seed: of the registration.

    Raises:
        InputError: an image is missing or cannot be read, the grids differ, or the brain is no brain's size.
    """
    missing = [name for name in MODALITIES if name not in subject.images]
    if missing:
        raise InputError(f"subject {subject.name} has no {missing[0]} image, which lesion growth needs")
    names = [*MODALITIES, *([BRAIN] if BRAIN in subject.images else [])]
    images, grid = load_images({name: subject.images[name] for name in names})
    brain = images[BRAIN] != 0 if BRAIN in images else (images["t1"] != 0) & (images["flair"] != 0)
    _check_brain(brain, subject, grid)
    box = _bounding_box(brain)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [interval.start for interval in box]
    t1, flair, brain = (np.ascontiguousarray(image[box]) for image in (images["t1"], images["flair"], brain))
    priors = register_priors(t1, brain, affine, seed)
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    return Preparation(prepare_beliefs(t1, flair, brain, priors, spacing, outer_csf_margin), grid, box)


def grow(preparation: Preparation, kappa: float = 0.3, phi: float = 1.0) -> Volume:
    """Steps 5 to 7: lesion probability (float32) on the grid of the subject's files. Deterministic.

    Args:
        preparation: from ``prepare``.
        kappa: belief above which a voxel is a seed, positive; 0.05 to 1 are usual, smaller finds more.
        phi: strength of the Markov random field that smooths the growth, not negative.

    Raises:
        InputError: ``kappa`` or ``phi`` is out of range.
    """
    probability = np.zeros(preparation.grid.shape, np.float32)
    probability[preparation.box] = _grow(preparation.beliefs, kappa, phi)
    return probability


def lesion_growth(
    t1: Volume,
    flair: Volume,
    brain: NDArray[np.bool_],
    priors: Volume,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    kappa: float = 0.3,
    phi: float = 1.0,
    outer_csf_margin: float = OUTER_CSF_MARGIN,
) -> Volume:
    """Lesion probability [X, Y, Z] of images in memory, with priors that lie on them already.

    Args:
        t1, flair: images [X, Y, Z] without bias fields.
        brain: voxels of the brain.
        priors: [3, X, Y, Z] for CSF, grey and white matter.
        spacing: of the voxels in mm.
        kappa, phi: see ``grow``.
        outer_csf_margin: see ``prepare``.
    """
    return _grow(prepare_beliefs(t1, flair, brain, priors, spacing, outer_csf_margin), kappa, phi)


def prepare_beliefs(
    t1: Volume,
    flair: Volume,
    brain: NDArray[np.bool_],
    priors: Volume,
    spacing: tuple[float, float, float],
    outer_csf_margin: float = OUTER_CSF_MARGIN,
) -> Beliefs:
    """Tissues and beliefs; the arguments are those of ``lesion_growth``."""
    tissues = segment_tissues(t1, brain, priors)
    white_prior = priors[WHITE] * brain
    if outer_csf_margin > 0:
        white_prior *= distance_to_outer_csf(brain, tissues, spacing) > outer_csf_margin
    return lesion_beliefs(t1, flair, brain, tissues, white_prior)


def distance_to_outer_csf(
    brain: NDArray[np.bool_], tissues: Volume, spacing: tuple[float, float, float]
) -> NDArray[np.float64]:
    """mm from every voxel to what is outside the brain, or to CSF less than 15 mm below its surface."""
    depth = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    outer = ~brain | ((tissues.argmax(axis=0) == CSF) & (depth < OUTER_CSF_DEPTH))
    return ndimage.distance_transform_edt(~outer, sampling=spacing)


def _grow(beliefs: Beliefs, kappa: float, phi: float) -> Volume:
    if not 0 < kappa < np.inf:
        raise InputError(f"kappa: expected a positive number, got {kappa}")
    if not 0 <= phi < np.inf:
        raise InputError(f"phi: expected a number of at least 0, got {phi}")
    return grow_lesions(beliefs, kappa, phi)


def _check_brain(brain: NDArray[np.bool_], subject: Subject, grid: Grid) -> None:
    litres = np.count_nonzero(brain) * grid.voxel_volume / 1e6
    low, high = BRAIN_LITRES
    if not low <= litres <= high:
        source = subject.images.get(BRAIN) or " and ".join(str(subject.images[name]) for name in MODALITIES)
        raise InputError(
            f"{source}: expected a brain of {low} to {high} litres where they are not 0, got {litres:.2f}"
        )


def _bounding_box(mask: NDArray[np.bool_]) -> Box:
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return box
