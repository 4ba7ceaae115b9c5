"""Lesions of real patients, from masks in the MNI space, in the white matter of another brain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.datasets.anatomy import Anatomy, Maps
from geoloss_kernels.lesions.datasets.difficulty import Difficulty
from geoloss_kernels.lesions.datasets.fields import smooth_noise
from geoloss_kernels.lesions.datasets.label_maps import cubic_voxel_size, read_volume
from geoloss_kernels.lesions.datasets.simulated_lesions import Lesions, trace
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.imaging.grid import bounding_box

MARGIN = 10  # voxels around the lesions of the mask
WARP = 1.5  # mm, standard deviation
WARP_SIGMA = 8.0  # mm
ERRORS_LEFT = 0.5  # share of the reference's: what is traced is ragged already, for a hand drew it
ANY_CONNECTION = np.ones((3, 3, 3))


def transplant_lesions(
    mask_file: Path,
    anatomy: Anatomy,
    mni_points: NDArray[np.float32],
    difficulty: Difficulty,
    generator: np.random.Generator,
) -> Lesions:
    """The patient's lesions, slightly warped, without what falls into CSF or beyond the white matter's rim.

    Args:
        mask_file: Lesion mask in the MNI space.
        anatomy: The brain they get into.
        mni_points: Position [3, X, Y, Z] in mm of its voxels in the MNI space.
        difficulty: Says how faint they are, and how exact the reference of made-up ones would be.
        generator: Source of randomness.

    Raises:
        InputError: `mask_file` cannot be read, its voxels are not cubic, or it holds no lesion.
    """
    shape, voxel_size = anatomy.white.shape, anatomy.voxel_size
    warp = [WARP * smooth_noise(shape, WARP_SIGMA / voxel_size, generator) for _ in range(3)]
    depth, contrast = _lesion_maps(mask_file, difficulty, generator).at(mni_points + np.stack(warp))
    rim = ndimage.binary_dilation(anatomy.white > 0.5, ANY_CONNECTION)
    steadier = replace(
        difficulty,
        reference_tremor=ERRORS_LEFT * difficulty.reference_tremor,
        reference_bias=ERRORS_LEFT * difficulty.reference_bias,
    )
    return trace(depth, contrast, rim & (anatomy.csf < 0.5), voxel_size, steadier, generator)


def _lesion_maps(path: Path, difficulty: Difficulty, generator: np.random.Generator) -> Maps:
    """Depth in mm below the surface of the nearest lesion, and that lesion's severity."""
    values, affine = read_volume(path)
    voxel_size = cubic_voxel_size(path, affine)
    mask = values > 0.5
    if not mask.any():
        raise InputError(f"{path}: expected a lesion mask, found no voxel above 0.5")
    box = bounding_box(mask, MARGIN)
    mask = mask[box]
    labels, count = ndimage.label(mask, ANY_CONNECTION)
    outside, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
    # The surface lies half a voxel from the centres of the voxels on either side.
    depth = np.where(mask, ndimage.distance_transform_edt(mask) - 0.5, 0.5 - outside) * voxel_size
    severity = generator.uniform(*difficulty.severity, size=count + 1)[labels[tuple(nearest)]]
    origin = affine[:3, 3] + voxel_size * np.array([part.start for part in box])
    return Maps(np.stack([depth, severity]).astype(np.float32), origin, voxel_size)
