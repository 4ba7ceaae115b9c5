"""What every term of a loss sees: probabilities, target and validity, made from the arguments of a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels.reference.activation import activate

DTYPES = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
    )
)


@dataclass(frozen=True)
class Voxels:
    """A batch of volumes [N, C, *spatial], float32 or float64; s, g, logits and map are 0 where not valid."""

    s: Tensor
    """probabilities"""
    g: Tensor
    """target"""
    logits: Tensor | None
    """the input, if the activation is "sigmoid" """
    map: Tensor | None
    """constant map, such as distances"""
    valid: Tensor | None
    """bool; None = all voxels"""
    axes: tuple[int, ...]
    """spatial axes of the first-order terms"""
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
    map: Tensor | None = None,
    activation: str = "none",
    spacing: Sequence[float] | None = None,
    axes: Sequence[int] | None = None,
    ignore_index: int | None = None,
    include_background: bool = True,
) -> Voxels:
    """Check the arguments of `geo_sums` and turn them into `Voxels`.

    Values at invalid voxels are replaced before anything is computed from them, so a NaN there reaches
    neither a value nor a gradient. Softmax couples the channels of a voxel: its logits are replaced only
    where no channel is valid, so that masking one channel leaves the probabilities of the others alone.
    """
    check_volumes("input", input)
    if not input.is_floating_point():
        raise TypeError(f"input: expected a floating-point tensor, got {input.dtype}")
    check_companion("target", target, input)
    for name, tensor in (("mask", mask), ("map", map)):
        if tensor is not None:
            check_companion(name, tensor, input)
    if not include_background and input.shape[1] == 1:
        raise ValueError("include_background: False needs at least 2 channels, got an input with 1")

    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    valid = valid_voxels(input, target, mask, ignore_index)
    x = input.to(dtype)
    g = one_hot(target, input.shape[1]) if target.shape != input.shape else target
    s = activate(_zero_invalid(x, _readable(valid, activation)), activation)
    first = 0 if include_background else 1

    def channels(tensor: Tensor) -> Tensor:
        return _zero_invalid(tensor.to(dtype).expand_as(x), valid)[:, first:]

    return Voxels(
        s=channels(s),
        g=channels(g),
        logits=channels(x) if activation == "sigmoid" else None,
        map=None if map is None else channels(map.detach()),
        valid=None if valid is None else valid[:, first:],
        axes=check_axes(axes, input.ndim - 2),
        spacing=check_spacing(spacing, input.ndim - 2),
    )


def check_axes(axes: Sequence[int] | None, dimensions: int) -> tuple[int, ...]:
    """Spatial axis numbers, None = all; ValueError unless distinct and in 0..dimensions-1."""
    if axes is None:
        return tuple(range(dimensions))
    checked = _sequence("axes", axes)
    if any(not isinstance(axis, int) for axis in checked):
        raise TypeError(f"axes: expected integers, got {checked}")
    if not checked or len(set(checked)) < len(checked) or not set(checked) <= set(range(dimensions)):
        raise ValueError(f"axes: expected distinct numbers from 0 to {dimensions - 1}, got {checked}")
    return checked


def check_spacing(spacing: Sequence[float] | None, dimensions: int) -> tuple[float, ...]:
    """Voxel size per spatial axis in mm, None = 1; ValueError unless positive, finite and one per axis."""
    if spacing is None:
        return (1.0,) * dimensions
    sizes = _sequence("spacing", spacing)
    try:
        checked = tuple(float(size) for size in sizes)
    except (TypeError, ValueError):
        raise TypeError(f"spacing: expected numbers, got {sizes}") from None
    if len(checked) != dimensions or not all(size > 0 and math.isfinite(size) for size in checked):
        raise ValueError(f"spacing: expected {dimensions} positive finite numbers, got {checked}")
    return checked


def _sequence(name: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name}: expected a sequence of numbers, got {values!r}")
    return tuple(values)


def check_ignore_index(ignore_index: int | None) -> None:
    """TypeError unless it is a label, or None."""
    if ignore_index is not None and not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index: expected an integer or None, got {ignore_index!r}")


def check_volumes(name: str, tensor: Tensor) -> None:
    """TypeError or ValueError unless ``tensor`` is real and [N, C, H, W] or [N, C, D, H, W] with voxels."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"{name}: expected real numbers, as float64, float32, float16, bfloat16, bool or integers, "
            f"got {tensor.dtype}"
        )
    shape = tensor.shape
    if len(shape) not in (4, 5) or 0 in shape[1:]:
        raise ValueError(
            f"{name}: expected shape [N, C, H, W] or [N, C, D, H, W] without empty axes, got {tuple(shape)}"
        )


def check_companion(name: str, tensor: Tensor, input: Tensor) -> None:
    """``tensor`` must lie beside ``input``: same device, shape [N, 1 or C, *spatial]."""
    check_volumes(name, tensor)
    if tensor.device != input.device:
        raise ValueError(f"{name}: expected device {input.device} as the input, got {tensor.device}")
    shape = input.shape
    if tensor.shape != shape and tuple(tensor.shape) != (shape[0], 1, *shape[2:]):
        raise ValueError(
            f"{name}: expected shape {tuple(shape)} or the same with 1 channel, got {tuple(tensor.shape)}"
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
