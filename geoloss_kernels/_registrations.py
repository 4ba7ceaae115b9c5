"""What the operators need beside their kernels: shapes, derivatives and batching, for the dispatcher.

It is the same for every library of the operators: the compiled one, and those that are written in Python.

Under autocast the operators take half-precision tensors as they are: they compute in float32 anyway, and a
cast would only cost memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _any_requires_grad, _are_functorch_transforms_active, _AutoDispatchBelowAutograd
from torch._ops import OpOverload
from torch.autograd import Function, forward_ad
from torch.library import Library, register_fake, register_vmap

from geoloss_kernels import _distance_registrations

Context = Any
VmapInfo = Any


class Operators(NamedTuple):
    """What a backend computes with; positional arguments, as in the operators' schemas."""

    geo_loss: Callable[..., tuple[Tensor, Tensor]]
    geo_sums: Callable[..., Tensor]
    geo_ratio: Callable[..., Tensor]
    distance_transform: Callable[..., Tensor]
    distance_transform_with_indices: Callable[..., tuple[Tensor, Tensor]]


_libraries: list[Library] = []  # a registration lasts as long as its library


def register(namespace: str) -> Operators:
    """Register everything for the operators of ``namespace``, and return them as eager code calls them.

    The library has to be loaded or, if it is written in Python, defined by `torch.library.Library.define`.
    """
    library = Library(namespace, "IMPL")
    _libraries.append(library)
    overloads = {name: getattr(getattr(torch.ops, namespace), name).default for name in _FAKES}
    for name, overload in overloads.items():
        register_fake(f"{namespace}::{name}", _FAKES[name])
        register_vmap(f"{namespace}::{name}", _batched(overload))
    calls = {}
    for name in ("geo_loss", "geo_sums", "geo_ratio"):
        backward = overloads[f"{name}_backward"]
        derivative = _with_derivative(library, backward, _refuse_double_backward(backward, name))
        calls[name] = _with_derivative(library, overloads[name], _derivative(overloads[name], derivative))
    return Operators(**calls, **_distance_registrations.register(namespace))


def _fake_sums(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    map: Tensor | None,
    terms: Sequence[str],
    activation: str,
    spacing: Sequence[float],
    axes: Sequence[int],
    ignore_index: int | None,
    include_background: bool,
) -> Tensor:
    channels = input.shape[1] - (0 if include_background else 1)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    return input.new_empty((input.shape[0], channels, len(terms)), dtype=dtype)


def _fake_ratio(sums: Tensor, numerator: Sequence[float], denominator: Sequence[float]) -> Tensor:
    return sums.new_empty(sums.shape[:2])


def _fake_loss(*arguments: Any) -> tuple[Tensor, Tensor]:
    sums = _fake_sums(*arguments[:-2])
    return _fake_ratio(sums, *arguments[-2:]), sums


_FAKES: dict[str, Callable[..., Any]] = {
    "geo_sums": _fake_sums,
    "geo_sums_backward": lambda *arguments: torch.empty_like(arguments[1]),
    "geo_ratio": _fake_ratio,
    "geo_ratio_backward": lambda grad_ratio, sums, *weights: sums.new_empty(sums.shape),
    "geo_loss": _fake_loss,
    "geo_loss_backward": lambda *arguments: torch.empty_like(arguments[2]),
}


def _tensor_names(operator: OpOverload) -> list[str]:
    """The names of the operator's tensor arguments, which come before all others."""
    return [each.name for each in operator._schema.arguments if "Tensor" in str(each.type)]


def _with_derivative(
    library: Library, operator: OpOverload, derivative: type[Function]
) -> Callable[..., Any]:
    """Register ``derivative``; the result calls ``operator`` and skips the dispatcher where it can.

    To get to a kernel that is written in Python, such as this one, the dispatcher turns every argument into
    an object of C++ and back. That takes longer than the pass over a small volume, and compilers and
    function transforms alone need it.
    """
    tensors = len(_tensor_names(operator))

    def kernel(*arguments: Any) -> Any:
        if forward_ad._current_level >= 0:
            _refuse_tangents(operator, arguments[:tensors])
        if torch.is_grad_enabled() and _any_requires_grad(*arguments[:tensors]):
            return derivative.apply(arguments[tensors:], *arguments[:tensors])
        with _AutoDispatchBelowAutograd():
            return operator(*arguments)

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or _are_functorch_transforms_active():
            return operator(*arguments)
        return kernel(*arguments)

    library.impl(operator, kernel, "Autograd")
    return call


def _refuse_tangents(operator: OpOverload, tensors: Sequence[Tensor | None]) -> None:
    """Raise where forward-mode differentiation, which the operator would leave out, has reached it."""
    if not torch._C._is_fwd_grad_enabled():
        return
    for name, tensor in zip(_tensor_names(operator), tensors, strict=True):
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise RuntimeError(
                f"{name}: expected a tensor without tangent, since {operator._opname} has no forward-mode "
                'derivative; differentiate backward, or use geoloss_kernels.use_backend("reference")'
            )


def _derivative(operator: OpOverload, backward: Callable[..., Tensor]) -> type[Function]:
    """The derivative of the operator's first result in its first argument.

    ``backward`` takes the arriving gradient, the other results and the operator's arguments.
    """
    _, *constants = _tensor_names(operator)

    class Derivative(Function):
        @staticmethod
        def forward(ctx: Context, options: tuple[Any, ...], *tensors: Tensor | None) -> Any:
            with _AutoDispatchBelowAutograd():
                result = operator(*tensors, *options)
            by_products = result[1:] if isinstance(result, tuple) else ()
            ctx.options = options
            ctx.save_for_backward(*by_products, *tensors)
            ctx.mark_non_differentiable(*by_products)
            ctx.set_materialize_grads(False)
            return result

        @staticmethod
        def backward(ctx: Context, gradient: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
            for name, needed in zip(constants, ctx.needs_input_grad[2:], strict=True):
                if needed:
                    raise RuntimeError(
                        f"{name}: expected a tensor without gradient, since the fused losses differentiate "
                        'in input alone; detach it, or use geoloss_kernels.use_backend("reference")'
                    )
            slope = None if gradient is None else backward(gradient, *ctx.saved_tensors, *ctx.options)
            return None, slope, *[None] * len(constants)

    return Derivative


def _refuse_double_backward(operator: OpOverload, name: str) -> type[Function]:
    """``operator``, the backward of the operator ``name``, without a derivative of its own."""

    class Refusal(Function):
        @staticmethod
        def forward(ctx: Context, options: tuple[Any, ...], *tensors: Tensor | None) -> Tensor:
            with _AutoDispatchBelowAutograd():
                return operator(*tensors, *options)

        @staticmethod
        def backward(ctx: Context, *gradients: Tensor) -> None:
            raise RuntimeError(
                f"{name} has no second derivative; use geoloss_kernels.use_backend("
                '"reference") for losses that are differentiated twice'
            )

    return Refusal


def _batched(operator: OpOverload) -> Callable[..., Any]:
    """The rule of vmap: the batch is folded into N, and taken out of it again."""
    tensors = len(_tensor_names(operator))

    def rule(info: VmapInfo, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        folded = _fold_batch(info, in_dims, arguments[:tensors])
        result = operator(*folded, *arguments[tensors:])
        if isinstance(result, Tensor):
            return _unfold_batch(info, result), 0
        return tuple(_unfold_batch(info, each) for each in result), (0,) * len(result)

    return rule


def _fold_batch(
    info: VmapInfo, in_dims: tuple[int | None, ...], tensors: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Each tensor [N, ...] with the dimension that vmap maps over folded into N."""
    folded: list[Tensor | None] = []
    for tensor, dim in zip(tensors, in_dims, strict=False):
        if tensor is None:
            folded.append(None)
        elif dim is None:
            folded.append(tensor.unsqueeze(0).expand(info.batch_size, *tensor.shape).flatten(0, 1))
        else:
            folded.append(tensor.movedim(dim, 0).flatten(0, 1))
    return folded


def _unfold_batch(info: VmapInfo, tensor: Tensor) -> Tensor:
    return tensor.unflatten(0, (info.batch_size, -1))
