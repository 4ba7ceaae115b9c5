"""Which implementation computes a loss: the choice, and the reasons against the others."""

from __future__ import annotations

import importlib.util
import os
import warnings
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels import _extension, _registrations, reference
from geoloss_kernels._registrations import Operators
from geoloss_kernels.reference import distance, ratio, sums

BACKENDS = ("cpu", "cuda", "triton", "reference")

_operators = {
    "reference": Operators(
        ratio.ratio_and_sums,
        reference.geo_sums,
        sums.geo_sums_backward,
        reference.geo_ratio,
        distance.distance_transform,
        distance.distance_transform_with_indices,
    )
}
_OPERATORS_MISSING = _extension.reason_missing()
if _OPERATORS_MISSING is None:
    # One library for both: the dispatcher tells CPU and CUDA tensors apart.
    _operators["cpu"] = _operators["cuda"] = _registrations.register("geoloss")

_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _reason_against_triton() -> str | None:
    """Without importing Triton: that takes as long as importing this package, and most never use it."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if not _INTERPRETED and not torch.cuda.is_available():
        return "there is no CUDA or ROCm device (TRITON_INTERPRET=1 runs its kernels on CPU tensors, slowly)"
    return None


_REASONS: dict[str, str | None] = {
    "cpu": _OPERATORS_MISSING,
    "cuda": _extension.reason_missing_cuda(),
    "triton": _reason_against_triton(),
    "reference": None,
}
_DEVICES = {"cpu": "cpu", "cuda": "cuda", "triton": "cpu" if _INTERPRETED else "cuda"}
"""The type of device that each fused backend works on."""
_DEFAULTS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
"""The fused backends of each type of device, the fastest first."""


def _add(name: str, device: str, operators: Operators) -> None:
    """Let `use_backend` choose operators that are not the package's own, as its tests do."""
    _REASONS[name], _DEVICES[name], _operators[name] = None, device, operators


def available() -> dict[str, str | None]:
    """Each backend's name with None where it can be used here, else with the reason why not."""
    return {name: _REASONS[name] for name in BACKENDS}


def _check(backend: str) -> str:
    if backend not in _REASONS:
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
        if _forced != "reference" and _DEVICES[_forced] != device:
            raise RuntimeError(
                f"backend: {_forced!r} is in force and cannot work on a tensor on {input.device}"
            )
        return _forced
    for backend in _DEFAULTS.get(device, ()):
        if _REASONS[backend] is None:
            return backend
    _say_once(device)
    return "reference"


_said: set[str] = set()


def _say_once(device: str) -> None:
    if device in _said:
        return
    _said.add(device)
    reasons = "; ".join(f"{name}: {_REASONS[name]}" for name in _DEFAULTS.get(device, ()))
    reasons = reasons or f"there are kernels for {' and '.join(_DEFAULTS)} tensors"
    warnings.warn(
        f"geoloss_kernels computes losses on {device} tensors with its PyTorch reference ({reasons})",
        stacklevel=5,
    )


def operators(input: Tensor) -> Operators:
    """The operators of the backend for ``input``."""
    return _operators_of(choose(input))


def operators_for_programs(input: Tensor) -> Operators | None:
    """The operators that compute open formulas of ``input``; None where the reference does.

    Those of the CUDA library do not: with it in force by default, Triton computes them. Raises RuntimeError
    where no backend can, or one is in force that does not.
    """
    backend = choose(input)
    if backend == "reference":
        return None
    if backend in _RUN_PROGRAMS:
        return _operators_of(backend)
    if _forced is not None:
        raise RuntimeError(
            f"backend: {backend!r} is in force and does not compute open formulas, which 'triton' does"
        )
    if _REASONS["triton"] is not None:
        raise RuntimeError(
            "backend: open formulas of CUDA tensors are computed by Triton, which cannot be used here: "
            f"{_REASONS['triton']}; fused=False computes them with PyTorch"
        )
    return _operators_of("triton")


_RUN_PROGRAMS = ("cpu", "triton")


def _operators_of(backend: str) -> Operators:
    if backend not in _operators:
        _operators[backend] = _load_triton()
    return _operators[backend]


def operators_of_reference() -> Operators:
    """Those in plain PyTorch."""
    return _operators["reference"]


def _load_triton() -> Operators:
    from geoloss_kernels.triton import operators as library

    library.define()
    return _registrations.register(library.NAMESPACE)


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
