"""The library ``geoloss_triton``: the operators of csrc/library.cpp, in Triton.

They work on CUDA and ROCm tensors, and with TRITON_INTERPRET=1 on CPU tensors, in Triton's interpreter.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.library import Library

from geoloss_kernels.triton import distance_transform as distance
from geoloss_kernels.triton import geo_ratio as ratio
from geoloss_kernels.triton import geo_sums as sums
from geoloss_kernels.triton.arguments import Arguments
from geoloss_kernels.triton.launch import INTERPRETED

NAMESPACE = "geoloss_triton"
DISPATCH_KEY = "CPU" if INTERPRETED else "CUDA"

SUMS_ARGUMENTS = (
    "Tensor input, Tensor target, Tensor? mask, Tensor? map, str[] terms, str activation, "
    "float[] spacing, int[] axes, int? ignore_index, bool include_background"
)
RATIO_ARGUMENTS = "float[] numerator, float[] denominator"
DISTANCE_ARGUMENTS = "Tensor mask, float[] spacing, str side, float without_boundary, ScalarType dtype"


def geo_sums(*arguments: Any) -> Tensor:
    return sums.geo_sums(Arguments(*arguments))


def geo_sums_backward(grad_sums: Tensor, *arguments: Any) -> Tensor:
    return sums.geo_sums_backward(grad_sums, Arguments(*arguments))


def geo_loss(*arguments: Any) -> tuple[Tensor, Tensor]:
    *shared, numerator, denominator = arguments
    return sums.geo_loss(Arguments(*shared), numerator, denominator)


def geo_loss_backward(grad_loss: Tensor, sums_: Tensor, *arguments: Any) -> Tensor:
    *shared, numerator, denominator = arguments
    grad_sums = ratio.geo_ratio_backward(grad_loss, sums_, numerator, denominator)
    return sums.geo_sums_backward(grad_sums, Arguments(*shared))


OPERATORS = {
    f"geo_sums({SUMS_ARGUMENTS}) -> Tensor": geo_sums,
    f"geo_sums_backward(Tensor grad_sums, {SUMS_ARGUMENTS}) -> Tensor": geo_sums_backward,
    f"geo_ratio(Tensor sums, {RATIO_ARGUMENTS}) -> Tensor": ratio.geo_ratio,
    f"geo_ratio_backward(Tensor grad_ratio, Tensor sums, {RATIO_ARGUMENTS}) -> Tensor": (
        ratio.geo_ratio_backward
    ),
    f"geo_loss({SUMS_ARGUMENTS}, {RATIO_ARGUMENTS}) -> (Tensor, Tensor)": geo_loss,
    f"geo_loss_backward(Tensor grad_loss, Tensor sums, {SUMS_ARGUMENTS}, {RATIO_ARGUMENTS}) -> Tensor": (
        geo_loss_backward
    ),
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
