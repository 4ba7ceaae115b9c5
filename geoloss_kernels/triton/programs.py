"""Terms that are programs (csrc/program.h), decoded, and printed as Triton functions.

A program becomes a function of tuples, the fields' values and the constants, that returns the tuple of its
outputs. Its source depends on the instructions alone: constants and the weights of stencils are arguments. It
is written to a file and imported from there, as Triton reads functions from files; the name of its module
tells the content, which is how Triton's caches tell programs apart.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoloss_kernels.expressions.expression import Field, FieldKind
from geoloss_kernels.expressions.operations import NUMBERS, OPERATIONS
from geoloss_kernels.expressions.program import Instruction, Program

MAX_OPERANDS, MAX_INSTRUCTIONS, MAX_TAPS, MAX_COMPONENTS = 256, 4096, 26, 16
"""As in csrc/program.h."""

_TAPS_AT_ONCE = 6
ANY_PLANE = 2
"""In place of -1, 0 or 1, what is known of the plane beside where a loop goes through them."""

Offset = tuple[int, int, int]
CENTRE: Offset = (0, 0, 0)

_SAMPLED = {
    FieldKind.PREDICTION_COMPONENT: "prediction",
    FieldKind.TARGET_COMPONENT: "target",
    FieldKind.ERROR_COMPONENT: "error",
}
VARIABLES = {
    FieldKind.PREDICTION: "prediction",
    FieldKind.PREDICTION_COMPONENT: "prediction",
    FieldKind.LOG_PREDICTION: "log_prediction",
    FieldKind.LOG_COMPLEMENT: "log_complement",
}
"""What a slope of the kernels is with respect to; stencils of the prediction are gathered."""

_IMPORTS = """import triton
import triton.language as tl

from geoloss_kernels.triton.elementary import (
    absolute, exponential_m1, from_condition, hyperbolic_tangent, inverse_root, logarithm_1p, maximum,
    minimum, power, root, sigmoid, sign, softplus, step, weighted,
)

"""


@dataclass(frozen=True)
class Component:
    """A stencil φ_k as the kernels are compiled for it; what is a number is a place among the constants.

    Attributes:
        offsets: z, y, x of the taps.
        negative: whether a tap's weight is.
        closes: whether a tap is the last of those with its |weight|, whose differences add up first.
        needs_all: it is 0 where a neighbour is not valid.
        centre: what it makes of a volume of ones.
        weights: of the taps.
    """

    offsets: tuple[Offset, ...]
    negative: tuple[bool, ...]
    closes: tuple[bool, ...]
    needs_all: bool
    centre: int
    weights: tuple[int, ...]

    @property
    def reach(self) -> tuple[Offset, ...]:
        """What it reads."""
        return (CENTRE, *self.offsets)

    @property
    def sources(self) -> tuple[Offset, ...]:
        """Where the voxels lie whose component reads a voxel, by a step or clamped to it."""
        found = {CENTRE}
        for offset in self.offsets:
            found |= {(z, y, x) for z in _back(offset[0]) for y in _back(offset[1]) for x in _back(offset[2])}
        return tuple(sorted(found))

    def taps_from(self, plane: int, y: int, x: int) -> tuple[int, ...]:
        """The taps with these steps along y and x by which voxels of a plane read this one.

        Of the voxel's own plane, 0, taps along z do where they are clamped.
        """
        reading = (-plane,) if abs(plane) == 1 else (-1, 0, 1)
        taps = range(len(self.offsets))
        return tuple(i for i in taps if self.offsets[i][1:] == (y, x) and self.offsets[i][0] in reading)

    def reads_row(self, plane: int, y: int, x: int) -> bool:
        """Whether taps with the step x along it gather from the row at y, also by being clamped."""
        steps = (-1, 0, 1) if y == 0 else (-y,)
        return any(self.taps_from(plane, step, x) for step in steps)

    @property
    def loops_over_planes(self) -> bool:
        """Rather than to have the samples of all of them in registers."""
        return len(self.offsets) > _TAPS_AT_ONCE


def _back(step: int) -> tuple[int, ...]:
    return (0, -step) if step else (0,)


@dataclass(frozen=True)
class Code:
    """A program: its function, the fields that it takes and its constants' places.

    Attributes:
        key: of the function and those that it calls, by which what is compiled with it is kept.
    """

    function: Any
    key: str
    fields: tuple[Field, ...]
    constants: tuple[int, ...]

    def reads_logarithm(self, variable: str) -> bool:
        of_log = (FieldKind.LOG_PREDICTION, FieldKind.LOG_COMPLEMENT)
        return any(field.kind in of_log and VARIABLES[field.kind] == variable for field in self.fields)

    def is_component(self, i: int) -> bool:
        return self.fields[i].kind in _SAMPLED

    def field_name(self, i: int) -> str:
        """Of a component, what it is of."""
        kind = self.fields[i].kind
        return _SAMPLED.get(kind, kind.name.lower())

    def components(self, name: str) -> tuple[int, ...]:
        """The numbers of the stencils of a field."""
        return tuple(field.number for field in self.fields if _SAMPLED.get(field.kind) == name)


@dataclass(frozen=True)
class OpenTerm:
    """A term that is a program.

    Attributes:
        density: the program of what it adds up.
        variables: what each output of ``slopes`` is the slope with respect to.
        first_flux: of its slopes with respect to components, the place among those of the pass.
    """

    components: tuple[Component, ...]
    density: Code
    slopes: Code
    variables: tuple[Field, ...]
    first_flux: int

    @property
    def flux_outputs(self) -> tuple[int, ...]:
        """The outputs of ``slopes`` that are with respect to components."""
        of_components = FieldKind.PREDICTION_COMPONENT
        return tuple(i for i, variable in enumerate(self.variables) if variable.kind == of_components)

    def component_of_flux(self, i: int) -> Component:
        return self.components[self.variables[self.flux_outputs[i]].number]

    def slope_output(self, variable: str) -> int:
        """The output of ``slopes`` with respect to a variable of the voxel alone, -1 if there is none."""
        own = (i for i in range(len(self.variables)) if i not in self.flux_outputs)
        return next((i for i in own if VARIABLES[self.variables[i].kind] == variable), -1)


class ProgramError(Exception):
    """What is wrong with a term that is a program."""


class _Stream:
    """Numbers that are taken one after the other."""

    def __init__(self, numbers: Sequence[Any]) -> None:
        self.numbers, self.next = numbers, 0

    def take(self, count: int, within: str) -> Sequence[Any]:
        if not 0 <= count <= len(self.numbers) - self.next:
            raise ProgramError(f"ends within {within}")
        self.next += count
        return self.numbers[self.next - count : self.next]

    @property
    def at_end(self) -> bool:
        return self.next == len(self.numbers)


def _expect(condition: bool, fault: str) -> None:
    if not condition:
        raise ProgramError(fault)


def read_open_term(
    integers: Sequence[int], numbers: Sequence[float], first_constant: int, first_flux: int, maps: int
) -> OpenTerm:
    """Decode a term; its numbers are the constants from ``first_constant`` on.

    Raises:
        ProgramError: it is not what csrc/program.h says.
    """
    codes, values = _Stream(integers), _Stream(numbers)
    (count,) = codes.take(1, "the counts")
    _expect(0 <= count <= MAX_COMPONENTS, "has too many stencils")
    components = tuple(_component(codes, values, first_constant) for _ in range(count))
    density, slopes = (_code(codes, values, first_constant, count, maps) for _ in range(2))
    _expect(density.outputs == 1, "has another number of values than one")
    variables = tuple(_fields(codes.take(2 * slopes.outputs, "the variables")))
    _expect(all(map(_varies, variables)), "has a slope with respect to what does not vary")
    _expect(codes.at_end and values.at_end, "is longer than its counts say")
    return OpenTerm(components, density.code, slopes.code, variables, first_flux)


def _component(codes: _Stream, values: _Stream, first_constant: int) -> Component:
    needs_all, taps = codes.take(2, "a stencil")
    _expect(0 <= taps <= MAX_TAPS, "has a stencil with too many taps")
    places = codes.take(taps, "a stencil")
    centre = first_constant + values.next
    weights = values.take(1 + taps, "a stencil")[1:]
    _expect(all(0 <= place < 27 for place in places), "has a tap out of range")
    return Component(
        offsets=tuple((place // 9 - 1, place // 3 % 3 - 1, place % 3 - 1) for place in places),
        negative=tuple(weight < 0 for weight in weights),
        closes=tuple(i + 1 == taps or abs(weights[i + 1]) != abs(weights[i]) for i in range(taps)),
        needs_all=bool(needs_all),
        centre=centre,
        weights=tuple(range(centre + 1, centre + 1 + taps)),
    )


@dataclass(frozen=True)
class _Decoded:
    code: Code
    outputs: int


def _code(codes: _Stream, values: _Stream, first_constant: int, components: int, maps: int) -> _Decoded:
    registers, fields, constants, outputs, instructions = codes.take(5, "the counts")
    operands = registers + fields + constants + outputs
    _expect(min(registers, fields, constants, outputs) >= 0, "has a count of operands that is out of range")
    _expect(operands <= MAX_OPERANDS, "has too many operands")
    _expect(0 <= instructions <= MAX_INSTRUCTIONS, "has too many instructions")
    read = tuple(_fields(codes.take(2 * fields, "the fields")))
    _expect(
        all(_is_there(field, components, maps) for field in read),
        "reads a map or a stencil that is not there",
    )
    written = [codes.take(5, "the instructions") for _ in range(instructions)]
    first_output = operands - outputs
    known = set(range(registers, first_output))
    for each in written:
        _expect(_is_instruction(each, registers, first_output, operands), "has an unknown instruction")
        known.add(each[1])
    _expect(known >= set(range(first_output, operands)), "leaves an output unwritten")
    first = first_constant + values.next
    values.take(constants, "the constants")
    program = Program(registers, read, (0.0,) * constants, outputs, tuple(map(_instruction, written)))
    function = triton_function(program)
    key = getattr(function, "cache_key", "")  # the interpreter keeps nothing
    return _Decoded(Code(function, key, read, tuple(range(first, first + constants))), outputs)


def _fields(numbers: Sequence[int]) -> Iterator[Field]:
    for kind, number in zip(numbers[::2], numbers[1::2], strict=True):
        _expect(0 <= kind < len(FieldKind), "reads a field of unknown kind")
        yield Field(FieldKind(kind), number)


def _is_there(field: Field, components: int, maps: int) -> bool:
    if field.kind == FieldKind.MAP:
        return 0 <= field.number < maps
    return field.kind < FieldKind.MAP or 0 <= field.number < components


def _varies(field: Field) -> bool:
    return field.kind in (
        FieldKind.PREDICTION,
        FieldKind.LOG_PREDICTION,
        FieldKind.LOG_COMPLEMENT,
        FieldKind.PREDICTION_COMPONENT,
    )


def _is_instruction(numbers: Sequence[int], registers: int, first_output: int, operands: int) -> bool:
    operation, destination, *sources = numbers
    writes = 0 <= destination < registers or first_output <= destination < operands
    return 0 <= operation < len(OPERATIONS) and writes and all(0 <= source < operands for source in sources)


def _instruction(numbers: Sequence[int]) -> Instruction:
    operation = OPERATIONS[numbers[0]]
    return Instruction(operation.name, numbers[1], tuple(numbers[2 : 2 + operation.arity]))


def triton_source(program: Program) -> str:
    """A @triton.jit function of the fields' values and the constants that returns the outputs."""
    first = {"field": program.registers}
    first["constant"] = first["field"] + len(program.fields)
    first["output"] = first["constant"] + len(program.constants)

    def operand(place: int) -> str:
        if place < first["field"]:
            return f"r{place}"
        if place < first["constant"]:
            return f"fields[{place - first['field']}]"
        if place < first["output"]:
            return f"constants[{place - first['constant']}]"
        return f"o{place - first['output']}"

    lines = []
    for each in program.instructions:
        written = OPERATIONS[NUMBERS[each.operation]].triton.format(*map(operand, each.sources))
        lines.append(f"    {operand(each.destination)} = {written}")
    outputs = "".join(f"o{i}, " for i in range(program.outputs))
    return "\n".join(
        ["@triton.jit", "def program(fields, constants):", *lines, f"    return ({outputs})", ""]
    )


def triton_function(program: Program) -> Any:
    """The function of `triton_source`."""
    return _imported(_IMPORTS + "\n" + triton_source(program))


@functools.lru_cache(maxsize=256)
def _imported(source: str) -> Any:
    """``program`` of a module of that source."""
    name = f"program_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    path = _folder() / f"{name}.py"
    if not path.exists():
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(source)
        os.replace(new, path)
    specification = importlib.util.spec_from_file_location(f"geoloss_kernels.triton.{name}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.program


@functools.cache
def _folder() -> Path:
    """Of this process, gone with it: Triton keeps what it compiled by content, wherever the file was."""
    made = tempfile.TemporaryDirectory(prefix="geoloss_programs_")
    _kept_folders.append(made)
    return Path(made.name)


_kept_folders: list[tempfile.TemporaryDirectory[str]] = []
