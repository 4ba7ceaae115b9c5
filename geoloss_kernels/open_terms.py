"""Open formulas between the user's functions and the operators: traced at every call, compiled where they differ.

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
    """

    expression: Expression
    stencils: tuple[Stencil, ...]
    maps: tuple[DistanceOf, ...]
    owner: Any = None

    @functools.cached_property
    def compiled(self) -> CompiledDensity:
        return compile_density(self.expression)

    def encode(self, dimensions: int, spacing: Sequence[float], maps: Sequence[int]) -> EncodedDensity:
        return encode_density(self.compiled, self.stencils, dimensions, spacing, maps)

    def __str__(self) -> str:
        return str(self.expression)


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
