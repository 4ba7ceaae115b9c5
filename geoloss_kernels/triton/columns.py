"""The operators' ``terms`` and ``parameters``, read: which columns the sums have, and the scales of stencils.

The checks and their messages are those of csrc/checks.h.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from geoloss_kernels.terms import PROGRAM, TERM_KINDS
from geoloss_kernels.triton.numbers import Parts, exactly
from geoloss_kernels.triton.plan import Column
from geoloss_kernels.triton.programs import MAX_COMPONENTS, OpenTerm, ProgramError, read_open_term

MAX_TERMS = 32
MAX_STENCIL_TERMS = 8
MAX_PROGRAMS = 8
NAMES = tuple(TERM_KINDS)

Scale = tuple[Parts, ...]
"""1/h or 1/h² along z, y, x"""


def check(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


@dataclass(frozen=True)
class Columns:
    """What the sums have a column for, the scales that their stencils share, and the programs' numbers."""

    each: tuple[Column, ...]
    scales: tuple[Scale, ...]
    constants: tuple[Parts, ...]

    @property
    def maps(self) -> frozenset[int]:
        """The numbers of the maps that are read."""
        return frozenset(number for column in self.each for number in column.maps)

    @property
    def fluxes(self) -> int:
        """How many volumes of slopes with respect to stencils of programs the gradient is gathered from."""
        return sum(len(column.program.flux_outputs) for column in self.each if column.program is not None)


@functools.lru_cache(maxsize=256)
def columns_of(terms: tuple[int, ...], parameters: tuple[float, ...], maps: int) -> Columns:
    """``maps``: how many there are."""
    reader = _Reader(terms, parameters, maps)
    while reader.terms_left:
        check(len(reader.columns) < MAX_TERMS, f"terms: expected 1 to {MAX_TERMS}, got more")
        reader.read_column()
    check(
        not reader.parameters_left,
        f"parameters: expected {len(parameters) - reader.parameters_left} numbers for the terms, "
        f"got {len(parameters)}",
    )
    check(len(reader.columns) > 0, f"terms: expected 1 to {MAX_TERMS}, got none")
    stencils = sum(column.stencil is not None for column in reader.columns)
    check(
        stencils <= MAX_STENCIL_TERMS,
        f"terms: expected at most {MAX_STENCIL_TERMS} first- and second-order terms, got {stencils}",
    )
    programs = sum(column.program is not None for column in reader.columns)
    check(programs <= MAX_PROGRAMS, f"terms: expected at most {MAX_PROGRAMS} programs, got {programs}")
    return Columns(
        tuple(reader.columns), tuple(exactly(scale) for scale in reader.scales), exactly(reader.constants)
    )


@dataclass
class _Reader:
    """Takes one term after the other from both streams."""

    terms: tuple[int, ...]
    parameters: tuple[float, ...]
    maps: int
    columns: list[Column] = field(default_factory=list)
    scales: dict[tuple[float, ...], int] = field(default_factory=dict)
    constants: list[float] = field(default_factory=list)
    fluxes: int = 0
    components: int = 0

    def __post_init__(self) -> None:
        self.terms_left, self.parameters_left = len(self.terms), len(self.parameters)

    def read_column(self) -> None:
        """kind, number of integers, number of parameters, integers; parameters"""
        kind = self._integer()
        check(
            0 <= kind <= PROGRAM.number,
            f"terms: expected kinds from 0 to {PROGRAM.number}, got {kind}",
        )
        integers, parameters = self._integer(), self._integer()
        if kind == PROGRAM.number:
            self.columns.append(
                Column("program", len(self.columns), program=self._program(integers, parameters))
            )
            return
        column = Column(NAMES[kind], len(self.columns))
        self._check_counts(column, integers, parameters)
        self.columns.append(
            Column(
                column.name,
                column.place,
                map=self._map() if column.kind.reads_map else None,
                axes=self._axes() if column.stencil == "first_order" else (False, False, False),
                scale=None if column.stencil is None else self._scale(column.stencil),
            )
        )

    def _program(self, integers: int, parameters: int) -> OpenTerm:
        place = len(self.columns)
        check(
            0 <= integers <= self.terms_left and 0 <= parameters <= self.parameters_left,
            f"terms: expected {integers} integers and {parameters} parameters of program {place}, "
            "got a stream that ends before",
        )
        codes = [self._integer() for _ in range(integers)]
        numbers = [self._parameter() for _ in range(parameters)]
        try:
            term = read_open_term(codes, numbers, len(self.constants), self.fluxes, self.maps)
        except ProgramError as fault:
            raise RuntimeError(f"terms: program {place} {fault}") from None
        self.constants += numbers
        self.fluxes += len(term.flux_outputs)
        self.components += len(term.components)
        check(
            self.components <= MAX_COMPONENTS,
            f"terms: expected at most {MAX_COMPONENTS} stencils of programs, got more",
        )
        return term

    def _check_counts(self, column: Column, integers: int, parameters: int) -> None:
        expected_integers = int(column.kind.reads_map or column.stencil == "first_order")
        expected_parameters = 0 if column.stencil is None else 3
        check(
            (integers, parameters) == (expected_integers, expected_parameters),
            f"terms: expected {expected_integers} integers and {expected_parameters} parameters of kind "
            f"{column.kind.number}, got {integers} and {parameters}",
        )

    def _map(self) -> int:
        number = self._integer()
        check(
            0 <= number < self.maps,
            f"maps: a term needs map number {number}, got {self.maps} maps",
        )
        return number

    def _axes(self) -> tuple[bool, bool, bool]:
        bits = self._integer()
        return bool(bits & 1), bool(bits & 2), bool(bits & 4)

    def _scale(self, stencil: str) -> int:
        """The number of the column's scale among those that differ."""
        spacing = [self._parameter() for _ in range(3)]
        for size in spacing:
            check(size > 0, f"spacing: expected positive numbers, got {size:g}")
        inverse = (1 / size for size in spacing)
        scale = tuple(number if stencil == "first_order" else number * number for number in inverse)
        return self.scales.setdefault(scale, len(self.scales))

    def _integer(self) -> int:
        check(
            self.terms_left > 0,
            "terms: expected kind, counts and integers of each term, got a stream of "
            f"{len(self.terms)} integers that ends within term {len(self.columns)}",
        )
        self.terms_left -= 1
        return self.terms[-1 - self.terms_left]

    def _parameter(self) -> float:
        check(
            self.parameters_left > 0,
            f"parameters: expected more than {len(self.parameters)} numbers for the terms",
        )
        self.parameters_left -= 1
        return self.parameters[-1 - self.parameters_left]
