"""Triton's interpreter as the tests use it: with bounds checked, rounding as in hardware, and faster.

`install` changes the interpreter of this process; it is for TRITON_INTERPRET=1. A program takes milliseconds
there, so that `thinned` leaves the most of the cases to the other backends.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle


class OutOfBoundsError(IndexError):
    """A lane of a load or store that is not masked lies outside of all tensors of the launch."""


def install() -> None:
    np.seterr(all="ignore")  # what overflows on a GPU does so in silence
    _check_bounds()
    _convert_bfloat16()
    _patch_the_language_once_per_launch()
    _leave_overflow_checks_out()


# ---- cases ----

CASES = 2
"""How many cases of each test are run, drawn at random, always the same."""
CASES_OF = {
    "test_schemas_are_those_of_the_compiled_operators": 6,
    "test_a_float64_reaches_a_kernel_in_three_float32": 8,
    "test_stencils_across_tiles_and_blocks": 4,
    "test_sample": 30,
    "test_each_term_alone": 8,
    "test_composition": 4,
    "test_random_losses_match_autograd": 6,
    "test_several_tiles_match_autograd": 0,
    "test_terms_of_each_loss_on_rows_of_whole_vectors": 1,
    "test_volumes_of_several_tiles": 0,  # for this, test_stencils_across_tiles_and_blocks
    "test_squares_beyond_24_bits": 0,  # a minute for a row that test_distances_beyond_16_bits has, shorter
    "test_random_masks": 1,
    "test_sums": 30,  # and the next: that arguments are checked, in milliseconds
    "test_ratio": 20,
    "test_gradient_of_the_sums": 4,
    "test_gradient_of_the_loss": 4,
    "test_ratios_of_more_groups_than_a_program_has_lanes": 3,
    "test_number_of_threads": 0,
    "test_for_any_number_of_threads": 0,
    "test_from_run_to_run": 0,
}
"""Of the tests that see most, of those whose cases are large, and of those that cannot fail where one program
runs after the other."""


def thinned(items: list[pytest.Item]) -> list[pytest.Item]:
    """The items that test Triton's kernels, of each test function at most CASES of them, in their order."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if "backend" in getattr(item, "fixturenames", ()):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chance = random.Random(0)
    kept: set[pytest.Item] = set()
    for test, each in cases.items():
        kept.update(chance.sample(each, min(len(each), CASES_OF.get(test.rpartition("::")[2], CASES))))
    return [item for item in items if item in kept]


# ---- bounds ----


def _check_bounds() -> None:
    """Every lane that is not masked has to lie inside the storage of a tensor that the launch was given."""
    storages: list[tuple[int, int]] = []  # of the launch that is running: first byte, end
    builder = interpreter.interpreter_builder
    load, store = builder.create_masked_load, builder.create_masked_store
    launch = interpreter.GridExecutor.__call__

    def checked_launch(self: Any, *arguments: Any, **options: Any) -> None:
        storages[:] = sorted(set(_storages([*arguments, *options.values()])))
        launch(self, *arguments, **options)

    def check(what: str, pointers: TensorHandle, mask: TensorHandle) -> None:
        itemsize = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        first = np.broadcast_to(pointers.data, mask.data.shape)[np.asarray(mask.data, bool)].astype(np.uint64)
        inside = np.zeros(first.shape, bool)
        for begin, end in storages:
            inside |= (first >= begin) & (first + np.uint64(itemsize) <= end)
        if not inside.all():
            raise OutOfBoundsError(f"{what}: {np.count_nonzero(~inside)} lanes out of bounds")

    def checked_load(pointers: TensorHandle, mask: TensorHandle, *rest: Any, **options: Any) -> TensorHandle:
        check("load", pointers, mask)
        return load(pointers, mask, *rest, **options)

    def checked_store(pointers: TensorHandle, value: TensorHandle, mask: TensorHandle, *rest: Any) -> Any:
        check("store", pointers, mask)
        return store(pointers, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store
    interpreter.GridExecutor.__call__ = checked_launch


def _storages(values: Any) -> list[tuple[int, int]]:
    """First and end byte of the storage of every tensor among nested values."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            found.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
        elif isinstance(value, tuple):
            found += _storages(value)
    return found


# ---- bfloat16 ----


def _convert_bfloat16() -> None:
    """To and from float32 as GPUs do: the interpreter cuts bits off instead of rounding to nearest even
    (cvt.rn), and loses those of numbers below 1e-38."""
    cast = interpreter.InterpreterBuilder.cast_impl

    def exact_cast(self: Any, source: TensorHandle, wanted: Any) -> TensorHandle:
        types = source.dtype.scalar, wanted.scalar
        if types == (tl.float32, tl.bfloat16):
            values = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.bfloat16)
            return TensorHandle(values.view(torch.uint16).numpy(), tl.bfloat16)
        if types == (tl.bfloat16, tl.float32):
            return TensorHandle((source.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
        return cast(self, source, wanted)

    interpreter.InterpreterBuilder.cast_impl = exact_cast


# ---- speed ----


class _NothingToRestore:
    def restore(self) -> None:
        pass


def _patch_the_language_once_per_launch() -> None:
    """Not at every call of a jit function, as the interpreter does: that takes half of the tests' time."""
    patch: Callable[[Any], Any] = interpreter._patch_lang
    patched: set[frozenset[str]] = set()

    class Scope:
        def __init__(self, function: Any, modules: frozenset[str]) -> None:
            self.modules, self.scope = modules, patch(function)
            patched.add(modules)

        def restore(self) -> None:
            patched.remove(self.modules)
            self.scope.restore()

    def patch_once(function: Any) -> Any:
        seen = function.__globals__.values()
        modules = frozenset(
            module.__name__ for module in (tl, tl.core) if any(each is module for each in seen)
        )
        return _NothingToRestore() if modules in patched else Scope(function, modules)

    interpreter._patch_lang = patch_once


def _leave_overflow_checks_out() -> None:
    """They double the time of integer arithmetic, which is that of addresses: their bounds are checked."""
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
