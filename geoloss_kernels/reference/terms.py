"""The terms of `geo_sums` by name: each maps `Voxels` to its value at every voxel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from geoloss_kernels.reference import theta
from geoloss_kernels.reference.phi import OPERATORS, gradient, laplacian
from geoloss_kernels.reference.psi import NORMS, second_order
from geoloss_kernels.reference.voxels import Voxels

Term = Callable[[Voxels], Tensor]


def cross_entropy_foreground(voxels: Voxels) -> Tensor:
    """-g log s, from the logit if there is one."""
    if voxels.logits is None:
        return theta.cross_entropy_foreground(voxels.s, voxels.g)
    return theta.cross_entropy_foreground_with_logits(voxels.logits, voxels.g)


def cross_entropy_background(voxels: Voxels) -> Tensor:
    """-(1 - g) log(1 - s), from the logit if there is one."""
    if voxels.logits is None:
        return theta.cross_entropy_background(voxels.s, voxels.g)
    return theta.cross_entropy_background_with_logits(voxels.logits, voxels.g)


def first_order_term(voxels: Voxels, operator: str, norm: str) -> Tensor:
    """‖(∂_i e)‖ of e = s - g over the chosen axes: φ is linear, so one stencil on e suffices."""
    error = voxels.s - voxels.g
    return NORMS[norm](gradient(error, voxels.axes, voxels.spacing, operator, voxels.valid))


def second_order_term(voxels: Voxels, two_sided: bool, signed: bool) -> Tensor:
    """|e| Ψ with Ψ of `psi.second_order` and φ the Laplacian."""
    phi = partial(laplacian, spacing=voxels.spacing, valid=voxels.valid)
    psi = second_order(voxels.s, voxels.g, phi, two_sided, signed)
    return theta.absolute_error(voxels.s, voxels.g) * psi


def _map(voxels: Voxels) -> Tensor:
    if voxels.map is None:
        raise ValueError(
            "map: expected a tensor for the terms map_prediction and map_squared_error, got None"
        )
    return voxels.map


TERMS: dict[str, Term] = {
    "count": lambda v: torch.ones_like(v.s),
    "prediction": lambda v: v.s,
    "target": lambda v: v.g,
    "intersection": lambda v: v.s * v.g,
    "prediction_squared": lambda v: v.s**2,
    "target_squared": lambda v: v.g**2,
    "absolute_error": lambda v: theta.absolute_error(v.s, v.g),
    "squared_error": lambda v: theta.squared_error(v.s, v.g),
    "cross_entropy_foreground": cross_entropy_foreground,
    "cross_entropy_background": cross_entropy_background,
    "map_prediction": lambda v: v.s * _map(v),
    "map_squared_error": lambda v: theta.squared_error(v.s, v.g) * _map(v),
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
