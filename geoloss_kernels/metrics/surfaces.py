"""Distances between the surfaces of two masks, in mm.

A surface is the voxels of a mask that have one of their 6 neighbours (4 in 2-D) outside of it; the border of
the volume counts as outside. From each voxel of a surface S the distance d to the nearest voxel of the other
surface T is taken, centre to centre:

* ``HD95 = max(95th percentile of d(P -> G), 95th percentile of d(G -> P))``
* ``ASD  = (Σ d(P -> G) + Σ d(G -> P)) / (|P| + |G|)``, the average symmetric surface distance

as `monai.metrics` computes both. Where just one of the masks is empty, both are the diagonal of the volume:
no distance in it is longer, so that predicting nothing is never the better choice. Where both are empty,
nothing is far from anything, and both are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from geoloss_kernels.metrics.lesions import Mask, as_mask_pair

PERCENTILE = 95


@dataclass(frozen=True)
class SurfaceDistances:
    """In mm; NaN where both masks are empty, the volume's diagonal where one is."""

    hausdorff_95: float
    average: float


def surface_distances(
    prediction: ArrayLike, target: ArrayLike, spacing: Sequence[float] | None = None
) -> SurfaceDistances:
    """How far the surfaces of two binary masks are from each other.

    Args:
        prediction: 2-D or 3-D array or CPU tensor holding only 0 and 1 (any dtype).
        target: reference mask of the same shape.
        spacing: voxel size along each axis in mm; None = 1.

    Raises:
        ValueError: shapes differ, a value is neither 0 nor 1, or the spacing is not a finite positive number
            per axis.
    """
    predicted, reference = as_mask_pair(prediction, target)
    voxel = _voxel_size(spacing, predicted.ndim)
    if not predicted.any() and not reference.any():
        return SurfaceDistances(math.nan, math.nan)
    if not predicted.any() or not reference.any():
        diagonal = float(np.linalg.norm(voxel * predicted.shape))
        return SurfaceDistances(diagonal, diagonal)
    box = ndimage.find_objects((predicted | reference).astype(np.uint8))[0]
    surfaces = _surface(predicted[box]), _surface(reference[box])
    there, back = _distances(*surfaces, voxel), _distances(*surfaces[::-1], voxel)
    return SurfaceDistances(
        hausdorff_95=float(max(np.percentile(distances, PERCENTILE) for distances in (there, back))),
        average=float(np.concatenate((there, back)).mean()),
    )


def _voxel_size(spacing: Sequence[float] | None, axes: int) -> NDArray[np.float64]:
    voxel = np.ones(axes) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if voxel.shape != (axes,) or not np.isfinite(voxel).all() or not (voxel > 0).all():
        raise ValueError(f"spacing: expected {axes} finite positive numbers, got {spacing}")
    return voxel


def _surface(mask: Mask) -> Mask:
    return mask & ~ndimage.binary_erosion(mask)


def _distances(surface: Mask, other: Mask, voxel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each voxel of ``surface`` from the nearest one of ``other``."""
    return ndimage.distance_transform_edt(~other, sampling=voxel)[surface]
