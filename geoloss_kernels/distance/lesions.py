"""Lesions of a batch: numbered, and the part of the volume that is nearest to each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geoloss_kernels.distance.maps import distance_transform_edt
from geoloss_kernels.tensor_checks import check_volumes


def connected_components(mask: Tensor, connectivity: int | None = None) -> Tensor:
    """Number the connected components of each (n, c): 1, 2, ... by their first voxels, 0 elsewhere.

    By scipy on the CPU, as `geoloss_kernels.metrics` counts lesions, so that both see the same ones.

    Args:
        mask: [N, C, H, W] or [N, C, D, H, W], any real type; nonzero is foreground.
        connectivity: neighbours that join voxels: 6, 18 or 26 in 3-D, 4 or 8 in 2-D; None = the most.

    Returns int64 labels of the shape and on the device of ``mask``; ``labels.flatten(2).amax(2)`` is the
    number of lesions. Raises ValueError or TypeError that names the argument.
    """
    from geoloss_kernels.metrics import label_lesions

    check_volumes("mask", mask)
    volumes = (mask.detach() != 0).cpu().flatten(0, 1).numpy()
    neighbours = connectivity or (8 if mask.ndim == 4 else 26)
    labels = torch.empty(volumes.shape, dtype=torch.int64)
    for index, volume in enumerate(volumes):
        labels[index] = torch.from_numpy(label_lesions(volume, neighbours)[0])
    return labels.view(mask.shape).to(mask.device)


def voronoi(labels: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """Each voxel's nearest lesion: the Voronoi partition of each (n, c).

    Args:
        labels: [N, C, H, W] or [N, C, D, H, W] of integers, 0 outside of lesions, as `connected_components`
            makes them.
        spacing: voxel size per spatial axis in mm; None = 1. It decides which lesion is nearest.

    Returns the label of the lesion with the voxel that is nearest, of the shape, dtype and device of
    ``labels``; lesions keep their labels, and a volume without lesions stays 0. Of several that are equally
    near, always the same one is taken. Raises ValueError or TypeError that names the argument.
    """
    check_volumes("labels", labels)
    if labels.is_floating_point():
        raise TypeError(f"labels: expected integers, got {labels.dtype}")
    _, nearest = distance_transform_edt(labels == 0, spacing, return_indices=True)
    of_nearest = labels.flatten(2).gather(2, nearest.flatten(2).clamp(min=0))
    return of_nearest.view(labels.shape)
