"""The distance maps of losses: constants [N, C, *spatial], 0 in a channel that is not in the loss.

Voxels that are not valid count as background. Maps are told apart by their parameters: two terms of a loss
with the same have one map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from geoloss_kernels.call import LossCall
from geoloss_kernels.distance.maps import distance_map, signed_distance_map


class LossMap(Protocol):
    """What a term that reads a map reads."""

    def of(self, call: LossCall, given: Tensor | None) -> Tensor:
        """The map; ``given`` is the distance map of the target, where the caller has one."""


@dataclass(frozen=True)
class SignedDistance:
    """D(g) of the boundary loss."""

    empty: str = "zero"
    spacing: tuple[float, ...] | None = None

    def of(self, call: LossCall, given: Tensor | None) -> Tensor:
        if given is not None:
            return given
        return _of_channels(signed_distance_map, call, call.target_mask, self)


@dataclass(frozen=True)
class HausdorffDistances:
    """D(s)^α + D(g)^α of the Hausdorff loss; ``given`` is D(g)."""

    alpha: float = 2.0
    empty: str = "zero"
    spacing: tuple[float, ...] | None = None

    def of(self, call: LossCall, given: Tensor | None) -> Tensor:
        total = _of_channels(distance_map, call, call.predicted_mask, self).pow_(self.alpha)
        if given is not None:
            return total + given**self.alpha
        return total.add_(_of_channels(distance_map, call, call.target_mask, self).pow_(self.alpha))


@dataclass(frozen=True)
class DistanceOf:
    """φ of an open formula that is a distance: D(g), or D(s) of s > 0.5; ``given`` is D(g)."""

    signed: bool
    empty: str
    of_target: bool
    spacing: tuple[float, ...] | None = None

    def of(self, call: LossCall, given: Tensor | None) -> Tensor:
        if given is not None and self.of_target:
            return given
        transform = signed_distance_map if self.signed else distance_map
        mask = call.target_mask if self.of_target else call.predicted_mask
        return _of_channels(transform, call, mask, self)


def _of_channels(
    transform: Callable[..., Tensor],
    call: LossCall,
    mask: Tensor,
    distance: SignedDistance | HausdorffDistances | DistanceOf,
) -> Tensor:
    """``transform`` of the channels of ``mask`` that are in the loss."""
    spacing = distance.spacing if call.spacing is None else call.spacing
    volumes = mask.squeeze(2) if call.dimensions == 1 else mask
    if call.include_background:
        return transform(volumes, spacing, distance.empty, call.dtype).view(mask.shape)
    map = torch.zeros(mask.shape, dtype=call.dtype, device=mask.device)
    map[:, 1:] = transform(volumes[:, 1:], spacing, distance.empty, call.dtype).view(map[:, 1:].shape)
    return map
