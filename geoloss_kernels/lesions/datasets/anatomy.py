"""Brains that differ from subject to subject: random deformations of the MNI152 tissue maps of nilearn.

`label_maps` makes them of other people's label maps, with the pieces found here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.datasets.fields import FloatVolume, smooth_noise

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

    csf: FloatVolume
    grey: FloatVolume
    white: FloatVolume
    ventricle_distance: FloatVolume
    surface_depth: FloatVolume
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

    def at(self, points: NDArray[np.float32]) -> FloatVolume:
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
    affine, shape = grid_over(FIELD_OF_VIEW, voxel_size)
    tissue_template, distance_template = template()
    points = deformed_points(shape, affine, generator)
    grey, white, csf = tissue_template.at(points)
    ventricle_distance, surface_depth = distance_template.at(points)
    tissues = _sharpen(_fold_cortex(np.stack([csf, grey, white]), surface_depth, voxel_size, generator))
    tissues *= surface_depth > 0
    return Anatomy(tissues[0], tissues[1], tissues[2], ventricle_distance, surface_depth, affine)


def grid_over(
    box: NDArray[np.float64], voxel_size: float
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Affine (voxel to mm) and size of the grid that covers a box [2, 3] in mm: first corner, last corner."""
    affine = np.diag([voxel_size, voxel_size, voxel_size, 1.0])
    affine[:3, 3] = box[0]
    x, y, z = (int(size) for size in np.ceil((box[1] - box[0]) / voxel_size))
    return affine, (x, y, z)


@lru_cache(maxsize=1)
def template() -> tuple[Maps, Maps]:
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
    origin = image.affine[:3, 3]
    return Maps(np.stack([grey, white, csf]), origin, 1.0), distance_maps(ventricles, brain, origin, 1.0)


def distance_maps(
    ventricles: NDArray[np.bool_], brain: NDArray[np.bool_], origin: NDArray[np.float64], voxel_size: float
) -> Maps:
    """Ventricle distance and surface depth in mm; on every second voxel where voxels are below 2 mm."""
    step = 2 if voxel_size < 2 else 1
    distances = [
        ndimage.distance_transform_edt(mask[::step, ::step, ::step], sampling=step * voxel_size)
        for mask in (~ventricles, brain)
    ]
    return Maps(np.stack(distances), origin, step * voxel_size)


def _lateral_ventricles(csf: FloatVolume, affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The largest pool of CSF in the box of the lateral ventricles."""
    low, high = np.round(LATERAL_VENTRICLES - affine[:3, 3]).astype(int)
    box = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
    ventricles = np.zeros(csf.shape, dtype=bool)
    ventricles[box] = largest_component(csf[box] > 0.5)
    return ventricles


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest of the connected components (by faces) of a mask."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(mask & (labels == np.argmax(sizes)))


def deformed_points(
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
    generator: np.random.Generator,
    strength: float = 1.0,
) -> NDArray[np.float32]:
    """Position [3, X, Y, Z] in mm of every voxel in the original: scaled, then displaced smoothly.

    Args:
        shape: Size of the grid in voxels.
        affine: From voxels of the grid to mm.
        generator: Source of randomness.
        strength: 1 displaces by 3.5 mm over 25 mm and 1.5 mm over 8 mm (standard deviations).
    """
    voxel_size = affine[0, 0]
    scales = generator.uniform(0.95, 1.05, size=3)
    points = np.empty((3, *shape), dtype=np.float32)
    for axis in range(3):
        position = (affine[axis, 3] + voxel_size * np.arange(shape[axis])) * scales[axis]
        points[axis] = np.expand_dims(position, [other for other in range(3) if other != axis])
        points[axis] += strength * 3.5 * smooth_noise(shape, 25 / voxel_size, generator)
        points[axis] += strength * 1.5 * smooth_noise(shape, 8 / voxel_size, generator)
    return points


def _fold_cortex(
    tissues: FloatVolume, surface_depth: FloatVolume, voxel_size: float, generator: np.random.Generator
) -> FloatVolume:
    """Turns grey matter near the surface into CSF along random furrows: no two brains share their sulci."""
    furrows = np.clip(0.45 * smooth_noise(surface_depth.shape, 2.2 / voxel_size, generator) - 0.15, 0, 0.6)
    moved = furrows * (surface_depth < 14) * tissues[1]
    return tissues + np.stack([moved, -moved, np.zeros_like(moved)])


def _sharpen(tissues: FloatVolume) -> FloatVolume:
    """Undoes part of the template's averaging over many brains."""
    powers = np.clip(tissues, 1e-3, 1) ** 2.5
    return powers / powers.sum(0)
