"""Sums over the neighbours of every voxel; what lies outside the volume counts as 0."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Scalar = TypeVar("Scalar", bound=np.generic)


def sum6(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Sum over the 6 face neighbours along the last three axes, the voxel itself left out."""
    total = np.zeros_like(values)
    for axis in (-3, -2, -1):
        source, sums = np.moveaxis(values, axis, 0), np.moveaxis(total, axis, 0)
        sums[1:] += source[:-1]
        sums[:-1] += source[1:]
    return total


def mean6(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over the 6 face neighbours, the voxel itself left out."""
    return sum6(values) / np.float32(6)


def count26(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Number of set voxels among the 26 neighbours of every voxel."""
    total = mask.astype(np.uint8)
    for axis in range(3):
        total = ndimage.correlate1d(total, [1, 1, 1], axis, mode="constant")
    return total - mask
