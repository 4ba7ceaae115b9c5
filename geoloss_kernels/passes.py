"""From a formula to the passes over memory that compute it, as the operators take them.

A pass has one activation. All parts of a formula are in one pass, but for those that take the input for
logits where the loss says otherwise: DiceCELoss(sigmoid=True) of several channels is MONAI's Dice under a
sigmoid and cross-entropy under a softmax, two passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels.call import REDUCTIONS
from geoloss_kernels.formulas import CONSTANT, CallTraits, Formula, Fraction, Part, SumsPart
from geoloss_kernels.terms import EncodedTerms, Term, encode

POOLINGS = ("volume", "batch", "all")
"""Of the operators' ``fractions``, in the order of their numbers."""

MAX_TERMS, MAX_STENCILS, MAX_PROGRAMS, MAX_MAPS, MAX_FRACTIONS = 32, 8, 8, 4, 16
"""What one pass takes: csrc/geo_sums.h and geo_ratio.h."""


@dataclass(frozen=True)
class Geometry:
    """What the terms' encoding depends on beside the formula."""

    dimensions: int
    spacing: tuple[float, ...] | None


@dataclass(frozen=True)
class ClassWeight:
    """A row of the operators' ``channel_weights``: the class weight, and the channels that it leaves out."""

    weight: Tensor
    skip: int


@dataclass(frozen=True)
class SumsFunction:
    """A part that is another function of sums, its factor, and the columns that it takes."""

    factor: float
    part: SumsPart
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """One pass: what the operators take beside the tensors.

    Attributes:
        activation: "none", "sigmoid" or "softmax".
        from_logits: it reads the input from before ``other_act``.
        terms: the columns of the sums.
        encoded: their numbers.
        maps: what the operators' maps are, in their order.
        include_background: whether channel 0 is in the sums.
        fractions, weights, reduction: the operators' arguments of geo_ratio; without fractions there are
            functions alone.
        class_weights: the rows of ``channel_weights``.
        functions: parts that are no ratios.
        has_programs: whether a term is one.
        has_stencils: whether a term reads the neighbours of a voxel.
    """

    activation: str
    from_logits: bool
    terms: tuple[Term, ...]
    encoded: EncodedTerms
    maps: tuple[Any, ...]
    include_background: bool
    fractions: tuple[int, ...]
    weights: tuple[float, ...]
    reduction: int
    class_weights: tuple[ClassWeight, ...]
    functions: tuple[SumsFunction, ...]
    has_programs: bool
    has_stencils: bool


def own_activation(part: Part, activation: str, channels: int) -> str:
    """The activation of a part in a loss with ``activation``."""
    of_logits = "softmax" if channels > 1 else "sigmoid"
    return {"logits": of_logits, "sigmoid": "sigmoid"}.get(part.own_activation or "", activation)


def passes(
    formula: Formula, traits: CallTraits, include_background: bool, batch: bool, geometry: Geometry
) -> tuple[Pass, ...]:
    """The passes of a call, one for each activation."""
    groups: dict[tuple[str, bool], list[tuple[float, Part]]] = {}
    for factor, part in formula.parts:
        activation = own_activation(part, traits.activation, traits.channels)
        from_logits = activation != traits.activation
        groups.setdefault((activation, from_logits), []).append((factor, part))
    result = []
    for (activation, from_logits), parts in groups.items():
        own = replace(traits, activation=activation)
        result.append(_PassBuilder(own, include_background, batch).build(parts, from_logits, geometry))
    return tuple(result)


@dataclass
class _PassBuilder:
    traits: CallTraits
    include_background: bool
    batch: bool
    columns: dict[Term, int] = field(default_factory=dict)
    class_weights: list[ClassWeight] = field(default_factory=list)

    def build(self, parts: Sequence[tuple[float, Part]], from_logits: bool, geometry: Geometry) -> Pass:
        ratios = [
            (factor, fraction)
            for factor, part in parts
            if not isinstance(part, SumsPart)
            for fraction in part.fractions(self.traits)
        ]
        every_channel = self.include_background or any(f.include_background for _, f in ratios)
        functions = tuple(
            SumsFunction(factor, part, tuple(self._column(term) for term in part.sums(self.traits)))
            for factor, part in parts
            if isinstance(part, SumsPart)
        )
        for _, fraction in ratios:
            for name in (*fraction.numerator, *fraction.denominator):
                if name != CONSTANT:
                    self._column(name)
        rows = [self._integers(fraction, every_channel) for _, fraction in ratios]
        if self.traits.reduction == "none" and len({row[:2] for row in rows}) > 1:
            raise ValueError(
                "reduction: expected 'mean' or 'sum' with parts that are apart for other volumes and "
                "channels, got 'none'"
            )
        numbers = [self._numbers(factor, fraction) for factor, fraction in ratios]
        terms = tuple(self.columns)
        maps = tuple(dict.fromkeys(map for term in terms for map in term.maps))
        self._check_limits(terms, maps, ratios)
        return Pass(
            self.traits.activation,
            from_logits,
            terms,
            encode(terms, {map: i for i, map in enumerate(maps)}, geometry.dimensions, geometry.spacing),
            maps,
            every_channel,
            tuple(integer for row in rows for integer in row),
            tuple(number for row in numbers for number in row),
            REDUCTIONS.index(self.traits.reduction),
            tuple(self.class_weights),
            functions,
            any(term.density is not None for term in terms),
            any(term.has_stencil for term in terms),
        )

    def _column(self, name: Any) -> int:
        term = name if isinstance(name, Term) else Term(name)
        return self.columns.setdefault(term, len(self.columns))

    def _integers(self, fraction: Fraction, every_channel: bool) -> tuple[int, int, int, int]:
        """pooling, skip, numerator_weights, denominator_weights"""
        pooling = fraction.pooling or ("batch" if self.batch else "volume")
        background = self.include_background or bool(fraction.include_background)
        skip = 1 if every_channel and not background else 0
        leaves_out = 0 if background else 1
        is_single = self.traits.channels - leaves_out == 1 and pooling != "all"
        first = 0 if fraction.weighs_every_channel else leaves_out
        weights = [
            -1 if weight is None or is_single else self._weight_row(weight, first)
            for weight in (fraction.numerator_weight, fraction.denominator_weight)
        ]
        return POOLINGS.index(pooling), skip, weights[0], weights[1]

    def _weight_row(self, weight: Tensor, skip: int) -> int:
        for row, known in enumerate(self.class_weights):
            if known.weight is weight and known.skip == skip:
                return row
        self.class_weights.append(ClassWeight(weight, skip))
        return len(self.class_weights) - 1

    def _numbers(self, factor: float, fraction: Fraction) -> list[float]:
        return [*self._row(fraction.numerator, factor), *self._row(fraction.denominator, 1.0)]

    def _row(self, weights: Mapping[Any, float], factor: float) -> list[float]:
        """One number per column, and the constant."""
        row = [0.0] * (len(self.columns) + 1)
        for name, weight in weights.items():
            column = len(self.columns) if name == CONSTANT else self._column(name)
            row[column] += factor * weight
        return row

    @staticmethod
    def _check_limits(terms: Sequence[Term], maps: Sequence[Any], ratios: Sequence[Any]) -> None:
        stencils = sum(term.kind.stencil is not None for term in terms)
        programs = sum(term.density is not None for term in terms)
        for what, count, limit in (
            ("sums", len(terms), MAX_TERMS),
            ("first- and second-order terms", stencils, MAX_STENCILS),
            ("open formulas' sums", programs, MAX_PROGRAMS),
            ("distance maps", len(maps), MAX_MAPS),
            ("fractions", len(ratios), MAX_FRACTIONS),
        ):
            if count > limit:
                raise ValueError(
                    f"formula: expected at most {limit} {what} in one loss, got {count}; "
                    "add up the results of two losses"
                )


def channel_weights(
    rows: Sequence[ClassWeight], channels: int, include_background: bool, like: Tensor, dtype: torch.dtype
) -> Tensor | None:
    """The operators' ``channel_weights`` [W, C'], in ``dtype`` on the device of ``like``."""
    if not rows:
        return None
    summed = channels if include_background else channels - 1
    return torch.stack([_weight_of_channels(row, channels, summed).to(like.device, dtype) for row in rows])


def _weight_of_channels(row: ClassWeight, channels: int, summed: int) -> Tensor:
    """[C'], 1 for a summed channel that the weight leaves out."""
    expected = channels - row.skip
    weight = row.weight
    if weight.ndim > 1 or (weight.ndim == 1 and len(weight) != expected):
        raise ValueError(
            f"weight: expected one number or {expected}, one per channel in the loss, "
            f"got shape {tuple(weight.shape)}"
        )
    weight = weight.expand(expected)
    if summed > expected:
        return torch.cat([weight.new_ones(summed - expected), weight])
    return weight[expected - summed :]
