"""Open formulas between the user's functions and the operators: traced at every call, compiled where new.

A `Density` is what a term of kind "program" adds up. What a loss's functions do is told from their trace, so
that a number that they read from a closure may change from call to call; a tensor with one element that they
read is a parameter, whose value goes to the kernels without another compilation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from geoloss_kernels.distance.loss_maps import DistanceOf
from geoloss_kernels.expressions import simplify
from geoloss_kernels.expressions.encoding import (
    CompiledDensity,
    EncodedDensity,
    compile_density,
    encode_density,
)
from geoloss_kernels.expressions.expression import Expression, FieldKind
from geoloss_kernels.expressions.loss import Phi, TracedLoss, trace_loss
from geoloss_kernels.phi import Stencil


@dataclass(frozen=True)
class Density:
    """What is added up at a voxel: an expression, and what its components and maps are.

    Attributes:
        owner: who its parameters belong to; None without parameters, so that equal densities are one sum.
        plain: the same in plain PyTorch, of the voxels of the reference; None for functions of the user's,
            which the reference calls themselves.
    """

    expression: Expression
    stencils: tuple[Stencil, ...]
    maps: tuple[DistanceOf, ...]
    owner: Any = None
    plain: Callable[[Any], Tensor] | None = None

    @functools.cached_property
    def compiled(self) -> CompiledDensity:
        return compile_density(self.expression)

    def encode(self, dimensions: int, spacing: Sequence[float], maps: Sequence[int]) -> EncodedDensity:
        return encode_density(self.compiled, self.stencils, dimensions, spacing, maps)

    def __str__(self) -> str:
        return str(self.expression)


def known_sums(expression: Expression) -> dict[str, float] | None:
    """The expression as a weighted sum of terms that have kernels of their own; None if it is none."""
    if expression in _KNOWN:
        return {_KNOWN[expression]: 1.0}
    if expression.is_constant:
        assert isinstance(expression.value, float)
        return {"count": expression.value}
    if expression.operation in ("add", "subtract"):
        a, b = map(known_sums, expression.arguments)
        sign = 1.0 if expression.operation == "add" else -1.0
        return None if a is None or b is None else _combined(a, b, sign)
    factor, rest = simplify.split(expression)
    sums = None if factor == 1 else known_sums(rest)
    return None if sums is None else {name: factor * weight for name, weight in sums.items()}


def _combined(a: dict[str, float], b: dict[str, float], sign: float) -> dict[str, float]:
    return {name: a.get(name, 0.0) + sign * b.get(name, 0.0) for name in {**a, **b}}


_S, _G = simplify.PREDICTION, simplify.TARGET
_ERROR = simplify.subtract(_S, _G)
_KNOWN = {
    _S: "prediction",
    _G: "target",
    simplify.multiply(_S, _G): "intersection",
    simplify.square(_S): "prediction_squared",
    simplify.square(_G): "target_squared",
    simplify.absolute(_ERROR): "absolute_error",
    simplify.square(_ERROR): "squared_error",
}


@dataclass
class OpenFunctions:
    """Θ, Ψ, φ and Γ of a loss."""

    theta: Callable[..., Any]
    psi: Callable[..., Any] | None
    phi: Phi | Sequence[Phi] | None
    gamma: Callable[..., Any] | None
    spacing: tuple[float, ...] | None
    parameters: tuple[Tensor, ...] = ()
    """the tensors that they read at the last call of `densities`"""
    _known: dict[Any, tuple[Density, Density | None]] = field(default_factory=dict, repr=False)

    def densities(self, dimensions: int) -> tuple[Density, Density | None]:
        """ΘΨ and Γ as the functions are now: the same objects as long as they stay the same."""
        traced = trace_loss(self.theta, self.psi, self.phi, self.gamma, dimensions)
        self.parameters = traced.parameters
        key = (traced.density, traced.weight, traced.stencils, traced.maps)
        if key not in self._known:
            if len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._densities(traced)
        return self._known[key]

    def _densities(self, traced: TracedLoss) -> tuple[Density, Density | None]:
        owner = self if traced.parameters else None
        maps = tuple(
            DistanceOf(phi.signed, phi.empty, of == FieldKind.TARGET, self.spacing) for phi, of in traced.maps
        )
        density = Density(traced.density, traced.stencils, maps, owner)
        if traced.weight is None:
            return density, None
        return density, Density(traced.weight, (), (), owner)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": {}}


_KEPT = 64
