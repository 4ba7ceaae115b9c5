"""Brains that differ from subject to subject: random deformations of the MNI152 tissue maps of nilearn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.demo.fields import Volume, smooth_noise

# Box of the MNI space, in mm, that holds every deformed brain: (left, posterior, inferior), (right, ...).
FIELD_OF_VIEW = np.array([[-80.0, -116.0, -72.0], [80.0, 84.0, 90.0]])

# Box of the MNI space, in mm, that holds the bodies and horns of the lateral ventricles.
LATERAL_VENTRICLES = np.array([[-38.0, -58.0, -2.0], [38.0, 42.0, 34.0]])


@dataclass(frozen=True)
class Anatomy:
    """One brain on a grid [X, Y, Z] in RAS+ orientation.

    Tissue maps are probabilities that sum to one inside the brain. In mm: distance to the lateral ventricles,
    0 inside them, and depth below the surface of the brain, 0 outside it.
    """

    csf: Volume
    grey: Volume
    white: Volume
    ventricle_distance: Volume
    surface_depth: Volume
    affine: NDArray[np.float64]

    @property
    def brain(self) -> NDArray[np.bool_]:
        """Voxels inside the brain."""
        return self.surface_depth > 0

    @property
    def voxel_size(self) -> float:
        """Edge of the cubic voxels in mm."""
        return float(self.affine[0, 0])


@dataclass(frozen=True)
class Maps:
    """Volumes [M, X, Y, Z] with the position of their first voxel and the edge of a voxel, both in mm."""

    values: NDArray[np.floating]
    origin: NDArray[np.float64]
    voxel_size: float

    def at(self, points: NDArray[np.float32]) -> Volume:
        """Linear interpolation [M, ...] at points [3, ...] in mm; outside, the border is repeated."""
        origin = self.origin.reshape(3, 1, 1, 1).astype(np.float32)
        extent = self.voxel_size * (np.array(self.values.shape[1:], dtype=np.float32) - 1).reshape(3, 1, 1, 1)
        unit = torch.from_numpy(2 * (points - origin) / extent - 1)
        # grid_sample names the last axis of the volume first.
        grid = unit.flip(0).permute(1, 2, 3, 0)[None]
        values = torch.from_numpy(self.values.astype(np.float32))[None]
        return torch.nn.functional.grid_sample(values, grid, padding_mode="border", align_corners=True)[
            0
        ].numpy()


def make_anatomy(voxel_size: float, generator: np.random.Generator) -> Anatomy:
    """Deforms the template at random and folds its cortex at random.

    Args:
        voxel_size: Edge of the cubic voxels in mm.
        generator: Source of randomness.
    """
    affine, shape = _grid(voxel_size)
    tissue_maps, distance_maps = _template()
    points = _deformed_points(shape, affine, generator)
    grey, white, csf = tissue_maps.at(points)
    ventricle_distance, surface_depth = distance_maps.at(points)
    tissues = _sharpen(_fold_cortex(np.stack([csf, grey, white]), surface_depth, voxel_size, generator))
    tissues *= surface_depth > 0
    return Anatomy(tissues[0], tissues[1], tissues[2], ventricle_distance, surface_depth, affine)


def _grid(voxel_size: float) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Affine (voxel to mm) and size of the grid that covers the field of view."""
    affine = np.diag([voxel_size, voxel_size, voxel_size, 1.0])
    affine[:3, 3] = FIELD_OF_VIEW[0]
    extent = FIELD_OF_VIEW[1] - FIELD_OF_VIEW[0]
    return affine, tuple(int(size) for size in np.ceil(extent / voxel_size))


@lru_cache(maxsize=1)
def _template() -> tuple[Maps, Maps]:
    """Grey matter, white matter and CSF at 1 mm; ventricle distance and surface depth at 2 mm.

    Distances are smooth, so half the resolution is enough.
    """
    from nilearn import datasets

    image = datasets.load_mni152_template(resolution=1)
    brain = ndimage.binary_closing(image.get_fdata(dtype=np.float32) > 0.05)
    grey = datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    csf = np.clip(brain - grey - white, 0, 1)
    ventricles = _lateral_ventricles(csf, image.affine)
    distances = [
        ndimage.distance_transform_edt(mask[::2, ::2, ::2], sampling=2.0) for mask in (~ventricles, brain)
    ]
    origin = image.affine[:3, 3]
    return Maps(np.stack([grey, white, csf]), origin, 1.0), Maps(np.stack(distances), origin, 2.0)


def _lateral_ventricles(csf: Volume, affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The largest pool of CSF in the box of the lateral ventricles."""
    low, high = np.round(LATERAL_VENTRICLES - affine[:3, 3]).astype(int)
    box = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
    labels, _ = ndimage.label(csf[box] > 0.5)
    ventricles = np.zeros(csf.shape, dtype=bool)
    ventricles[box] = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return ventricles


def _deformed_points(
    shape: tuple[int, ...], affine: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float32]:
    """Template position [3, X, Y, Z] in mm of every voxel: scaled, then displaced smoothly at two scales."""
    voxel_size = affine[0, 0]
    scales = generator.uniform(0.95, 1.05, size=3)
    points = np.empty((3, *shape), dtype=np.float32)
    for axis in range(3):
        position = (affine[axis, 3] + voxel_size * np.arange(shape[axis])) * scales[axis]
        points[axis] = np.expand_dims(position, [other for other in range(3) if other != axis])
        points[axis] += 3.5 * smooth_noise(shape, 25 / voxel_size, generator)
        points[axis] += 1.5 * smooth_noise(shape, 8 / voxel_size, generator)
    return points


def _fold_cortex(
    tissues: Volume, surface_depth: Volume, voxel_size: float, generator: np.random.Generator
) -> Volume:
    """Turns grey matter near the surface into CSF along random furrows: no two brains share their sulci."""
    furrows = np.clip(0.45 * smooth_noise(surface_depth.shape, 2.2 / voxel_size, generator) - 0.15, 0, 0.6)
    moved = furrows * (surface_depth < 14) * tissues[1]
    return tissues + np.stack([moved, -moved, np.zeros_like(moved)])


def _sharpen(tissues: Volume) -> Volume:
    """Undoes part of the template's averaging over many brains."""
    powers = np.clip(tissues, 1e-3, 1) ** 2.5
    return powers / powers.sum(0)
