"""The library ``geoloss_triton``: the operators of csrc/library.cpp, in Triton.

They work on CUDA and ROCm tensors, and with TRITON_INTERPRET=1 on CPU tensors, in Triton's interpreter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.library import Library

from geoloss_kernels.triton import distance_transform as distance
from geoloss_kernels.triton import geo_ratio as ratio
from geoloss_kernels.triton import geo_sums as sums
from geoloss_kernels.triton.arguments import Arguments
from geoloss_kernels.triton.launch import INTERPRETED

NAMESPACE = "geoloss_triton"
DISPATCH_KEY = "CPU" if INTERPRETED else "CUDA"

SUMS_OPTIONS = (
    "Tensor[] maps, int[] terms, float[] parameters, int activation, int? ignore_index, "
    "bool include_background"
)
SUMS_ARGUMENTS = f"Tensor input, Tensor target, Tensor? mask, {SUMS_OPTIONS}"
RATIO_OPTIONS = "int[] fractions, float[] weights, int reduction"
RATIO_ARGUMENTS = f"Tensor sums, Tensor? channel_weights, {RATIO_OPTIONS}"
LOSS_ARGUMENTS = (
    f"Tensor input, Tensor target, Tensor? mask, Tensor? channel_weights, {SUMS_OPTIONS}, {RATIO_OPTIONS}"
)
DISTANCE_ARGUMENTS = "Tensor mask, float[] spacing, int side, float without_boundary, ScalarType dtype"


def geo_sums(*arguments: Any) -> Tensor:
    return sums.geo_sums(Arguments(*arguments))


def geo_sums_backward(grad_sums: Tensor, *arguments: Any) -> Tensor:
    return sums.geo_sums_backward(grad_sums, Arguments(*arguments))


class LossArguments(NamedTuple):
    """Those of geo_sums, and those of geo_ratio beside the sums."""

    of_sums: Arguments
    of_ratio: tuple[Any, ...]


def split(
    input: Tensor, target: Tensor, mask: Tensor | None, channel_weights: Tensor | None, *options: Any
) -> LossArguments:
    """The arguments of geo_loss."""
    return LossArguments(Arguments(input, target, mask, *options[:-3]), (channel_weights, *options[-3:]))


def geo_loss(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The loss, and the sums [N, C', K]: three launches."""
    given = split(*arguments)
    sums_ = sums.geo_sums(given.of_sums)
    return ratio.geo_ratio(sums_, *given.of_ratio), sums_


def geo_loss_backward(grad_loss: Tensor, sums_: Tensor, *arguments: Any) -> Tensor:
    given = split(*arguments)
    grad_sums = ratio.geo_ratio_backward(grad_loss, sums_, *given.of_ratio)
    return sums.geo_sums_backward(grad_sums, given.of_sums)


OPERATORS = {
    f"geo_sums({SUMS_ARGUMENTS}) -> Tensor": geo_sums,
    f"geo_sums_backward(Tensor grad_sums, {SUMS_ARGUMENTS}) -> Tensor": geo_sums_backward,
    f"geo_ratio({RATIO_ARGUMENTS}) -> Tensor": ratio.geo_ratio,
    f"geo_ratio_backward(Tensor grad_ratio, {RATIO_ARGUMENTS}) -> Tensor": ratio.geo_ratio_backward,
    f"geo_loss({LOSS_ARGUMENTS}) -> (Tensor, Tensor)": geo_loss,
    f"geo_loss_backward(Tensor grad_loss, Tensor sums, {LOSS_ARGUMENTS}) -> Tensor": geo_loss_backward,
    f"distance_transform({DISTANCE_ARGUMENTS}) -> Tensor": distance.distance_transform,
    f"distance_transform_with_indices({DISTANCE_ARGUMENTS}) -> (Tensor, Tensor)": (
        distance.distance_transform_with_indices
    ),
}


_libraries: list[Library] = []  # a definition lasts as long as its library


def define() -> None:
    """Define and implement the operators."""
    library = Library(NAMESPACE, "DEF")
    _libraries.append(library)
    for schema, function in OPERATORS.items():
        library.define(schema)
        library.impl(schema.partition("(")[0], function, DISPATCH_KEY)
