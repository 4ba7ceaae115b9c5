"""The terms of `geo_sums` by name, in the order of their numbers: what each adds up at every voxel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from geoloss_kernels.reference import theta
from geoloss_kernels.reference.phi import OPERATORS, gradient, laplacian
from geoloss_kernels.reference.psi import NORMS, second_order
from geoloss_kernels.reference.voxels import Voxels
from geoloss_kernels.terms import PROGRAM


@dataclass(frozen=True)
class Column:
    """One entry of the operators' ``terms``: a term, and the parameters that are its own."""

    name: str
    map: int = 0
    """the number of its map"""
    program: int = 0
    """of a program, its number among them"""
    axes: tuple[int, ...] = ()
    """spatial axes of the tensor that a first-order term differentiates along"""
    spacing: tuple[float, ...] = ()
    """voxel size per spatial axis of a stencil, in mm"""


Density = Callable[[Voxels, Column], Tensor]


def first_order_term(voxels: Voxels, column: Column, operator: str, norm: str) -> Tensor:
    """‖(∂_i e)‖ of e = s - g over the chosen axes: φ is linear, so one stencil on e suffices."""
    error = voxels.s - voxels.g
    return NORMS[norm](gradient(error, column.axes, column.spacing, operator, voxels.valid))


def second_order_term(voxels: Voxels, column: Column, two_sided: bool, signed: bool) -> Tensor:
    """|e| Ψ with Ψ of `psi.second_order` and φ the Laplacian."""
    phi = partial(laplacian, spacing=column.spacing, valid=voxels.valid)
    psi = second_order(voxels.s, voxels.g, phi, two_sided, signed)
    return theta.absolute_error(voxels.s, voxels.g) * psi


TERMS: dict[str, Density] = {
    "count": lambda v, column: torch.ones_like(v.s),
    "prediction": lambda v, column: v.s,
    "target": lambda v, column: v.g,
    "intersection": lambda v, column: v.s * v.g,
    "prediction_squared": lambda v, column: v.s**2,
    "target_squared": lambda v, column: v.g**2,
    "absolute_error": lambda v, column: theta.absolute_error(v.s, v.g),
    "squared_error": lambda v, column: theta.squared_error(v.s, v.g),
    "cross_entropy_foreground": lambda v, column: theta.surprise(v.g, v.log_s),
    "cross_entropy_background": lambda v, column: theta.surprise(1 - v.g, v.log_complement),
    "cross_entropy_uniform": lambda v, column: -v.log_s,
    "map_prediction": lambda v, column: v.s * v.maps[column.map],
    "map_squared_error": lambda v, column: theta.squared_error(v.s, v.g) * v.maps[column.map],
    **{
        f"first_order_{operator}_{norm}": partial(first_order_term, operator=operator, norm=norm)
        for operator in OPERATORS
        for norm in NORMS
    },
    "second_order": partial(second_order_term, two_sided=False, signed=False),
    "second_order_signed": partial(second_order_term, two_sided=False, signed=True),
    "second_order_two_sided": partial(second_order_term, two_sided=True, signed=False),
    "second_order_two_sided_signed": partial(second_order_term, two_sided=True, signed=True),
}


def columns_of(terms: Sequence[int], parameters: Sequence[float], dimensions: int) -> list[Column]:
    """What the operators' ``terms`` and ``parameters`` say: kind, counts and integers of each term."""
    names = tuple(TERMS)
    columns: list[Column] = []
    programs = 0
    stream, numbers = list(terms), list(parameters)
    while stream:
        kind, integers, count = stream[:3]
        own, stream = stream[3 : 3 + integers], stream[3 + integers :]
        spacing, numbers = numbers[:count], numbers[count:]
        if not 0 <= kind <= PROGRAM.number:
            raise ValueError(f"terms: expected kinds from 0 to {PROGRAM.number}, got {kind}")
        if kind == PROGRAM.number:
            columns.append(Column("program", program=programs))
            programs += 1
            continue
        columns.append(_column(names[kind], own, spacing, dimensions))
    if not columns:
        raise ValueError("terms: expected at least one, got none")
    return columns


def _column(name: str, integers: list[int], spacing: list[float], dimensions: int) -> Column:
    left_out = 3 - dimensions
    axes = (axis for axis in range(dimensions) if integers and integers[0] >> (left_out + axis) & 1)
    if name.startswith("map_"):
        return Column(name, map=integers[0])
    return Column(name, axes=tuple(axes), spacing=tuple(spacing[left_out:]))
