"""The sums of a loss of logits that are never in memory: two sweeps over strips of a volume.

    forward     for each strip: logits = W·features + b; sums += geo_sums(logits)
    backward    for each strip: logits once more; slope = geo_sums_backward(∂L/∂sums, logits);
                ∂L/∂features = Wᵀ·slope; ∂L/∂W += slope·featuresᵀ; ∂L/∂b += Σ slope

The sums are added up in float64, strip after strip.

A stencil reaches one voxel, so that a sum over voxels is not the sum over strips: at a cut a voxel lacks its
neighbours. Each strip is extended by a voxel on either side, where the voxels at the cut are right, and what
that counts too much is what the plate of the two slices beside the cut counts: there the outermost voxels
of both strips have the neighbours that they have in the strips. So sums = Σ strips - Σ plates, along each
axis that is cut. The slope at a voxel depends on voxels two steps away: in the second sweep strips are
extended by two, and nothing is counted twice.

Bytes: the features are read twice and their gradient is written; the logits and slopes of a strip stay in
cache.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library, register_fake

from geoloss_kernels import backends
from geoloss_kernels._registrations import (
    Context,
    Maps,
    Operators,
    OptionalTensor,
    _Backward,
    _Derivative,
    _fake_sums,
    _refuse_gradients,
    backward_of,
    differentiable,
)
from geoloss_kernels.heads import (
    Activation,
    Box,
    HeadLogits,
    StripProduct,
    part,
    pieces,
    strip_elements,
)
from geoloss_kernels.terms import has_programs


class HeadOperators(NamedTuple):
    """What computes the sums of a head, and their derivative; see `_sums` and `_slopes`."""

    sums: Callable[..., Tensor]
    slopes: Callable[..., tuple[Tensor, Tensor, Tensor]]


def head_sums(
    logits: HeadLogits,
    operators: Operators,
    other_act: Activation | None,
    target: Tensor,
    mask: OptionalTensor,
    maps: Maps,
    has_stencils: bool,
    *options: Any,
) -> Tensor:
    """`Operators.geo_sums` of the logits [N, C', K], strip by strip, with derivatives in features and head.

    Args:
        other_act: applied to each strip's logits first; a function of voxels.
        has_stencils: whether a term reads the neighbours of a voxel.
        options: those of the operator geo_sums.
    """
    of_head = _operators(operators, other_act)
    return differentiable(  # type: ignore[no-any-return]
        _HeadSums,
        of_head,
        (has_stencils, *options),
        logits.features,
        logits.weight,
        logits.bias,
        target,
        mask,
        *maps,
    )


def _operators(operators: Operators, other_act: Activation | None) -> HeadOperators:
    calls_functions = other_act is not None or isinstance(operators.geo_sums, functools.partial)
    if torch.compiler.is_compiling() and not calls_functions:
        return HeadOperators(torch.ops.geoloss_head.sums.default, torch.ops.geoloss_head.slopes.default)
    sweep = _Sweep(operators, other_act)
    return HeadOperators(sweep.sums, sweep.slopes)


@dataclass(frozen=True)
class _Sweep:
    """The two sweeps with a backend's operators."""

    operators: Operators
    other_act: Activation | None = None

    def sums(
        self,
        features: Tensor,
        weight: Tensor,
        bias: OptionalTensor,
        target: Tensor,
        mask: OptionalTensor,
        maps: Maps,
        has_stencils: bool,
        *options: Any,
    ) -> Tensor:
        shape = (features.shape[0], weight.shape[0], *features.shape[2:])
        total: Tensor | None = None
        with torch.no_grad(), _without_autocast(features):
            product = StripProduct(features, weight, bias)
            for box, sign in _counted(shape, weight, has_stencils):
                logits = self._activated(product.logits(box))
                sums = self.operators.geo_sums(logits, *_parts(box, target, mask, maps), *options)
                if total is None:
                    total = sums.new_zeros((shape[0], *sums.shape[1:]), dtype=torch.float64)
                total[box[0]].add_(sums, alpha=sign)
        if total is None:  # a batch of none
            return _fake_sums(features, target, mask, maps, *options)
        return total.to(sums.dtype)

    def slopes(
        self,
        gradient: Tensor,
        features: Tensor,
        weight: Tensor,
        bias: OptionalTensor,
        target: Tensor,
        mask: OptionalTensor,
        maps: Maps,
        wanted: Sequence[bool],
        has_stencils: bool,
        *options: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """∂L/∂features, ∂L/∂weight and ∂L/∂bias; one that is not ``wanted`` is empty."""
        shape = (features.shape[0], weight.shape[0], *features.shape[2:])
        with torch.no_grad(), _without_autocast(features):
            product = StripProduct(features, weight, bias)
            slopes = _HeadSlopes(product, wanted)
            gradient = gradient.contiguous()
            for inner, outer in _written(shape, weight, has_stencils):
                constants = _parts(outer, target, mask, maps)
                slope = self._slope(gradient[outer[0]], product.logits(outer), constants, options)
                slopes.take(inner, part(slope, _within(inner, outer)).flatten(2))
        return slopes.results()

    def _activated(self, logits: Tensor) -> Tensor:
        if self.other_act is None:
            return logits
        activated = self.other_act(logits)
        if activated.shape != logits.shape:
            raise ValueError(
                f"other_act: expected a function of voxels in a HeadLoss, whose result has the shape "
                f"{tuple(logits.shape)} of a strip, got {tuple(activated.shape)}"
            )
        return activated

    def _slope(self, gradient: Tensor, logits: Tensor, constants: Any, options: Any) -> Tensor:
        backward = self.operators.geo_sums_backward
        if self.other_act is None:
            return backward(gradient, logits, *constants, *options)
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            activated = self._activated(leaf)
        slope = backward(gradient, activated.detach(), *constants, *options)
        return torch.autograd.grad(activated, leaf, slope)[0]


def _without_autocast(features: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The products are in the dtype that they are to be in already."""
    return torch.autocast(features.device.type, enabled=False)


def _parts(
    box: Box, target: Tensor, mask: OptionalTensor, maps: Maps
) -> tuple[Tensor, OptionalTensor, list[Tensor]]:
    return part(target, box), None if mask is None else part(mask, box), [part(map, box) for map in maps]


class _HeadSlopes:
    """The derivatives in features, weight and bias, of the slopes of one strip after the other."""

    def __init__(self, product: StripProduct, wanted: Sequence[bool]) -> None:
        self.product = product
        features, weight = product.features, product.weight
        accumulated = torch.float64 if weight.dtype == torch.float64 else torch.float32
        of_features, of_weight, of_bias = wanted
        self.of_features = torch.empty_like(features) if of_features else weight.new_empty(0)
        self.of_weight = weight.new_zeros(weight.shape if of_weight else 0, dtype=accumulated)
        self.of_bias = weight.new_zeros(len(weight) if of_bias else 0, dtype=accumulated)
        self.wanted = wanted

    def take(self, box: Box, slope: Tensor) -> None:
        """``slope`` [n, C, V] of a strip."""
        of_features, of_weight, of_bias = self.wanted
        if of_features:
            self._write_features(part(self.of_features, box), slope)
        if of_weight:
            features = self.product.features_of(box).transpose(1, 2)
            if len(slope) == 1 and slope.dtype == self.of_weight.dtype:
                self.of_weight.addmm_(slope[0], features[0])
            else:
                self.of_weight.add_(torch.bmm(slope, features).sum(0, dtype=self.of_weight.dtype))
        if of_bias:
            self.of_bias.add_(slope.sum((0, 2), dtype=self.of_bias.dtype))

    def _write_features(self, into: Tensor, slope: Tensor) -> None:
        transposed = self.product.weight.t()
        n, channels = into.shape[:2]
        if n == 1 and into.dtype == slope.dtype and _is_matrix(into[0]):
            torch.mm(transposed, slope[0], out=into[0].view(channels, -1))
        else:
            into.copy_(torch.matmul(transposed, slope).view(into.shape))

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.product.weight.dtype
        return self.of_features, self.of_weight.to(dtype), self.of_bias.to(dtype)


def _is_matrix(volume: Tensor) -> bool:
    """Whether [F, a, b, ...] is [F, V] without a copy."""
    strides, sizes = volume.stride()[1:], volume.shape[1:]
    return all(
        size == 1 or stride == inner_stride * inner
        for size, stride, inner, inner_stride in zip(
            sizes[:-1], strides[:-1], sizes[1:], strides[1:], strict=True
        )
    )


# ---- strips that overlap ----


def _counted(shape: Sequence[int], like: Tensor, has_stencils: bool) -> Iterator[tuple[Box, int]]:
    """The boxes whose sums add up to those of the volume, with their signs."""
    volumes, first, second = _pieces(shape, like, has_stencils)
    if not has_stencils:
        yield from ((box, 1) for box in itertools.product(volumes, first, second))
        return
    for n in volumes:
        for (a, sign_a), (b, sign_b) in itertools.product(_signed(first), _signed(second)):
            yield (n, a, b), sign_a * sign_b


def _signed(cut: Sequence[slice]) -> list[tuple[slice, int]]:
    """The pieces of an axis, extended by one on either side, and the plates at the cuts."""
    pieces_ = [(_extended(piece, 1, cut[-1].stop), 1) for piece in cut]
    plates = [(slice(piece.start - 1, piece.start + 1), -1) for piece in cut[1:]]
    return pieces_ + plates


def _written(shape: Sequence[int], like: Tensor, has_stencils: bool) -> Iterator[tuple[Box, Box]]:
    """The boxes that make up the volume, and those that their slopes depend on."""
    volumes, first, second = _pieces(shape, like, has_stencils)
    halo = 2 if has_stencils else 0
    for n, a, b in itertools.product(volumes, first, second):
        yield (n, a, b), (n, _extended(a, halo, shape[2]), _extended(b, halo, shape[3]))


def _pieces(shape: Sequence[int], like: Tensor, has_stencils: bool) -> tuple[list[slice], ...]:
    return pieces(shape, strip_elements(like, has_stencils), 2 if has_stencils else 0)


def _extended(piece: slice, by: int, size: int) -> slice:
    return slice(max(0, piece.start - by), min(size, piece.stop + by))


def _within(inner: Box, outer: Box) -> Box:
    """The place of a box in one that holds it, of the same batch elements."""
    n, *axes = (
        slice(own.start - around.start, own.stop - around.start)
        for own, around in zip(inner, outer, strict=True)
    )
    return n, axes[0], axes[1]


# ---- derivatives ----


class _HeadSums(_Derivative):
    """The arguments are `HeadOperators`, options, features, weight, bias, target, mask and the maps."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        of_head, options, features, weight, bias, target, mask, *maps = inputs
        return of_head.sums(features, weight, bias, target, mask, maps, *options)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Context, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_gradients(ctx, "target", "mask", first=5)
        wanted = list(ctx.needs_input_grad[2:5])
        slopes: list[Tensor | None] = [None, None, None]
        if gradient is not None and any(wanted):
            results = backward_of(
                _HeadSlopesOfSums, ctx.overloads, (wanted, *ctx.options), gradient, *ctx.saved_tensors
            )
            slopes = [slope if needed else None for slope, needed in zip(results, wanted, strict=True)]
        return None, None, *slopes, *[None] * (len(ctx.saved_tensors) - 3)


class _HeadSlopesOfSums(_Backward):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        of_head, options, gradient, features, weight, bias, target, mask, *maps = inputs
        return of_head.slopes(gradient, features, weight, bias, target, mask, maps, *options)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> None:
        raise RuntimeError(
            "a HeadLoss has no second derivative; for losses that are differentiated twice use "
            'loss(head(features), target) with geoloss_kernels.use_backend("reference")'
        )


# ---- one operator for compilers ----

_library = Library("geoloss_head", "DEF")
_TENSORS = "Tensor features, Tensor weight, Tensor? bias, Tensor target, Tensor? mask, Tensor[] maps"
_OPTIONS = (
    "bool has_stencils, int[] terms, float[] parameters, int activation, int? ignore_index, "
    "bool include_background"
)
_library.define(f"sums({_TENSORS}, {_OPTIONS}) -> Tensor")
_library.define(f"slopes(Tensor gradient, {_TENSORS}, bool[] wanted, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")


def _sweep(features: Tensor, arguments: Sequence[Any]) -> _Sweep:
    """With the operators that compute the terms, which both operators take fifth from the end."""
    terms = arguments[-5]
    fused = backends.operators_for_programs(features) if has_programs(terms) else None
    return _Sweep(fused or backends.operators(features))


def _compiled_sums(features: Tensor, *arguments: Any) -> Tensor:
    return _sweep(features, arguments).sums(features, *arguments)


def _compiled_slopes(gradient: Tensor, features: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _sweep(features, arguments).slopes(gradient, features, *arguments)


_library.impl("sums", _compiled_sums, "CompositeExplicitAutograd")
_library.impl("slopes", _compiled_slopes, "CompositeExplicitAutograd")


@register_fake("geoloss_head::sums")
def _fake_head_sums(
    features: Tensor,
    weight: Tensor,
    bias: OptionalTensor,
    target: Tensor,
    mask: OptionalTensor,
    maps: Maps,
    has_stencils: bool,
    *options: Any,
) -> Tensor:
    like = weight.new_empty((features.shape[0], weight.shape[0], *features.shape[2:]))
    return _fake_sums(like, target, mask, maps, *options)


@register_fake("geoloss_head::slopes")
def _fake_head_slopes(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: OptionalTensor,
    target: Tensor,
    mask: OptionalTensor,
    maps: Maps,
    wanted: Sequence[bool],
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(features) if wanted[0] else weight.new_empty(0),
        weight.new_empty(weight.shape if wanted[1] else 0),
        weight.new_empty(len(weight) if wanted[2] else 0),
    )
