"""What a loss computes, as text: passes, sums, the expressions of open formulas and their slopes."""

from __future__ import annotations

from collections.abc import Iterator

from geoloss_kernels.evaluation import planned_passes
from geoloss_kernels.expressions.printing import field_text, text
from geoloss_kernels.losses import FormulaLoss
from geoloss_kernels.open_terms import Density
from geoloss_kernels.passes import Pass
from geoloss_kernels.terms import Term


def explain(loss: FormulaLoss, channels: int = 1, dimensions: int = 3, to_labels: bool = False) -> str:
    """Text about what ``loss`` computes of an input with so many channels and spatial axes.

    Args:
        to_labels: the target is a map of class numbers.
    """
    lines = [repr(loss)]
    for number, each in enumerate(
        planned_passes(loss.formula, loss.options, channels, dimensions, to_labels)
    ):
        lines += ["", f"pass {number + 1}, activation {each.activation}", *_lines(each, dimensions)]
    return "\n".join(lines)


def _lines(each: Pass, dimensions: int) -> Iterator[str]:
    for column, term in enumerate(each.terms):
        yield f"  S{column} = Σ {_density(term)}"
        if term.density is not None:
            yield from (f"      {line}" for line in _program(term.density, dimensions))
    for number, map in enumerate(each.maps):
        yield f"  map {number}: {map}"
    tensors = 2 + len(each.maps)
    yield (
        f"  bytes a voxel in float32: forward {4 * tensors} (input, target{', maps' * bool(each.maps)}), "
        f"backward {4 * (tensors + 1)} (and the gradient)"
    )


def _density(term: Term) -> str:
    return term.kind.density if term.density is None else text(term.density.expression)


def _program(density: Density, dimensions: int) -> Iterator[str]:
    compiled = density.compiled
    for field, slope in zip(compiled.variables, compiled.derivatives, strict=True):
        yield f"∂/∂{field_text(field)} = {text(slope)}"
    first = 0
    for stencil in density.stencils:
        count = stencil.components(dimensions)
        names = "φ" + str(first) if count == 1 else f"φ{first} to φ{first + count - 1}"
        taps = sum(len(each.taps) for each in stencil.kernels(dimensions, (1.0,) * dimensions))
        yield f"{names}: {stencil!r}, {taps} neighbours"
        first += count
    yield (
        f"{len(compiled.value.instructions)} instructions for the value, "
        f"{len(compiled.slopes.instructions)} for the slopes, in {compiled.slopes.registers} registers"
    )
