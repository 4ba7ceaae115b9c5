"""Expressions as straight-line programs: instructions on registers, in the encoding of csrc/program.h.

An operand is a number: registers come first, then the fields that are read, then the constants, then the
outputs. A kernel runs one instruction after the other, each over a row of voxels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from geoloss_kernels.expressions.expression import Expression, Field, FieldKind, in_order, node
from geoloss_kernels.expressions.operations import NUMBERS, OPERATIONS
from geoloss_kernels.expressions.simplify import rebuild

_MAX_OPERANDS = 3


@dataclass(frozen=True)
class Instruction:
    operation: str
    destination: int
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Straight-line code for some outputs."""

    registers: int
    fields: tuple[Field, ...]
    constants: tuple[float | Expression, ...]
    """numbers, and the parameters that are read at every call"""
    outputs: int
    instructions: tuple[Instruction, ...]

    def integers(self) -> list[int]:
        """Counts of registers, fields, constants, outputs and instructions; kind and number of each field;
        number of the operation, destination and three sources of each instruction."""
        header = [
            self.registers,
            len(self.fields),
            len(self.constants),
            self.outputs,
            len(self.instructions),
        ]
        fields = [number for field in self.fields for number in (int(field.kind), field.number)]
        return header + fields + [number for each in self.instructions for number in _encoded(each)]

    def renumbered(self, components: Mapping[int, int], maps: Sequence[int]) -> Program:
        """The program with other numbers of components and maps."""

        def renumber(field: Field) -> Field:
            if field.kind == FieldKind.MAP:
                return field._replace(number=maps[field.number])
            return field._replace(number=components[field.number]) if field.kind > FieldKind.MAP else field

        return replace(self, fields=tuple(map(renumber, self.fields)))


def _encoded(instruction: Instruction) -> list[int]:
    padding = [0] * (_MAX_OPERANDS - len(instruction.sources))
    return [NUMBERS[instruction.operation], instruction.destination, *instruction.sources, *padding]


def compile_program(roots: Sequence[Expression]) -> Program:
    """The program that computes the roots (see `simplify.protect`), one output each."""
    roots = fuse(roots)
    nodes = list(in_order(roots))
    fields = tuple(sorted(each.value for each in nodes if isinstance(each.value, Field)))
    constants = [each for each in nodes if each.operation in ("constant", "parameter")]
    computed = _schedule(roots)
    allocation = _Allocation(computed, roots)
    registers = allocation.registers
    places = {each.serial: place for each, place in allocation.places.items()}
    for each in nodes:
        if isinstance(each.value, Field):
            places[each.serial] = registers + fields.index(each.value)
    for number, each in enumerate(constants):
        places[each.serial] = registers + len(fields) + number
    first_output = registers + len(fields) + len(constants)
    instructions = allocation.instructions(places, first_output)
    return Program(
        registers=registers,
        fields=fields,
        constants=tuple(each.value if isinstance(each.value, float) else each for each in constants),
        outputs=len(roots),
        instructions=tuple(instructions),
    )


def fuse(roots: Sequence[Expression]) -> list[Expression]:
    """The roots with a product that is read by one sum alone made one operation with it."""
    uses = Counter(argument.serial for each in in_order(roots) for argument in each.arguments)
    uses.update(root.serial for root in roots)
    once = {serial for serial, count in uses.items() if count == 1}
    products = {
        each.serial for each in in_order(roots) if each.operation == "multiply" and each.serial in once
    }
    sums = {each.serial: each for each in in_order(roots) if each.operation in ("add", "subtract")}
    taken = {
        serial: next((i for i in (1, 0) if each.arguments[i].serial in products), None)
        for serial, each in sums.items()
    }
    return _three_squares(_fused(roots, taken))


def _fused(roots: Sequence[Expression], taken: dict[int, int | None]) -> list[Expression]:
    new: dict[int, Expression] = {}
    for each in in_order(roots):
        arguments = [new[argument.serial] for argument in each.arguments]
        place = taken.get(each.serial)
        if place is None or (each.operation == "subtract" and place == 0):
            new[each.serial] = node(each.operation, *arguments, value=each.value)
            continue
        operation = "multiply_add" if each.operation == "add" else "negative_multiply_add"
        new[each.serial] = node(operation, *arguments[place].arguments, arguments[1 - place])
    return [new[root.serial] for root in roots]


def _three_squares(roots: Sequence[Expression]) -> list[Expression]:
    """a² + b² + c² as one operation: the norm of three components."""
    uses = Counter(argument.serial for each in in_order(roots) for argument in each.arguments)

    def change(each: Expression) -> Expression | None:
        if each.operation != "multiply_add" or each.arguments[0] is not each.arguments[1]:
            return None
        inner = each.arguments[2]
        if inner.operation != "multiply_add" or inner.arguments[0] is not inner.arguments[1]:
            return None
        last = inner.arguments[2]
        if last.operation != "multiply" or last.arguments[0] is not last.arguments[1]:
            return None
        if uses[inner.serial] > 1:
            return None
        return node("sum_of_squares", last.arguments[0], inner.arguments[0], each.arguments[0])

    return rebuild(roots, change)


def _schedule(roots: Sequence[Expression]) -> list[Expression]:
    """The nodes to compute, what needs more registers first, so that fewer wait at the same time."""
    needs: dict[int, int] = {}
    for each in in_order(roots):
        below = sorted((needs[argument.serial] for argument in each.arguments), reverse=True)
        needs[each.serial] = max((need + i for i, need in enumerate(below)), default=0) or (
            1 if each.arguments else 0
        )
    ordered: list[Expression] = []
    done: set[int] = set()

    def visit(each: Expression) -> None:
        if each.serial in done or not each.arguments:
            return
        done.add(each.serial)
        for argument in sorted(each.arguments, key=lambda argument: -needs[argument.serial]):
            visit(argument)
        ordered.append(each)

    for root in roots:
        visit(root)
    return ordered


class _Allocation:
    """Which register holds what, by when each node is read last."""

    def __init__(self, computed: Sequence[Expression], roots: Sequence[Expression]) -> None:
        self.computed, self.roots = computed, roots
        self.places: dict[Expression, int] = {}
        self.registers = 0
        last_read = _last_reads(computed)
        free: list[int] = []
        for time, each in enumerate(computed):
            for argument in set(each.arguments):
                if last_read.get(argument.serial) == time and argument in self.places:
                    free.append(self.places[argument])
            if self._is_only_output(each, last_read):
                continue
            if not free:
                free.append(self.registers)
                self.registers += 1
            self.places[each] = free.pop()

    def _is_only_output(self, each: Expression, last_read: dict[int, int]) -> bool:
        return each in self.roots and each.serial not in last_read

    def instructions(self, places: dict[int, int], first_output: int) -> Iterable[Instruction]:
        """Given every node's place; a root that nothing else reads is computed in its output."""
        outputs: dict[int, list[int]] = {}
        for number, root in enumerate(self.roots):
            outputs.setdefault(root.serial, []).append(first_output + number)
        for each in self.computed:
            copies = list(outputs.pop(each.serial, ()))
            if each.serial not in places:
                places[each.serial] = copies.pop(0)
            yield Instruction(
                each.operation,
                places[each.serial],
                tuple(places[argument.serial] for argument in each.arguments),
            )
            for copy in copies:
                yield Instruction("copy", copy, (places[each.serial],))
        for serial, copies in outputs.items():
            for copy in copies:
                yield Instruction("copy", copy, (places[serial],))


def _last_reads(computed: Sequence[Expression]) -> dict[int, int]:
    return {argument.serial: time for time, each in enumerate(computed) for argument in each.arguments}


assert all(operation.arity <= _MAX_OPERANDS for operation in OPERATIONS)
