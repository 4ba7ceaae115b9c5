"""Intensity shift and elastic deformation of batches of crops, on their device.

What is random of a crop comes from its own generator, so that it does not depend on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from geoloss_kernels.lesions.training.config import TrainingConfig


def augment(
    image: Tensor, mask: Tensor, config: TrainingConfig, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Deform and shift a batch.

    Args:
        image: ``[N, C, D, H, W]`` float32, 0 outside the head.
        mask: ``[N, 1, D, H, W]``, any dtype; its values are preserved (nearest neighbour).
        config: uses ``elastic_*`` and ``intensity_shift``.
        generators: of the N crops, on the CPU.
    """
    if config.elastic_probability > 0 and config.elastic_strength > 0:
        image, mask = elastic_deformation(image, mask, config, generators)
    if config.intensity_shift > 0:
        image = intensity_shift(image, config.intensity_shift, generators)
    return image, mask


def intensity_shift(image: Tensor, largest: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Add one value in ``[-largest, largest]`` per sample and channel to the voxels that are not 0."""
    shift = _uniform((image.shape[1], 1, 1, 1), generators, image)
    return image + largest * shift * (image != 0)


def elastic_deformation(
    image: Tensor, mask: Tensor, config: TrainingConfig, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Resample along a smooth random displacement of a coarse control grid, for a random part of the batch.

    The displacement is 0 on the faces of the crop, so nothing is drawn from outside it, and below half the
    control point distance, so it does not fold.
    """
    drawn = [float(torch.rand((), generator=generator)) for generator in generators]
    positions = [position for position, value in enumerate(drawn) if value < config.elastic_probability]
    if not positions:
        return image, mask
    chosen = torch.tensor(positions, device=image.device)
    displacement = _control_displacement(config, [generators[position] for position in positions], image)
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
    config: TrainingConfig, generators: Sequence[torch.Generator], like: Tensor
) -> Tensor:
    """``[N, 3, P, P, P]`` displacements in grid_sample's units, where a crop spans 2; 0 on the faces."""
    points = config.elastic_control_points
    largest = config.elastic_strength * 2 / (points - 1)
    inner = _uniform((3, *[points - 2] * 3), generators, like)
    return functional.pad(largest * inner, [1] * 6)


def _uniform(shape: Sequence[int], generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """``[N, *shape]`` between -1 and 1, with the dtype and device of ``like``."""
    drawn = [torch.rand(shape, generator=generator, dtype=like.dtype) for generator in generators]
    return (torch.stack(drawn) * 2 - 1).to(like.device, non_blocking=True)
