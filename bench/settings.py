"""What is measured on which device by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.cases import LABEL_LOSSES, LOSSES, TRANSFORMS, UINT8_TARGET
from bench.inputs import Shape


@dataclass(frozen=True)
class Setting:
    """Volumes of one shape and dtype, and the losses that are measured on them.

    Attributes:
        graphs: whether both steps are also timed as a CUDA graph. Each graph keeps the memory of its
            intermediates, so that large volumes go without.
    """

    shape: Shape
    dtype: torch.dtype
    losses: Sequence[str]
    graphs: bool = False


LARGE = (8, 1, 256, 256, 256)
TRAINING = (4, 1, 128, 128, 128)
CPU_SETTINGS = tuple(
    Setting(shape, torch.float32, LOSSES)
    for shape in ((2, 1, 128, 128, 128), (4, 1, 96, 96, 96), (4, 1, 64, 64, 64))
) + tuple(
    Setting(shape, torch.float32, LABEL_LOSSES)
    for shape in ((1, 2, 96, 96, 96), (1, 4, 96, 96, 96), (1, 14, 96, 96, 96))
)
# What the bars ask for comes first. torch.compile takes most of the time, anew for each shape.
CUDA_SETTINGS = (
    Setting(
        TRAINING,
        torch.bfloat16,
        ("fog", "dice_fog", "dice", UINT8_TARGET, "boundary", "hausdorff", *TRANSFORMS),
        graphs=True,
    ),
    Setting(LARGE, torch.float32, ("fog", "dice_fog")),
    Setting(LARGE, torch.bfloat16, ("fog", "dice_fog")),
    Setting((2, 1, 128, 128, 128), torch.float32, ("fog", "dice_fog", "dice", "sog"), graphs=True),
    Setting((2, 1, 96, 96, 96), torch.float32, ("dice_fog",), graphs=True),
)
DEFAULTS = {"cpu": CPU_SETTINGS, "cuda": CUDA_SETTINGS}
