"""Every named loss letter for letter from its formula, in plain PyTorch.

Independent of `geo_sums` and `geo_ratio`, so that each proves the other. All functions take ``input`` and
``target`` and the keyword arguments of `voxels_from_options`:

    mask, spacing, include_background, to_onehot_y, sigmoid, softmax, ignore_index

They compute a loss per volume and channel in float64 for float64 input and in float32 otherwise, with
``batch=True`` from the sums over the whole batch, then apply ``reduction`` ("mean", "sum", or "none" for
[N, C, 1, ...]). A volume without valid voxels has the loss 0. Every loss is differentiable in ``input``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from geoloss_kernels.reference import phi, psi, theta
from geoloss_kernels.reference.options import VoxelOptions, resolve_axes, voxels_from_options
from geoloss_kernels.reference.ratio import divide
from geoloss_kernels.reference.reduction import reduce_loss, sum_batch
from geoloss_kernels.reference.voxels import Voxels
from geoloss_kernels.terms import check_axes

if TYPE_CHECKING:
    from typing_extensions import Unpack

Axes = Sequence[int | str] | int | str | None


def bce_loss(
    input: Tensor,
    target: Tensor,
    *,
    pos_weight: float = 1.0,
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """1/|Ω| Σ -(w g log s + (1 - g) log(1 - s)), w = ``pos_weight``: torch's binary cross-entropy.

    From the logits, stably, where there are any; else the logarithms are clamped at -100.
    """
    voxels = voxels_from_options(input, target, **options)
    foreground = theta.surprise(voxels.g, voxels.log_s)
    density = pos_weight * foreground + theta.surprise(1 - voxels.g, voxels.log_complement)
    return _mean_loss(voxels, density, reduction, batch)


def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    squared_pred: bool = False,
    jaccard: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    weight: Sequence[float] | float | Tensor | None = None,
    soft_label: bool = False,
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """1 - (2 Σ s g + nr) / (Σ s + Σ g + dr): MONAI's DiceLoss, parameters and values.

    Args:
        squared_pred: Σ s² + Σ g² in the denominator.
        jaccard: 1 - (2 Σ s g + nr) / (2 (Σ s + Σ g - Σ s g) + dr).
        weight: of each channel that is in the loss; one number or one per channel.
        soft_label: (Σ s + Σ g - Σ |s - g|) / 2 in place of Σ s g, exact for a fractional g.
    """
    voxels = voxels_from_options(input, target, **options)
    s, g = voxels.s, voxels.g
    overlap = (s + g - torch.abs(s - g)) / 2 if soft_label and not squared_pred else s * g
    extent = s**2 + g**2 if squared_pred else s + g
    overlap_sum, extent_sum = _totals(voxels, [overlap, extent], batch)
    union = 2 * (extent_sum - overlap_sum) if jaccard else extent_sum
    loss = _complement(2 * overlap_sum + smooth_nr, union + smooth_dr)
    if weight is not None and loss.shape[1] > 1:
        loss = loss * _channel_weights(weight, loss)
    return reduce_loss(loss, reduction, input.ndim - 2)


def tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    soft_label: bool = False,
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """1 - (Σ s g + nr) / (Σ s g + α Σ s (1 - g) + β Σ (1 - s) g + dr): MONAI's TverskyLoss.

    α weighs false positives, β false negatives. ``soft_label`` as in `dice_loss`.
    """
    voxels = voxels_from_options(input, target, **options)
    s, g = voxels.s, voxels.g
    overlap = (s + g - torch.abs(s - g)) / 2 if soft_label else s * g
    hit, false_positive, false_negative = _totals(voxels, [overlap, s - overlap, g - overlap], batch)
    extent = hit + alpha * false_positive + beta * false_negative
    return reduce_loss(_complement(hit + smooth_nr, extent + smooth_dr), reduction, input.ndim - 2)


def fog_loss(
    input: Tensor,
    target: Tensor,
    *,
    axes: Axes = None,
    axis_order: str = "xyz",
    norm: str = "l2",
    operator: str = "forward",
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """First-order gradient loss, Eq. 2: 1/|Ω| Σ_v ‖φ(s, v) - φ(g, v)‖ with φ = (∂_i)_i.

    Args:
        axes: the i of φ: numbers or, in 3-D, "sagittal", "coronal", "axial" (FOG S, C, A); None = all.
        axis_order: where the names lie in the tensor, see `resolve_axes`.
        norm: "l2" (gradient 0 where the norm is 0), "l2_squared" or "l1".
        operator: "forward" or "central" differences, see `phi.gradient`.
    """
    voxels = voxels_from_options(input, target, **options)
    dimensions = input.ndim - 2
    gradient = partial(
        phi.gradient,
        axes=check_axes(resolve_axes(axes, axis_order, dimensions), dimensions),
        spacing=voxels.spacing,
        operator=operator,
        valid=voxels.valid,
    )
    return _mean_loss(voxels, psi.first_order(voxels.s, voxels.g, gradient, norm), reduction, batch)


def sog_loss(
    input: Tensor,
    target: Tensor,
    *,
    two_sided: bool = False,
    signed: bool = False,
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """Second-order gradient loss: 1/|Ω| Σ_v |s_v - g_v| |Δg|_v.

    Args:
        two_sided: adds |s_v - g_v| |Δs|_v, differentiated through.
        signed: Eq. 3 letter for letter, Δ without the bars. It is ill-posed: Δg sums to 0 over an edge, so
            the gradient pushes s the same way on both sides and only ever shrinks lesions.
    """
    voxels = voxels_from_options(input, target, **options)
    laplacian = partial(phi.laplacian, spacing=voxels.spacing, valid=voxels.valid)
    correlation = psi.second_order(voxels.s, voxels.g, laplacian, two_sided, signed)
    return _mean_loss(voxels, theta.absolute_error(voxels.s, voxels.g) * correlation, reduction, batch)


def boundary_loss(
    input: Tensor,
    target: Tensor,
    *,
    distance_map: Tensor | None = None,
    empty: str = "zero",
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """1/|Ω| Σ s D(g) with the signed distance D (Kervadec et al. 2019; MONAI's BoundaryLoss).

    Args:
        distance_map: D, [N, 1 or C, *spatial]. None computes it with `phi.signed_distance` (scipy, on the
            CPU) from g, in which voxels that are not valid count as background.
        empty: what D is for a mask without boundary, see `distance.signed_distance_map`.
    """
    voxels = voxels_from_options(input, target, map=distance_map, **options)
    known = voxels.maps[0] if voxels.maps else None
    distance = phi.signed_distance(voxels.g, voxels.spacing, empty=empty) if known is None else known
    return _mean_loss(voxels, voxels.s * distance, reduction, batch)


def hausdorff_dt_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 2.0,
    distance_map: Tensor | None = None,
    empty: str = "zero",
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """1/|Ω| Σ (s - g)² (D(s)^α + D(g)^α) (Karimi and Salcudean 2019; MONAI's HausdorffDTLoss).

    D is the distance to the boundary, unsigned on both sides, of the mask above 0.5; it is a constant for
    autograd. Voxels that are not valid count as background in D. MONAI's class leaves the background channel
    out by default; here ``include_background`` is True as for every other loss.

    Args:
        distance_map: D(g), [N, 1 or C, *spatial]. None computes it with `phi.distance` (scipy, on the CPU).
        empty: what D is for a mask without boundary, see `distance.signed_distance_map`.
    """
    voxels = voxels_from_options(input, target, map=distance_map, **options)
    s, g = voxels.s, voxels.g
    to_boundary = partial(phi.distance, spacing=voxels.spacing, empty=empty)
    of_target = voxels.maps[0] if voxels.maps else to_boundary(g)
    density = theta.squared_error(s, g) * (to_boundary(s) ** alpha + of_target**alpha)
    return _mean_loss(voxels, density, reduction, batch)


def log_hausdorff_dt_loss(input: Tensor, target: Tensor, **options: Any) -> Tensor:
    """log(1 + `hausdorff_dt_loss`) after its reduction: MONAI's LogHausdorffDTLoss."""
    return torch.log(1 + hausdorff_dt_loss(input, target, **options))


def dice_fog_loss(
    input: Tensor,
    target: Tensor,
    *,
    lambda_dice: float = 1.0,
    lambda_fog: float = 1.0,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    axes: Axes = None,
    axis_order: str = "xyz",
    norm: str = "l2",
    operator: str = "forward",
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """λ_dice `dice_loss` + λ_fog `fog_loss`; the paper's best combination, with both λ = 1."""
    fog = fog_loss(
        input,
        target,
        axes=axes,
        axis_order=axis_order,
        norm=norm,
        operator=operator,
        reduction=reduction,
        batch=batch,
        **options,
    )
    return lambda_fog * fog + lambda_dice * dice_loss(
        input, target, smooth_nr=smooth_nr, smooth_dr=smooth_dr, reduction=reduction, batch=batch, **options
    )


def dice_sog_loss(
    input: Tensor,
    target: Tensor,
    *,
    lambda_dice: float = 1.0,
    lambda_sog: float = 1.0,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    two_sided: bool = False,
    signed: bool = False,
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """λ_dice `dice_loss` + λ_sog `sog_loss`."""
    sog = sog_loss(
        input, target, two_sided=two_sided, signed=signed, reduction=reduction, batch=batch, **options
    )
    return lambda_sog * sog + lambda_dice * dice_loss(
        input, target, smooth_nr=smooth_nr, smooth_dr=smooth_dr, reduction=reduction, batch=batch, **options
    )


def dice_boundary_loss(
    input: Tensor,
    target: Tensor,
    *,
    lambda_dice: float = 1.0,
    lambda_boundary: float = 1.0,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    distance_map: Tensor | None = None,
    empty: str = "zero",
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """λ_dice `dice_loss` + λ_boundary `boundary_loss`."""
    boundary = boundary_loss(
        input, target, distance_map=distance_map, empty=empty, reduction=reduction, batch=batch, **options
    )
    return lambda_boundary * boundary + lambda_dice * dice_loss(
        input, target, smooth_nr=smooth_nr, smooth_dr=smooth_dr, reduction=reduction, batch=batch, **options
    )


def dice_hausdorff_dt_loss(
    input: Tensor,
    target: Tensor,
    *,
    lambda_dice: float = 1.0,
    lambda_hausdorff: float = 1.0,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    alpha: float = 2.0,
    distance_map: Tensor | None = None,
    empty: str = "zero",
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """λ_dice `dice_loss` + λ_hausdorff `hausdorff_dt_loss`."""
    hausdorff = hausdorff_dt_loss(
        input,
        target,
        alpha=alpha,
        distance_map=distance_map,
        empty=empty,
        reduction=reduction,
        batch=batch,
        **options,
    )
    return lambda_hausdorff * hausdorff + lambda_dice * dice_loss(
        input, target, smooth_nr=smooth_nr, smooth_dr=smooth_dr, reduction=reduction, batch=batch, **options
    )


def _totals(voxels: Voxels, densities: Sequence[Tensor], batch: bool) -> list[Tensor]:
    """Σ over the valid voxels of each density: [N, C], or [1, C] with ``batch``."""
    return [sum_batch(voxels.sum(density), batch) for density in densities]


def _mean_loss(voxels: Voxels, density: Tensor, reduction: str, batch: bool) -> Tensor:
    """1/|Ω| Σ density, reduced."""
    total, count = _totals(voxels, [density, torch.ones_like(density)], batch)
    return reduce_loss(divide(total, count), reduction, density.ndim - 2)


def _complement(hit: Tensor, extent: Tensor) -> Tensor:
    """1 - hit / extent; 0 where both are 0: nothing to find and nothing found."""
    return divide(extent - hit, extent)


def _channel_weights(weight: Sequence[float] | float | Tensor, loss: Tensor) -> Tensor:
    weights = torch.as_tensor(weight).to(loss)
    if weights.ndim > 1 or (weights.ndim == 1 and len(weights) != loss.shape[1]) or bool((weights < 0).any()):
        raise ValueError(
            f"weight: expected one number or {loss.shape[1]} (one per channel in the loss), none negative, "
            f"got {weights.tolist()}"
        )
    return weights
