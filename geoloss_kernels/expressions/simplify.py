"""Builds the nodes of an expression, each as simple as it gets: what is known is folded, and a product has
its constant and its sign in front.

`protect` is the last step: it keeps 0 · ∞ out of products of a target's weight with a logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

from geoloss_kernels.expressions.expression import Expression, FieldKind, constant, field, in_order, node

_MAX_REPEATED_MULTIPLICATION = 16
ZERO, ONE = constant(0.0), constant(1.0)
PREDICTION, TARGET = field(FieldKind.PREDICTION), field(FieldKind.TARGET)


def is_number(expression: Expression, number: float) -> bool:
    return expression.is_constant and expression.value == number


def _value(expression: Expression) -> float:
    assert isinstance(expression.value, float)
    return expression.value


def _ordered(a: Expression, b: Expression) -> tuple[Expression, Expression]:
    """One order for a + b and b + a, the same in every run."""
    return (a, b) if a.order <= b.order else (b, a)


def split(expression: Expression) -> tuple[float, Expression]:
    """The constant factor of a product, and the rest."""
    if expression.is_constant:
        return _value(expression), ONE
    if expression.operation == "negate":
        return -1.0, expression.arguments[0]
    if expression.operation == "multiply" and expression.arguments[0].is_constant:
        return _value(expression.arguments[0]), expression.arguments[1]
    return 1.0, expression


def _scaled(factor: float, rest: Expression) -> Expression:
    if factor == 0:
        return ZERO
    if is_number(rest, 1):
        return constant(factor)
    if rest.operation == "subtract" and factor == -1:
        return subtract(rest.arguments[1], rest.arguments[0])
    if factor in (1, -1):
        return rest if factor == 1 else node("negate", rest)
    return node("multiply", constant(factor), rest)


def add(a: Expression, b: Expression) -> Expression:
    if a.is_constant and b.is_constant:
        return constant(_value(a) + _value(b))
    if is_number(a, 0) or is_number(b, 0):
        return b if is_number(a, 0) else a
    (a_factor, a_rest), (b_factor, b_rest) = split(a), split(b)
    if a_rest is b_rest:
        return _scaled(a_factor + b_factor, a_rest)
    if b_factor < 0 and not b.is_constant:
        return subtract(a, negate(b))
    if a_factor < 0 and not a.is_constant:
        return subtract(b, negate(a))
    return node("add", *_ordered(a, b))


def subtract(a: Expression, b: Expression) -> Expression:
    if a.is_constant and b.is_constant:
        return constant(_value(a) - _value(b))
    if is_number(b, 0):
        return a
    if is_number(a, 0):
        return negate(b)
    if a is b:
        return ZERO
    if not b.is_constant and split(b)[0] < 0:
        return add(a, negate(b))
    return _component_of_error(a, b) or node("subtract", a, b)


def _component_of_error(a: Expression, b: Expression) -> Expression | None:
    """φ_k(s) - φ_k(g) = φ_k(s - g): one stencil in place of two."""
    kinds = {FieldKind.PREDICTION_COMPONENT: 1, FieldKind.TARGET_COMPONENT: -1}
    if a.operation != "field" or b.operation != "field":
        return None
    of_a, of_b = next(iter(a.reads)), next(iter(b.reads))
    sign = kinds.get(of_a.kind, 0)
    if sign == 0 or kinds.get(of_b.kind, 0) != -sign or of_a.number != of_b.number:
        return None
    error = field(FieldKind.ERROR_COMPONENT, of_a.number)
    return error if sign == 1 else negate(error)


def negate(a: Expression) -> Expression:
    factor, rest = split(a)
    return _scaled(-factor, rest)


def multiply(a: Expression, b: Expression) -> Expression:
    (a_factor, a_rest), (b_factor, b_rest) = split(a), split(b)
    if is_number(a_rest, 1) or is_number(b_rest, 1):
        rest = b_rest if is_number(a_rest, 1) else a_rest
    else:
        rest = node("multiply", *_ordered(a_rest, b_rest))
    return _scaled(a_factor * b_factor, rest)


def divide(a: Expression, b: Expression) -> Expression:
    if b.is_constant and _value(b) != 0:
        return multiply(constant(1 / _value(b)), a)
    if a is b:
        return ONE
    (a_factor, a_rest), (b_factor, b_rest) = split(a), split(b)
    if a_factor == 0 or b_factor == 0:
        return ZERO if a_factor == 0 else node("divide", a, b)
    return _scaled(a_factor / b_factor, node("divide", a_rest, b_rest))


def square(a: Expression) -> Expression:
    return multiply(a, a)


def power(a: Expression, b: Expression) -> Expression:
    if not b.is_constant:
        return node("power", a, b)
    exponent = _value(b)
    if a.is_constant:
        return constant(_power(_value(a), exponent))
    if exponent == 0.5:
        return square_root(a)
    if exponent == -0.5:
        return reciprocal_square_root(a)
    if exponent.is_integer() and abs(exponent) <= _MAX_REPEATED_MULTIPLICATION:
        repeated = _repeated(a, int(abs(exponent)))
        return repeated if exponent >= 0 else divide(ONE, repeated)
    return node("power", a, b)


def _repeated(a: Expression, times: int) -> Expression:
    if times == 0:
        return ONE
    if times % 2:
        return multiply(a, _repeated(a, times - 1)) if times > 1 else a
    return square(_repeated(a, times // 2))


def less(a: Expression, b: Expression) -> Expression:
    return _folded("less", lambda x, y: float(x < y), a, b)


def less_equal(a: Expression, b: Expression) -> Expression:
    return _folded("less_equal", lambda x, y: float(x <= y), a, b)


def equal(a: Expression, b: Expression) -> Expression:
    return _folded("equal", lambda x, y: float(x == y), *_ordered(a, b))


def step(a: Expression, b: Expression) -> Expression:
    return _folded("step", lambda x, y: 1.0 if x > y else 0.5 * (x == y), a, b)


def minimum(a: Expression, b: Expression) -> Expression:
    return a if a is b else _folded("minimum", min, *_ordered(a, b))


def maximum(a: Expression, b: Expression) -> Expression:
    return a if a is b else _folded("maximum", max, *_ordered(a, b))


def largest(*arguments: Expression) -> Expression:
    """Of several, with torch.amax's slope: all that tie share it."""
    return arguments[0] if len(arguments) == 1 else node("largest", *arguments)


def clamp_minimum(a: Expression, bound: Expression) -> Expression:
    """As `maximum`, with torch.clamp's slope: 1 at the bound."""
    return _folded("clamp_minimum", max, a, bound)


def clamp_maximum(a: Expression, bound: Expression) -> Expression:
    return _folded("clamp_maximum", min, a, bound)


def select(condition: Expression, a: Expression, b: Expression) -> Expression:
    if condition.is_constant:
        return a if _value(condition) else b
    if is_number(a, 1) and is_number(b, 0):
        return condition
    if is_number(a, 0) and is_number(b, 1):
        return subtract(ONE, condition)
    return a if a is b else node("select", condition, a, b)


def weighted(weight: Expression, a: Expression) -> Expression:
    if weight.is_constant:
        return multiply(weight, a)
    return a if a.is_constant and _value(a) == 0 else node("weighted", weight, a)


def detach(a: Expression) -> Expression:
    return a if a.is_uniform else node("detach", a)


def absolute(a: Expression) -> Expression:
    if a.operation == "negate":
        a = a.arguments[0]
    return _folded("absolute", abs, a)


def sign(a: Expression) -> Expression:
    return _folded("sign", lambda x: math.copysign(1.0, x) if x else x, a)


def square_root(a: Expression) -> Expression:
    return _folded("square_root", lambda x: _power(x, 0.5), a)


def reciprocal_square_root(a: Expression) -> Expression:
    return _folded("reciprocal_square_root", lambda x: _power(x, -0.5), a)


def root(a: Expression) -> Expression:
    return _folded("root", lambda x: _power(x, 0.5), a)


def inverse_root(a: Expression) -> Expression:
    return _folded("inverse_root", lambda x: _power(x, -0.5) if x else 0.0, a)


def exponential(a: Expression) -> Expression:
    return _folded("exponential", math.exp, a)


def exponential_m1(a: Expression) -> Expression:
    return _folded("exponential_m1", math.expm1, a)


def logarithm(a: Expression) -> Expression:
    """log s and log(1 - s) are fields of their own: the kernels have them from the logits."""
    if a is PREDICTION:
        return field(FieldKind.LOG_PREDICTION)
    if a is subtract(ONE, PREDICTION):
        return field(FieldKind.LOG_COMPLEMENT)
    return _folded("logarithm", lambda x: math.log(x) if x else -math.inf, a)


def logarithm_1p(a: Expression) -> Expression:
    if a is negate(PREDICTION):
        return field(FieldKind.LOG_COMPLEMENT)
    return _folded("logarithm_1p", lambda x: math.log1p(x) if x != -1 else -math.inf, a)


def sine(a: Expression) -> Expression:
    return _folded("sine", math.sin, a)


def cosine(a: Expression) -> Expression:
    return _folded("cosine", math.cos, a)


def hyperbolic_tangent(a: Expression) -> Expression:
    return _folded("hyperbolic_tangent", math.tanh, a)


def sigmoid(a: Expression) -> Expression:
    return _folded("sigmoid", lambda x: 1 / (1 + math.exp(-x)), a)


def softplus(a: Expression) -> Expression:
    return _folded("softplus", lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))), a)


def _power(base: float, exponent: float) -> float:
    """As floating-point arithmetic has it, without Python's exceptions."""
    if base == 0 and exponent < 0:
        return math.inf
    result = base**exponent
    return result if isinstance(result, float) else math.nan


def _folded(operation: str, function: Callable[..., float], *arguments: Expression) -> Expression:
    """The node, or where every argument is a constant the number; out of range it is left to the kernels."""
    if all(argument.is_constant for argument in arguments):
        try:
            return constant(function(*map(_value, arguments)))
        except (OverflowError, ValueError):
            pass
    return node(operation, *arguments)


BUILDERS: dict[str, Callable[..., Expression]] = {
    builder.__name__: builder
    for builder in (
        *(add, subtract, multiply, divide, negate, minimum, maximum, clamp_minimum, clamp_maximum, power),
        *(less, less_equal, equal, step, weighted, select, absolute, sign, square_root),
        *(reciprocal_square_root, root, inverse_root, exponential, exponential_m1, logarithm, logarithm_1p),
        *(sine, cosine, hyperbolic_tangent, sigmoid, softplus),
    )
}


def rebuild(
    roots: Sequence[Expression], change: Callable[[Expression], Expression | None]
) -> list[Expression]:
    """The roots with every node for which ``change`` (given rebuilt arguments) has one replaced by it."""
    new: dict[int, Expression] = {}
    for each in in_order(roots):
        arguments = [new[argument.serial] for argument in each.arguments]
        same = all(map(lambda a, b: a is b, arguments, each.arguments))
        rebuilt = each if same else node(each.operation, *arguments, value=each.value)
        new[each.serial] = change(rebuilt) or rebuilt
    return [new[root.serial] for root in roots]


def protect(roots: Sequence[Expression]) -> list[Expression]:
    """The roots in operations that there are: `detach` is gone, clamps are minima and maxima, and a weight
    of 0 makes a product with a logarithm 0 even where the logarithm is infinite."""
    return rebuild(roots, _protected)


def _protected(each: Expression) -> Expression | None:
    if each.operation == "detach":
        return each.arguments[0]
    if each.operation in ("clamp_minimum", "clamp_maximum"):
        return node("maximum" if each.operation == "clamp_minimum" else "minimum", *each.arguments)
    if each.operation == "largest":
        return reduce(maximum, each.arguments)
    if each.operation == "multiply" and each.reads_logarithm:
        return _weighted_product(each)
    return None


def _weighted_product(product: Expression) -> Expression | None:
    """w·(rest) with the factors w that the target alone decides; None if there are none."""
    factors = _factors(product)
    weights = [factor for factor in factors if factor.is_of_target]
    if not weights:
        return None
    rest = [factor for factor in factors if not factor.is_of_target]
    return node("weighted", _product(weights), _product(rest))


def _factors(product: Expression) -> list[Expression]:
    if product.operation == "negate":
        return [constant(-1.0), *_factors(product.arguments[0])]
    if product.operation in ("multiply", "weighted"):
        return [factor for argument in product.arguments for factor in _factors(argument)]
    return [product]


def _product(factors: Sequence[Expression]) -> Expression:
    result = ONE
    for factor in factors:
        result = multiply(result, factor)
    return result
