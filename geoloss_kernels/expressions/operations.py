"""The operations that an expression is made of: the one table of them.

An operation's place in `OPERATIONS` is its number in the programs that csrc/program.h decodes.
"""

from __future__ import annotations

from typing import NamedTuple


class Operation(NamedTuple):
    """One operation on the voxels of a row."""

    name: str
    arity: int
    text: str
    """how a person writes it"""
    triton: str
    """how Triton's language writes it; functions without a module are those of `triton.elementary`"""


OPERATIONS = (
    Operation("copy", 1, "{0}", "{0}"),
    Operation("add", 2, "{0} + {1}", "{0} + {1}"),
    Operation("subtract", 2, "{0} - {1}", "{0} - {1}"),
    Operation("multiply", 2, "{0}·{1}", "{0} * {1}"),
    Operation("divide", 2, "{0} / {1}", "{0} / {1}"),
    Operation("negate", 1, "-{0}", "-{0}"),
    # a NaN in either goes on
    Operation("minimum", 2, "minimum({0}, {1})", "minimum({0}, {1})"),
    Operation("maximum", 2, "maximum({0}, {1})", "maximum({0}, {1})"),
    Operation("power", 2, "{0}^{1}", "power({0}, {1})"),
    # comparisons are 1 or 0
    Operation("less", 2, "[{0} < {1}]", "from_condition({0} < {1}, {0})"),
    Operation("less_equal", 2, "[{0} <= {1}]", "from_condition({0} <= {1}, {0})"),
    Operation("equal", 2, "[{0} = {1}]", "from_condition({0} == {1}, {0})"),
    # 1 where a > b, 1/2 where they are equal: the slope of maximum(a, b) along a
    Operation("step", 2, "step({0} - {1})", "step({0}, {1})"),
    # 0 where a = 0 even if b is infinite: a weight times a logarithm
    Operation("weighted", 2, "{0}·{1}", "weighted({0}, {1})"),
    Operation("select", 3, "({1} if {0} else {2})", "tl.where({0} != 0, {1}, {2})"),
    Operation("multiply_add", 3, "{0}·{1} + {2}", "{0} * {1} + {2}"),
    Operation("negative_multiply_add", 3, "{2} - {0}·{1}", "{2} - {0} * {1}"),
    Operation("sum_of_squares", 3, "{0}² + {1}² + {2}²", "{0} * {0} + {1} * {1} + {2} * {2}"),
    Operation("absolute", 1, "|{0}|", "absolute({0})"),
    Operation("sign", 1, "sign({0})", "sign({0})"),
    Operation("square_root", 1, "√({0})", "tl.sqrt({0})"),
    Operation("reciprocal_square_root", 1, "1/√({0})", "1 / tl.sqrt({0})"),
    # √a and 1/√a, both 0 where a is 0: the Euclidean norm and its slope
    Operation("root", 1, "√({0})", "root({0})"),
    Operation("inverse_root", 1, "1/√({0})", "inverse_root({0})"),
    Operation("exponential", 1, "exp({0})", "tl.exp({0})"),
    Operation("exponential_m1", 1, "expm1({0})", "exponential_m1({0})"),
    Operation("logarithm", 1, "log({0})", "tl.log({0})"),
    Operation("logarithm_1p", 1, "log1p({0})", "logarithm_1p({0})"),
    Operation("sine", 1, "sin({0})", "tl.sin({0})"),
    Operation("cosine", 1, "cos({0})", "tl.cos({0})"),
    Operation("hyperbolic_tangent", 1, "tanh({0})", "hyperbolic_tangent({0})"),
    Operation("sigmoid", 1, "sigmoid({0})", "sigmoid({0})"),
    Operation("softplus", 1, "softplus({0})", "softplus({0})"),
)

NUMBERS = {operation.name: number for number, operation in enumerate(OPERATIONS)}
