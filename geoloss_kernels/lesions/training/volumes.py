"""A subject as the network takes it: RAS order, cropped to the head, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.imaging.grid import Grid, bounding_box
from geoloss_kernels.lesions.imaging.reading import load_images, load_mask
from geoloss_kernels.lesions.subjects.subject import Subject


@dataclass(frozen=True)
class Volume:
    """A subject ready for the network."""

    name: str
    image: Tensor
    """[modalities, x, y, z] float32, RAS order, cropped to the head, normalised; 0 outside the head."""
    mask: Tensor | None
    """[1, x, y, z] uint8 of 0 and 1."""
    grid: Grid

    @cached_property
    def lesion_voxels(self) -> Tensor:
        """[lesion voxels, 3] coordinates; empty without a mask."""
        return torch.empty(0, 3, dtype=torch.int64) if self.mask is None else self.mask[0].nonzero()


def load_volume(
    subject: Subject, modalities: Sequence[str], lesion_label: int | None = None, *, with_mask: bool = True
) -> Volume:
    """Read, check and preprocess one subject.

    The images are put in RAS order, cropped to the voxels where any modality is not 0, and normalised per
    modality to mean 0 and standard deviation 1 over the modality's nonzero voxels.

    Raises:
        InputError: names the file whose shape, affine or values do not fit.
    """
    arrays, grid = load_images({modality: subject.images[modality] for modality in modalities})
    canonical = np.stack([grid.to_volume(array) for array in arrays.values()])
    for path, channel in zip((subject.images[m] for m in modalities), canonical, strict=True):
        if not channel.any():
            raise InputError(f"{path}: expected an image, got zeros only")
    crop = bounding_box((canonical != 0).any(axis=0))
    grid = replace(grid, crop=crop)
    image = torch.from_numpy(np.stack([_normalise(channel) for channel in canonical[(slice(None), *crop)]]))
    mask = None
    if with_mask and subject.mask is not None:
        lesions = load_mask(subject.mask, lesion_label, like=(grid, subject.images[modalities[0]]))
        mask = torch.from_numpy(np.ascontiguousarray(grid.to_volume(lesions)[None]))
    return Volume(subject.name, image, mask, grid)


def _normalise(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    inside = channel != 0
    values = channel[inside].astype(np.float64)
    if values.size == 0:
        return channel
    deviation = values.std()
    normalised = np.zeros_like(channel)
    normalised[inside] = (values - values.mean()) / (deviation if deviation > 0 else 1.0)
    return normalised
