"""A study that takes seconds, in this process or in one to kill: ``python study_helpers.py ARGUMENTS``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.study.presets import ISOTROPIC, PRESETS, SMOKE, THICK_SLICES, DataPlan

TINY = replace(
    SMOKE,
    name="tiny",
    summary="for tests",
    data=(
        DataPlan("ge30", 3, 3.0, (16, 16, 8), THICK_SLICES),
        DataPlan("si170", 3, 4.0, (16, 16, 16), ISOTROPIC),
    ),
    channels=(4, 8, 8, 8),
    epochs=6,
    steps_per_epoch=6,
    batch_size=2,
    validation_interval=3,
)
PRESETS["tiny"] = TINY


def reproduce(*arguments: object) -> int:
    """Runs ``geoloss reproduce --preset tiny`` and returns its exit code."""
    return main(["reproduce", "--preset", "tiny", *map(str, arguments)])


def run(arguments: Sequence[str]) -> None:
    sys.exit(reproduce(*arguments))


if __name__ == "__main__":
    run(sys.argv[1:])
