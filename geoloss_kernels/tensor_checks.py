"""What every function of the library takes for granted about its tensors, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DTYPES = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
    )
)


def check_volumes(name: str, tensor: Any) -> None:
    """TypeError or ValueError unless it is a real tensor [N, C, *spatial] with 1 to 3 spatial axes."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"{name}: expected real numbers, as float64, float32, float16, bfloat16, bool or integers, "
            f"got {tensor.dtype}"
        )
    shape = tensor.shape
    if not 3 <= len(shape) <= 5 or 0 in shape[1:]:
        raise ValueError(
            f"{name}: expected shape [N, C, L], [N, C, H, W] or [N, C, D, H, W] without empty axes, "
            f"got {tuple(shape)}"
        )


def check_companion(name: str, tensor: Any, input: Tensor) -> None:
    """``tensor`` must lie beside ``input``: same device, shape [N, 1 or C, *spatial]."""
    check_volumes(name, tensor)
    if tensor.device != input.device:
        raise ValueError(f"{name}: expected device {input.device} as the input, got {tensor.device}")
    shape = input.shape
    if tensor.shape != shape and tuple(tensor.shape) != (shape[0], 1, *shape[2:]):
        raise ValueError(
            f"{name}: expected shape {tuple(shape)} or the same with 1 channel, got {tuple(tensor.shape)}"
        )


def plain(tensor: Any) -> Any:
    """MONAI's MetaTensor as the tensor that it wraps; everything else as it is."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


def in_plane(tensor: Tensor) -> Tensor:
    """[N, C, L] as [N, C, 1, L], which is what the operators take; other shapes as they are."""
    return tensor.unsqueeze(2) if tensor.ndim == 3 else tensor


def companion_in_plane(name: str, tensor: Any, input: Tensor) -> Tensor:
    """``tensor`` as it lies beside an ``input`` that is in plane."""
    check_volumes(name, plain(tensor))
    volume = in_plane(plain(tensor))
    check_companion(name, volume, input)
    return volume
