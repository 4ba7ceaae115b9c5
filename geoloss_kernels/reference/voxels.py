"""What every term of a loss sees: probabilities, target and validity, made from the arguments of a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geoloss_kernels.reference.activation import activate, log_complements, log_predictions
from geoloss_kernels.tensor_checks import check_companion, check_volumes
from geoloss_kernels.terms import check_spacing


@dataclass(frozen=True)
class Voxels:
    """A batch of volumes [N, C, *spatial], float32 or float64; everything is 0 where a voxel is not valid."""

    s: Tensor
    """probabilities"""
    g: Tensor
    """target"""
    log_s: Tensor
    """log s, from the logits where there are any"""
    log_complement: Tensor
    """log(1 - s), likewise"""
    maps: tuple[Tensor, ...]
    """constants, such as distances"""
    valid: Tensor | None
    """bool; None = all voxels"""
    spacing: tuple[float, ...]
    """voxel size per spatial axis, in mm"""

    def sum(self, density: Tensor) -> Tensor:
        """Σ over the valid voxels of ``density`` [N, C, *spatial] -> [N, C]."""
        if self.valid is not None:
            density = torch.where(self.valid, density, torch.zeros_like(density))
        return density.flatten(2).sum(2)

    def count(self) -> Tensor:
        """|Ω|, the number of valid voxels [N, C]."""
        return self.sum(torch.ones_like(self.s))


def prepare(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    maps: Sequence[Tensor] = (),
    activation: str = "none",
    spacing: Sequence[float] | None = None,
    ignore_index: int | None = None,
    include_background: bool = True,
) -> Voxels:
    """Check the arguments of a loss and turn them into `Voxels`.

    Values at invalid voxels are replaced before anything is computed from them, so a NaN there reaches
    neither a value nor a gradient. Softmax couples the channels of a voxel: its logits are replaced only
    where no channel is valid, so that masking one channel leaves the probabilities of the others alone.
    """
    check_volumes("input", input)
    if not input.is_floating_point():
        raise TypeError(f"input: expected a floating-point tensor, got {input.dtype}")
    check_companion("target", target, input)
    for name, tensor in (("mask", mask), *(("map", map) for map in maps)):
        if tensor is not None:
            check_companion(name, tensor, input)
    if not include_background and input.shape[1] == 1:
        raise ValueError("include_background: False needs at least 2 channels, got an input with 1")

    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    valid = valid_voxels(input, target, mask, ignore_index)
    x = _zero_invalid(input.to(dtype), _readable(valid, activation))
    g = one_hot(target, input.shape[1]) if target.shape != input.shape else target
    first = 0 if include_background else 1

    def channels(tensor: Tensor) -> Tensor:
        return _zero_invalid(tensor.to(dtype).expand_as(x), valid)[:, first:]

    return Voxels(
        s=channels(activate(x, activation)),
        g=channels(g),
        log_s=channels(log_predictions(x, activation)),
        log_complement=channels(log_complements(x, activation)),
        maps=tuple(channels(map.detach()) for map in maps),
        valid=None if valid is None else valid[:, first:],
        spacing=check_spacing(spacing, input.ndim - 2),
    )


def valid_voxels(
    input: Tensor, target: Tensor, mask: Tensor | None, ignore_index: int | None
) -> Tensor | None:
    """The voxels that ``mask`` and ``ignore_index`` leave, [N, C, *spatial]; None if neither is given."""
    conditions = [] if mask is None else [mask != 0]
    if ignore_index is not None:
        conditions.append(target != ignore_index)
    if not conditions:
        return None
    valid = conditions[0]
    for condition in conditions[1:]:
        valid = valid & condition
    return valid.expand_as(input)


def _readable(valid: Tensor | None, activation: str) -> Tensor | None:
    """Where the activation may read the input."""
    if valid is None or activation != "softmax":
        return valid
    return valid.any(dim=1, keepdim=True)


def _zero_invalid(tensor: Tensor, valid: Tensor | None) -> Tensor:
    return tensor if valid is None else torch.where(valid, tensor, torch.zeros_like(tensor))


def one_hot(labels: Tensor, channels: int) -> Tensor:
    """g_c = (label == c) for labels [N, 1, *spatial]; a label outside 0..C-1 matches no channel."""
    classes = torch.arange(channels, device=labels.device).view(1, -1, *[1] * (labels.ndim - 2))
    # torch promotes no unsigned type wider than 8 bits
    return (labels if labels.is_floating_point() else labels.to(torch.int64)) == classes
