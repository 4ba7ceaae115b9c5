"""The losses as functions: one for every module of `geoloss_kernels.losses`.

Every function takes ``input`` [N, C, *spatial] (2-D or 3-D; float64, float32, float16 or bfloat16),
``target`` and the keyword arguments described in `Options`, and computes its sums in one pass over both, in
float32 (float64 for float64 input), with the backend that `geoloss_kernels.backends` chooses. All are
differentiable once in ``input``, and deterministic: bit-equal from run to run and for any number of threads.
A volume without valid voxels has a loss of 0 (Dice: of a perfect match). Wrong shapes, dtypes, devices, axes
or spacings raise a ValueError or TypeError that names the argument, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, distributed

from geoloss_kernels import backends, formulas
from geoloss_kernels.distance import loss_maps
from geoloss_kernels.distance.loss_maps import LossVolumes
from geoloss_kernels.formulas import Formula
from geoloss_kernels.reference.options import (
    resolve_activation,
    resolve_axes,
    resolve_ignore_index,
)
from geoloss_kernels.reference.reduction import reduce_loss
from geoloss_kernels.reference.voxels import (
    check_axes,
    check_companion,
    check_spacing,
    check_volumes,
    valid_voxels,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

Axes = Sequence[int | str] | int | str | None


class LossOptions(TypedDict, total=False):
    """`Options` as keyword arguments."""

    include_background: bool
    to_onehot_y: bool
    sigmoid: bool
    softmax: bool
    other_act: Callable[[Tensor], Tensor] | None
    reduction: str
    batch: bool
    ignore_index: int | None
    axes: Axes
    axis_order: str
    ddp: bool


@dataclass(frozen=True)
class Options:
    """The keyword arguments that all losses share, named and meant as in MONAI.

    Args:
        include_background: False leaves channel 0 out of the loss.
        to_onehot_y: ``target`` is a label map [N, 1, *spatial]; g_c = (label == c), never materialised.
        sigmoid, softmax: the activation to apply to ``input``; without one it holds probabilities.
        other_act: another activation, a function of a tensor; applied before, and outside of, the one pass.
        reduction: "mean" or "sum" over volumes and channels, or "none" for [N, C, 1, ...].
        batch: sum over the batch before dividing.
        ignore_index: voxels with this label are in no sum (see `resolve_ignore_index`).
        axes: the spatial axes of the first-order terms: numbers, or in 3-D "sagittal" (the derivative runs
            left-right), "coronal" (front-back), "axial" (foot-head); None = all.
        axis_order: where the named axes lie in the tensor, "xyz" (nibabel, TorchIO, MONAI) or "zyx"
            (SimpleITK, nnU-Net).
        ddp: with ``batch``, sum over the processes of torch.distributed's default group, too (nnU-Net's
            ``ddp``). Averaged over the processes, as DistributedDataParallel does, the gradients are those
            of one process with the whole batch. A RuntimeError without ``init_process_group``.
    """

    include_background: bool = True
    to_onehot_y: bool = False
    sigmoid: bool = False
    softmax: bool = False
    other_act: Callable[[Tensor], Tensor] | None = None
    reduction: str = "mean"
    batch: bool = False
    ignore_index: int | None = None
    axes: Axes = None
    axis_order: str = "xyz"
    ddp: bool = False

    def __post_init__(self) -> None:
        if self.other_act is not None and not callable(self.other_act):
            raise TypeError(f"other_act: expected None or a function, got {type(self.other_act).__name__}")
        if self.sigmoid + self.softmax + (self.other_act is not None) > 1:
            raise ValueError("sigmoid, softmax, other_act: expected at most one of them")
        if self.reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {self.reduction!r}")
        if self.ddp and not self.batch:
            raise ValueError("ddp: expected batch=True with it, got batch=False")


def evaluate(
    formula: Formula,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    spacing: Sequence[float] | None,
    options: Options,
    map: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """The loss that ``formula`` describes: input → sums → ratio → loss.

    Args:
        formula: see `geoloss_kernels.formulas`.
        mask: [N, 1 or C, *spatial], nonzero where a voxel is valid. An invalid voxel is in no sum, and a
            difference counts only where both of its ends are valid.
        spacing: voxel size along each spatial axis of the tensor, in mm; None = 1.
        map: [N, 1 or C, *spatial], the constant map of the terms map_*.
        weight: of each channel that is in the loss, [] or [C'].
    """
    input, target, mask, map = (plain(tensor) for tensor in (input, target, mask, map))
    if options.other_act is not None:
        input = options.other_act(input)
    check_arguments(input, target, mask, map)
    activation, include_background = resolve_activation(
        input, target, options.include_background, options.to_onehot_y, options.sigmoid, options.softmax
    )
    mask, ignore_index = resolve_ignore_index(target, mask, options.ignore_index)
    dimensions = input.ndim - 2
    operators = backends.operators(input)
    arguments = (
        input,
        target,
        mask,
        map,
        formula.terms,
        activation,
        check_spacing(spacing, dimensions),
        check_axes(resolve_axes(options.axes, options.axis_order, dimensions), dimensions),
        ignore_index,
        include_background,
    )
    if options.batch:
        sums = operators.geo_sums(*arguments).sum(0, keepdim=True)
        if options.ddp:
            sums = sum_over_processes(sums)
        loss = operators.geo_ratio(sums, formula.numerator, formula.denominator)
    else:
        loss, _ = operators.geo_loss(*arguments, formula.numerator, formula.denominator)
    if weight is not None and loss.shape[1] > 1:
        loss = loss * channel_weights(weight, loss)
    return reduce_loss(loss, options.reduction, dimensions)


def sum_over_processes(sums: Tensor) -> Tensor:
    """The sum of every process's ``sums``; its derivative, too, is summed over the processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError("ddp: expected torch.distributed.init_process_group to have been called")
    total: Tensor = _SumOverProcesses.apply(sums)
    return total


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        total = sums.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradient)


def plain(tensor: Any) -> Any:
    """MONAI's MetaTensor as the tensor that it wraps; everything else as it is."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


def check_arguments(input: Tensor, target: Tensor, mask: Tensor | None, map: Tensor | None) -> None:
    """Everything that the operators take for granted about their tensors."""
    check_volumes("input", input)
    if not input.is_floating_point():
        raise TypeError(f"input: expected a floating-point tensor, got {input.dtype}")
    check_companion("target", target, input)
    for name, tensor in (("mask", mask), ("distance_map", map)):
        if tensor is not None:
            check_companion(name, tensor, input)


def channel_weights(weight: Tensor, loss: Tensor) -> Tensor:
    """``weight`` in the dtype and on the device of ``loss`` [N, C']."""
    if weight.ndim > 1 or (weight.ndim == 1 and len(weight) != loss.shape[1]):
        raise ValueError(
            f"weight: expected one number or {loss.shape[1]}, one per channel in the loss, "
            f"got shape {tuple(weight.shape)}"
        )
    return weight.to(loss)


def bce_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    pos_weight: float = 1.0,
    **options: Unpack[LossOptions],
) -> Tensor:
    """1/|Ω| Σ -(w g log s + (1 - g) log(1 - s)), w = ``pos_weight``: the paper's BCE, and torch's.

    With ``sigmoid=True`` it is computed from the logits and finite for every finite one; else the logarithms
    are clamped at -100.
    """
    return evaluate(formulas.bce(pos_weight), input, target, mask, spacing, Options(**options))


def dice_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    squared_pred: bool = False,
    jaccard: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    weight: Tensor | Sequence[float] | float | None = None,
    soft_label: bool = False,
    **options: Unpack[LossOptions],
) -> Tensor:
    """1 - (2 Σsg + nr) / (Σs + Σg + dr): MONAI's DiceLoss, parameters and values.

    Args:
        squared_pred: Σs² + Σg² in the denominator.
        jaccard: 1 - (2 Σsg + nr) / (2 (Σs + Σg - Σsg) + dr).
        weight: of each channel that is in the loss: one number, or one per channel, none negative.
        soft_label: (Σs + Σg - Σ|s - g|) / 2 for Σsg, exact for a fractional target.
    """
    formula = formulas.dice(smooth_nr, smooth_dr, squared_pred, jaccard, soft_label)
    return evaluate(formula, input, target, mask, spacing, Options(**options), weight=checked_weight(weight))


def tversky_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    soft_label: bool = False,
    **options: Unpack[LossOptions],
) -> Tensor:
    """1 - (Σsg + nr) / (Σsg + α Σs(1-g) + β Σ(1-s)g + dr): MONAI's TverskyLoss.

    α weighs false positives, β false negatives.
    """
    formula = formulas.tversky(alpha, beta, smooth_nr, smooth_dr, soft_label)
    return evaluate(formula, input, target, mask, spacing, Options(**options))


def fog_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    norm: str = "l2",
    operator: str = "forward",
    **options: Unpack[LossOptions],
) -> Tensor:
    """First-order gradient loss, Eq. 2: 1/|Ω| Σ_v ‖φ(s, v) - φ(g, v)‖ with φ = (∂_i)_i over ``axes``.

    Args:
        norm: "l2" (not squared; its gradient is 0 where the norm is 0), "l2_squared" or "l1".
        operator: "forward" differences (u[v+1] - u[v]) / h, 0 at the last voxel, or "central" ones
            (u[v+1] - u[v-1]) / 2h with indices clamped.

    φ is linear, so that the loss is blind to a constant error: combine it with Dice or cross-entropy.
    """
    return evaluate(formulas.fog(norm, operator), input, target, mask, spacing, Options(**options))


def sog_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    two_sided: bool = False,
    signed: bool = False,
    **options: Unpack[LossOptions],
) -> Tensor:
    """Second-order gradient loss: 1/|Ω| Σ_v |s_v - g_v| |Δg|_v, Δ with indices clamped.

    Args:
        two_sided: adds |s_v - g_v| |Δs|_v, differentiated through.
        signed: Eq. 3 letter for letter, Δ without the bars. It is ill-posed: Δg sums to 0 over an edge, so
            that the gradient pushes s the same way on both sides of it and only ever shrinks lesions.
    """
    return evaluate(formulas.sog(two_sided, signed), input, target, mask, spacing, Options(**options))


def dice_fog_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    lambda_dice: float = 1.0,
    lambda_fog: float = 1.0,
    norm: str = "l2",
    operator: str = "forward",
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    **options: Unpack[LossOptions],
) -> Tensor:
    """λ_dice `dice_loss` + λ_fog `fog_loss` in one pass; with both λ = 1, the paper's best."""
    formula = lambda_dice * formulas.dice(smooth_nr, smooth_dr) + lambda_fog * formulas.fog(norm, operator)
    return evaluate(formula, input, target, mask, spacing, Options(**options))


def dice_sog_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    lambda_dice: float = 1.0,
    lambda_sog: float = 1.0,
    two_sided: bool = False,
    signed: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    **options: Unpack[LossOptions],
) -> Tensor:
    """λ_dice `dice_loss` + λ_sog `sog_loss` in one pass."""
    formula = lambda_dice * formulas.dice(smooth_nr, smooth_dr) + lambda_sog * formulas.sog(two_sided, signed)
    return evaluate(formula, input, target, mask, spacing, Options(**options))


def boundary_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    distance_map: Tensor | None = None,
    empty: str = "zero",
    **options: Unpack[LossOptions],
) -> Tensor:
    """1/|Ω| Σ s D(g), D the signed distance in mm (Kervadec et al. 2019; MONAI's BoundaryLoss).

    Args:
        distance_map: D, [N, 1 or C, *spatial]; None computes it with `distance.signed_distance_map` from
            ``target``, in which voxels that are not valid count as background.
        empty: what D is for a mask without boundary, "zero" or "far", see there.
    """
    opts = Options(**options)
    if distance_map is None:
        distance_map = target_distance(input, target, mask, spacing, opts, empty)
    return evaluate(formulas.boundary(), input, target, mask, spacing, opts, map=distance_map)


def hausdorff_dt_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    alpha: float = 2.0,
    distance_map: Tensor | None = None,
    empty: str = "zero",
    **options: Unpack[LossOptions],
) -> Tensor:
    """1/|Ω| Σ (s - g)² (D(s)^α + D(g)^α) (Karimi and Salcudean 2019; MONAI's HausdorffDTLoss).

    D is the distance to the boundary of the mask above 0.5, in mm and unsigned on both sides; it is a
    constant for autograd. Voxels that are not valid count as background in it.

    Args:
        distance_map: D(g), [N, 1 or C, *spatial]; None computes it with `distance.distance_map`.
        empty: what D is for a mask without boundary, "zero" or "far", see there.
    """
    opts = Options(**options)
    distance = hausdorff_distance(input, target, mask, spacing, opts, alpha, empty, distance_map)
    return evaluate(formulas.hausdorff(), input, target, mask, spacing, opts, map=distance)


def log_hausdorff_dt_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    alpha: float = 2.0,
    distance_map: Tensor | None = None,
    empty: str = "zero",
    **options: Unpack[LossOptions],
) -> Tensor:
    """log(1 + `hausdorff_dt_loss`) after its reduction: MONAI's LogHausdorffDTLoss."""
    loss = hausdorff_dt_loss(
        input, target, mask, spacing, alpha=alpha, distance_map=distance_map, empty=empty, **options
    )
    return torch.log1p(loss)


def dice_boundary_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    lambda_dice: float = 1.0,
    lambda_boundary: float = 1.0,
    distance_map: Tensor | None = None,
    empty: str = "zero",
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    **options: Unpack[LossOptions],
) -> Tensor:
    """λ_dice `dice_loss` + λ_boundary `boundary_loss` in one pass."""
    opts = Options(**options)
    if distance_map is None:
        distance_map = target_distance(input, target, mask, spacing, opts, empty)
    formula = lambda_dice * formulas.dice(smooth_nr, smooth_dr) + lambda_boundary * formulas.boundary()
    return evaluate(formula, input, target, mask, spacing, opts, map=distance_map)


def dice_hausdorff_dt_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    lambda_dice: float = 1.0,
    lambda_hausdorff: float = 1.0,
    alpha: float = 2.0,
    distance_map: Tensor | None = None,
    empty: str = "zero",
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    **options: Unpack[LossOptions],
) -> Tensor:
    """λ_dice `dice_loss` + λ_hausdorff `hausdorff_dt_loss`, both terms in one pass."""
    opts = Options(**options)
    distance = hausdorff_distance(input, target, mask, spacing, opts, alpha, empty, distance_map)
    formula = lambda_dice * formulas.dice(smooth_nr, smooth_dr) + lambda_hausdorff * formulas.hausdorff()
    return evaluate(formula, input, target, mask, spacing, opts, map=distance)


def checked_weight(weight: Tensor | Sequence[float] | float | None) -> Tensor | None:
    """Class weights as a tensor, none negative."""
    if weight is None:
        return None
    try:
        weights = torch.as_tensor(weight, dtype=None if isinstance(weight, Tensor) else torch.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"weight: expected a number, numbers or a tensor, got {weight!r}") from error
    if bool((weights < 0).any()):
        raise ValueError(f"weight: expected numbers >= 0, got {weights.tolist()}")
    return weights


def target_distance(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    spacing: Sequence[float] | None,
    options: Options,
    empty: str,
) -> Tensor:
    """D(g) of `boundary_loss`."""
    return loss_maps.boundary_map(_volumes(input, target, mask, spacing, options), empty)


def hausdorff_distance(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    spacing: Sequence[float] | None,
    options: Options,
    alpha: float,
    empty: str,
    of_target: Tensor | None = None,
) -> Tensor:
    """D(s)^α + D(g)^α of `hausdorff_dt_loss`; ``of_target`` is D(g) where it is known."""
    of_target = plain(of_target)
    volumes = _volumes(input, target, mask, spacing, options, of_target)
    return loss_maps.hausdorff_map(volumes, alpha, empty, of_target)


@torch.no_grad()
def _volumes(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    spacing: Sequence[float] | None,
    options: Options,
    map: Tensor | None = None,
) -> LossVolumes:
    """What the loss's distance maps are made from."""
    input, target, mask = (plain(tensor) for tensor in (input, target, mask))
    if options.other_act is not None:
        input = options.other_act(input)
    check_arguments(input, target, mask, map)
    activation, include_background = resolve_activation(
        input, target, options.include_background, options.to_onehot_y, options.sigmoid, options.softmax
    )
    mask, ignore_index = resolve_ignore_index(target, mask, options.ignore_index)
    valid = valid_voxels(input, target, mask, ignore_index)
    return LossVolumes(input.detach(), target, valid, spacing, activation, include_background)
