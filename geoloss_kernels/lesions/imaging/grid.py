"""The voxel grid of an image file, and the volume in RAS order that is cut out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.errors import InputError

Scalar = TypeVar("Scalar", bound=np.generic)

LARGEST_SHIFT = 0.1
"""Of a voxel along each axis. Grids are the same where no corner of theirs is further apart: transforms are
stored in single precision, as matrix or as quaternion, and programs round them; at 0.1 voxels nothing moves
to another voxel, and scaling, turning and shifting all count by what they do to the image."""


@dataclass(frozen=True)
class Grid:
    """Voxel grid of an image file, and where the canonical (RAS), cropped volume lies in it."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    crop: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))
    """Box of the volume in the RAS-ordered grid."""
    space_code: int = 1
    """NIfTI code of the space the affine leads to (1 scanner, 4 MNI)."""
    header: nib.nifti1.Nifti1Header | None = field(default=None, repr=False, compare=False)
    """Of the file, for what is written in its grid to have both of its transforms."""

    @property
    def volume_affine(self) -> NDArray[np.float64]:
        """From voxels of the volume to mm (RAS)."""
        canonical = self.affine @ orientations.inv_ornt_aff(self._to_canonical(), self.shape)
        canonical[:3, 3] += canonical[:3, :3] @ [axis.start or 0 for axis in self.crop]
        return canonical

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along the R, A and S axes of the volume."""
        return edges_of(self.volume_affine)

    @property
    def file_spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along the axes of the file."""
        return edges_of(self.affine)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_volume(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Values in the file's grid -> RAS order, cropped."""
        return self._canonical(values)[self.crop]

    def to_file(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Values of the volume -> the file's grid; 0 outside the crop."""
        canonical = np.zeros(self._canonical_shape(), values.dtype)
        canonical[self.crop] = values
        identity = orientations.axcodes2ornt("RAS")
        back = orientations.ornt_transform(identity, self._to_canonical())
        return np.ascontiguousarray(orientations.apply_orientation(canonical, back))

    def _to_canonical(self) -> NDArray[np.float64]:
        return orientations.io_orientation(self.affine)

    def _canonical(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        return orientations.apply_orientation(values, self._to_canonical())

    def _canonical_shape(self) -> tuple[int, ...]:
        shape = [0, 0, 0]
        for axis, target in enumerate(self._to_canonical()[:, 0].astype(int)):
            shape[target] = self.shape[axis]
        return tuple(shape)


def edges_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Edges of a voxel in mm, along the axes that ``affine`` starts from."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def shift_between(
    shape: tuple[int, int, int], affine: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[float, float]:
    """How far two affines put the corners of a grid apart, at most: in mm, and in voxels along an axis.

    The centres of the corner voxels count: no voxel of the grid is further apart than the furthest of them.
    """
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))]).T
    apart = ((other - affine) @ corners)[:3]
    voxels = np.linalg.solve(affine[:3, :3], apart)
    return float(np.linalg.norm(apart, axis=0).max()), float(np.abs(voxels).max())


def require_same_grid(grid: Grid, path: Path, expected: Grid, expected_path: Path) -> None:
    """Raise InputError unless both grids have one shape, and corners within ``LARGEST_SHIFT``."""
    if grid.shape != expected.shape:
        raise InputError(f"{path}: shape {grid.shape} differs from {expected.shape} of {expected_path}")
    millimetres, voxels = shift_between(expected.shape, expected.affine, grid.affine)
    if voxels > LARGEST_SHIFT:
        raise InputError(
            f"{path}: affine differs by up to {millimetres:.3g} mm from that of {expected_path}: expected "
            f"corners within {LARGEST_SHIFT} voxels of each other, got {voxels:.3g}"
        )


def bounding_box(foreground: NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice, slice]:
    """The box of the voxels [X, Y, Z] that are True, wider by ``margin`` voxels where the volume reaches that
    far; there has to be one."""
    (found,) = ndimage.find_objects(foreground.astype(np.uint8))
    x, y, z = (
        slice(max(axis.start - margin, 0), min(axis.stop + margin, size))
        for axis, size in zip(found, foreground.shape, strict=True)
    )
    return x, y, z
