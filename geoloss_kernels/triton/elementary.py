"""The operations of open formulas as Triton functions, beside those of the language and of `terms.py`.

`programs.triton_source` prints calls of them; `expressions.operations` says which.
"""

from __future__ import annotations

import triton
import triton.language as tl

SMALLEST_NORMAL = tl.constexpr(1.17549435e-38)


@triton.jit
def from_condition(condition, like):
    """1 or 0, in the type of ``like``."""
    return tl.where(condition, 1.0, 0.0).to(like.dtype)


@triton.jit
def minimum(a, b):
    """A NaN in either goes on."""
    return tl.where(b != b, b, tl.where(a > b, b, a))


@triton.jit
def maximum(a, b):
    return tl.where(b != b, b, tl.where(a < b, b, a))


@triton.jit
def absolute(a):
    return tl.where(a < 0, -a, a)


@triton.jit
def sign(a):
    return tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, a)).to(a.dtype)


@triton.jit
def step(a, b):
    """1 where a > b, 1/2 where they are equal."""
    return tl.where(a > b, 1.0, tl.where(a == b, 0.5, 0.0)).to(a.dtype)


@triton.jit
def weighted(weight, a):
    """0 where the weight is, even if ``a`` is infinite."""
    return tl.where(weight == 0, weight, weight * a)


@triton.jit
def root(square):
    """The square root of what is not subnormal, else 0."""
    return tl.where(square < SMALLEST_NORMAL, 0.0, tl.sqrt(square)).to(square.dtype)


@triton.jit
def inverse_root(square):
    vanishes = square < SMALLEST_NORMAL
    return tl.where(vanishes, 0.0, 1 / tl.sqrt(tl.where(vanishes, 1.0, square))).to(square.dtype)


@triton.jit
def logarithm_1p(a):
    """log(1 + a): what 1 + a rounds away is divided out again."""
    rounded = 1 + a
    lost = rounded == 1
    quotient = a / tl.where(lost, 1.0, rounded - 1)
    return tl.where(lost, a, tl.log(rounded) * quotient).to(a.dtype)


@triton.jit
def exponential_m1(a):
    """e^a - 1, by the logarithm of the rounded power where that is near 1."""
    power = tl.exp(a)
    near = (power > 0.5) & (power < 2.0) & (power != 1.0)
    logarithm = tl.log(tl.where(near, power, 2.0))
    exact = (power - 1) * (a / logarithm)
    return tl.where(power == 1.0, a, tl.where(near, exact, power - 1)).to(a.dtype)


@triton.jit
def hyperbolic_tangent(a):
    grown = exponential_m1(2 * absolute(a))
    size = tl.where(grown > 1e30, 1.0, grown / (grown + 2))
    return tl.where(a < 0, -size, size).to(a.dtype)


@triton.jit
def sigmoid(a):
    return 1 / (1 + tl.exp(-a))


@triton.jit
def softplus(a):
    """log(1 + exp(a)) without overflow."""
    return maximum(a, 0.0).to(a.dtype) + logarithm_1p(tl.exp(-absolute(a)))


@triton.jit
def power(base, exponent):
    """base^exponent; of a negative base for integer exponents alone, else NaN."""
    size = absolute(base)
    of_size = tl.exp2(exponent * tl.log2(tl.where(size == 0, 1.0, size)))
    at_zero = tl.where(exponent > 0, 0.0, float("inf"))
    result = tl.where(size == 0, at_zero, of_size)
    is_integer = tl.floor(exponent) == exponent
    is_odd = is_integer & (tl.floor(exponent / 2) * 2 != exponent)
    negative = tl.where(is_integer, tl.where(is_odd, -result, result), float("nan"))
    return tl.where(exponent == 0, 1.0, tl.where(base < 0, negative, result)).to(base.dtype)
