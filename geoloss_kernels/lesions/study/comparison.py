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
    """

    value: float
    variance: float
    freedom: float
    seeds: int
    subjects: int
    permutation_p: float = math.nan
    components: Components | None = None

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

    @property
    def detectable(self) -> float:
        """The difference that a study of this size finds with ``POWER``."""
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom) + stats.t.ppf(POWER, self.freedom)
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
    variance = parts.of_mean(seeds, subjects)
    freedom = _satterthwaite(
        variance * seeds * subjects,
        [(of_trainings, seeds - 1), (of_subjects, subjects - 1)],
        (of_rest, (seeds - 1) * (subjects - 1)),
    )
    return Effect(mean, variance, freedom, seeds, subjects, flips, parts)


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
    )


def flipped_signs_p(differences: Array) -> float:
    """Two-sided p that differences ``[subjects]`` have no sign: exact up to 13 subjects, else by sampling."""
    subjects = len(differences)
    if 2**subjects <= PERMUTATIONS:
        bits = np.arange(2**subjects)[:, None] >> np.arange(subjects) & 1
    else:
        bits = np.random.default_rng(0).integers(0, 2, (PERMUTATIONS, subjects))
        bits[0] = 0  # the signs as they are
    sums = np.abs((1 - 2 * bits) @ differences)
    return float((sums >= abs(differences.sum()) * (1 - 1e-9)).mean())


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given (Holm 1979); NaN stays and is not counted."""
    corrected = [math.nan] * len(ps)
    order = sorted((p, index) for index, p in enumerate(ps) if not math.isnan(p))
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[index] = largest
    return corrected


def subjects_needed(effect: Effect) -> int | None:
    """Subjects that would show an effect as large as this one, with as many seeds, with ``POWER``.

    None if no number up to ``MOST_NEEDED`` would: the luck of the trainings is in the way, or there is no
    effect.
    """
    assert effect.components is not None
    fixed = effect.components.training / effect.seeds
    shrinking = effect.components.subject + effect.components.rest / effect.seeds
    return _needed(effect.value, fixed, shrinking)


def seeds_needed(effect: Effect) -> int | None:
    """Seeds that would show an effect as large as this one, on as many subjects; see ``subjects_needed``."""
    assert effect.components is not None
    if effect.seeds == 1:
        return None
    fixed = effect.components.subject / effect.subjects
    shrinking = effect.components.training + effect.components.rest / effect.subjects
    return _needed(effect.value, fixed, shrinking)


def _needed(value: float, fixed: float, shrinking: float) -> int | None:
    """The least n with (z(0.975) + z(0.8))² (fixed + shrinking / n) <= value²; at least 2."""
    quantile = float(stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER))
    room = (value / quantile) ** 2 - fixed
    if not room > 0 or shrinking / room > MOST_NEEDED:
        return None
    return max(2, math.ceil(shrinking / room))


def _satterthwaite(total: float, effects: Sequence[tuple[float, int]], rest: tuple[float, int]) -> float:
    """Degrees of freedom of a sum of mean squares, of which those below the rest's are taken for no effect.

    Args:
        total: σ² of the mean, times seeds and subjects.
        effects: Mean squares of trainings and of subjects, and their degrees of freedom.
        rest: The same of the rest.
    """
    present = [(square, freedom) for square, freedom in effects if square > rest[0]]
    # Each effect beyond the first holds the rest once more, which is subtracted.
    used = [*present, rest] if len(present) != 1 else present
    squares = sum(square**2 / freedom for square, freedom in used)
    return total**2 / squares if squares else math.inf
