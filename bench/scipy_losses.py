"""Boundary and Hausdorff loss as a user writes them: scipy's distance transform, PyTorch for the rest.

Distances in voxels; every mask is expected to have foreground and background.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def boundary_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1/|Ω| Σ s D(g), D signed."""
    maps = np.stack([_signed_distance(mask) for mask in _masks(target)])
    distance = torch.from_numpy(maps).view(target.shape).to(target)
    return (torch.sigmoid(logits) * distance).mean()


def hausdorff_dt_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1/|Ω| Σ (s - g)² (D(s)² + D(g)²), D unsigned."""
    probability = torch.sigmoid(logits)
    distance = _squared_distances(probability.detach()) + _squared_distances(target)
    return ((probability - target) ** 2 * distance).mean()


def _squared_distances(volumes: Tensor) -> Tensor:
    """Squared distance to the boundary of each mask above 0.5."""
    maps = np.stack([_unsigned_distance(mask) for mask in _masks(volumes)])
    return torch.from_numpy(maps**2).view(volumes.shape).to(volumes)


def _masks(volumes: Tensor) -> NDArray[np.bool_]:
    """The voxels above 0.5, [N · C, *spatial]."""
    return (volumes > 0.5).flatten(0, 1).cpu().numpy()


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(mask, 1 - distance_transform_edt(mask), distance_transform_edt(~mask))


def _unsigned_distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return distance_transform_edt(mask) + distance_transform_edt(~mask)
