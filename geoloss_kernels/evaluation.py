"""The path from a formula and tensors to a loss: passes → sums → ratio → loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from geoloss_kernels import backends
from geoloss_kernels._registrations import Operators
from geoloss_kernels.call import ACTIVATIONS, LossCall, Options
from geoloss_kernels.formulas import (
    CallTraits,
    Combination,
    Formula,
    Part,
    TracedGeo,
    geo,
    kept_combination,
)
from geoloss_kernels.head_sums import head_sums
from geoloss_kernels.heads import HeadLogits
from geoloss_kernels.passes import ClassWeight, Geometry, Pass, channel_weights, own_activation, passes
from geoloss_kernels.reference import ratio
from geoloss_kernels.reference.geo import geo_loss_of_call
from geoloss_kernels.reference.sums import geo_sums, geo_sums_backward
from geoloss_kernels.reference.voxels import prepare
from geoloss_kernels.tensor_checks import companion_in_plane
from geoloss_kernels.terms import EncodedTerms

DistanceMaps = Tensor | Sequence[Tensor] | None


def evaluate(
    formula: Formula,
    options: Options,
    input: Tensor | HeadLogits,
    target: Tensor,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    distance_map: DistanceMaps = None,
    current_weight: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The loss that ``formula`` describes.

    Args:
        mask: [N, 1 or C, *spatial], nonzero where a voxel is valid. An invalid voxel is in no sum, and a
            difference counts only where both of its ends are valid.
        spacing: voxel size along each spatial axis of the tensor in mm, in place of the formula's own.
        distance_map: the target's map, or one for each distance of the formula in turn; None computes them.
        current_weight: gives a formula's class weight as it is now, where a module keeps it as a buffer.
    """
    call = LossCall.of(input, target, mask, spacing, options)
    if options.reduction == "none" and any(part.is_of_voxels for _, part in formula.parts):
        if call.head is not None:
            raise ValueError(
                "reduction: expected 'mean' or 'sum' in a HeadLoss, got 'none' of a loss of voxels, "
                "whose result is as large as the logits"
            )
        return _evaluate_voxels(formula, options, call, distance_map, current_weight)
    return _evaluate_call(formula, options, call, distance_map, current_weight)


def _evaluate_call(
    formula: Formula,
    options: Options,
    call: LossCall,
    distance_map: DistanceMaps,
    current_weight: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    traits = CallTraits(
        call.activation, call.channels, call.label_map, options.reduction, call.include_background
    )
    plan = _plan_compiled if torch.compiler.is_compiling() else _plan
    details = (traits, call.include_background, options.batch, Geometry(call.dimensions, call.spacing))
    planned, unfused, parameters = plan(formula, call.input, *details)
    given = _given_maps(distance_map, planned, call)
    total = None
    for each in planned:
        loss = _evaluate_pass(each, options, call, given, current_weight, parameters)
        total = loss if total is None else total + loss
    for factor, part in unfused:
        if call.head is not None:
            raise ValueError(
                "formula: expected one that is computed in one pass in a HeadLoss, got an open part for "
                "plain PyTorch (fused=False, or the reference's backend), whose functions may read whole "
                "volumes, not strips"
            )
        loss = factor * _evaluate_unfused(part, options, call)
        total = loss if total is None else total + loss
    if total is None:
        raise ValueError("formula: expected at least one part, got none")
    if options.reduction == "none":
        return total.view(*total.shape, *[1] * call.dimensions)
    return total


def _evaluate_voxels(
    formula: Formula,
    options: Options,
    call: LossCall,
    distance_map: DistanceMaps,
    current_weight: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """The loss of every voxel [N, C', *spatial], in plain PyTorch, beside what the other parts are."""
    own = [(factor, part) for factor, part in formula.parts if part.is_of_voxels]
    others = tuple((factor, part) for factor, part in formula.parts if not part.is_of_voxels)
    total = torch.stack([factor * _of_voxels(part, call, current_weight) for factor, part in own]).sum(0)
    total = total.squeeze(2) if call.dimensions == 1 else total
    if not others:
        return total
    return total + _evaluate_call(Combination(others), options, call, distance_map, current_weight)


def _of_voxels(part: Part, call: LossCall, current_weight: Callable[[Tensor], Tensor] | None) -> Tensor:
    part = part if current_weight is None else part.with_class_weights(current_weight)
    activation = own_activation(part, call.activation, call.channels)
    traits = CallTraits(activation, call.channels, call.label_map, "none", call.include_background)
    voxels = prepare(
        call.logits if activation != call.activation else call.input,
        call.target,
        call.mask,
        activation=activation,
        ignore_index=call.ignore_index,
        include_background=call.include_background,
    )
    total = torch.zeros_like(voxels.s)
    for fraction in part.fractions(traits):
        for term, number in fraction.numerator.items():
            density = number * term.density.plain(voxels)
            if fraction.numerator_weight is not None:
                weight = fraction.numerator_weight.to(density)
                density = density * weight.view(1, -1, *[1] * (density.ndim - 2))
            total = total + density
    return total if voxels.valid is None else torch.where(voxels.valid, total, torch.zeros_like(total))


class _Plan(NamedTuple):
    """What there is to compute: passes, open parts that plain PyTorch computes, and what open parts read."""

    passes: Sequence[Pass]
    unfused: Sequence[tuple[float, geo]]
    parameters: Mapping[Any, Sequence[Tensor]]


def planned_passes(
    formula: Formula, options: Options, channels: int, dimensions: int, label_map: bool
) -> Sequence[Pass]:
    """The fused passes of a call with an input of so many channels and spatial axes."""
    activation = "sigmoid" if options.sigmoid else "softmax" if options.softmax and channels > 1 else "none"
    background = options.include_background or channels == 1
    traits = CallTraits(activation, channels, label_map, options.reduction, background)
    details = (traits, background, options.batch, Geometry(dimensions, None))
    return _plan_open(formula, False, _kept_passes, *details).passes


def _in_reference(input: Tensor) -> bool:
    return backends.choose(input) == "reference"


def _plan(formula: Formula, input: Tensor, *details: Any) -> _Plan:
    if not formula.is_open:
        return _Plan(_kept_passes(formula, *details), (), {})
    return _plan_open(formula, _in_reference(input), _kept_passes, *details)


def _plan_open(formula: Formula, in_reference: bool, plan: Callable[..., Any], *details: Any) -> _Plan:
    geometry: Geometry = details[-1]
    opened = formula.opened(geometry.dimensions)
    plain = [(factor, _unfused(part, in_reference)) for factor, part in opened.formula.parts]
    fused = tuple(own for own, (_, part) in zip(opened.formula.parts, plain, strict=True) if part is None)
    unfused = tuple((factor, part) for factor, part in plain if part is not None)
    return _Plan(plan(kept_combination(fused), *details), unfused, opened.parameters)


def _unfused(part: Part, in_reference: bool) -> geo | None:
    if isinstance(part, TracedGeo):
        return part.part if in_reference else None
    return part if isinstance(part, geo) else None


def _plan_compiled(formula: Formula, input: Tensor, *details: Any) -> _Plan:
    """A compiler takes the passes for constants of its graph, without a cache of ours."""
    if not (formula.is_open or any(part.is_of_voxels for _, part in formula.parts)):
        return _Plan(passes(formula, *details), (), {})
    traits, include_background, batch, geometry = details
    channels = len([None] * traits.channels)  # a number for the compiler, too, where sizes are symbols
    of_call = (traits.activation, channels, traits.label_map, traits.reduction, include_background)
    return _constant_plan(
        formula,
        _in_reference(input),
        include_background,
        batch,
        geometry.dimensions,
        geometry.spacing,
        *of_call,
    )


def _constant_plan(
    formula: Formula,
    in_reference: bool,
    include_background: bool,
    batch: bool,
    dimensions: int,
    spacing: tuple[float, ...] | None,
    *traits: Any,
) -> _Plan:
    """The plan of a formula with open parts, whose functions a compiler does not look into."""
    details = (CallTraits(*traits), include_background, batch, Geometry(dimensions, spacing))
    planned = _plan_open(formula, in_reference, _kept_passes, *details)
    if any(planned.parameters.values()):
        raise ValueError(
            "torch.compile: expected open formulas that read numbers alone, got one that reads a tensor, "
            "whose value a compiled graph cannot take"
        )
    return planned


# What torch.compiler.assume_constant_result does, without importing the compiler and Triton for everybody.
_constant_plan._dynamo_marked_constant = True  # type: ignore[attr-defined]

_kept_passes = functools.lru_cache(maxsize=512)(passes)


def _evaluate_pass(
    each: Pass,
    options: Options,
    call: LossCall,
    given: dict[Any, Tensor],
    current_weight: Callable[[Tensor], Tensor] | None,
    parameters: Mapping[Any, Sequence[Tensor]],
) -> Tensor:
    input = call.logits if each.from_logits else call.input
    operators = _operators(each, input)
    maps = [map.of(call, given.get(map)) for map in each.maps]
    rows = each.class_weights
    if current_weight is not None and rows:
        rows = tuple(ClassWeight(current_weight(row.weight), row.skip) for row in rows)
    weights = channel_weights(rows, call.channels, each.include_background, input, call.dtype)
    sums_options = (
        each.encoded.terms,
        _with_values(each.encoded, parameters),
        ACTIVATIONS.index(each.activation),
        call.ignore_index,
        each.include_background,
    )
    ratio_options = (each.fractions, each.weights, each.reduction)
    if call.head is not None:
        other_act = None if each.from_logits else call.other_act
        tensors = (call.target, call.mask, maps)
        sums = head_sums(call.head, operators, other_act, *tensors, each.has_stencils, *sums_options)
    elif not options.ddp and not each.functions:
        loss, _ = operators.geo_loss(
            input, call.target, call.mask, weights, maps, *sums_options, *ratio_options
        )
        return loss
    else:
        sums = operators.geo_sums(input, call.target, call.mask, maps, *sums_options)
    if options.ddp:
        sums = sum_over_processes(sums.sum(0, keepdim=True))
    return _of_sums(each, options, call, operators, sums, weights, ratio_options)


def _operators(each: Pass, input: Tensor) -> Operators:
    """The backend's; for programs, the reference's with what they are in PyTorch."""
    if not each.has_programs:
        return backends.operators(input)
    fused = backends.operators_for_programs(input)
    if fused is not None:
        return fused
    programs = [term.density.plain for term in each.terms if term.density is not None]
    return backends.operators_of_reference()._replace(
        geo_loss=functools.partial(ratio.ratio_and_sums, programs=programs),
        geo_sums=functools.partial(geo_sums, programs=programs),
        geo_sums_backward=functools.partial(geo_sums_backward, programs=programs),
    )


def _with_values(encoded: EncodedTerms, parameters: Mapping[Any, Sequence[Tensor]]) -> tuple[float, ...]:
    """The operators' ``parameters`` with the values that tensors of open formulas have now."""
    if not encoded.values:
        return encoded.parameters
    numbers = list(encoded.parameters)
    for place, owner, which in encoded.values:
        numbers[place] = float(parameters[owner][which])
    return tuple(numbers)


def _evaluate_unfused(part: geo, options: Options, call: LossCall) -> Tensor:
    """An open part by the user's own functions, under autograd."""
    if options.ddp:
        raise ValueError("ddp: expected fused open formulas with it, got fused=False or the reference")
    spacing = part.spacing if call.spacing is None else call.spacing
    pieces = {
        name: getattr(part, name) for name in ("theta", "psi", "phi", "gamma", "smooth_nr", "smooth_dr")
    }
    return geo_loss_of_call(call, spacing, reduction=options.reduction, batch=options.batch, **pieces)


def _of_sums(
    each: Pass,
    options: Options,
    call: LossCall,
    operators: Operators,
    sums: Tensor,
    weights: Tensor | None,
    ratio_options: tuple[Any, ...],
) -> Tensor:
    """The loss of a pass, of its sums."""
    losses = [operators.geo_ratio(sums, weights, *ratio_options)] if each.fractions else []
    leaves_out = 1 if each.include_background and not call.include_background else 0
    for function in each.functions:
        values = function.part.of_sums(sums[:, leaves_out:, list(function.columns)], options.batch)
        losses.append(function.factor * _reduce(values, options.reduction))
    total = losses[0]
    for loss in losses[1:]:
        if loss.shape != total.shape:
            raise ValueError(
                "reduction: expected 'mean' or 'sum' with parts that are apart for other volumes and "
                f"channels, got 'none' and parts of shape {tuple(total.shape)} and {tuple(loss.shape)}"
            )
        total = total + loss
    return total


def _reduce(values: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def _given_maps(distance_map: DistanceMaps, planned: Sequence[Pass], call: LossCall) -> dict[Any, Tensor]:
    """The distance maps that the caller has, by what they are."""
    if distance_map is None:
        return {}
    if not isinstance(distance_map, (Tensor, Sequence)):
        raise TypeError(
            f"distance_map: expected a tensor or a sequence of them, got {type(distance_map).__name__}"
        )
    wanted = list(dict.fromkeys(map for each in planned for map in each.maps))
    maps = [distance_map] if isinstance(distance_map, Tensor) else list(distance_map)
    if len(maps) != len(wanted):
        raise ValueError(
            f"distance_map: expected {len(wanted)}, one for each distance of the loss, got {len(maps)}"
        )
    return {
        key: companion_in_plane("distance_map", map, call.input)
        for key, map in zip(wanted, maps, strict=True)
    }


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
