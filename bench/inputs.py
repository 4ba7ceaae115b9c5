"""Volumes with lesions, as a network in training sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]

LESIONS_PER_VOLUME = 12
CONFIDENCE = 4.0
NOISE = 1.0


@dataclass(frozen=True)
class Volumes:
    """Logits, their sigmoid, and the binary target in the same dtype, each [N, C, D, H, W]; and labels.

    Attributes:
        labels: int64 [N, 1, D, H, W], the last channel whose target is 1, or 0.
    """

    logits: Tensor
    probabilities: Tensor
    target: Tensor
    labels: Tensor

    def to(self, device: str) -> Volumes:
        tensors = (self.logits, self.probabilities, self.target, self.labels)
        return Volumes(*(tensor.to(device) for tensor in tensors))


def parse_shape(text: str) -> Shape:
    """``2x1x128^3`` or ``2x1x96x112x96`` as (N, C, D, H, W)."""
    match = re.fullmatch(r"(\d+)x(\d+)x(?:(\d+)\^3|(\d+)x(\d+)x(\d+))", text)
    sizes = [int(size) for size in match.groups() if size] if match else []
    if not sizes or 0 in sizes:
        raise ValueError(f"shape: expected NxCxL^3 or NxCxDxHxW, got {text!r}")
    return (*sizes, sizes[2], sizes[2]) if len(sizes) == 3 else tuple(sizes)


def format_shape(shape: Shape) -> str:
    """The inverse of `parse_shape`."""
    spatial = f"{shape[2]}^3" if len(set(shape[2:])) == 1 else "x".join(map(str, shape[2:]))
    return f"{shape[0]}x{shape[1]}x{spatial}"


def make_volumes(shape: Shape, dtype: torch.dtype = torch.float32, seed: int = 0) -> Volumes:
    """Balls as lesions in about 1 % of the voxels; noisy logits of a network that is often right.

    No logit is 0, so that ``probability > 0.5`` means the same voxels in every precision.
    """
    generator = torch.Generator().manual_seed(seed)
    target = torch.stack([_balls(shape[2:], generator) for _ in range(shape[0] * shape[1])]).view(shape)
    noise = NOISE * torch.randn(shape, generator=generator)
    logits = CONFIDENCE * (2 * target - 1) + 2 * noise
    logits = torch.where(logits.abs() < 0.01, 0.01, logits).to(dtype)
    classes = torch.arange(shape[1]).view(1, -1, 1, 1, 1)
    labels = (target.long() * classes).amax(1, keepdim=True)
    return Volumes(logits, logits.sigmoid(), target.to(dtype), labels)


def _balls(spatial: Shape, generator: torch.Generator) -> Tensor:
    """1 inside balls at random places, with radii of 3 to 8 % of the shortest side (at least one voxel)."""
    axes = [torch.arange(size, dtype=torch.float32) for size in spatial]
    inside = torch.zeros(spatial, dtype=torch.bool)
    for _ in range(LESIONS_PER_VOLUME):
        *centre, extent = torch.rand(len(spatial) + 1, generator=generator).tolist()
        radius = max(1.0, (0.03 + 0.05 * extent) * min(spatial))
        offsets = [(axis - at * size) ** 2 for axis, at, size in zip(axes, centre, spatial, strict=True)]
        z, y, x = torch.meshgrid(*offsets, indexing="ij")
        inside |= z + y + x <= radius**2
    return inside.float()
