"""Arguments of the operators: checked, and as the kernels take them.

The checks and their messages are those of csrc/checks.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from geoloss_kernels.triton.numbers import exactly, real_of
from geoloss_kernels.triton.plan import TERMS, Plan, backward_plan, forward_plan
from geoloss_kernels.triton.voxels import View

MAX_TERMS = 16
ACTIVATIONS = ("none", "sigmoid", "softmax")


def check(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


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
    map: Tensor | None
    terms: Sequence[str]
    activation: str
    spacing: Sequence[float]
    axes: Sequence[int]
    ignore_index: int | None
    include_background: bool

    def __post_init__(self) -> None:
        self._check_tensors()
        check(
            self.activation in ACTIVATIONS,
            f"activation: expected 'none', 'sigmoid' or 'softmax', got '{self.activation}'",
        )
        check(
            self.summed > 0,
            "include_background: without it, input needs two channels or more",
        )
        self._check_geometry()
        self._check_terms()

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

    def views(self) -> tuple[View | None, ...]:
        """Of input, target, mask and map."""
        tensors = (self.input, self.target, self.mask, self.map if self._reads_map() else None)
        return tuple(None if tensor is None else view_of(tensor) for tensor in tensors)

    def forward_plan(self) -> Plan:
        return forward_plan(tuple(self.terms), **self._options(self.views()))

    def backward_plan(self, grad_input: View) -> Plan:
        return backward_plan(tuple(self.terms), **self._options((*self.views(), grad_input)))

    def kernel_arguments(self) -> tuple[Any, ...]:
        inverse = [1 / size for size in self.spacing]
        inverse = [1.0] * (3 - len(inverse)) + inverse
        squared = [number * number for number in inverse]
        return (*self.views(), self.ignore_index, exactly(inverse), exactly(squared))

    def sizes(self) -> tuple[int, ...]:
        return (self.C, *self.volume, self.first_channel)

    def _options(self, views: Sequence[View | None]) -> dict[str, Any]:
        dimensions = self.input.ndim - 2
        chosen = [3 - dimensions + axis for axis in self.axes]
        return {
            "activation": self.activation,
            "real": real_of(self.input.dtype),
            "index": self._index_of(views),
            "labels": self.C > 1 and self.target.shape[1] == 1,
            "masked": self.mask is not None or self.ignore_index is not None,
            "axes": tuple(axis in chosen for axis in range(3)),
            "dimensions": (dimensions == 3, True, True),
        }

    def _index_of(self, views: Sequence[View | None]) -> Any:
        """int32 where no plane reaches further: it takes half of the registers."""
        _, height, width = self.volume
        reach = max(
            (height - 1) * view.stride_y + (width - 1) * view.stride_x for view in views if view is not None
        )
        return tl.int32 if reach < 2**31 else tl.int64

    def _reads_map(self) -> bool:
        return any(name.startswith("map_") for name in self.terms)

    def _check_tensors(self) -> None:
        shape = list(self.input.shape)
        check(self.input.ndim in (4, 5), f"input: expected [N, C, H, W] or [N, C, D, H, W], got {shape}")
        check(self.input.is_floating_point(), "input: expected a floating dtype")
        for name in ("target", "mask", "map"):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            fits = tensor.device == self.input.device and list(tensor.shape) in (
                shape,
                [shape[0], 1, *shape[2:]],
            )
            check(
                fits,
                f"{name}: expected input's device and shape {shape} (or one channel), "
                f"got shape {list(tensor.shape)}",
            )

    def _check_geometry(self) -> None:
        dimensions = self.input.ndim - 2
        count = len(self.spacing)
        check(count == dimensions, f"spacing: expected {dimensions} numbers, got {count}")
        for size in self.spacing:
            check(size > 0, f"spacing: expected positive numbers, got {size:g}")
        for axis in self.axes:
            check(0 <= axis < dimensions, f"axes: expected 0 to {dimensions - 1}, got {axis}")

    def _check_terms(self) -> None:
        count = len(self.terms)
        check(0 < count <= MAX_TERMS, f"terms: expected 1 to {MAX_TERMS} names, got {count}")
        for name in self.terms:
            check(name in TERMS, f"terms: expected names out of {', '.join(TERMS)}, got '{name}'")
            needs_map = name.startswith("map_")
            check(not needs_map or self.map is not None, f"map: the term '{name}' needs one, got none")

    def check_grad_sums(self, grad_sums: Tensor) -> None:
        fits = (
            list(grad_sums.shape) == [self.N, self.summed, len(self.terms)] and grad_sums.dtype == self.dtype
        )
        check(
            fits,
            f"grad_sums: expected the shape and dtype of the sums, got shape {list(grad_sums.shape)}",
        )
