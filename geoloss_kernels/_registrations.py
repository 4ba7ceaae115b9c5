"""What the operators need beside their kernels: shapes for the dispatcher, derivatives, and batching.

It is the same for every library of the operators: the compiled one, and those that are written in Python.
The derivatives are `torch.autograd.Function` s around the operators, which eager code, compilers and the
transforms of torch.func all take.

Under autocast the operators take half-precision tensors as they are: they compute in float32 anyway, and a
cast would only cost memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import register_fake

from geoloss_kernels import _distance_registrations

Context = Any
Maps = Sequence[Tensor]
OptionalTensor = Tensor | None


class Operators(NamedTuple):
    """What a backend computes with; positional arguments, as in the operators' schemas."""

    geo_loss: Callable[..., tuple[Tensor, Tensor]]
    geo_sums: Callable[..., Tensor]
    geo_sums_backward: Callable[..., Tensor]
    geo_ratio: Callable[..., Tensor]
    distance_transform: Callable[..., Tensor]
    distance_transform_with_indices: Callable[..., tuple[Tensor, Tensor]]


class Overloads(NamedTuple):
    """The operators of a library as the dispatcher has them."""

    geo_sums: Callable[..., Tensor]
    geo_sums_backward: Callable[..., Tensor]
    geo_ratio: Callable[..., Tensor]
    geo_ratio_backward: Callable[..., Tensor]
    geo_loss: Callable[..., tuple[Tensor, Tensor]]
    geo_loss_backward: Callable[..., Tensor]


def register(namespace: str) -> Operators:
    """Register everything for the operators of ``namespace``, and return them with their derivatives.

    The library has to be loaded or, if it is written in Python, defined by `torch.library.Library.define`.
    """
    library = getattr(torch.ops, namespace)
    overloads = Overloads(*(getattr(library, name).default for name in Overloads._fields))
    for name in Overloads._fields:
        register_fake(f"{namespace}::{name}", _FAKES[name])

    def geo_sums(input: Tensor, target: Tensor, mask: OptionalTensor, maps: Maps, *options: Any) -> Tensor:
        return differentiable(_GeoSums, overloads, options, input, target, mask, *maps)

    def geo_ratio(sums: Tensor, channel_weights: OptionalTensor, *options: Any) -> Tensor:
        return differentiable(_GeoRatio, overloads, options, sums, channel_weights)

    def geo_loss(
        input: Tensor,
        target: Tensor,
        mask: OptionalTensor,
        channel_weights: OptionalTensor,
        maps: Maps,
        *options: Any,
    ) -> tuple[Tensor, Tensor]:
        return differentiable(_GeoLoss, overloads, options, input, target, mask, channel_weights, *maps)

    return Operators(
        geo_loss,
        geo_sums,
        overloads.geo_sums_backward,
        geo_ratio,
        **_distance_registrations.register(namespace),
    )


# ---- shapes ----


def _fake_sums(
    input: Tensor,
    target: Tensor,
    mask: OptionalTensor,
    maps: Maps,
    terms: Sequence[int],
    parameters: Sequence[float],
    activation: int,
    ignore_index: int | None,
    include_background: bool,
) -> Tensor:
    channels = input.shape[1] - (0 if include_background else 1)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    return input.new_empty((input.shape[0], channels, _columns(terms)), dtype=dtype)


def _columns(terms: Sequence[int]) -> int:
    """How many terms the stream has."""
    count = place = 0
    while place < len(terms):
        place += 3 + terms[place + 1]
        count += 1
    return count


def _fake_ratio(
    sums: Tensor,
    channel_weights: OptionalTensor,
    fractions: Sequence[int],
    weights: Sequence[float],
    reduction: int,
) -> Tensor:
    if reduction != 0:
        return sums.new_empty(())
    pooling, skip = fractions[:2]
    volumes, channels = sums.shape[0], sums.shape[1] - skip
    return sums.new_empty((1 if pooling else volumes, 1 if pooling == 2 else channels))


def _fake_loss(
    input: Tensor,
    target: Tensor,
    mask: OptionalTensor,
    channel_weights: OptionalTensor,
    maps: Maps,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    sums = _fake_sums(input, target, mask, maps, *options[:-3])
    return _fake_ratio(sums, channel_weights, *options[-3:]), sums


_FAKES: dict[str, Callable[..., Any]] = {
    "geo_sums": _fake_sums,
    "geo_sums_backward": lambda *arguments: torch.empty_like(arguments[1]),
    "geo_ratio": _fake_ratio,
    "geo_ratio_backward": lambda grad_ratio, sums, *rest: sums.new_empty(sums.shape),
    "geo_loss": _fake_loss,
    "geo_loss_backward": lambda *arguments: torch.empty_like(arguments[2]),
}


# ---- derivatives ----


def differentiable(function: type[_Derivative], *arguments: Any) -> Any:
    """``function`` of the arguments, with its derivative.

    Its eager twin goes first: a `Function` that torch.func can take binds its arguments by a signature, which
    takes twice as long as the call. Only where a transform is at work does torch refuse the twin, before
    anything is computed.
    """
    if torch.compiler.is_compiling():
        # Without a gradient to come, Dynamo takes ``forward`` for one with a context.
        needs_gradient = torch.is_grad_enabled() and any(
            isinstance(each, Tensor) and each.requires_grad for each in arguments
        )
        return function.apply(*arguments) if needs_gradient else function.forward(*arguments)
    try:
        return function.eager.apply(*arguments)
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise _in_own_words(error) from None
    try:
        return function.apply(*arguments)
    except RuntimeError as error:
        raise _in_own_words(error) from None


_REFUSALS = {
    "implement the jvp function": (
        "the fused losses have no forward derivative; differentiate backward, or use "
        'geoloss_kernels.use_backend("reference")'
    ),
    "Batching rule not implemented": (
        "the fused losses have no derivative for is_grads_batched and vectorize=True; use torch.func.jacrev"
    ),
}
"""What torch says of a transform that the operators cannot take part in, and what we say."""


def _in_own_words(error: RuntimeError) -> RuntimeError:
    for theirs, ours in _REFUSALS.items():
        if theirs in str(error):
            return RuntimeError(ours)
    return error


def backward_of(function: type[_Backward], *arguments: Any) -> Tensor:
    """A backward operator's result, which a compiler does not differentiate again."""
    if torch.compiler.is_compiling():
        return function.forward(*arguments)
    result: Tensor = differentiable(function, *arguments)
    return result


class _Derivative(Function):
    """An operator's result, and its derivative in the first tensor; all other tensors are constants.

    The arguments are the library's operators, the operator's options, and its tensors.
    """

    eager: type[Function]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)

        class Eager(Function):
            @staticmethod
            def forward(ctx: Context, *inputs: Any) -> Any:
                output = cls.forward(*inputs)
                cls.setup_context(ctx, inputs, output)
                return output

            backward = cls.backward

        cls.eager = Eager

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
        overloads, options, *tensors = inputs
        ctx.overloads, ctx.options = overloads, options
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)


def _refuse_gradients(ctx: Context, *constants: str, first: int = 3) -> None:
    """Raise if a tensor from the ``first`` argument on has to have a gradient.

    Those after ``constants`` are maps.
    """
    needed = ctx.needs_input_grad[first:]
    for number, is_needed in enumerate(needed):
        if is_needed:
            name = constants[number] if number < len(constants) else "maps"
            raise RuntimeError(
                f"{name}: expected a tensor without gradient, since the fused losses differentiate "
                'in input alone; detach it, or use geoloss_kernels.use_backend("reference")'
            )


class _GeoSums(_Derivative):
    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        overloads, options, input, target, mask, *maps = inputs
        return overloads.geo_sums(input, target, mask, maps, *options)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_gradients(ctx, "target", "mask")
        slope = None
        if gradient is not None:
            slope = backward_of(_GeoSumsBackward, ctx.overloads, ctx.options, gradient, *ctx.saved_tensors)
        return None, None, slope, *[None] * (len(ctx.saved_tensors) - 1)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        overloads, options, *tensors = inputs
        folded = [_fold(info, dim, tensor) for dim, tensor in zip(in_dims[2:], tensors, strict=True)]
        return _unfold(info, differentiable(_GeoSums, overloads, options, *folded)), 0


class _GeoRatio(_Derivative):
    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        overloads, options, sums, channel_weights = inputs
        return overloads.geo_ratio(sums, channel_weights, *options)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_gradients(ctx, "channel_weights")
        slope = None
        if gradient is not None:
            slope = backward_of(_GeoRatioBackward, ctx.overloads, ctx.options, gradient, *ctx.saved_tensors)
        return None, None, slope, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        return _one_by_one(_GeoRatio, info, in_dims, inputs), 0


class _GeoLoss(_Derivative):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        overloads, options, input, target, mask, channel_weights, *maps = inputs
        return overloads.geo_loss(input, target, mask, channel_weights, maps, *options)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _Derivative.setup_context(ctx, (*inputs, output[1]), output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Context, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        _refuse_gradients(ctx, "target", "mask", "channel_weights")
        *tensors, sums = ctx.saved_tensors
        slope = None
        if gradient is not None:
            slope = backward_of(_GeoLossBackward, ctx.overloads, ctx.options, gradient, sums, *tensors)
        return None, None, slope, *[None] * (len(tensors) - 1)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """The sums of all volumes in one pass, and the ratios one by one."""
        overloads, options, input, target, mask, channel_weights, *maps = inputs
        dims = in_dims[2:]
        folded = [
            _fold(info, dim, tensor)
            for dim, tensor in zip((*dims[:3], *dims[4:]), (input, target, mask, *maps), strict=True)
        ]
        sums = _unfold(info, differentiable(_GeoSums, overloads, options[:-3], *folded))
        ratio_inputs = (overloads, options[-3:], sums, channel_weights)
        loss = _one_by_one(_GeoRatio, info, (None, None, 0, dims[3]), ratio_inputs)
        return (loss, sums), (0, 0)


class _Backward(_Derivative):
    """A backward operator, which has no derivative of its own."""

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> None:
        raise RuntimeError(
            "the fused losses have no second derivative; use geoloss_kernels.use_backend("
            '"reference") for losses that are differentiated twice'
        )


class _GeoSumsBackward(_Backward):
    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        overloads, options, gradient, input, target, mask, *maps = inputs
        return overloads.geo_sums_backward(gradient, input, target, mask, maps, *options)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        overloads, options, *tensors = inputs
        folded = [_fold(info, dim, tensor) for dim, tensor in zip(in_dims[2:], tensors, strict=True)]
        return _unfold(info, differentiable(_GeoSumsBackward, overloads, options, *folded)), 0


class _GeoRatioBackward(_Backward):
    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        overloads, options, gradient, sums, channel_weights = inputs
        return overloads.geo_ratio_backward(gradient, sums, channel_weights, *options)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        return _one_by_one(_GeoRatioBackward, info, in_dims, inputs), 0


class _GeoLossBackward(_Backward):
    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        overloads, options, gradient, sums, input, target, mask, channel_weights, *maps = inputs
        return overloads.geo_loss_backward(
            gradient, sums, input, target, mask, channel_weights, maps, *options
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        overloads, options, gradient, sums, input, target, mask, channel_weights, *maps = inputs
        dims = in_dims[2:]
        ratio_inputs = (overloads, options[-3:], gradient, sums, channel_weights)
        ratio_dims = (None, None, *dims[:2], dims[5])
        grad_sums = _one_by_one(_GeoRatioBackward, info, ratio_dims, ratio_inputs)
        sums_inputs = (overloads, options[:-3], grad_sums, input, target, mask, *maps)
        return _GeoSumsBackward.vmap(info, (None, None, 0, *dims[2:5], *dims[6:]), *sums_inputs)


# ---- batching ----


def _fold(info: Any, dim: int | None, tensor: OptionalTensor) -> OptionalTensor:
    """[N, ...] with the dimension that vmap maps over folded into N."""
    if tensor is None:
        return None
    if dim is None:
        return tensor.unsqueeze(0).expand(info.batch_size, *tensor.shape).flatten(0, 1)
    return tensor.movedim(dim, 0).flatten(0, 1)


def _unfold(info: Any, tensor: Tensor) -> Tensor:
    return tensor.unflatten(0, (info.batch_size, -1))


def _one_by_one(
    function: type[_Derivative], info: Any, in_dims: Sequence[int | None], inputs: Sequence[Any]
) -> Tensor:
    """``function`` of each element of the dimension that vmap maps over."""
    results = []
    for index in range(info.batch_size):
        picked = [
            value if dim is None else value.select(dim, index)
            for dim, value in zip(in_dims, inputs, strict=True)
        ]
        results.append(differentiable(function, *picked))
    return torch.stack(results)
