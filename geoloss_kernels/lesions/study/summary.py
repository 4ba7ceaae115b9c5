"""What a study says, in sentences and tables that follow from its effects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geoloss_kernels.lesions.study.comparison import Effect, seeds_needed, subjects_needed
from geoloss_kernels.lesions.study.document import Block, Heading, Paragraph, Table
from geoloss_kernels.lesions.study.effects import (
    ALL_METRICS,
    METRICS,
    SIZE_TITLES,
    Comparisons,
    Pair,
    is_known,
)
from geoloss_kernels.lesions.study.methods import BASELINE, FOG, TITLES

DECIDING = ("dice", "lf1")
"""Metrics by which a loss is recommended."""
SMALL = "below_10"


@dataclass(frozen=True)
class Extent:
    """What the sentences rest on.

    Attributes:
        steps: Optimiser steps of a training.
        done: Cells that are measured.
        planned: Cells of the study.
    """

    steps: str
    done: int
    planned: int


def sentences(losses: Comparisons, forms: Comparisons, extent: Extent) -> list[str]:
    """What to train with, and how sure that is.

    Args:
        losses: Every row against its baseline, over all data sets.
        forms: Forms of FOG against FOG.
        extent: Of the study.
    """
    known = {pair: found for pair, found in losses.effects.items() if is_known(found["dice"])}
    against_dice = [pair for pair in known if pair[1] == BASELINE]
    if not against_dice:
        return ["No loss is compared with Dice yet, so nothing can be recommended."]
    found = [recommendation(losses, against_dice)]
    if (FOG, BASELINE) in known:
        found.append(f"{verdict(losses, (FOG, BASELINE))}.")
    found += _best_form(forms)
    found += _small_lesions(losses, against_dice)
    return [*found, _how_sure(losses, against_dice, extent)]


def recommendation(losses: Comparisons, pairs: Sequence[Pair]) -> str:
    """The loss to train with: shown to be better than Dice in DSC or L-F1, and worse in neither."""

    def gain(pair: Pair) -> float:
        return math.fsum(losses.effects[pair][metric].value for metric in DECIDING)

    def is_better(pair: Pair) -> bool:
        verdicts = [losses.verdict(pair, metric) for metric in DECIDING]
        return max(verdicts) > 0 and min(verdicts) >= 0

    better = [pair for pair in pairs if is_better(pair)]
    best = max(better or pairs, key=gain)
    numbers = _numbers(losses, best, DECIDING)
    if better:
        also = [TITLES[pair[0]] for pair in better if pair != best]
        others = f", as {listed(also)} {'is' if len(also) == 1 else 'are'}" if also else ""
        return (
            f"Train with {TITLES[best[0]]}: of {len(pairs)} losses compared with Dice it gains most and is "
            f"shown to be better{others} ({numbers})."
        )
    if all(losses.effects[pair]["dice"].seeds < 2 for pair in pairs):
        return (
            f"Nothing is shown yet, with one seed of each loss: of {len(pairs)} losses compared with Dice, "
            f"{TITLES[best[0]]} gained most in these trainings ({numbers})."
        )
    return (
        f"Train with Dice, or with what you prefer: none of the {len(pairs)} losses compared with it is "
        f"shown to be better in DSC or L-F1 without being worse in the other; {TITLES[best[0]]} comes "
        f"closest ({numbers})."
    )


def verdict(comparisons: Comparisons, pair: Pair, metrics: Sequence[str] = DECIDING) -> str:
    """Whether a row is better than its baseline, metric by metric, with the numbers; without a full stop."""
    return f"{TITLES[pair[0]]} is {_judged(comparisons, pair, metrics)}"


def comparison_blocks(title: str, comparisons: Comparisons) -> list[Block]:
    """The effects of one data set, of several, or of the forms of FOG, with those by the size of lesions."""
    pairs = [pair for pair, found in comparisons.effects.items() if is_known(found["dice"])]
    if not pairs:
        return []
    blocks: list[Block] = [Heading(title), Table(_effect_rows(comparisons, pairs, list(METRICS)))]
    for size, words in SIZE_TITLES.items():
        metrics = [f"{rate}_{size}" for rate in ("ltpr", "lppv", "lf1")]
        blocks += [Paragraph(f"Lesions {words}:"), Table(_effect_rows(comparisons, pairs, metrics))]
    return blocks


def power_blocks(of_sets: Mapping[str, Comparisons]) -> list[Block]:
    """What the data sets could not decide, and what would be needed to."""
    rows = [
        [
            name,
            _title(pair),
            METRICS[metric].title,
            *_needs(comparisons.effects[pair][metric], comparisons.level),
        ]
        for name, comparisons in of_sets.items()
        for pair in comparisons.effects
        for metric in DECIDING
        if is_known(comparisons.effects[pair][metric]) and not comparisons.verdict(pair, metric)
    ]
    if not rows:
        return []
    header = ["Data set", "Row", "metric", "effect", "detectable", "subjects needed", "or seeds needed"]
    return [Heading("What could not be decided"), Paragraph(POWER_NOTE), Table([header, *rows])]


POWER_NOTE = (
    "Detectable is the difference that this many subjects and seeds find in 8 of 10 studies, at a level "
    "of 0.05 divided by the number of rows. The last columns say how many independent subjects, with as "
    "many seeds, or how many seeds, on as many subjects, would show an effect as large as the one seen, "
    "in 8 of 10 studies: – where none up to 10 000 would. One seed decides nothing, however many subjects "
    "there are, and says nothing about others."
)

NOTES = (
    "An effect is the mean difference from the row it is compared with, over test subjects and seeds, "
    "with its 95 % interval and p, corrected for the number of rows by Holm's method in each metric; a "
    "star is p < 0.05. Intervals and p are of a mixed model with crossed effects of subject and training "
    "(Satterthwaite's degrees of freedom), so that they speak of other subjects and other seeds; with one "
    "seed they are of these trainings only, and too narrow. Test subjects with lesions of one mask, or "
    "sessions of one person, are one subject. p flips is that of a permutation test of the DSC, "
    "uncorrected, which flips the signs of the subjects' means over the seeds: without assumptions about "
    "distributions, but of these trainings only. Effects of several data sets are their mean. LPPV and "
    "L-F1 are the paper's, of each subject, and 0 where nothing is predicted; by size, LTPR counts "
    "reference lesions of that size, LPPV predicted ones that touch a reference lesion, and subjects "
    "without any are left out."
)


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _best_form(forms: Comparisons) -> list[str]:
    known = [pair for pair, found in forms.effects.items() if is_known(found["dice"])]
    if not known:
        return []
    best = max(known, key=lambda pair: math.fsum(forms.effects[pair][metric].value for metric in DECIDING))
    said = _judged(forms, best, DECIDING)
    return [f"Of the other forms of FOG, {TITLES[best[0]]} does best: it is {said}."]


def _judged(comparisons: Comparisons, pair: Pair, metrics: Sequence[str]) -> str:
    words = {1: "shown to be better than", -1: "shown to be worse than", 0: "not told apart from"}
    by_word: dict[str, list[str]] = {}
    for metric in metrics:
        has_seeds = comparisons.effects[pair][metric].seeds > 1
        word = words[comparisons.verdict(pair, metric)] if has_seeds else "not judged, on one seed, against"
        by_word.setdefault(word, []).append(ALL_METRICS[metric].title)
    said = [f"{word} {TITLES[pair[1]]} in {listed(titles)}" for word, titles in by_word.items()]
    return f"{listed(said)} ({_numbers(comparisons, pair, metrics)})"


def _small_lesions(losses: Comparisons, pairs: Sequence[Pair]) -> list[str]:
    pair = (FOG, BASELINE) if (FOG, BASELINE) in pairs else pairs[0]
    metrics = (f"ltpr_{SMALL}", f"lppv_{SMALL}")
    if not all(is_known(losses.effects[pair][metric]) for metric in metrics):
        return []
    return [f"On lesions {SIZE_TITLES[SMALL]}, {verdict(losses, pair, metrics)}."]


def _how_sure(losses: Comparisons, pairs: Sequence[Pair], extent: Extent) -> str:
    effects = [losses.effects[pair] for pair in pairs]
    sets, subjects, seeds = (
        _range([getattr(found["dice"], name) for found in effects]) for name in ("sets", "subjects", "seeds")
    )
    limits = listed(
        [
            f"{max(found[metric].detectable(losses.level) for found in effects):.3f} {METRICS[metric].title}"
            for metric in DECIDING
        ]
    )
    sure = (
        f"This rests on {sets} data set(s), {subjects} independent test subjects, {seeds} seed(s) of each "
        f"loss and trainings of {extent.steps}: differences up to {limits} may have escaped it"
    )
    if any(found["dice"].seeds == 1 for found in effects):
        sure += ", and with one seed nothing is shown: the luck of a training may look like an effect"
    if extent.done < extent.planned:
        sure += (
            f"; it is preliminary, {extent.planned - extent.done} of {extent.planned} trainings are missing"
        )
    return f"{sure}."


def _range(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _effect_rows(comparisons: Comparisons, pairs: Sequence[Pair], metrics: Sequence[str]) -> list[list[str]]:
    has_dice = "dice" in metrics
    header = ["Row", "sets", "seeds", "subjects", *(ALL_METRICS[metric].title for metric in metrics)]
    rows = [[*header, "p flips"] if has_dice else header]
    for pair in pairs:
        effects = comparisons.effects[pair]
        first = effects[metrics[0]]
        row = [_title(pair), str(first.sets), str(first.seeds), str(first.subjects)]
        row += [_shown(comparisons, pair, metric) for metric in metrics]
        rows.append([*row, _number(effects["dice"].permutation_p, ".2g")] if has_dice else row)
    return rows


def _title(pair: Pair) -> str:
    method, baseline = pair
    return TITLES[method] if baseline == BASELINE else f"{TITLES[method]} against {TITLES[baseline]}"


def _shown(comparisons: Comparisons, pair: Pair, metric: str) -> str:
    effect = comparisons.effects[pair][metric]
    if not is_known(effect):
        return "–"
    text = f"{_with_interval(effect)} p {comparisons.corrected[pair][metric]:.2g}"
    return f"{text} *" if comparisons.verdict(pair, metric) else text


def _with_interval(effect: Effect) -> str:
    low, high = effect.interval
    return f"{effect.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _numbers(comparisons: Comparisons, pair: Pair, metrics: Sequence[str]) -> str:
    return listed(
        [
            f"{ALL_METRICS[metric].title} {_with_interval(comparisons.effects[pair][metric])}, "
            f"p = {comparisons.corrected[pair][metric]:.2g}"
            for metric in metrics
        ]
    )


def _needs(effect: Effect, level: float) -> list[str]:
    decides = effect.seeds > 1
    needed = [subjects_needed(effect, level), seeds_needed(effect, level)] if decides else [None, None]
    return [
        f"{effect.value:+.3f}",
        f"{effect.detectable(level):.3f}",
        *("–" if number is None else str(number) for number in needed),
    ]


def _number(value: float, specification: str) -> str:
    return "–" if math.isnan(value) else format(value, specification)
