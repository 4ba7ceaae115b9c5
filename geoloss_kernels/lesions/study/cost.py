"""Time and memory of a loss in training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from geoloss_kernels.lesions.files import write_text
from geoloss_kernels.lesions.reporting.memory import cuda_peak_growth, peak_growth
from geoloss_kernels.lesions.training.config import TrainingConfig
from geoloss_kernels.lesions.training.named_losses import build_loss


@dataclass(frozen=True)
class Cost:
    """Medians over the steps of a training, the memory of the loss, and how long it all took.

    Attributes:
        loss_seconds: Forward and backward of the loss.
        step_seconds: The whole step.
        loss_bytes: Peak of forward and backward beyond logits, mask and gradient; None on a CPU whose
            system does not count.
        training_seconds: Wall time of the whole training, validation included.
    """

    loss_seconds: float
    step_seconds: float
    loss_bytes: int | None
    training_seconds: float

    def write(self, path: Path) -> None:
        """Writes JSON, whole or not at all: the file is the sign that the training is done."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Cost:
        """Reads what ``write`` has written."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def peak_memory(config: TrainingConfig, device: torch.device) -> int | None:
    """`Cost.loss_bytes` of the configuration's loss on crops of noise with ``lesion_prior`` of lesions."""
    shape = (config.batch_size, 1, *config.patch_size)
    logits = torch.randn(shape, device=device, requires_grad=True)
    mask = (torch.rand(shape, device=device) < config.lesion_prior).to(torch.uint8)
    loss = build_loss(config.loss, config.loss_coefficient).to(device)

    def step() -> None:
        loss(logits, mask).backward()

    def release() -> None:
        logits.grad = None

    step()  # compiles, where there is something to compile
    measure = cuda_peak_growth if device.type == "cuda" else peak_growth
    peak = measure(step, release)
    return None if peak is None else max(0, peak - logits.nbytes)
