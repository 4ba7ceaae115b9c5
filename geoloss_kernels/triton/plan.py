"""What a call asks for, worked out once on the host: its terms, and where the kernels read for them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from geoloss_kernels.triton.terms import CONSTANT, FROM_LOGIT

Offset = tuple[int, int, int]
Offsets = tuple[Offset, ...]
Term = tuple[str, ...]

CENTRE: Offset = (0, 0, 0)
UNITS: Offsets = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
NORMS = ("l2", "l2_squared", "l1")

VOXEL_TERMS: dict[str, Term] = {
    name: ("voxel", name)
    for name in (
        *("count", "prediction", "target", "intersection", "prediction_squared", "target_squared"),
        *("absolute_error", "squared_error", "cross_entropy_foreground", "cross_entropy_background"),
        *("map_prediction", "map_squared_error"),
    )
}
STENCIL_TERMS: dict[str, Term] = {
    **{f"first_order_{o}_{n}": ("first_order", o, n) for o in ("forward", "central") for n in NORMS},
    "second_order": ("second_order", "one_sided", "absolute"),
    "second_order_signed": ("second_order", "one_sided", "signed"),
    "second_order_two_sided": ("second_order", "two_sided", "absolute"),
    "second_order_two_sided_signed": ("second_order", "two_sided", "signed"),
}
TERMS = {**VOXEL_TERMS, **STENCIL_TERMS}


@dataclass(frozen=True)
class Plan:
    """Compile-time options of the kernels.

    Attributes:
        terms: as in TERMS; backward, those that have a slope.
        columns: of each term, among those of the sums.
        real: the arithmetic type.
        index: the type of offsets within a plane.
        activation: "none", "sigmoid" or "softmax".
        labels: target holds class numbers; g of channel c is (target == c).
        masked: some voxels may be invalid.
        logit, map: whether a term reads them.
        axes, dimensions: along z, y, x, whether FOG differentiates, and whether the volume extends.
        valid, prediction, target, error: the offsets at which each field is sampled.
        normalised: those at which a softmax is computed.
    """

    terms: tuple[Term, ...]
    columns: tuple[int, ...]
    real: Any
    index: Any
    activation: str
    labels: bool
    masked: bool
    logit: bool
    map: bool
    axes: tuple[bool, bool, bool]
    dimensions: tuple[bool, bool, bool]
    valid: Offsets
    prediction: Offsets
    target: Offsets
    error: Offsets
    normalised: Offsets


@functools.lru_cache(maxsize=256)
def forward_plan(names: tuple[str, ...], **options: Any) -> Plan:
    """What the sums read."""
    terms = tuple(_resolve(name, options["activation"]) for name in names)
    reads = _Reads(options["axes"], options["dimensions"])
    for term in terms:
        reads.add_value(term)
    return reads.plan(terms, tuple(range(len(terms))), **options)


@functools.lru_cache(maxsize=256)
def backward_plan(names: tuple[str, ...], **options: Any) -> Plan:
    """What their gradient reads."""
    terms = tuple(_resolve(name, options["activation"]) for name in names)
    columns = tuple(k for k, term in enumerate(terms) if term[-1] not in CONSTANT)
    reads = _Reads(options["axes"], options["dimensions"])
    for k in columns:
        reads.add_slope(terms[k])
    if options["activation"] != "none":
        reads.add_centre()  # the slope of the activation is one of the prediction
    return reads.plan(tuple(terms[k] for k in columns), columns, **options)


def _resolve(name: str, activation: str) -> Term:
    """Under a sigmoid, the variant of a term that starts from the logit, if there is one."""
    from_logit = f"{name}_logit"
    return ("voxel", from_logit) if activation == "sigmoid" and from_logit in FROM_LOGIT else TERMS[name]


class _Reads:
    """The offsets at which the terms read each field."""

    def __init__(self, axes: Sequence[bool], dimensions: Sequence[bool]) -> None:
        self.chosen = [unit for unit, chosen in zip(UNITS, axes, strict=True) if chosen]
        self.all = [unit for unit, extends in zip(UNITS, dimensions, strict=True) if extends]
        self.prediction: set[Offset] = set()
        self.target: set[Offset] = set()
        self.error: set[Offset] = set()

    def add_value(self, term: Term) -> None:
        kind, *variant = term
        if kind == "voxel":
            self.add_centre()
        elif kind == "first_order":
            self.error |= self._first_order(CENTRE, variant[0])
        else:
            self.add_centre()
            self.target |= _star(CENTRE, self.all)
            if variant[0] == "two_sided":
                self.prediction |= _star(CENTRE, self.all)

    def add_slope(self, term: Term) -> None:
        kind, *variant = term
        if kind == "first_order":
            back = [_minus(unit) for unit in self.chosen]
            for source in [CENTRE, *back, *(self.chosen if variant[0] == "central" else ())]:
                self.error |= self._first_order(source, variant[0])
            return
        self.add_value(term)
        if variant[0] == "two_sided":
            # The Laplacian's adjoint reads |e| sign Δs at the neighbours.
            neighbours = _star(CENTRE, self.all)
            self.target |= neighbours
            for source in neighbours if variant[1] == "absolute" else [CENTRE]:
                self.prediction |= _star(source, self.all)

    def plan(
        self,
        terms: tuple[Term, ...],
        columns: tuple[int, ...],
        *,
        masked: bool,
        **options: Any,
    ) -> Plan:
        self._share()
        prediction, target, error = (_ordered(each) for each in (self.prediction, self.target, self.error))
        return Plan(
            terms=terms,
            columns=columns,
            masked=masked,
            logit=any(term[-1] in FROM_LOGIT for term in terms),
            map=any(term[-1].startswith("map_") for term in terms),
            valid=_ordered({CENTRE, *prediction, *target, *error}) if masked else (),
            prediction=prediction,
            target=target,
            error=error,
            normalised=_ordered({*prediction, *error}) if options["activation"] == "softmax" else (),
            **options,
        )

    def _first_order(self, at: Offset, operator: str) -> set[Offset]:
        ahead = {_plus(at, unit) for unit in self.chosen}
        return (
            {at, *ahead}
            if operator == "forward"
            else {at, *ahead, *(_plus(at, _minus(u)) for u in self.chosen)}
        )

    def add_centre(self) -> None:
        self.prediction.add(CENTRE)
        self.target.add(CENTRE)

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


def _plus(a: Offset, b: Offset) -> Offset:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def _minus(offset: Offset) -> Offset:
    return (-offset[0], -offset[1], -offset[2])


def _star(at: Offset, units: Iterable[Offset]) -> set[Offset]:
    """The voxel at an offset and its face neighbours."""
    return {at, *(_plus(at, step) for unit in units for step in (unit, _minus(unit)))}


def _ordered(offsets: set[Offset]) -> Offsets:
    return tuple(sorted(offsets))
