"""Exact Euclidean distance transforms of masks, in mm: batched, in 1-D, 2-D and 3-D.

By the operators `distance_transform` and `distance_transform_with_indices` of the backend, to the rounding
of the result; those of the backend "reference" are scipy's. All results are constants for autograd, and the
same from run to run and for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from geoloss_kernels import backends
from geoloss_kernels.tensor_checks import check_volumes, in_plane
from geoloss_kernels.terms import check_spacing

SIDES = ("foreground", "both", "signed")
"""Of the operators' ``side``, in the order of their numbers."""
EMPTY_POLICIES = ("zero", "far")


@overload
def distance_transform_edt(
    mask: Tensor,
    spacing: Sequence[float] | None = ...,
    signed: bool = ...,
    return_indices: Literal[False] = ...,
    dtype: torch.dtype | None = ...,
) -> Tensor: ...


@overload
def distance_transform_edt(
    mask: Tensor,
    spacing: Sequence[float] | None = ...,
    signed: bool = ...,
    *,
    return_indices: Literal[True],
    dtype: torch.dtype | None = ...,
) -> tuple[Tensor, Tensor]: ...


def distance_transform_edt(
    mask: Tensor,
    spacing: Sequence[float] | None = None,
    signed: bool = False,
    return_indices: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The distance of each foreground voxel to the nearest background voxel: scipy's, for each (n, c).

    Args:
        mask: [N, C, *spatial] of 1 to 3 spatial axes, any real type; nonzero is foreground (so is NaN).
        spacing: voxel size per spatial axis in mm, and so the unit of the result; None = 1 (voxels).
        signed: Kervadec's map D = edt(¬g) ¬g - (edt(g) - 1) g in place of edt(g), see `signed_distance_map`.
        return_indices: also return which voxel it is that the distance leads to.
        dtype: torch.float32 or torch.float64. None = float64 for a float64 mask, else float32.

    Returns the distances, of the shape and on the device of ``mask``, and with ``return_indices`` an int64
    tensor of the same shape with the index of the other voxel in the flattened volume, as those of
    ``torch.nn.functional.max_pool3d``: ``torch.unravel_index`` gives its coordinates, ``gather`` its value.
    A voxel with a distance of 0 is its own. Of several that are equally near, always the same one is given,
    but not necessarily scipy's.

    Where a mask has no background there is no distance: it is infinite and the index is -1 (scipy measures to
    a voxel outside of the volume). Likewise, a signed map is infinite without foreground and -infinite
    without background.

    Raises ValueError or TypeError that names the argument.
    """
    check_volumes("mask", mask)
    side = "signed" if signed else "foreground"
    arguments = _arguments(mask.detach(), spacing, side, math.inf, _dtype(mask, dtype))
    operators = backends.operators(mask)
    if return_indices:
        distance, indices = operators.distance_transform_with_indices(*arguments)
        return distance.view(mask.shape), indices.view(mask.shape)
    return operators.distance_transform(*arguments).view(mask.shape)


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
        target: [N, C, *spatial] of 1 to 3 spatial axes, any real type; the mask g is ``target > 0.5``.
        spacing: voxel size per spatial axis in mm, and so the unit of D; None = 1 (D in voxels).
        empty: D of a mask without boundary. "zero": 0, so it has no boundary loss (Kervadec, MONAI). "far":
            the boundary is taken to lie outside the volume, one diagonal sqrt(Σ (L_i h_i)²) away, which
            is more than any distance within it: +diagonal everywhere for no foreground, which punishes false
            positives, and -diagonal everywhere for all foreground.
        dtype: torch.float32 or torch.float64. None = float64 for a float64 target, else float32.

    Returns a constant of the shape and on the device of ``target``; deterministic. Raises ValueError or
    TypeError that names the argument.
    """
    return _map(target, "signed", spacing, empty, dtype)


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
    mask = target.detach()
    mask = mask if mask.dtype == torch.bool else mask > 0.5
    transform = backends.operators(target).distance_transform
    arguments = _arguments(mask, sizes, side, without_boundary, _dtype(target, dtype))
    return transform(*arguments).view(target.shape)


def _arguments(
    mask: Tensor, spacing: Sequence[float] | None, side: str, without_boundary: float, dtype: torch.dtype
) -> tuple[Tensor, tuple[float, ...], int, float, torch.dtype]:
    """As the operators take them."""
    sizes = check_spacing(spacing, mask.ndim - 2)
    sizes = (1.0, *sizes) if len(sizes) == 1 else sizes
    return in_plane(mask), sizes, SIDES.index(side), without_boundary, dtype


def _dtype(mask: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """``dtype``, or float64 for a float64 mask and float32 for any other."""
    if dtype is None:
        return torch.float64 if mask.dtype == torch.float64 else torch.float32
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
    return dtype
