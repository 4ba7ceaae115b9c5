"""FOG, SOG, Dice and cross-entropy as a user writes them in PyTorch: short, no masks, no options, 3-D.

They are the strongest rivals in plain PyTorch: the package's reference also carries validity, spacing and
dtypes, which cost it time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1e-5
SPATIAL = (2, 3, 4)


def fog_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Mean length of the forward differences of s - g."""
    error = probability - target
    squares = [_difference(error, axis).square() for axis in SPATIAL]
    return torch.stack(squares).sum(0).clamp_min(1e-30).sqrt().mean()


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over volumes of 1 - (2 Σsg + ε) / (Σs + Σg + ε)."""
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum(SPATIAL)
    extent = probability.sum(SPATIAL) + target.sum(SPATIAL)
    return (1 - (2 * overlap + SMOOTH) / (extent + SMOOTH)).mean()


def dice_fog_loss(logits: Tensor, target: Tensor) -> Tensor:
    """`dice_loss` + `fog_loss` of the probabilities."""
    return dice_loss(logits, target) + fog_loss(torch.sigmoid(logits), target)


def dice_loss_of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """`dice_loss` of a softmax and of labels [N, 1, D, H, W] as volumes per class."""
    probability = torch.softmax(logits, 1)
    target = functional.one_hot(labels[:, 0], logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    overlap = (probability * target).sum(SPATIAL)
    extent = probability.sum(SPATIAL) + target.sum(SPATIAL)
    return (1 - (2 * overlap + SMOOTH) / (extent + SMOOTH)).mean()


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """torch's, of labels [N, 1, D, H, W]."""
    return functional.cross_entropy(logits, labels[:, 0])


def dice_ce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """`dice_loss_of_labels` + `cross_entropy_loss`."""
    return dice_loss_of_labels(logits, labels) + cross_entropy_loss(logits, labels)


def dice_ce_fog_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """`dice_ce_loss` + `fog_loss` of the probabilities of all classes."""
    target = functional.one_hot(labels[:, 0], logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return dice_ce_loss(logits, labels) + fog_loss(torch.softmax(logits, 1), target)


def sog_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Mean of |s - g| |Δg|."""
    laplacian = torch.zeros_like(target)
    for axis in SPATIAL:
        step = _difference(target, axis)
        laplacian = laplacian + step - _shifted(step, axis)
    return ((probability - target).abs() * laplacian.abs()).mean()


def _difference(volume: Tensor, axis: int) -> Tensor:
    """volume[v+1] - volume[v], 0 at the last voxel."""
    last = volume.narrow(axis, volume.shape[axis] - 1, 1)
    return torch.diff(volume, dim=axis, append=last)


def _shifted(volume: Tensor, axis: int) -> Tensor:
    """volume[v-1], 0 at the first voxel."""
    first = torch.zeros_like(volume.narrow(axis, 0, 1))
    return torch.cat((first, volume.narrow(axis, 0, volume.shape[axis] - 1)), axis)
