"""A term of the sums as the operators take it: stencils, value and slopes as numbers (csrc/program.h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geoloss_kernels.expressions import simplify
from geoloss_kernels.expressions.derivative import derivatives
from geoloss_kernels.expressions.expression import Expression, Field, FieldKind
from geoloss_kernels.expressions.program import Program, compile_program
from geoloss_kernels.phi import Component, Offset, Stencil

_COMPONENTS = (
    FieldKind.PREDICTION_COMPONENT,
    FieldKind.TARGET_COMPONENT,
    FieldKind.ERROR_COMPONENT,
)


@dataclass(frozen=True)
class CompiledDensity:
    """What is added up at a voxel, and its slopes, compiled.

    Attributes:
        value, slopes: programs; components and maps are numbered as the density numbers them.
        variables: what each output of ``slopes`` is the derivative with respect to; that with respect to a
            component of the error counts as one with respect to that of the prediction.
    """

    density: Expression
    derivatives: tuple[Expression, ...]
    value: Program
    slopes: Program
    variables: tuple[Field, ...]


def compile_density(density: Expression) -> CompiledDensity:
    """Differentiate a density and compile it with its slopes."""
    slopes = _slopes(density)
    value = simplify.protect([density])
    protected = simplify.protect(list(slopes.values()))
    return CompiledDensity(
        density, tuple(slopes.values()), compile_program(value), compile_program(protected), tuple(slopes)
    )


def _slopes(density: Expression) -> dict[Field, Expression]:
    """The derivatives that are not 0, in the order of their fields."""
    moves_with_error = {
        Field(FieldKind.ERROR_COMPONENT, field.number): Field(FieldKind.PREDICTION_COMPONENT, field.number)
        for field in density.reads
        if field.kind == FieldKind.ERROR_COMPONENT
    }
    varying = (FieldKind.PREDICTION, FieldKind.LOG_PREDICTION, FieldKind.LOG_COMPLEMENT)
    fields = sorted(
        field
        for field in density.reads
        if field.kind in (*varying, FieldKind.PREDICTION_COMPONENT, FieldKind.ERROR_COMPONENT)
    )
    slopes: dict[Field, Expression] = {}
    for field, slope in zip(fields, derivatives(density, fields), strict=True):
        variable = moves_with_error.get(field, field)
        slopes[variable] = simplify.add(slopes.get(variable, simplify.ZERO), slope)
    return {field: slopes[field] for field in sorted(slopes) if slopes[field] is not simplify.ZERO}


@dataclass(frozen=True)
class EncodedDensity:
    """The integers and numbers of a term of kind "program"."""

    integers: tuple[int, ...]
    numbers: tuple[float, ...]
    parameters: tuple[tuple[int, int], ...]
    """place among the numbers, and the number of the parameter that is to be put there"""


def encode_density(
    compiled: CompiledDensity,
    stencils: Sequence[Stencil],
    dimensions: int,
    spacing: Sequence[float],
    maps: Sequence[int] = (),
) -> EncodedDensity:
    """A compiled density for volumes with so many axes.

    Args:
        stencils: whose components the density numbers, one after the other.
        spacing: voxel size per spatial axis.
        maps: of the density's maps, their numbers in the pass.
    """
    used = sorted(_component_numbers(compiled))
    every = [(stencil, each) for stencil in stencils for each in stencil.kernels(dimensions, spacing)]
    new_numbers = {number: place for place, number in enumerate(used)}
    integers, numbers = [len(used)], []
    for number in used:
        stencil, component = every[number]
        integers += [int(stencil.needs_all_neighbours), len(component.taps), *_places(component)]
        numbers += [component.centre, *(weight for _, weight in component.taps)]
    parameters = []
    for program in (compiled.value, compiled.slopes):
        integers += program.renumbered(new_numbers, maps).integers()
        parameters += [
            (len(numbers) + place, each.value)
            for place, each in enumerate(program.constants)
            if isinstance(each, Expression) and isinstance(each.value, int)
        ]
        numbers += [each if isinstance(each, float) else 0.0 for each in program.constants]
    for field in compiled.variables:
        own = new_numbers[field.number] if field.kind in _COMPONENTS else 0
        integers += [int(field.kind), own]
    return EncodedDensity(tuple(integers), tuple(numbers), tuple(parameters))


def _component_numbers(compiled: CompiledDensity) -> set[int]:
    fields = (*compiled.value.fields, *compiled.slopes.fields, *compiled.variables)
    return {field.number for field in fields if field.kind in _COMPONENTS}


def _places(component: Component) -> list[int]:
    """Of the taps: (z + 1) 9 + (y + 1) 3 + x + 1, the axes that a volume lacks in front."""
    return [_place(offset) for offset, _ in component.taps]


def _place(offset: Offset) -> int:
    z, y, x = (0,) * (3 - len(offset)) + tuple(offset)
    return 9 * (z + 1) + 3 * (y + 1) + x + 1
