"""Who is trained on, who decides when to stop, and who is tested; nobody is two of these."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from geoloss_kernels.lesions.subjects.subject import Subject

NAMED = 3
"""People that a message names."""


def assign_splits(
    subjects: Sequence[Subject],
    validation_fraction: float = 1 / 6,
    test_fraction: float = 1 / 3,
    seed: int = 0,
) -> list[Subject]:
    """Split at random by person, keeping the order; the default fractions are the paper's 15 / 5 / 10 of 30.

    All sessions of a person are in one split; the fractions are of people.
    """
    people = sorted({subject.person for subject in subjects})
    random.Random(seed).shuffle(people)
    tested = round(len(people) * test_fraction)
    validated = round(len(people) * validation_fraction)
    split = dict.fromkeys(people[:tested], "test")
    split.update(dict.fromkeys(people[tested : tested + validated], "validation"))
    return [replace(subject, split=split.get(subject.person, "train")) for subject in subjects]


def shared_people(subjects: Sequence[Subject]) -> str:
    """In words, who is in more than one split; empty if nobody is."""
    splits: dict[str, set[str]] = {}
    for subject in subjects:
        if subject.split:
            splits.setdefault(subject.person, set()).add(subject.split)
    shared = {person: sorted(found) for person, found in splits.items() if len(found) > 1}
    if not shared:
        return ""
    named = "; ".join(f"{person} in {' and '.join(shared[person])}" for person in list(shared)[:NAMED])
    more = f" and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
    return f"sessions of one person are in more than one split, which makes tests too good: {named}{more}"
