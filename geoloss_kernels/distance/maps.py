"""Exact Euclidean distance transforms of masks, in mm: batched, in 2-D and 3-D.

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
from geoloss_kernels.reference import distance as reference
from geoloss_kernels.reference.voxels import check_spacing, check_volumes


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
        mask: [N, C, H, W] or [N, C, D, H, W], any real type; nonzero is foreground (so is NaN).
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
    sizes = check_spacing(spacing, mask.ndim - 2)
    side = "signed" if signed else "foreground"
    arguments = (mask.detach(), sizes, side, math.inf, reference.distance_dtype(mask, dtype))
    operators = backends.operators(mask)
    if return_indices:
        return operators.distance_transform_with_indices(*arguments)
    return operators.distance_transform(*arguments)


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
    return reference.signed_distance_map(target, spacing, empty, dtype, _transform(target))


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
    return reference.distance_map(target, spacing, empty, dtype, _transform(target))


def _transform(target: Tensor) -> reference.DistanceTransform:
    check_volumes("target", target)
    return backends.operators(target).distance_transform
