"""What the operators of distances need beside their kernels: shapes and batching, for the dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd, register_fake, register_vmap


def register(namespace: str) -> dict[str, Any]:
    """Register everything for the operators of ``namespace``, and return them by name."""
    fakes: dict[str, Callable[..., Any]] = {
        "distance_transform": _fake_distance,
        "distance_transform_with_indices": _fake_distance_with_indices,
    }
    operators = {name: getattr(getattr(torch.ops, namespace), name).default for name in fakes}
    for name, operator in operators.items():
        register_fake(f"{namespace}::{name}", fakes[name])
        register_vmap(f"{namespace}::{name}", _batched(operator))
        register_autograd(f"{namespace}::{name}", _refuse_backward)
    return operators


def _fake_distance(
    mask: Tensor, spacing: Any, side: int, without_boundary: float, dtype: torch.dtype
) -> Tensor:
    return mask.new_empty(mask.shape, dtype=dtype)


def _fake_distance_with_indices(mask: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return _fake_distance(mask, *options), mask.new_empty(mask.shape, dtype=torch.int64)


def _batched(operator: Any) -> Any:
    """The rule of vmap: the batch is folded into N, and taken out of it again."""

    def rule(info: Any, in_dims: tuple[int | None, ...], mask: Tensor, *options: Any) -> tuple[Any, Any]:
        (dim, *_) = in_dims
        if dim is None:
            result = operator(mask, *options)
            return result, None if isinstance(result, Tensor) else (None, None)
        result = operator(mask.movedim(dim, 0).flatten(0, 1), *options)
        if isinstance(result, Tensor):
            return result.unflatten(0, (info.batch_size, -1)), 0
        return tuple(each.unflatten(0, (info.batch_size, -1)) for each in result), (0, 0)

    return rule


def _refuse_backward(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError(
        "distance_transform is piecewise constant in its mask and has no derivative; detach the mask"
    )
