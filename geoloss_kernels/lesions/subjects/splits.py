"""Who is trained on, who decides when to stop, and who is tested."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from geoloss_kernels.lesions.subjects.subject import Subject


def assign_splits(
    subjects: Sequence[Subject],
    validation_fraction: float = 1 / 6,
    test_fraction: float = 1 / 3,
    seed: int = 0,
) -> list[Subject]:
    """Split at random by name, keeping the order; the default fractions are the paper's 15 / 5 / 10 of 30."""
    names = sorted(subject.name for subject in subjects)
    random.Random(seed).shuffle(names)
    tested = round(len(names) * test_fraction)
    validated = round(len(names) * validation_fraction)
    split = dict.fromkeys(names[:tested], "test")
    split.update(dict.fromkeys(names[tested : tested + validated], "validation"))
    return [replace(subject, split=split.get(subject.name, "train")) for subject in subjects]
