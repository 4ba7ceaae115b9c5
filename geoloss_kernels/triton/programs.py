"""Open formulas as Triton functions: their source is written to a file, and imported from there."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from geoloss_kernels.expressions.expression import Expression, Field, in_order
from geoloss_kernels.expressions.printing import triton_source

_IMPORTS = """import triton
import triton.language as tl

from geoloss_kernels.triton.elementary import (
    absolute, exponential_m1, from_condition, hyperbolic_tangent, inverse_root, logarithm_1p, maximum,
    minimum, power, root, sigmoid, sign, softplus, step, weighted,
)

"""


class TritonFunction(NamedTuple):
    """A @triton.jit function of the fields' values, then of the constants'."""

    function: Any
    fields: tuple[Field, ...]
    constants: tuple[float | Expression, ...]
    """numbers, and parameters that are read at every call"""


def triton_function(roots: Sequence[Expression]) -> TritonFunction:
    """The function that returns the roots (see `simplify.protect`), one or a tuple of them."""
    nodes = list(in_order(roots))
    fields = tuple(sorted(each.value for each in nodes if isinstance(each.value, Field)))
    leaves = [each for each in nodes if each.operation in ("constant", "parameter")]
    source = _IMPORTS + "\n" + triton_source("program", roots, fields, leaves)
    constants = tuple(each.value if isinstance(each.value, float) else each for each in leaves)
    return TritonFunction(_imported(source), fields, constants)


@functools.lru_cache(maxsize=256)
def _imported(source: str) -> Any:
    """``program`` of a module of that source: Triton reads functions from files."""
    name = f"program_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    path = _folder() / f"{name}.py"
    if not path.exists():
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(source)
        os.replace(new, path)
    specification = importlib.util.spec_from_file_location(f"geoloss_kernels.triton.{name}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.program


@functools.cache
def _folder() -> Path:
    """Of this process, gone with it: Triton keeps what it compiled by content, wherever the file was."""
    made = tempfile.TemporaryDirectory(prefix="geoloss_programs_")
    _kept_folders.append(made)
    return Path(made.name)


_kept_folders: list[tempfile.TemporaryDirectory[str]] = []
