"""Exact Euclidean distance transforms of a batch of binary masks, in voxels, as float32.

Each takes a bool mask [N, C, D, H, W] and gives the distance of its foreground voxels to the background.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.providers import Provider, Steps
from geoloss_kernels import use_backend

Transform = Callable[[Tensor], Tensor]
MakeMask = Callable[[Tensor], Tensor]


def of_scipy(mask: Tensor) -> Tensor:
    from scipy import ndimage

    return _volume_by_volume(mask, ndimage.distance_transform_edt)


def of_edt(mask: Tensor) -> Tensor:
    """The package edt, with torch's number of threads."""
    import edt

    return _volume_by_volume(mask, lambda volume: edt.edt(volume, parallel=torch.get_num_threads()))


def of_cucim(mask: Tensor) -> Tensor:
    """The package cuCIM, on a GPU; MONAI's losses take it, too, where it is."""
    import cupy
    from cucim.core.operations.morphology import distance_transform_edt

    volumes = mask.to(torch.uint8).flatten(0, 1)
    distances = [torch.from_dlpack(distance_transform_edt(cupy.from_dlpack(volume))) for volume in volumes]
    return torch.stack(distances).view(mask.shape).float()


def cucim_missing() -> str | None:
    """Why cuCIM cannot be measured here; None if it can."""
    missing = [package for package in ("cupy", "cucim") if find_spec(package) is None]
    return f"no package {' and '.join(missing)}" if missing else None


def _volume_by_volume(mask: Tensor, transform: Callable[[NDArray[np.bool_]], NDArray]) -> Tensor:
    volumes = mask.cpu().numpy().reshape(-1, *mask.shape[2:])
    distances = torch.from_numpy(np.stack([transform(volume) for volume in volumes]))
    return distances.view(mask.shape).float().to(mask.device)


def outside_of_lesions(target: Tensor) -> Tensor:
    """Lesions are few, so that distances are long."""
    return target <= 0.5


def noise(target: Tensor) -> Tensor:
    """Every voxel is foreground or background by chance, so that distances are short."""
    values = torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    return (values < 0.5).to(target.device)


def of_transform(
    name: str, transform: Transform, make_mask: MakeMask, backend: str | None = None, on_host: bool = False
) -> Provider:
    """``transform`` of a mask that is made from the target; it is timed only if it is right."""

    def prepare(input: Tensor, target: Tensor) -> Steps:
        mask = make_mask(target)

        def forward() -> Tensor:
            with use_backend(backend):
                return transform(mask)

        torch.testing.assert_close(forward(), of_scipy(mask), rtol=1.2e-7, atol=0)
        return Steps(forward, None)

    return Provider(name, prepare, arrays=(1, 0), on_host=on_host)
