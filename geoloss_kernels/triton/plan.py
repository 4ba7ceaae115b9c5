"""What a call asks for, worked out once on the host: its columns, and where the kernels read for them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from geoloss_kernels.expressions.expression import FieldKind
from geoloss_kernels.terms import PROGRAM, TERM_KINDS, TermKind
from geoloss_kernels.triton.programs import CENTRE, VARIABLES, Code, Offset, OpenTerm

Offsets = tuple[Offset, ...]

UNITS: Offsets = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


@dataclass(frozen=True)
class Column:
    """One column of the sums, as the kernels are compiled for it.

    Attributes:
        name: of its kind of term.
        place: its number among the columns of the sums.
        map: the number of its map.
        axes: along z, y, x, whether a first-order term differentiates.
        scale: of a stencil, which of the call's scales is its.
        program: of a term that is one.
    """

    name: str
    place: int
    map: int | None = None
    axes: tuple[bool, bool, bool] = (False, False, False)
    scale: int | None = None
    program: OpenTerm | None = None

    @property
    def kind(self) -> TermKind:
        return PROGRAM if self.program is not None else TERM_KINDS[self.name]

    @property
    def stencil(self) -> str | None:
        return self.kind.stencil

    @property
    def maps(self) -> tuple[int, ...]:
        """The numbers of the maps that it reads."""
        if self.program is not None:
            fields = (*self.program.density.fields, *self.program.slopes.fields)
            return tuple(sorted({field.number for field in fields if field.kind == FieldKind.MAP}))
        return () if self.map is None else (self.map,)

    @property
    def has_slope(self) -> bool:
        return bool(self.program.variables) if self.program is not None else self.kind.has_slope

    @property
    def variables(self) -> tuple[str, ...]:
        """What its slopes are with respect to: the prediction, also by way of a stencil, or a logarithm."""
        if self.program is not None:
            return tuple({VARIABLES[variable.kind]: None for variable in self.program.variables})
        if self.kind.reads_log_prediction:
            return ("log_prediction",)
        return ("log_complement",) if self.kind.reads_log_complement else ("prediction",)

    def takes_logarithm(self, variable: str, of_slopes: bool) -> bool:
        """Whether its value, or its slopes, take log s or log(1 - s)."""
        if self.program is not None:
            code = self.program.slopes if of_slopes else self.program.density
            return code.reads_logarithm(variable)
        return not of_slopes and variable in self.variables

    def has_logarithm(self, variable: str) -> bool:
        """Whether its value or its slopes take log s or log(1 - s), or one is with respect to it."""
        taken = (self.takes_logarithm(variable, of_slopes) for of_slopes in (False, True))
        return variable in self.variables or any(taken)

    @property
    def operator(self) -> str:
        """Of a first-order term."""
        return "forward" if "forward" in self.name else "central"

    @property
    def norm(self) -> str:
        return self.name.partition(f"{self.operator}_")[2]

    @property
    def two_sided(self) -> bool:
        """Of a second-order term."""
        return "two_sided" in self.name

    @property
    def signed(self) -> bool:
        return self.name.endswith("signed")


@dataclass(frozen=True)
class Plan:
    """Compile-time options of the kernels.

    Attributes:
        columns: of the sums; backward, those that have a slope.
        real: the arithmetic type.
        index: the type of offsets within a plane.
        activation: "none", "sigmoid" or "softmax".
        labels: target holds class numbers; g of channel c is (target == c).
        masked: some voxels may be invalid.
        log_prediction, log_complement: whether a column takes log s, or log(1 - s).
        dimensions: along z, y, x, whether the volume extends.
        valid, prediction, target, error: the offsets at which each field is sampled.
        normalised: those at which a softmax is computed.
        gathered: at how many offsets the flux of programs is read.
    """

    columns: tuple[Column, ...]
    real: Any
    index: Any
    activation: str
    labels: bool
    masked: bool
    log_prediction: bool
    log_complement: bool
    dimensions: tuple[bool, bool, bool]
    valid: Offsets
    prediction: Offsets
    target: Offsets
    error: Offsets
    normalised: Offsets
    gathered: int


@functools.lru_cache(maxsize=256)
def forward_plan(columns: tuple[Column, ...], **options: Any) -> Plan:
    """What the sums read."""
    reads = _Reads(options["dimensions"])
    for column in columns:
        reads.add_value(column)
    return reads.plan(columns, **options)


@functools.lru_cache(maxsize=256)
def flux_plan(columns: tuple[Column, ...], **options: Any) -> Plan:
    """What the slopes of programs with respect to their stencils read."""
    gathered = tuple(
        column for column in columns if column.program is not None and column.program.flux_outputs
    )
    reads = _Reads(options["dimensions"])
    for column in gathered:
        reads.add_flux(column)
    return reads.plan(gathered, **options)


@functools.lru_cache(maxsize=256)
def backward_plan(columns: tuple[Column, ...], **options: Any) -> Plan:
    """What their gradient reads."""
    sloping = tuple(column for column in columns if column.has_slope)
    reads = _Reads(options["dimensions"])
    for column in sloping:
        reads.add_slope(column)
    if options["activation"] != "none":
        reads.add_centre()  # the slope of the activation is one of the prediction
    return reads.plan(sloping, **options)


class _Reads:
    """The offsets at which the columns read each field."""

    def __init__(self, dimensions: Sequence[bool]) -> None:
        self.units = _chosen(dimensions)
        self.prediction: set[Offset] = set()
        self.target: set[Offset] = set()
        self.error: set[Offset] = set()
        self.valid: set[Offset] = set()
        self.gathered = 0

    def add_value(self, column: Column) -> None:
        if column.program is not None:
            self.add_program(column.program, column.program.density)
            return
        if column.stencil == "first_order":
            self.error |= _first_order(CENTRE, column)
            return
        self.add_centre()
        if column.stencil == "second_order":
            self.target |= _star(CENTRE, self.units)
            if column.two_sided:
                self.prediction |= _star(CENTRE, self.units)

    def add_program(self, term: OpenTerm, code: Code) -> None:
        self.add_centre()
        for name in ("prediction", "target", "error"):
            for number in code.components(name):
                getattr(self, name).update(term.components[number].reach)

    def add_flux(self, column: Column) -> None:
        assert column.program is not None
        self.add_program(column.program, column.program.slopes)
        for i in range(len(column.program.flux_outputs)):
            self.valid.update(column.program.component_of_flux(i).reach)

    def add_slope(self, column: Column) -> None:
        if column.program is not None:
            self.add_flux(column)
            fluxes = range(len(column.program.flux_outputs))
            self.gathered += sum(len(column.program.component_of_flux(i).sources) for i in fluxes)
            return
        if column.stencil == "first_order":
            chosen = _chosen(column.axes)
            back = [_minus(unit) for unit in chosen]
            for source in [CENTRE, *back, *(chosen if column.operator == "central" else ())]:
                self.error |= _first_order(source, column)
            return
        self.add_value(column)
        if column.stencil == "second_order" and column.two_sided:
            # The Laplacian's adjoint reads |e| sign Δs at the neighbours.
            neighbours = _star(CENTRE, self.units)
            self.target |= neighbours
            for source in [CENTRE] if column.signed else neighbours:
                self.prediction |= _star(source, self.units)

    def add_centre(self) -> None:
        self.prediction.add(CENTRE)
        self.target.add(CENTRE)

    def plan(self, columns: tuple[Column, ...], *, masked: bool, **options: Any) -> Plan:
        self._share()
        prediction, target, error = (_ordered(each) for each in (self.prediction, self.target, self.error))
        return Plan(
            columns=columns,
            masked=masked,
            log_prediction=any(column.has_logarithm("log_prediction") for column in columns),
            log_complement=any(column.has_logarithm("log_complement") for column in columns),
            valid=_ordered({CENTRE, *self.valid, *prediction, *target, *error}) if masked else (),
            prediction=prediction,
            target=target,
            error=error,
            normalised=_ordered({*prediction, *error}) if options["activation"] == "softmax" else (),
            gathered=self.gathered,
            **options,
        )

    def _share(self) -> None:
        """The error is not read where both prediction and target are.

        The centre is the sample that the march brings from the plane ahead: where both are read at the
        centre, they are read there, too, instead of the error.
        """
        ahead = UNITS[0]
        if (
            CENTRE in self.prediction
            and CENTRE in self.target
            and CENTRE in self.error
            and ahead in self.error
        ):
            self.prediction.add(ahead)
            self.target.add(ahead)
        self.error -= self.prediction & self.target


def _first_order(at: Offset, column: Column) -> set[Offset]:
    """What a difference at an offset reads."""
    chosen = _chosen(column.axes)
    ahead = {at, *(_plus(at, unit) for unit in chosen)}
    return ahead if column.operator == "forward" else ahead | {_plus(at, _minus(unit)) for unit in chosen}


def _chosen(axes: Sequence[bool]) -> list[Offset]:
    return [unit for unit, chosen in zip(UNITS, axes, strict=True) if chosen]


def _plus(a: Offset, b: Offset) -> Offset:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def _minus(offset: Offset) -> Offset:
    return (-offset[0], -offset[1], -offset[2])


def _star(at: Offset, units: Iterable[Offset]) -> set[Offset]:
    """The voxel at an offset and its face neighbours."""
    return {at, *(_plus(at, step) for unit in units for step in (unit, _minus(unit)))}


def _ordered(offsets: set[Offset]) -> Offsets:
    return tuple(sorted(offsets))
