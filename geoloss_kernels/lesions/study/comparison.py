"""Whether one loss is better than another: effects with intervals, over subjects and trainings alike.

A loss is trained with several seeds, and each network is tested on the same subjects, so that the differences
of two losses, ``d[seed, subject]``, have two sources of luck that both have to be respected: which subjects
are tested, and which networks the seeds happened to give. Luck of the seed moves all subjects at once; a test
over the subjects alone takes it for an effect of the loss. So the differences are a crossed mixed model,

    d[k, i] = effect + training[k] + subject[i] + rest[k, i],

whose mean squares estimate the variance of the mean, ``σ²(training)/K + σ²(subject)/I + σ²(rest)/(K I)``,
with Satterthwaite's degrees of freedom (Dorfman, Berbaum and Metz 1992; Hillis 2007: studies of several
readers and several cases have the same form). Simulated, its 95 % intervals hold the truth in 92 to 97 %
of studies of three seeds, those of a bootstrap over subjects and seeds in 74 to 99 %. A permutation test that
flips the sign of each subject's mean over the seeds stands beside it: it assumes no distribution, but is of
these trainings only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
POWER = 0.8
PERMUTATIONS = 10_000
MOST_NEEDED = 10_000
"""Where more subjects or seeds are needed, no number is said."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """Variances of the differences of two losses: of the training, of the subject, and what is left."""

    training: float
    subject: float
    rest: float

    def of_mean(self, seeds: int, subjects: int) -> float:
        """Variance of the mean difference over as many seeds and subjects."""
        return self.training / seeds + self.subject / subjects + self.rest / (seeds * subjects)


@dataclass(frozen=True)
class Effect:
    """A mean difference of two losses, and how sure it is.

    Attributes:
        value: The mean difference; NaN where nothing could be compared.
        variance: Of ``value``.
        freedom: Degrees of freedom of ``variance``.
        seeds: Trainings of each loss; with one, the luck of the training is not in the variance.
        subjects: That were tested on.
        permutation_p: Of flipped signs per subject, of these trainings only; NaN for a mean of several sets.
        components: None for a mean of several sets.
        sets: Data sets that it is the mean of.
    """

    value: float
    variance: float
    freedom: float
    seeds: int
    subjects: int
    permutation_p: float = math.nan
    components: Components | None = None
    sets: int = 1

    @property
    def p(self) -> float:
        """Two-sided, that the losses do not differ."""
        if math.isnan(self.value):
            return math.nan
        if self.variance == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / math.sqrt(self.variance), self.freedom))

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 % confidence."""
        if math.isnan(self.value):
            return math.nan, math.nan
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * math.sqrt(self.variance)
        return self.value - reach, self.value + reach

    def detectable(self, level: float) -> float:
        """The difference that a study of this size finds with ``POWER`` at a level of significance."""
        quantile = stats.t.isf(level / 2, self.freedom) + stats.t.ppf(POWER, self.freedom)
        return float(quantile) * math.sqrt(self.variance)


NOTHING = Effect(math.nan, math.nan, math.nan, 0, 0)


def estimate(differences: Array) -> Effect:
    """The effect in differences ``[seeds, subjects]``.

    A subject whose difference is not defined in every training is left out. With one seed the variance is
    that over the subjects; with one subject nothing can be said.
    """
    defined = differences[:, ~np.isnan(differences).any(axis=0)]
    seeds, subjects = defined.shape
    if subjects < 2:
        return NOTHING
    mean = float(defined.mean())
    by_training = defined.mean(axis=1) - mean
    by_subject = defined.mean(axis=0) - mean
    rest = defined - mean - by_training[:, None] - by_subject
    of_subjects = seeds * float((by_subject**2).sum()) / (subjects - 1)
    flips = flipped_signs_p(defined.mean(axis=0))
    if seeds == 1:
        parts = Components(0.0, of_subjects, 0.0)
        return Effect(mean, of_subjects / subjects, subjects - 1, seeds, subjects, flips, parts)
    of_trainings = subjects * float((by_training**2).sum()) / (seeds - 1)
    of_rest = float((rest**2).sum()) / ((seeds - 1) * (subjects - 1))
    parts = Components(
        max(of_trainings - of_rest, 0) / subjects, max(of_subjects - of_rest, 0) / seeds, of_rest
    )
    freedom = _satterthwaite(*map(np.array, ([of_trainings], [of_subjects], [of_rest], [seeds], [subjects])))
    return Effect(mean, parts.of_mean(seeds, subjects), float(freedom[0]), seeds, subjects, flips, parts)


def pool(effects: Sequence[Effect]) -> Effect:
    """The mean effect over data sets, each of the same weight and with trainings and subjects of its own."""
    effects = [effect for effect in effects if not math.isnan(effect.value)]
    if len(effects) < 2:
        return effects[0] if effects else NOTHING
    parts = [effect.variance / len(effects) ** 2 for effect in effects]
    squares = sum(part**2 / effect.freedom for part, effect in zip(parts, effects, strict=True))
    return Effect(
        value=math.fsum(effect.value for effect in effects) / len(effects),
        variance=math.fsum(parts),
        freedom=math.fsum(parts) ** 2 / squares if squares else math.inf,
        seeds=min(effect.seeds for effect in effects),
        subjects=sum(effect.subjects for effect in effects),
        sets=len(effects),
    )


def flipped_signs_p(differences: Array) -> float:
    """Two-sided p that differences ``[subjects]`` have no sign: exact up to 13 subjects, else by sampling."""
    sums = np.abs(_signs(len(differences)) @ differences)
    return float((sums >= abs(differences.sum()) * (1 - 1e-9)).mean())


@cache
def _signs(subjects: int) -> Array:
    """Signs ``[choices, subjects]``, the first of which are all positive: every choice, or a sample."""
    if 2**subjects <= PERMUTATIONS:
        negative = np.arange(2**subjects)[:, None] >> np.arange(subjects) & 1
    else:
        negative = np.random.default_rng(0).integers(0, 2, (PERMUTATIONS, subjects))
        negative[0] = 0
    return np.asarray(1 - 2 * negative, np.float64)


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given (Holm 1979); NaN stays and is not counted."""
    corrected = [math.nan] * len(ps)
    order = sorted((p, index) for index, p in enumerate(ps) if not math.isnan(p))
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[index] = largest
    return corrected


def subjects_needed(effect: Effect, level: float) -> int | None:
    """Subjects that would show an effect as large as this one, with as many seeds, with ``POWER``.

    None if no number up to ``MOST_NEEDED`` would: the luck of the trainings is in the way, or there is no
    effect.
    """
    numbers = np.arange(2, MOST_NEEDED + 1)
    return _first(numbers, _is_enough(effect, level, np.full_like(numbers, effect.seeds), numbers))


def seeds_needed(effect: Effect, level: float) -> int | None:
    """Seeds that would show an effect as large as this one, on as many subjects; see ``subjects_needed``.

    None also if there is one seed, which says nothing about others.
    """
    if effect.seeds == 1:
        return None
    numbers = np.arange(2, MOST_NEEDED + 1)
    return _first(numbers, _is_enough(effect, level, numbers, np.full_like(numbers, effect.subjects)))


def _first(numbers: NDArray[np.int64], enough: NDArray[np.bool_]) -> int | None:
    return int(numbers[enough.argmax()]) if enough.any() else None


def _is_enough(
    effect: Effect, level: float, seeds: NDArray[np.int64], subjects: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether studies of these sizes have ``POWER``, where the variances are those of ``effect``."""
    parts = effect.components
    assert parts is not None
    of_rest = np.full(len(seeds), parts.rest)
    of_trainings = subjects * parts.training + of_rest
    of_subjects = seeds * parts.subject + of_rest
    freedom = (
        subjects - 1.0
        if effect.seeds == 1
        else _satterthwaite(of_trainings, of_subjects, of_rest, seeds, subjects)
    )
    variance = parts.training / seeds + parts.subject / subjects + parts.rest / (seeds * subjects)
    quantile = stats.t.isf(level / 2, freedom) + stats.t.ppf(POWER, freedom)
    return np.asarray(quantile**2 * variance <= effect.value**2) & (effect.value != 0)


def _satterthwaite(
    of_trainings: Array,
    of_subjects: Array,
    of_rest: Array,
    seeds: NDArray[np.int64],
    subjects: NDArray[np.int64],
) -> Array:
    """Degrees of freedom of the variance of a mean, from mean squares; infinite where they are 0.

    Trainings or subjects whose mean square is not above the rest's are taken for no source of variance.
    """
    trainings_count, subjects_count = of_trainings > of_rest, of_subjects > of_rest
    # The rest is in both, and counts once.
    rest_counts = trainings_count == subjects_count
    total = trainings_count * (of_trainings - of_rest) + subjects_count * (of_subjects - of_rest) + of_rest
    squares = (
        trainings_count * of_trainings**2 / (seeds - 1)
        + subjects_count * of_subjects**2 / (subjects - 1)
        + rest_counts * of_rest**2 / ((seeds - 1) * (subjects - 1))
    )
    return np.divide(total**2, squares, out=np.full(total.shape, math.inf), where=squares > 0)
