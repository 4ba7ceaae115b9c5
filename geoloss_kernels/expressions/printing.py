"""Expressions as text, as a person writes them."""

from __future__ import annotations

from geoloss_kernels.expressions.expression import Expression, Field, FieldKind
from geoloss_kernels.expressions.operations import OPERATIONS

_BY_NAME = {operation.name: operation for operation in OPERATIONS}
# of those that a person writes in other ways than the kernels
_TEXTS = {
    "clamp_minimum": "maximum({0}, {1})",
    "clamp_maximum": "minimum({0}, {1})",
    "largest": "maximum({})",
    "detach": "detach({0})",
}
_BINDING = {"add": 1, "subtract": 1, "multiply_add": 1, "negative_multiply_add": 1, "sum_of_squares": 1}
_BINDING |= {"negate": 2, "multiply": 2, "weighted": 2, "divide": 2, "reciprocal_square_root": 2, "power": 3}
_ATOM = 4
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def text(expression: Expression) -> str:
    """The expression as a person writes it."""
    return _text(expression)[0]


def _text(each: Expression) -> tuple[str, int]:
    """An expression, and how tightly it binds."""
    if each.operation in ("constant", "parameter", "field"):
        return _leaf(each), _ATOM if not _leaf(each).startswith("-") else 2
    if each.operation == "multiply" and each.arguments[0] is each.arguments[1]:
        return _at_least(each.arguments[0], _ATOM) + "²", 3
    template = _TEXTS.get(each.operation) or _BY_NAME[each.operation].text
    binding = _BINDING.get(each.operation, _ATOM)
    if each.operation == "largest":
        return template.format(", ".join(map(text, each.arguments))), binding
    if binding == _ATOM:
        return template.format(*map(text, each.arguments)), binding
    if each.operation == "reciprocal_square_root":
        return template.format(text(each.arguments[0])), binding
    # on the right of a difference, a quotient or a power stands what binds more tightly
    tighter = each.operation in ("subtract", "divide", "power", "negate")
    last = len(each.arguments) - 1
    return (
        template.format(
            *(
                _at_least(argument, binding + (tighter and i == last))
                for i, argument in enumerate(each.arguments)
            )
        ),
        binding,
    )


def _at_least(each: Expression, binding: int) -> str:
    written, own = _text(each)
    return written if own >= binding else f"({written})"


def _leaf(each: Expression) -> str:
    if isinstance(each.value, Field):
        return field_text(each.value)
    return f"p{each.value}" if each.operation == "parameter" else f"{each.value:.6g}"


def field_text(field: Field) -> str:
    """A field as a person writes it."""
    k = str(field.number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
    return {
        FieldKind.PREDICTION: "s",
        FieldKind.TARGET: "g",
        FieldKind.LOG_PREDICTION: "log(s)",
        FieldKind.LOG_COMPLEMENT: "log(1 - s)",
        FieldKind.MAP: f"map{k}",
        FieldKind.PREDICTION_COMPONENT: f"φ{k}(s)",
        FieldKind.TARGET_COMPONENT: f"φ{k}(g)",
        FieldKind.ERROR_COMPONENT: f"φ{k}(s - g)",
    }[field.kind]
