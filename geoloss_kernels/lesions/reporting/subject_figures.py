"""The pictures of `figures`, of a subject's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lesions.imaging.reading import load_images
from geoloss_kernels.lesions.reporting.figures import VoxelSize, draw_segmentation, draw_transforms
from geoloss_kernels.lesions.subjects.subject import Subject

IMAGE_TITLES = {"t1": "T1", "t2": "T2", "flair": "FLAIR"}


def draw_subject(path: Path, subject: Subject, predictions: Mapping[str, Path], title: str) -> Path:
    """Draws a subject's images, reference and predictions (title and mask file of each).

    Raises:
        ValueError: the reference has no lesion, or the volumes differ in shape.
    """
    images = {}
    for modality, file in subject.images.items():
        images[IMAGE_TITLES.get(modality, modality)], voxel_size = load_canonical(file)
    masks = {name: load_reference(file)[0] for name, file in predictions.items()}
    return draw_segmentation(path, images, load_reference(subject.mask)[0], masks, voxel_size, title)


def draw_subject_transforms(path: Path, subject: Subject) -> Path:
    """Draws the geometric transforms of a subject's reference; ValueError if that has no lesion."""
    mask, voxel_size = load_reference(subject.mask)
    return draw_transforms(
        path, mask, voxel_size, f"Geometric transformations of the reference of {subject.name}"
    )


def largest_load(subjects: Sequence[Subject]) -> Subject:
    """The subject with most lesion voxels."""
    return max(subjects, key=lambda subject: int(load_reference(subject.mask)[0].sum()))


def load_reference(path: Path | None) -> tuple[NDArray[np.bool_], VoxelSize]:
    """Mask [X, Y, Z] in RAS+ orientation, and the voxel size in mm."""
    if path is None:
        raise ValueError("subject: expected one with a lesion mask")
    values, voxel_size = load_canonical(path)
    return values > 0, voxel_size


def load_canonical(path: Path) -> tuple[NDArray[np.float32], VoxelSize]:
    """Values [X, Y, Z] in RAS+ orientation, and the voxel size in mm."""
    images, grid = load_images({"image": path})
    return grid.to_volume(images["image"]), grid.spacing
