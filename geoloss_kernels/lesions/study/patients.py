"""Further patients to test on, in the voxel size that the networks were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.imaging.reading import load_images, load_mask
from geoloss_kernels.lesions.imaging.writing import save_image
from geoloss_kernels.lesions.reporting.figures import VoxelSize
from geoloss_kernels.lesions.study.data import spacing_of
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.subject import Subject

SAME_SPACING = 0.01  # relative difference


def load_patients(source: Path, voxel_size: VoxelSize, folder: Path) -> list[Subject]:
    """The subjects of ``source``, whatever split they are of, on voxels of ``voxel_size`` mm.

    A subject with other voxels is resampled linearly, from a smoothed image where they are smaller, and
    written to ``folder``; its mask is where the resampled reference exceeds one half.

    Raises:
        InputError: a subject cannot be used.
    """
    return [
        subject if _matches(subject, voxel_size) else _resample(subject, voxel_size, folder / subject.name)
        for subject in load_subjects(source)
    ]


def _matches(subject: Subject, voxel_size: VoxelSize) -> bool:
    return np.allclose(spacing_of(subject), voxel_size, rtol=SAME_SPACING, atol=0)


def _resample(subject: Subject, voxel_size: VoxelSize, folder: Path) -> Subject:
    files = {modality: folder / f"{modality}.nii.gz" for modality in subject.images}
    resampled = Subject(subject.name, files, folder / "mask.nii.gz", subject.split)
    if not (folder / "mask.nii.gz").is_file():  # written last
        _write_resampled(subject, files, folder / "mask.nii.gz", voxel_size)
    return resampled


def _write_resampled(
    subject: Subject, files: Mapping[str, Path], mask_file: Path, voxel_size: VoxelSize
) -> None:
    images, grid = load_images(subject.images)
    if subject.mask is None:
        raise InputError(f"subject {subject.name} has no lesion mask")
    ratios = np.divide(voxel_size, grid.spacing)
    affine = grid.volume_affine @ _coarser(ratios)
    # The inside of the head is resampled too: outside, 0 stays 0.
    inside = np.any([image != 0 for image in images.values()], axis=0)
    kept = _interpolate(grid.to_volume(inside.astype(np.float32)), ratios) > 0.5
    out = Grid(_shape(kept), affine, space_code=grid.space_code)
    for modality, image in images.items():
        save_image(files[modality], _interpolate(grid.to_volume(image), ratios) * kept, out)
    first = next(iter(subject.images.values()))
    lesions = grid.to_volume(load_mask(subject.mask, like=(grid, first)).astype(np.float32))
    save_image(mask_file, (_interpolate(lesions, ratios) > 0.5).astype(np.uint8), out)


def _coarser(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """From voxels of the new grid to those of the old one; both begin at the same corner."""
    matrix = np.diag([*ratios, 1.0])
    matrix[:3, 3] = (ratios - 1) / 2
    return matrix


def _interpolate(volume: NDArray[np.float32], ratios: NDArray[np.float64]) -> NDArray[np.float32]:
    smooth = ndimage.gaussian_filter(volume, np.maximum(ratios - 1, 0) / 2)
    shape = np.maximum(np.round(volume.shape / ratios), 1).astype(int)
    matrix = _coarser(ratios)
    return ndimage.affine_transform(
        smooth, np.diag(matrix[:3, :3]), matrix[:3, 3], tuple(shape), order=1, mode="nearest"
    )


def _shape(volume: NDArray[np.generic]) -> tuple[int, int, int]:
    x, y, z = volume.shape
    return x, y, z
