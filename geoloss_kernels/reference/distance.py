"""Exact Euclidean distances of masks by scipy, volume by volume on the CPU.

`distance_transform` and `distance_transform_with_indices` are the operators of that name letter for letter;
`signed_distance_map` and `distance_map` are what the losses take from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geoloss_kernels.tensor_checks import check_volumes
from geoloss_kernels.terms import check_spacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDES = ("foreground", "both", "signed")
EMPTY_POLICIES = ("zero", "far")


def distance_transform(
    mask: Tensor, spacing: Sequence[float], side: int, without_boundary: float, dtype: torch.dtype
) -> Tensor:
    """The distance of each voxel to the nearest one on the other side of the mask's boundary.

    Args:
        mask: [N, C, *spatial], nonzero in the foreground.
        side: 0 foreground, 0 in the background; 1 both; or 2 signed, 1 - distance in the foreground.
        without_boundary: the distance where the other side has no voxel, negated for signed foreground.
    """
    return distance_transform_with_indices(mask, spacing, side, without_boundary, dtype)[0]


def distance_transform_with_indices(
    mask: Tensor, spacing: Sequence[float], side: int, without_boundary: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`distance_transform`, and the index of that other voxel in the flattened volume; -1 without one."""
    spatial = mask.shape[2:]
    volumes = (mask.detach() != 0).cpu().numpy().reshape(-1, *spatial)
    distance = torch.empty(len(volumes), *spatial, dtype=dtype)
    indices = torch.empty(len(volumes), *spatial, dtype=torch.int64)
    for number, volume in enumerate(volumes):
        inside, to_background = _to_other_side(volume, spacing, without_boundary)
        if SIDES[side] == "foreground":
            total, nearest = inside, to_background
        else:
            outside, to_foreground = _to_other_side(~volume, spacing, without_boundary)
            total = outside + inside
            nearest = torch.where(torch.from_numpy(volume), to_background, to_foreground)
            if SIDES[side] == "signed":
                in_foreground = -inside if volume.all() else 1 - inside
                total = torch.where(torch.from_numpy(volume), in_foreground, outside)
        distance[number], indices[number] = total, nearest
    return distance.view(mask.shape).to(mask.device), indices.view(mask.shape).to(mask.device)


def _to_other_side(
    volume: NDArray[np.bool_], spacing: Sequence[float], without_boundary: float
) -> tuple[Tensor, Tensor]:
    """Distance to the nearest voxel that is False, and its flat index: scipy's, where there is one."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    if volume.all():
        everywhere = torch.full(volume.shape, without_boundary, dtype=torch.float64)
        return everywhere, torch.full(volume.shape, -1)
    distance, indices = distance_transform_edt(volume, sampling=spacing, return_indices=True)
    flat = np.ravel_multi_index(tuple(indices), volume.shape)
    return torch.from_numpy(distance), torch.from_numpy(flat)


def signed_distance_map(
    target: Tensor,
    spacing: Sequence[float] | None = None,
    empty: str = "zero",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`geoloss_kernels.distance.signed_distance_map`."""
    return _map(target, "signed", spacing, empty, dtype)


def distance_map(
    target: Tensor,
    spacing: Sequence[float] | None = None,
    empty: str = "zero",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`geoloss_kernels.distance.distance_map`."""
    return _map(target, "both", spacing, empty, dtype)


def _map(
    target: Tensor, side: str, spacing: Sequence[float] | None, empty: str, dtype: torch.dtype | None
) -> Tensor:
    check_volumes("target", target)
    if empty not in EMPTY_POLICIES:
        raise ValueError(f"empty: expected one of {EMPTY_POLICIES}, got {empty!r}")
    sizes = check_spacing(spacing, target.ndim - 2)
    extents = [length * size for length, size in zip(target.shape[2:], sizes, strict=True)]
    without_boundary = 0.0 if empty == "zero" else math.hypot(*extents)
    mask = target.detach() > 0.5
    if dtype is None:
        dtype = torch.float64 if target.dtype == torch.float64 else torch.float32
    return distance_transform(mask, sizes, SIDES.index(side), without_boundary, dtype)
