"""Which implementation computes a loss: the choice, and the reasons against the others."""

from __future__ import annotations

import os
import warnings
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels import _extension, _registrations, reference
from geoloss_kernels._registrations import Operators
from geoloss_kernels.reference import ratio

BACKENDS = ("cpu", "cuda", "triton", "reference")

_operators = {"reference": Operators(ratio.geo_loss, reference.geo_sums, reference.geo_ratio)}
_OPERATORS_MISSING = _extension.reason_missing()
if _OPERATORS_MISSING is None:
    _operators["cpu"] = _registrations.register("geoloss")

_REASONS: dict[str, str | None] = {
    "cpu": _OPERATORS_MISSING,
    "cuda": "this version of geoloss_kernels has no CUDA operators",
    "triton": "this version of geoloss_kernels has no Triton operators",
    "reference": None,
}


def available() -> dict[str, str | None]:
    """Each backend's name with None where it can be used here, else with the reason why not."""
    return dict(_REASONS)


def _check(backend: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    reason = _REASONS[backend]
    if reason is not None:
        raise RuntimeError(f"backend: {backend!r} cannot be used here: {reason}")
    return backend


_forced: str | None = None
if os.environ.get("GEOLOSS_BACKEND"):
    _forced = _check(os.environ["GEOLOSS_BACKEND"])


class use_backend:  # noqa: N801 - used as a function and as a context manager
    """Compute every loss from now on with ``backend``, or within a ``with`` block only.

        use_backend("reference")            # from here on
        with use_backend("cpu"): ...        # in the block
        use_backend(None)                   # the default again

    The environment variable GEOLOSS_BACKEND sets the choice at start. Raises ValueError for an unknown name
    and RuntimeError, with the reason, for a backend that cannot be used here.
    """

    def __init__(self, backend: str | None) -> None:
        global _forced
        self._previous = _forced
        _forced = None if backend is None else _check(backend)

    def __enter__(self) -> use_backend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _forced
        _forced = self._previous


def choose(input: Tensor) -> str:
    """The backend for ``input``: the one in force, else the fused one of its device.

    Where a device has no fused backend the reference computes the loss, and a warning says so once. Raises
    RuntimeError if the backend in force cannot work on the device.
    """
    device = input.device.type
    if _forced is not None:
        if _forced != "reference" and (_forced == "cpu") != (device == "cpu"):
            raise RuntimeError(
                f"backend: {_forced!r} is in force and cannot work on a tensor on {input.device}"
            )
        return _forced
    if device == "cpu" and _REASONS["cpu"] is None:
        return "cpu"
    _say_once(device)
    return "reference"


_said: set[str] = set()


def _say_once(device: str) -> None:
    if device in _said:
        return
    _said.add(device)
    names = ["cpu"] if device == "cpu" else ["cuda", "triton"]
    reasons = "; ".join(f"{name}: {_REASONS[name]}" for name in names)
    warnings.warn(
        f"geoloss_kernels computes losses on {device} tensors with its PyTorch reference ({reasons})",
        stacklevel=5,
    )


def operators(input: Tensor) -> Operators:
    """``geo_loss``, ``geo_sums`` and ``geo_ratio`` of the backend for ``input``."""
    return _operators[choose(input)]


def build_info() -> dict[str, Any]:
    """Versions, the backends with their reasons, and the instruction set that the CPU kernels run with."""
    from geoloss_kernels import __version__

    loaded = _OPERATORS_MISSING is None
    return {
        "geoloss_kernels": __version__,
        "torch": torch.__version__,
        "cpu_instruction_set": torch.ops.geoloss.cpu_instruction_set() if loaded else None,
        "backends": available(),
    }
