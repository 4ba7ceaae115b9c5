"""Prediction: sliding windows over a volume, probabilities and masks in the input's own grid."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoloss_kernels.lesions.training.config import TrainingConfig
from geoloss_kernels.lesions.training.devices import autocast
from geoloss_kernels.metrics import label_lesions


def predict_probability(
    network: nn.Module, image: Tensor, config: TrainingConfig, device: torch.device
) -> Tensor:
    """Lesion probability ``[x, y, z]`` (float32, CPU) of an image ``[modalities, x, y, z]``.

    Windows of ``config.patch_size`` are averaged with Gaussian weights. The network is left in evaluation
    mode.
    """
    from monai.inferers import sliding_window_inference

    network.eval()

    def probability(windows: Tensor) -> Tensor:
        with autocast(device, config.precision):
            logits = network(windows)
        return logits.float().sigmoid()

    with torch.inference_mode():
        blended = sliding_window_inference(
            image[None].to(device),
            config.patch_size,
            config.batch_size,
            probability,
            overlap=config.window_overlap,
            mode="gaussian",
        )
    assert isinstance(blended, Tensor)
    return blended[0, 0].cpu()


def to_mask(
    probability: NDArray[np.float32], threshold: float, min_lesion_size: int = 0
) -> NDArray[np.uint8]:
    """Threshold probabilities and remove 26-connected lesions with fewer than ``min_lesion_size`` voxels."""
    mask = probability > threshold
    if min_lesion_size > 1:
        mask = label_lesions(mask, min_size=min_lesion_size)[0] > 0
    return mask.astype(np.uint8)
