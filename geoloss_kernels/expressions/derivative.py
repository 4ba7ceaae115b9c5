"""Derivatives of an expression with respect to its fields, backwards through the graph.

Where there is no derivative, torch's choice: |a| has the slope 0 at 0, so has the root of a norm, maximum and
minimum halve theirs where they tie, and a clamp has the slope 1 at its bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from geoloss_kernels.expressions import simplify as s
from geoloss_kernels.expressions.expression import Expression, Field, constant, in_order

Slopes = Sequence[Expression | None]
Rule = Callable[[Expression, Expression], Slopes]


def derivatives(root: Expression, fields: Sequence[Field]) -> list[Expression]:
    """∂root/∂field for each of the fields; log s and φ_k(s) count as fields of their own beside s."""
    wanted = frozenset(fields)
    order = [each for each in in_order((root,)) if each.reads & wanted]
    adjoints: dict[int, Expression] = {root.serial: s.ONE}
    result = dict.fromkeys(fields, s.ZERO)
    for each in reversed(order):
        adjoint = adjoints.get(each.serial)
        if adjoint is None:
            continue
        if isinstance(each.value, Field):
            result[each.value] = adjoint
            continue
        for argument, slope in zip(each.arguments, RULES[each.operation](each, adjoint), strict=True):
            if slope is not None and argument.reads & wanted:
                sofar = adjoints.get(argument.serial)
                adjoints[argument.serial] = slope if sofar is None else s.add(sofar, slope)
    return [result[field] for field in fields]


def _multiply(each: Expression, adjoint: Expression) -> Slopes:
    a, b = each.arguments
    return s.multiply(adjoint, b), s.multiply(adjoint, a)


def _divide(each: Expression, adjoint: Expression) -> Slopes:
    _, b = each.arguments
    along_a = s.divide(adjoint, b)
    return along_a, s.negate(s.multiply(along_a, each))


def _power(each: Expression, adjoint: Expression) -> Slopes:
    a, b = each.arguments
    along_a = s.multiply(adjoint, s.multiply(b, s.power(a, s.subtract(b, s.ONE))))
    along_b = s.multiply(adjoint, s.multiply(each, s.logarithm(a)))
    # 0 ** b does not move with b > 0, although log 0 is infinite
    still = s.multiply(s.equal(a, s.ZERO), s.less_equal(s.ZERO, b))
    return s.select(s.equal(b, s.ZERO), s.ZERO, along_a), s.select(still, s.ZERO, along_b)


def _maximum(each: Expression, adjoint: Expression) -> Slopes:
    a, b = each.arguments
    return s.multiply(adjoint, s.step(a, b)), s.multiply(adjoint, s.step(b, a))


def _minimum(each: Expression, adjoint: Expression) -> Slopes:
    a, b = each.arguments
    return s.multiply(adjoint, s.step(b, a)), s.multiply(adjoint, s.step(a, b))


def _largest(each: Expression, adjoint: Expression) -> Slopes:
    ties = [s.equal(argument, each) for argument in each.arguments]
    share = s.divide(adjoint, reduce(s.add, ties))
    return [s.multiply(share, tie) for tie in ties]


def _clamp_minimum(each: Expression, adjoint: Expression) -> Slopes:
    a, bound = each.arguments
    return s.multiply(adjoint, s.less_equal(bound, a)), s.multiply(adjoint, s.less(a, bound))


def _clamp_maximum(each: Expression, adjoint: Expression) -> Slopes:
    a, bound = each.arguments
    return s.multiply(adjoint, s.less_equal(a, bound)), s.multiply(adjoint, s.less(bound, a))


def _select(each: Expression, adjoint: Expression) -> Slopes:
    condition = each.arguments[0]
    return None, s.select(condition, adjoint, s.ZERO), s.select(condition, s.ZERO, adjoint)


def _weighted(each: Expression, adjoint: Expression) -> Slopes:
    weight, a = each.arguments
    return s.multiply(adjoint, a), s.weighted(weight, adjoint)


def _along(slope: Callable[[Expression, Expression], Expression]) -> Rule:
    """The rule of a function of one argument from its slope, given the argument and the node itself."""
    return lambda each, adjoint: (s.multiply(adjoint, slope(each.arguments[0], each)),)


def _no_slope(each: Expression, adjoint: Expression) -> Slopes:
    return (None,) * len(each.arguments)


RULES: dict[str, Rule] = {
    "add": lambda each, adjoint: (adjoint, adjoint),
    "subtract": lambda each, adjoint: (adjoint, s.negate(adjoint)),
    "negate": lambda each, adjoint: (s.negate(adjoint),),
    "multiply": _multiply,
    "divide": _divide,
    "power": _power,
    "minimum": _minimum,
    "maximum": _maximum,
    "largest": _largest,
    "clamp_minimum": _clamp_minimum,
    "clamp_maximum": _clamp_maximum,
    "select": _select,
    "weighted": _weighted,
    **dict.fromkeys(("less", "less_equal", "equal", "step", "sign", "detach"), _no_slope),
    "absolute": _along(lambda a, _: s.sign(a)),
    "square_root": _along(lambda a, _: s.multiply(constant(0.5), s.reciprocal_square_root(a))),
    "reciprocal_square_root": _along(lambda a, root: s.divide(s.multiply(constant(-0.5), root), a)),
    "root": _along(lambda a, _: s.multiply(constant(0.5), s.inverse_root(a))),
    "exponential": _along(lambda _, power: power),
    "exponential_m1": _along(lambda a, _: s.exponential(a)),
    "logarithm": _along(lambda a, _: s.divide(s.ONE, a)),
    "logarithm_1p": _along(lambda a, _: s.divide(s.ONE, s.add(s.ONE, a))),
    "sine": _along(lambda a, _: s.cosine(a)),
    "cosine": _along(lambda a, _: s.negate(s.sine(a))),
    "hyperbolic_tangent": _along(lambda _, tanh: s.subtract(s.ONE, s.square(tanh))),
    "sigmoid": _along(lambda _, sigmoid: s.multiply(sigmoid, s.subtract(s.ONE, sigmoid))),
    "softplus": _along(lambda a, _: s.sigmoid(a)),
}
