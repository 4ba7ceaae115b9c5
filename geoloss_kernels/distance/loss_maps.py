"""The distance maps of a loss: constants [N, C, *spatial], 0 in a channel that is not in the loss.

Voxels that are not valid count as background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geoloss_kernels.distance.maps import distance_map, signed_distance_map
from geoloss_kernels.reference.activation import activate
from geoloss_kernels.reference.voxels import one_hot


@dataclass(frozen=True)
class LossVolumes:
    """What a loss computes distances from."""

    input: Tensor
    """[N, C, *spatial], before ``activation``"""
    target: Tensor
    """the same shape, or labels [N, 1, *spatial]"""
    valid: Tensor | None
    """bool; None = all voxels"""
    spacing: Sequence[float] | None
    activation: str
    include_background: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of the loss's arithmetic."""
        return torch.float64 if self.input.dtype == torch.float64 else torch.float32

    def prediction(self) -> Tensor:
        """s > 0.5"""
        return self._valid(activate(self.input.to(self.dtype), self.activation) > 0.5)

    def foreground(self) -> Tensor:
        """g > 0.5"""
        if self.target.shape != self.input.shape:
            return self._valid(one_hot(self.target, self.input.shape[1]))
        g = self.target.to(self.dtype) if self.target.is_floating_point() else self.target
        return self._valid(g > 0.5)

    def _valid(self, mask: Tensor) -> Tensor:
        return mask if self.valid is None else mask & self.valid


def boundary_map(volumes: LossVolumes, empty: str) -> Tensor:
    """D(g) of the boundary loss."""
    return _of_channels(signed_distance_map, volumes, volumes.foreground(), empty)


def hausdorff_map(volumes: LossVolumes, alpha: float, empty: str, of_target: Tensor | None = None) -> Tensor:
    """D(s)^α + D(g)^α of the Hausdorff loss; ``of_target`` is D(g) where it is known."""
    total = _of_channels(distance_map, volumes, volumes.prediction(), empty).pow_(alpha)
    if of_target is not None:
        return total + of_target**alpha
    return total.add_(_of_channels(distance_map, volumes, volumes.foreground(), empty).pow_(alpha))


def _of_channels(transform: Callable[..., Tensor], volumes: LossVolumes, mask: Tensor, empty: str) -> Tensor:
    """``transform`` of the channels of ``mask`` that are in the loss."""
    if volumes.include_background:
        return transform(mask, volumes.spacing, empty, volumes.dtype)
    distance = torch.zeros(mask.shape, dtype=volumes.dtype, device=mask.device)
    distance[:, 1:] = transform(mask[:, 1:], volumes.spacing, empty, volumes.dtype)
    return distance
