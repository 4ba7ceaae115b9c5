"""Arguments of the operators: checked, and as the kernels take them.

The checks and their messages are those of csrc/checks.h.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from geoloss_kernels.tensor_checks import DTYPES
from geoloss_kernels.triton.columns import Columns, check, columns_of
from geoloss_kernels.triton.numbers import real_of
from geoloss_kernels.triton.plan import Plan, backward_plan, flux_plan, forward_plan
from geoloss_kernels.triton.voxels import View

MAX_MAPS = 4
ACTIVATIONS = ("none", "sigmoid", "softmax")


def view_of(tensor: Tensor) -> View:
    """[N, C, *spatial] as [N, C, D, H, W], D = 1 in 2-D; an axis of size 1 has stride 0 and repeats."""
    stride_n, stride_c = (tensor.stride(i) if tensor.shape[i] > 1 else 0 for i in range(2))
    stride_z = tensor.stride(2) if tensor.ndim == 5 else 0
    return View(tensor.detach(), stride_n, stride_c, stride_z, tensor.stride(-2), tensor.stride(-1))


@dataclass(frozen=True)
class Arguments:
    """The arguments that geo_sums, geo_loss and their backwards share."""

    input: Tensor
    target: Tensor
    mask: Tensor | None
    maps: Sequence[Tensor]
    terms: Sequence[int]
    parameters: Sequence[float]
    activation_number: int
    ignore_index: int | None
    include_background: bool

    def __post_init__(self) -> None:
        self._check_tensors()
        check(
            0 <= self.activation_number < len(ACTIVATIONS),
            f"activation: expected 0 (none), 1 (sigmoid) or 2 (softmax), got {self.activation_number}",
        )
        check(
            self.summed > 0,
            "include_background: without it, input needs two channels or more",
        )
        _ = self.columns  # checks the terms

    @property
    def N(self) -> int:
        return self.input.shape[0]

    @property
    def C(self) -> int:
        return self.input.shape[1]

    @property
    def volume(self) -> tuple[int, ...]:
        """D, H, W"""
        spatial = tuple(self.input.shape[2:])
        return (1, *spatial) if len(spatial) == 2 else spatial

    @property
    def activation(self) -> str:
        return ACTIVATIONS[self.activation_number]

    @functools.cached_property
    def columns(self) -> Columns:
        return columns_of(tuple(self.terms), tuple(self.parameters), len(self.maps))

    @property
    def K(self) -> int:
        """How many columns the sums have."""
        return len(self.columns.each)

    @property
    def first_channel(self) -> int:
        return 0 if self.include_background else 1

    @property
    def summed(self) -> int:
        """C', the number of channels in the sums"""
        return self.C - self.first_channel

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic and the sums."""
        return torch.float64 if self.input.dtype == torch.float64 else torch.float32

    @functools.cached_property
    def views(self) -> tuple[View | None, ...]:
        """Of input, target and mask."""
        tensors = (self.input, self.target, self.mask)
        return tuple(None if tensor is None else view_of(tensor) for tensor in tensors)

    @functools.cached_property
    def map_views(self) -> tuple[View | None, ...]:
        """Of the maps that a column reads."""
        read = self.columns.maps
        return tuple(view_of(map) if number in read else None for number, map in enumerate(self.maps))

    def forward_plan(self) -> Plan:
        return forward_plan(self.columns.each, **self._options((*self.views, *self.map_views)))

    def flux_plan(self, fluxes: Sequence[View]) -> Plan:
        return flux_plan(self.columns.each, **self._options((*self.views, *self.map_views, *fluxes)))

    def backward_plan(self, grad_input: View) -> Plan:
        views = (*self.views, *self.map_views, grad_input)
        return backward_plan(self.columns.each, **self._options(views))

    def kernel_arguments(self) -> tuple[Any, ...]:
        return (*self.views, self.map_views, self.ignore_index, self.columns.scales, self.columns.constants)

    def sizes(self) -> tuple[int, ...]:
        return (self.C, *self.volume, self.first_channel)

    def _options(self, views: Sequence[View | None]) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "real": real_of(self.input.dtype),
            "index": self._index_of(views),
            "labels": self.C > 1 and self.target.shape[1] == 1,
            "masked": self.mask is not None or self.ignore_index is not None,
            "dimensions": (self.input.ndim == 5, True, True),
        }

    def _index_of(self, views: Sequence[View | None]) -> Any:
        """int32 where no plane reaches further: it takes half of the registers."""
        _, height, width = self.volume
        reach = max(
            (height - 1) * view.stride_y + (width - 1) * view.stride_x for view in views if view is not None
        )
        return tl.int32 if reach < 2**31 else tl.int64

    def _check_tensors(self) -> None:
        shape = list(self.input.shape)
        check(self.input.ndim in (4, 5), f"input: expected [N, C, H, W] or [N, C, D, H, W], got {shape}")
        check(self.input.is_floating_point(), "input: expected a floating dtype")
        check(len(self.maps) <= MAX_MAPS, f"maps: expected at most {MAX_MAPS}, got {len(self.maps)}")
        for name, tensor in self._companions():
            fits = tensor.device == self.input.device and list(tensor.shape) in (
                shape,
                [shape[0], 1, *shape[2:]],
            )
            check(
                fits,
                f"{name}: expected input's device and shape {shape} (or one channel), "
                f"got shape {list(tensor.shape)}",
            )
            check(tensor.dtype in DTYPES, f"{name}: expected a floating, integer or bool dtype")

    def _companions(self) -> Iterator[tuple[str, Tensor]]:
        yield "target", self.target
        if self.mask is not None:
            yield "mask", self.mask
        for map in self.maps:
            yield "maps", map

    def check_grad_sums(self, grad_sums: Tensor) -> None:
        fits = list(grad_sums.shape) == [self.N, self.summed, self.K] and grad_sums.dtype == self.dtype
        check(
            fits,
            f"grad_sums: expected the shape and dtype of the sums, got shape {list(grad_sums.shape)}",
        )
