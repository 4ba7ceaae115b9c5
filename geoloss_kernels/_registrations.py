"""What the operators need beside their kernels: shapes, derivatives and batching, for the dispatcher.

Under autocast the operators take half-precision tensors as they are: they compute in float32 anyway, and a
cast would only cost memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd, register_fake, register_vmap

Context = Any
VmapInfo = Any


def register() -> None:
    """Register everything; the library has to be loaded."""
    register_fake("geoloss::geo_sums", _fake_sums)
    register_fake("geoloss::geo_sums_backward", _fake_sums_backward)
    register_fake("geoloss::geo_ratio", lambda sums, numerator, denominator: sums.new_empty(sums.shape[:2]))
    register_fake(
        "geoloss::geo_ratio_backward",
        lambda grad_ratio, sums, numerator, denominator: sums.new_empty(sums.shape),
    )
    register_autograd("geoloss::geo_sums", _differentiate_sums, setup_context=_save_sums)
    register_autograd("geoloss::geo_ratio", _differentiate_ratio, setup_context=_save_ratio)
    for operator in ("geo_sums", "geo_ratio"):
        register_autograd(f"geoloss::{operator}_backward", _refuse_double_backward(operator))
    register_vmap("geoloss::geo_sums", _batch_sums)
    register_vmap("geoloss::geo_sums_backward", _batch_sums_backward)
    register_vmap("geoloss::geo_ratio", _batch_ratio)
    register_vmap("geoloss::geo_ratio_backward", _batch_ratio_backward)


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


def _fake_sums_backward(grad_sums: Tensor, input: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(input)


def _save_sums(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _differentiate_sums(ctx: Context, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
    constants = {"target": 1, "mask": 2, "map": 3}
    for name, position in constants.items():
        if ctx.needs_input_grad[position]:
            raise RuntimeError(
                f"{name}: expected a tensor without gradient, since the fused losses differentiate in input "
                f'alone; detach it, or use geoloss_kernels.use_backend("reference")'
            )
    grad_input = torch.ops.geoloss.geo_sums_backward(grad_sums, *ctx.saved_tensors, *ctx.options)
    return (grad_input, *[None] * 9)


def _save_ratio(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    sums, ctx.numerator, ctx.denominator = inputs
    ctx.save_for_backward(sums)


def _differentiate_ratio(ctx: Context, grad_ratio: Tensor) -> tuple[Tensor, None, None]:
    (sums,) = ctx.saved_tensors
    return torch.ops.geoloss.geo_ratio_backward(grad_ratio, sums, ctx.numerator, ctx.denominator), None, None


def _refuse_double_backward(operator: str) -> Any:
    def refuse(ctx: Context, *gradients: Tensor) -> None:
        raise RuntimeError(
            f"{operator} has no second derivative; use geoloss_kernels.use_backend("
            '"reference") for losses that are differentiated twice'
        )

    return refuse


def _batch_sums(info: VmapInfo, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    tensors, options = arguments[:4], arguments[4:]
    folded = _fold_batch(info, in_dims, tensors)
    sums = torch.ops.geoloss.geo_sums(*folded, *options)
    return sums.unflatten(0, (info.batch_size, -1)), 0


def _batch_sums_backward(
    info: VmapInfo, in_dims: tuple[int | None, ...], *arguments: Any
) -> tuple[Tensor, int]:
    tensors, options = arguments[:5], arguments[5:]
    folded = _fold_batch(info, in_dims, tensors)
    grad_input = torch.ops.geoloss.geo_sums_backward(*folded, *options)
    return grad_input.unflatten(0, (info.batch_size, -1)), 0


def _batch_ratio(
    info: VmapInfo, in_dims: tuple[int | None, ...], sums: Tensor, *weights: Any
) -> tuple[Tensor, int]:
    (folded,) = _fold_batch(info, in_dims, (sums,))
    return torch.ops.geoloss.geo_ratio(folded, *weights).unflatten(0, (info.batch_size, -1)), 0


def _batch_ratio_backward(
    info: VmapInfo, in_dims: tuple[int | None, ...], grad_ratio: Tensor, sums: Tensor, *weights: Any
) -> tuple[Tensor, int]:
    folded = _fold_batch(info, in_dims, (grad_ratio, sums))
    return torch.ops.geoloss.geo_ratio_backward(*folded, *weights).unflatten(0, (info.batch_size, -1)), 0


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
