"""Devices, mixed precision and wall clocks."""

from __future__ import annotations

import re
import time

import torch

from geoloss_kernels.lesions.errors import InputError

DEVICE_NAME = re.compile(r"auto|cpu|cuda(:\d+)?")

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The torch device for "cpu", "cuda", "cuda:N" or "auto" (CUDA where there is a device).

    Raises:
        InputError: the name is none of these, or there is no such device.
    """
    if not DEVICE_NAME.fullmatch(name):
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: {name} asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def check_precision(device: torch.device, precision: str) -> None:
    """Raise InputError for fp16 on a device other than CUDA."""
    if precision == "fp16" and device.type != "cuda":
        raise InputError("precision: fp16 needs a CUDA device; use bf16 or fp32")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast context of "fp32" (none), "bf16" or "fp16"."""
    dtype = _AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def wall_clock(device: torch.device) -> float:
    """Seconds, once the device has finished what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
