"""The vocabulary of sums: what a column of `geo_sums` can add up, and how the operators are told.

A kind of term is declared here once, in `TERM_KINDS`; csrc/geo_sums.h numbers the kinds alike, and a test
holds the two together. A `Term` is a kind with the parameters that are its own: two first-order terms of a
loss may differ in axes and spacing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Axes = Sequence[int | str] | int | str | None

NORMS = ("l2", "l2_squared", "l1")
OPERATORS = ("forward", "central")
AXIS_ORDERS = {
    "xyz": ("sagittal", "coronal", "axial"),
    "zyx": ("axial", "coronal", "sagittal"),
}


@dataclass(frozen=True)
class TermKind:
    """What one kind of term is, for every backend.

    Attributes:
        number: in the operators' ``terms`` argument.
        density: what is added up at a voxel.
        reads_log_prediction, reads_log_complement: it starts from log s, or log(1 - s), which come from the
            logits where there are any.
        reads_map: it reads one of the loss's maps.
        stencil: "first_order", "second_order", or None for a term that reads its own voxel alone.
        has_slope: it depends on the prediction.
    """

    number: int
    density: str
    reads_log_prediction: bool = False
    reads_log_complement: bool = False
    reads_map: bool = False
    stencil: str | None = None
    has_slope: bool = True


def _kinds() -> dict[str, TermKind]:
    voxel: dict[str, dict[str, Any]] = {
        "count": {"density": "1", "has_slope": False},
        "prediction": {"density": "s"},
        "target": {"density": "g", "has_slope": False},
        "intersection": {"density": "s g"},
        "prediction_squared": {"density": "s²"},
        "target_squared": {"density": "g²", "has_slope": False},
        "absolute_error": {"density": "|s - g|"},
        "squared_error": {"density": "(s - g)²"},
        "cross_entropy_foreground": {"density": "-g log s", "reads_log_prediction": True},
        "cross_entropy_background": {"density": "-(1 - g) log(1 - s)", "reads_log_complement": True},
        "cross_entropy_uniform": {"density": "-log s", "reads_log_prediction": True},
        "map_prediction": {"density": "s D", "reads_map": True},
        "map_squared_error": {"density": "(s - g)² D", "reads_map": True},
    }
    bars = {"l2": "‖∇s - ∇g‖", "l2_squared": "‖∇s - ∇g‖²", "l1": "‖∇s - ∇g‖₁"}
    first_order = {
        f"first_order_{operator}_{norm}": {"density": f"{bars[norm]}, {operator}", "stencil": "first_order"}
        for operator in OPERATORS
        for norm in NORMS
    }
    second_order = {
        "second_order": "|s - g| |Δg|",
        "second_order_signed": "|s - g| Δg",
        "second_order_two_sided": "|s - g| (|Δg| + |Δs|)",
        "second_order_two_sided_signed": "|s - g| (Δg + Δs)",
    }
    every = {
        **voxel,
        **first_order,
        **{name: {"density": density, "stencil": "second_order"} for name, density in second_order.items()},
    }
    return {name: TermKind(number, **properties) for number, (name, properties) in enumerate(every.items())}


TERM_KINDS: dict[str, TermKind] = _kinds()
"""Every kind of term by its name, in the order of their numbers."""

TERM_NAMES = tuple(TERM_KINDS)

PROGRAM = TermKind(len(TERM_KINDS), "an expression")
"""The kind of a term that brings what it adds up, an `open_terms.Density`."""


@dataclass(frozen=True)
class Term:
    """A sum over the valid voxels, one column of `geo_sums`.

    Attributes:
        name: one of `TERM_KINDS`.
        axes, axis_order: of a first-order term, see `resolve_axes`.
        spacing: of a stencil, the voxel size along each spatial axis in mm; None is that of the call, or 1.
        map: of a term that reads a map, what the map is; the loss computes one for each that differs.
        density: of a program, an `open_terms.Density`.
    """

    name: str
    axes: Axes = None
    axis_order: str = "xyz"
    spacing: tuple[float, ...] | None = None
    map: Any = None
    density: Any = None

    def __post_init__(self) -> None:
        if self.density is None and self.name not in TERM_KINDS:
            raise ValueError(f"terms: expected names of {TERM_NAMES}, got {self.name!r}")

    @property
    def kind(self) -> TermKind:
        return TERM_KINDS[self.name] if self.density is None else PROGRAM

    @property
    def has_stencil(self) -> bool:
        """Whether it reads the neighbours of a voxel."""
        return self.kind.stencil is not None or bool(self.density is not None and self.density.stencils)

    @property
    def maps(self) -> tuple[Any, ...]:
        """What the maps are that it reads."""
        if self.density is not None:
            return tuple(self.density.maps)
        return (self.map,) if self.kind.reads_map else ()

    def __str__(self) -> str:
        return self.name if self.density is None else str(self.density)


def has_programs(terms: Sequence[int]) -> bool:
    """Whether a term is one, among those that the operators take."""
    place = 0
    while place < len(terms):
        kind, integers = terms[place], terms[place + 1]
        if kind == PROGRAM.number:
            return True
        place += 3 + integers
    return False


@dataclass(frozen=True)
class EncodedTerms:
    """Terms as the operators take them."""

    terms: tuple[int, ...]
    """kind, number of integers, number of parameters, integers, for each term"""
    parameters: tuple[float, ...]
    """the parameters of each term"""
    values: tuple[tuple[int, Any, int], ...] = ()
    """of programs that read tensors: a place among the parameters, the program's owner and which tensor"""


def encode(
    terms: Sequence[Term], maps: Mapping[Any, int], dimensions: int, spacing: Sequence[float] | None
) -> EncodedTerms:
    """The operators' ``terms`` and ``parameters``.

    Args:
        maps: the number of each map.
        dimensions: spatial axes of the volumes, 1 to 3.
        spacing: of the call, in place of the terms' own; None leaves them theirs.
    """
    stream: list[int] = []
    parameters: list[float] = []
    values: list[tuple[int, Any, int]] = []
    for term in terms:
        integers: list[int] = []
        numbers: list[float] = []
        if term.kind.reads_map:
            integers.append(maps[term.map])
        if term.kind.stencil == "first_order":
            integers.append(_axis_bits(term, dimensions))
        if term.kind.stencil is not None:
            own = check_spacing(term.spacing if spacing is None else spacing, dimensions)
            numbers += [1.0] * (3 - dimensions) + list(own)
        if term.density is not None:
            own = check_spacing(term.spacing if spacing is None else spacing, dimensions)
            program = term.density.encode(dimensions, own, [maps[map] for map in term.density.maps])
            integers += program.integers
            values += [(len(parameters) + at, term.density.owner, which) for at, which in program.parameters]
            numbers += program.numbers
        stream += [term.kind.number, len(integers), len(numbers), *integers]
        parameters += numbers
    return EncodedTerms(tuple(stream), tuple(parameters), tuple(values))


def _axis_bits(term: Term, dimensions: int) -> int:
    """The axes of a term as bits: 0 = z, 1 = y, 2 = x."""
    axes = check_axes(resolve_axes(term.axes, term.axis_order, dimensions), dimensions)
    return sum(1 << (3 - dimensions + axis) for axis in axes)


def check_axis_order(axis_order: str) -> None:
    """ValueError unless it is "xyz" or "zyx"."""
    if axis_order not in AXIS_ORDERS:
        raise ValueError(f"axis_order: expected one of {tuple(AXIS_ORDERS)}, got {axis_order!r}")


def resolve_axes(axes: Axes, axis_order: str, dimensions: int) -> tuple[int, ...] | None:
    """Spatial axis numbers of ``axes``; None stays None (all axes).

    A name is the direction of the derivative: "sagittal" = left-right (x), "coronal" = front-back (y),
    "axial" = foot-head (z). ``axis_order`` says where those lie in a 3-D tensor: "xyz" as nibabel, TorchIO
    and MONAI load volumes, "zyx" as SimpleITK and nnU-Net do. Plain integers are taken as they are.
    """
    check_axis_order(axis_order)
    if axes is None:
        return None
    if not isinstance(axes, (int, str, Sequence)):
        raise TypeError(f"axes: expected a number, a name or a sequence of these, got {axes!r}")
    names = AXIS_ORDERS[axis_order]
    resolved = []
    for axis in (axes,) if isinstance(axes, (int, str)) else axes:
        if isinstance(axis, str):
            if axis not in names or dimensions != 3:
                raise ValueError(
                    f"axes: expected numbers, or in 3-D names of {sorted(names)}, "
                    f"got {axis!r} in {dimensions}-D"
                )
            axis = names.index(axis)
        resolved.append(axis)
    return tuple(resolved)


def check_axes(axes: Sequence[int] | None, dimensions: int) -> tuple[int, ...]:
    """Spatial axis numbers, None = all; ValueError unless distinct and in 0..dimensions-1."""
    if axes is None:
        return tuple(range(dimensions))
    checked = sequence_of_numbers("axes", axes)
    if any(not isinstance(axis, int) for axis in checked):
        raise TypeError(f"axes: expected integers, got {checked}")
    if not checked or len(set(checked)) < len(checked) or not set(checked) <= set(range(dimensions)):
        raise ValueError(f"axes: expected distinct numbers from 0 to {dimensions - 1}, got {checked}")
    return checked


def check_spacing(spacing: Sequence[float] | None, dimensions: int) -> tuple[float, ...]:
    """Voxel size per spatial axis in mm, None = 1; ValueError unless positive, finite and one per axis."""
    if spacing is None:
        return (1.0,) * dimensions
    checked = spacing_as_tuple(spacing)
    if len(checked) != dimensions or not all(size > 0 and math.isfinite(size) for size in checked):
        raise ValueError(f"spacing: expected {dimensions} positive finite numbers, got {checked}")
    return checked


def spacing_as_tuple(spacing: Sequence[float]) -> tuple[float, ...]:
    """Its numbers, whatever sequence, array or tensor it is."""
    sizes = sequence_of_numbers("spacing", spacing)
    try:
        return tuple(float(size) for size in sizes)
    except (TypeError, ValueError):
        raise TypeError(f"spacing: expected numbers, got {sizes}") from None


def sequence_of_numbers(name: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name}: expected a sequence of numbers, got {values!r}")
    return tuple(values)
