"""Loads the compiled operators, and keeps the reason where that is not possible."""

from __future__ import annotations

import functools
import importlib.machinery
from pathlib import Path

import torch


@functools.cache
def reason_missing() -> str | None:
    """None if the schemas and the CPU operators are loaded, else why they are not."""
    library = _find("_C")
    if library is None:
        return "the package was installed without its operators (no C++ compiler, or GEOLOSS_BUILD=none)"
    return _load(library)


@functools.cache
def reason_missing_cuda() -> str | None:
    """None if the CUDA operators are loaded and there is a device for them, else why not."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    library = _find("_C_cuda")
    if library is None:
        return "the package was installed without its CUDA operators (no nvcc, or GEOLOSS_BUILD=cpu or none)"
    return reason_missing() or _load(library)


def _find(name: str) -> str | None:
    finder = importlib.machinery.FileFinder(
        str(Path(__file__).parent),
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    )
    spec = finder.find_spec(name)
    return None if spec is None else spec.origin


def _load(library: str) -> str | None:
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"the compiled operators do not load beside torch {torch.__version__}: {error}"
    return None
