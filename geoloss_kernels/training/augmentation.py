"""Intensity shift and elastic deformation of batches of crops, on their device, from a seeded generator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from geoloss_kernels.training.config import TrainingConfig


def augment(
    image: Tensor, mask: Tensor, config: TrainingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Deform and shift a batch.

    Args:
        image: ``[N, C, D, H, W]`` float32, 0 outside the head.
        mask: ``[N, 1, D, H, W]``, any dtype; its values are preserved (nearest neighbour).
        config: uses ``elastic_*`` and ``intensity_shift``.
        generator: on the device of ``image``.
    """
    if config.elastic_probability > 0 and config.elastic_strength > 0:
        image, mask = elastic_deformation(image, mask, config, generator)
    if config.intensity_shift > 0:
        image = intensity_shift(image, config.intensity_shift, generator)
    return image, mask


def intensity_shift(image: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Add one value in ``[-largest, largest]`` per sample and channel to the voxels that are not 0."""
    shape = (*image.shape[:2], *[1] * (image.ndim - 2))
    shift = torch.rand(shape, generator=generator, device=image.device, dtype=image.dtype) * 2 - 1
    return image + largest * shift * (image != 0)


def elastic_deformation(
    image: Tensor, mask: Tensor, config: TrainingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Resample along a smooth random displacement of a coarse control grid, for a random part of the batch.

    The displacement is 0 on the faces of the crop, so nothing is drawn from outside it, and below half the
    control point distance, so it does not fold.
    """
    drawn = torch.rand(len(image), generator=generator, device=image.device) < config.elastic_probability
    chosen = drawn.nonzero().flatten()
    if len(chosen) == 0:
        return image, mask
    displacement = _control_displacement(len(chosen), config, generator, image)
    dense = functional.interpolate(displacement, size=image.shape[2:], mode="trilinear", align_corners=True)
    points = _identity_grid(image) + dense.movedim(1, -1)
    moved_image = functional.grid_sample(
        image[chosen], points, mode="bilinear", padding_mode="border", align_corners=True
    )
    moved_mask = functional.grid_sample(
        mask[chosen].to(image.dtype), points, mode="nearest", align_corners=True
    )
    return image.index_copy(0, chosen, moved_image), mask.index_copy(0, chosen, moved_mask.to(mask.dtype))


def _identity_grid(image: Tensor) -> Tensor:
    """``[1, D, H, W, 3]`` coordinates of the voxels in grid_sample's units and order."""
    axes = [torch.linspace(-1, 1, size, device=image.device, dtype=image.dtype) for size in image.shape[2:]]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack((x, y, z), dim=-1)[None]


def _control_displacement(
    count: int, config: TrainingConfig, generator: torch.Generator, like: Tensor
) -> Tensor:
    """``[count, 3, P, P, P]`` displacements in grid_sample's units, where a crop spans 2; 0 on the faces."""
    points = config.elastic_control_points
    inner = (count, 3, *[points - 2] * 3)
    largest = config.elastic_strength * 2 / (points - 1)
    uniform = torch.rand(inner, generator=generator, device=like.device, dtype=like.dtype) * 2 - 1
    return functional.pad(largest * uniform, [1] * 6)
