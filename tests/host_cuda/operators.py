"""The CUDA kernels on the CPU as operators of torch: geoloss_cuda_on_host::geo_sums and the others.

Their schemas are those of geoloss, their kernels for CPU tensors the launch layer of csrc/cuda, and the rest,
derivatives for instance, what every backend gets.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.library import Library

from geoloss_kernels import _registrations, backends
from geoloss_kernels._registrations import Operators
from host_cuda import build

NAMESPACE = "geoloss_cuda_on_host"
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@functools.cache
def module() -> ModuleType:
    """The launch layer; compiled when it is first asked for."""
    path = build.module()
    spec = importlib.util.spec_from_file_location("cuda_on_host", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@functools.cache
def add_backend() -> None:
    """Let `geoloss_kernels.use_backend` choose "cuda on host"."""
    module()
    backends._add("cuda on host", "cpu", register())


def register() -> Operators:
    """Define the operators, and return them as eager code calls them."""
    library = Library(NAMESPACE, "DEF")
    _libraries.append(library)
    for kernel in (
        *(geo_sums, geo_sums_backward, geo_ratio, geo_ratio_backward, geo_loss, geo_loss_backward),
        *(distance_transform, distance_transform_with_indices),
    ):
        schema = str(getattr(torch.ops.geoloss, kernel.__name__).default._schema)
        library.define(schema.removeprefix("geoloss::"))
        library.impl(kernel.__name__, kernel, "CPU")
    return _registrations.register(NAMESPACE)


_libraries: list[Library] = []  # a registration lasts as long as its library


def _bits(tensor: Tensor) -> tuple[np.ndarray, str]:
    """The tensor's memory and strides as they are, and its dtype; NumPy does not know each of them."""
    bits = tensor.detach().view(BITS[tensor.element_size()]).numpy()
    return bits, str(tensor.dtype).removeprefix("torch.")


def _arguments(*arguments: Any) -> Any:
    """The launch layer's; it keeps the memory of every tensor alive."""
    return module().Arguments(*map(_plain, arguments))


def _plain(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return _bits(argument)
    return [_plain(each) for each in argument] if isinstance(argument, (list, tuple)) else argument


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _poisoned(like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_full(shape, torch.nan)


def _sums_like(input: Tensor, terms: Sequence[int], include_background: bool) -> Tensor:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    channels = input.shape[1] - (0 if include_background else 1)
    return torch.full((input.shape[0], channels, _count_terms(terms)), torch.nan, dtype=dtype)


def _count_terms(terms: Sequence[int]) -> int:
    """Columns of the sums: a term has a kind, two counts, and as many integers as the first of them says."""
    count = start = 0
    while start < len(terms):
        start += 3 + terms[start + 1]
        count += 1
    return count


def _ratio_numbers(channel_weights: Tensor | None, *numbers: Any) -> Any:
    return module().RatioNumbers(None if channel_weights is None else _array(channel_weights), *numbers)


def _loss_like(sums: Tensor, fractions: Sequence[int], reduction: int) -> Tensor:
    pooling, skip = fractions[:2]
    batch, channels = sums.shape[0] if pooling == 0 else 1, sums.shape[1] - skip if pooling < 2 else 1
    return _poisoned(sums, () if reduction else (batch, channels))


def geo_sums(input: Tensor, *rest: Any) -> Tensor:
    terms, include_background = rest[3], rest[7]
    sums = _sums_like(input, terms, include_background)
    if input.numel() == 0:
        return sums.zero_()
    module().forward(_arguments(input, *rest), sums.numpy())
    return sums


def geo_sums_backward(grad_sums: Tensor, input: Tensor, *rest: Any) -> Tensor:
    grad_input = torch.empty_like(input).fill_(torch.nan)
    if input.numel():
        module().backward(_arguments(input, *rest), _array(grad_sums), _bits(grad_input))
    return grad_input


def geo_ratio(sums: Tensor, channel_weights: Tensor | None, *numbers: Any) -> Tensor:
    ratio = _loss_like(sums, numbers[0], numbers[2])
    if ratio.numel():
        module().ratio(_ratio_numbers(channel_weights, *numbers), _array(sums), ratio.numpy())
    return ratio


def geo_ratio_backward(
    grad_ratio: Tensor, sums: Tensor, channel_weights: Tensor | None, *numbers: Any
) -> Tensor:
    grad_sums = _poisoned(sums, sums.shape)
    if grad_sums.numel():
        ratio = _ratio_numbers(channel_weights, *numbers)
        module().ratio_backward(ratio, _array(grad_ratio), _array(sums), grad_sums.numpy())
    return grad_sums


def geo_loss(
    input: Tensor, target: Tensor, mask: Tensor | None, channel_weights: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    *of_sums, fractions, weights, reduction = rest
    terms, include_background = of_sums[1], of_sums[5]
    sums = _sums_like(input, terms, include_background)
    numbers = (fractions, weights, reduction)
    if input.numel() == 0:
        return geo_ratio(sums.zero_(), channel_weights, *numbers), sums
    loss = _loss_like(sums, fractions, reduction)
    arguments = _arguments(input, target, mask, *of_sums)
    module().loss(arguments, _ratio_numbers(channel_weights, *numbers), sums.numpy(), loss.numpy())
    return loss, sums


def geo_loss_backward(
    grad_loss: Tensor,
    sums: Tensor,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    channel_weights: Tensor | None,
    *rest: Any,
) -> Tensor:
    *of_sums, fractions, weights, reduction = rest
    grad_sums = geo_ratio_backward(grad_loss, sums, channel_weights, fractions, weights, reduction)
    return geo_sums_backward(grad_sums, input, target, mask, *of_sums)


def distance_transform(
    mask: Tensor, spacing: Sequence[float], side: int, without_boundary: float, dtype: torch.dtype
) -> Tensor:
    distance = torch.full(mask.shape, torch.nan, dtype=dtype)
    if mask.numel():
        module().distance_transform(_bits(mask), spacing, side, without_boundary, distance.numpy(), None)
    return distance


def distance_transform_with_indices(
    mask: Tensor, spacing: Sequence[float], side: int, without_boundary: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    distance = torch.full(mask.shape, torch.nan, dtype=dtype)
    nearest = torch.full(mask.shape, -2)
    if mask.numel():
        module().distance_transform(
            _bits(mask), spacing, side, without_boundary, distance.numpy(), nearest.numpy()
        )
    return distance, nearest
