"""The graph of an expression. Equal nodes are one node, so that common parts are computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import count
from typing import NamedTuple
from weakref import WeakValueDictionary

_serial_numbers = count()
_MANY = 1000


class FieldKind(IntEnum):
    """What is read at a voxel; the numbers are those of csrc/program.h."""

    PREDICTION = 0
    TARGET = 1
    LOG_PREDICTION = 2
    """log s, from the logits where there are any"""
    LOG_COMPLEMENT = 3
    """log(1 - s), likewise"""
    MAP = 4
    """the map of that number"""
    PREDICTION_COMPONENT = 5
    """φ_k(s)"""
    TARGET_COMPONENT = 6
    """φ_k(g)"""
    ERROR_COMPONENT = 7
    """φ_k(s - g)"""


LOGARITHMS = (FieldKind.LOG_PREDICTION, FieldKind.LOG_COMPLEMENT)
_OF_TARGET = (FieldKind.TARGET, FieldKind.MAP, FieldKind.TARGET_COMPONENT)


class Field(NamedTuple):
    kind: FieldKind
    number: int = 0
    """of the map or of the component"""


class Expression:
    """A node: an operation of `operations.OPERATIONS` on other nodes, or a leaf.

    The leaves are "constant" (a float), "parameter" (its number), "field" (a `Field`) and "detach", which
    hands its argument on and has no derivative. `reads` are the fields below the node.
    """

    __slots__ = ("__weakref__", "arguments", "fingerprint", "operation", "reads", "serial", "value")

    operation: str
    arguments: tuple[Expression, ...]
    value: float | int | Field | None
    reads: frozenset[Field]
    serial: int
    """no two nodes that live at the same time have the same"""
    fingerprint: int
    """the same in every process, unlike the serial number"""

    def __repr__(self) -> str:
        from geoloss_kernels.expressions.printing import text

        return text(self)

    @property
    def is_constant(self) -> bool:
        return self.operation == "constant"

    @property
    def is_uniform(self) -> bool:
        """The same number at every voxel."""
        return not self.reads

    @property
    def is_of_target(self) -> bool:
        """A weight: it reads something, but nothing of the prediction."""
        return bool(self.reads) and all(field.kind in _OF_TARGET for field in self.reads)

    @property
    def order(self) -> tuple[int, int, int]:
        """Where it comes in a sum or a product: fields first, logarithms and constants last."""
        first = min((field.kind * _MANY + field.number for field in self.reads), default=0)
        if isinstance(self.value, Field):
            return (2 if self.reads_logarithm else 0), first, 0
        return (3 if self.is_constant else 1), first, self.fingerprint

    @property
    def reads_logarithm(self) -> bool:
        return any(field.kind in LOGARITHMS for field in self.reads)


_Key = tuple[str, tuple[int, ...], object]
_nodes: WeakValueDictionary[_Key, Expression] = WeakValueDictionary()


def node(operation: str, *arguments: Expression, value: float | int | Field | None = None) -> Expression:
    """The node of these parts as it is; `simplify` has the functions that make it simpler."""
    key = (operation, tuple([argument.serial for argument in arguments]), value)
    found = _nodes.get(key)
    if found is not None:
        return found
    made = Expression()
    made.operation, made.arguments, made.value = operation, arguments, value
    if isinstance(value, Field):
        made.reads = frozenset((value,))
    else:
        made.reads = frozenset().union(*[argument.reads for argument in arguments])
    made.serial = next(_serial_numbers)
    made.fingerprint = _fingerprint(made)
    _nodes[key] = made
    return made


def _fingerprint(made: Expression) -> int:
    parts = (made.operation, made.value, [argument.fingerprint for argument in made.arguments])
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def constant(value: float) -> Expression:
    return node("constant", value=float(value))


def parameter(number: int) -> Expression:
    return node("parameter", value=number)


def field(kind: FieldKind, number: int = 0) -> Expression:
    return node("field", value=Field(kind, number))


def in_order(roots: Iterable[Expression]) -> Iterator[Expression]:
    """Every node below the roots once, after its arguments."""
    done: set[int] = set()
    for root in roots:
        stack = [(root, False)]
        while stack:
            each, ready = stack.pop()
            if each.serial in done:
                continue
            if ready:
                done.add(each.serial)
                yield each
            else:
                stack.append((each, True))
                stack += [(argument, False) for argument in reversed(each.arguments)]
