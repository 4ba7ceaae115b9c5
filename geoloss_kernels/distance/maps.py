"""Exact Euclidean distance maps by scipy, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from geoloss_kernels.reference.voxels import check_spacing, check_volumes

EMPTY_POLICIES = ("zero", "far")


def signed_distance_map(
    target: Tensor,
    spacing: Sequence[float] | None = None,
    empty: str = "zero",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """D = edt(¬g) ¬g - (edt(g) - 1) g for each (n, c): positive outside, 0 or less inside.

    The map of Kervadec's boundary loss and of MONAI's BoundaryLoss. edt(g) is a voxel's distance to the
    nearest voxel outside g. The 1 has the unit of ``spacing``: with voxels smaller than 1 mm, foreground
    next to the boundary has a positive D.

    Args:
        target: [N, C, H, W] or [N, C, D, H, W], any real type; the mask g is ``target > 0.5``.
        spacing: voxel size per spatial axis in mm, and so the unit of D; None = 1 (D in voxels).
        empty: D of a mask without boundary. "zero": 0, so it has no boundary loss (Kervadec, MONAI). "far":
            the boundary is taken to lie outside the volume, one diagonal sqrt(Σ (L_i h_i)²) away, which
            is more than any distance within it: +diagonal everywhere for no foreground, which punishes false
            positives, and -diagonal everywhere for all foreground.
        dtype: torch.float32 or torch.float64. None = float64 for a float64 target, else float32.

    Returns a constant of the shape and on the device of ``target``; deterministic. Raises ValueError or
    TypeError that names the argument.
    """

    def signed(mask: np.ndarray, sizes: tuple[float, ...]) -> np.ndarray:
        outside = distance_transform_edt(~mask, sampling=sizes)
        inside = distance_transform_edt(mask, sampling=sizes)
        return np.where(mask, 1.0 - inside, outside)

    return _map_each(target, spacing, empty, dtype, signed, far_inside=-1.0)


def distance_map(
    target: Tensor,
    spacing: Sequence[float] | None = None,
    empty: str = "zero",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """D = edt(g) + edt(¬g) for each (n, c): the distance to the nearest voxel of the other side, never 0.

    The field of MONAI's HausdorffDTLoss. Arguments, result and errors as in `signed_distance_map`; for a mask
    without boundary "far" is +diagonal, whether the mask is empty or full.
    """

    def unsigned(mask: np.ndarray, sizes: tuple[float, ...]) -> np.ndarray:
        return distance_transform_edt(mask, sampling=sizes) + distance_transform_edt(~mask, sampling=sizes)

    return _map_each(target, spacing, empty, dtype, unsigned, far_inside=1.0)


def _map_each(
    target: Tensor,
    spacing: Sequence[float] | None,
    empty: str,
    dtype: torch.dtype | None,
    transform: Callable[[np.ndarray, tuple[float, ...]], np.ndarray],
    far_inside: float,
) -> Tensor:
    """``transform`` of every mask that has a boundary, the ``empty`` policy for the others."""
    check_volumes("target", target)
    if empty not in EMPTY_POLICIES:
        raise ValueError(f"empty: expected one of {EMPTY_POLICIES}, got {empty!r}")
    sizes = check_spacing(spacing, target.ndim - 2)
    dtype = dtype or (torch.float64 if target.dtype == torch.float64 else torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")

    spatial = tuple(target.shape[2:])
    diagonal = math.hypot(*(length * size for length, size in zip(spatial, sizes, strict=True)))
    masks = (target.detach() > 0.5).cpu().numpy().reshape(-1, *spatial)
    maps = torch.zeros(len(masks), *spatial, dtype=dtype)
    for index, mask in enumerate(masks):
        if mask.any() and not mask.all():
            maps[index] = torch.from_numpy(transform(mask, sizes))
        elif empty == "far":
            maps[index] = diagonal * (far_inside if mask.all() else 1.0)
    return maps.view(target.shape).to(target.device)
