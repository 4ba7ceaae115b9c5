"""Exact Euclidean distance transforms of a batch of binary masks, in voxels, as float32.

Each takes a bool mask [N, C, D, H, W] and gives the distance of its foreground voxels to the background.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.providers import Provider, Steps
from geoloss_kernels.distance import distance_transform_edt

Transform = Callable[[Tensor], Tensor]
MakeMask = Callable[[Tensor], Tensor]


def of_scipy(mask: Tensor) -> Tensor:
    from scipy import ndimage

    return _volume_by_volume(mask, ndimage.distance_transform_edt)


def of_edt(mask: Tensor) -> Tensor:
    """The package edt, with torch's number of threads."""
    import edt

    return _volume_by_volume(mask, lambda volume: edt.edt(volume, parallel=torch.get_num_threads()))


def _volume_by_volume(mask: Tensor, transform: Callable[[NDArray[np.bool_]], NDArray]) -> Tensor:
    volumes = mask.numpy().reshape(-1, *mask.shape[2:])
    return torch.from_numpy(np.stack([transform(volume) for volume in volumes])).view(mask.shape).float()


def outside_of_lesions(target: Tensor) -> Tensor:
    """Lesions are few, so that distances are long."""
    return target <= 0.5


def noise(target: Tensor) -> Tensor:
    """Every voxel is foreground or background by chance, so that distances are short."""
    return torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.5


def of_transform(name: str, transform: Transform, make_mask: MakeMask) -> Provider:
    """``transform`` of a mask that is made from the target; it is timed only if it is right."""

    def prepare(input: Tensor, target: Tensor) -> Steps:
        mask = make_mask(target)
        torch.testing.assert_close(transform(mask), of_scipy(mask), rtol=1.2e-7, atol=0)
        return Steps(lambda: transform(mask), None)

    return Provider(name, prepare, arrays=(1, 0))


def providers(make_mask: MakeMask, ours: str, edt: str, scipy: str) -> list[Provider]:
    """Of these names."""
    named = {ours: distance_transform_edt, edt: of_edt, scipy: of_scipy}
    return [of_transform(name, transform, make_mask) for name, transform in named.items()]
