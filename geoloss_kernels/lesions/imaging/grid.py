"""The voxel grid of an image file, and the volume in RAS order that is cut out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.errors import InputError

Scalar = TypeVar("Scalar", bound=np.generic)

AFFINE_TOLERANCE_MM = 1e-2


@dataclass(frozen=True)
class Grid:
    """Voxel grid of an image file, and where the canonical (RAS), cropped volume lies in it."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    crop: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))
    """Box of the volume in the RAS-ordered grid."""
    space_code: int = 1
    """NIfTI code of the space the affine leads to (1 scanner, 4 MNI)."""

    @property
    def volume_affine(self) -> NDArray[np.float64]:
        """From voxels of the volume to mm (RAS)."""
        canonical = self.affine @ orientations.inv_ornt_aff(self._to_canonical(), self.shape)
        canonical[:3, 3] += canonical[:3, :3] @ [axis.start or 0 for axis in self.crop]
        return canonical

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along the R, A and S axes of the volume."""
        x, y, z = np.linalg.norm(self.volume_affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

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


def require_same_grid(grid: Grid, path: Path, expected: Grid, expected_path: Path) -> None:
    if grid.shape != expected.shape:
        raise InputError(f"{path}: shape {grid.shape} differs from {expected.shape} of {expected_path}")
    difference = float(np.abs(grid.affine - expected.affine).max())
    if difference > AFFINE_TOLERANCE_MM:
        raise InputError(f"{path}: affine differs by up to {difference:g} mm from that of {expected_path}")


def bounding_box(foreground: NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice, slice]:
    """The box of the voxels [X, Y, Z] that are True, wider by ``margin`` voxels where the volume reaches that
    far; there has to be one."""
    (found,) = ndimage.find_objects(foreground.astype(np.uint8))
    x, y, z = (
        slice(max(axis.start - margin, 0), min(axis.stop + margin, size))
        for axis, size in zip(found, foreground.shape, strict=True)
    )
    return x, y, z
