"""Eq. 1 with the user's Θ, Ψ, φ and Γ as expressions: what `trace_loss` makes of the four functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from geoloss_kernels.expressions import simplify as s
from geoloss_kernels.expressions.expression import Expression, FieldKind, field
from geoloss_kernels.expressions.trace import Stack, Trace, Traced
from geoloss_kernels.phi import DistanceMap, Stencil

Phi = Stencil | DistanceMap


@dataclass(frozen=True)
class TracedLoss:
    """ΣΘΨ/ΣΓ of volumes with so many spatial axes."""

    density: Expression
    """Θ·Ψ"""
    weight: Expression | None
    """Γ; None = 1"""
    stencils: tuple[Stencil, ...]
    """their components are numbered one after the other"""
    maps: tuple[tuple[DistanceMap, FieldKind], ...]
    """each with what it is the distance of, prediction or target; by the number of the map"""
    parameters: tuple[Tensor, ...]
    """read at every call"""


def trace_loss(
    theta: Callable[..., Any],
    psi: Callable[..., Any] | None,
    phi: Phi | Sequence[Phi] | None,
    gamma: Callable[..., Any] | None,
    dimensions: int,
) -> TracedLoss:
    """Runs the functions once; `trace.ExpressionError` where one does what has no expression."""
    trace = Trace()
    prediction, target = trace.symbol(FieldKind.PREDICTION), trace.symbol(FieldKind.TARGET)

    def traced(role: str, function: Callable[..., Any], *more: Any) -> Expression:
        trace.role = role
        return trace.result(function(prediction, target, *more))

    operators = _Operators(trace, dimensions)
    density = traced("theta", theta)
    if psi is not None:
        density = s.multiply(density, traced("psi", psi, operators.of(phi)))
    weight = None if gamma is None else traced("gamma", gamma)
    return TracedLoss(
        density, weight, tuple(operators.stencils), tuple(operators.maps), tuple(trace.parameters)
    )


class _Operators:
    """The φ of a loss while it is traced: numbers the components of stencils, and the maps."""

    def __init__(self, trace: Trace, dimensions: int) -> None:
        self.trace, self.dimensions = trace, dimensions
        self.stencils: list[Stencil] = []
        self.maps: list[tuple[DistanceMap, FieldKind]] = []

    def of(self, phi: Phi | Sequence[Phi] | None) -> Any:
        """What psi is called with: φ as a function of traced volumes, or a tuple of such."""
        if phi is None:
            return None
        if isinstance(phi, Sequence):
            return tuple(self.of(each) for each in phi)
        if isinstance(phi, Stencil):
            return self._stencil(phi)
        if isinstance(phi, DistanceMap):
            return lambda u: self._map(phi, u)
        self.trace.role = "phi"
        raise self.trace.error(f"expected an operator of gk.phi, got {phi!r}")

    def _stencil(self, phi: Stencil) -> Callable[[Any], Stack]:
        if phi not in self.stencils:
            self.stencils.append(phi)
        place = self.stencils.index(phi)
        first = sum(each.components(self.dimensions) for each in self.stencils[:place])
        sums = phi.sums(self.dimensions)

        def apply(u: Any) -> Stack:
            of_prediction, of_target, offset = self._linear(self.trace.expression(u))
            return Stack(
                self.trace,
                [
                    Traced(
                        self.trace,
                        s.add(
                            _of_both(of_prediction, of_target, first + k),
                            s.multiply(s.constant(total), offset),
                        ),
                    )
                    for k, total in enumerate(sums)
                ],
            )

        return apply

    def _map(self, phi: DistanceMap, u: Any) -> Stack:
        fields = {s.PREDICTION: FieldKind.PREDICTION, s.TARGET: FieldKind.TARGET}
        of = fields.get(self.trace.expression(u))
        if of is None:
            raise self.trace.error("a distance φ(u) is taken of s or of g themselves")
        if (phi, of) not in self.maps:
            self.maps.append((phi, of))
        return Stack(self.trace, [self.trace.symbol(FieldKind.MAP, self.maps.index((phi, of)))])

    def _linear(self, u: Expression) -> tuple[Expression, Expression, Expression]:
        """a, b, c of u = a·s + b·g + c; uniform."""
        if u.is_uniform:
            return s.ZERO, s.ZERO, u
        if u is s.PREDICTION:
            return s.ONE, s.ZERO, s.ZERO
        if u is s.TARGET:
            return s.ZERO, s.ONE, s.ZERO
        if u.operation in ("add", "subtract"):
            a, b = (self._linear(each) for each in u.arguments)
            combine = s.add if u.operation == "add" else s.subtract
            return combine(a[0], b[0]), combine(a[1], b[1]), combine(a[2], b[2])
        if u.operation == "negate":
            a = self._linear(u.arguments[0])
            return s.negate(a[0]), s.negate(a[1]), s.negate(a[2])
        scale, rest = _uniform_factor(u)
        if scale is not None:
            a = self._linear(rest)
            return s.multiply(scale, a[0]), s.multiply(scale, a[1]), s.multiply(scale, a[2])
        raise self.trace.error(
            f"φ({u!r}): φ is taken of s, g and what is linear in them, such as s - g; "
            "a function of φ(s) and φ(g) comes after φ"
        )


def _uniform_factor(u: Expression) -> tuple[Expression | None, Expression]:
    """u = factor · rest, or None."""
    if u.operation == "multiply":
        a, b = u.arguments
        if a.is_uniform or b.is_uniform:
            return (a, b) if a.is_uniform else (b, a)
    if u.operation == "divide" and u.arguments[1].is_uniform:
        return s.divide(s.ONE, u.arguments[1]), u.arguments[0]
    return None, u


def _of_both(a: Expression, b: Expression, component: int) -> Expression:
    """a·φ_k(s) + b·φ_k(g)"""
    if s.add(a, b) is s.ZERO:
        return s.multiply(a, field(FieldKind.ERROR_COMPONENT, component))
    return s.add(
        s.multiply(a, field(FieldKind.PREDICTION_COMPONENT, component)),
        s.multiply(b, field(FieldKind.TARGET_COMPONENT, component)),
    )
