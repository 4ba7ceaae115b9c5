"""Loads the compiled operators, and keeps the reason where that is not possible."""

from __future__ import annotations

import functools
import importlib.machinery
from pathlib import Path

import torch


@functools.cache
def reason_missing() -> str | None:
    """None if the compiled operators are loaded, else why they are not."""
    finder = importlib.machinery.FileFinder(
        str(Path(__file__).parent),
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    )
    spec = finder.find_spec("_C")
    if spec is None or spec.origin is None:
        return "the package was installed without its operators (no C++ compiler, or GEOLOSS_BUILD=none)"
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        return f"the compiled operators do not load beside torch {torch.__version__}: {error}"
    return None
