"""The Triton operators where its interpreter runs them: what the other backends' tests do not ask of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from numerics import (
    STENCIL_TERMS,
    VOXEL_TERMS,
    Arguments,
    Case,
    assert_backend_matches_reference,
    compute,
    compute_with,
    encoded,
    library,
)
from triton.runtime.errors import InterpreterError

import geoloss_kernels as gk
from geoloss_kernels import backends, reference
from geoloss_kernels.triton.columns import columns_of
from geoloss_kernels.triton.fractions import fractions_of
from geoloss_kernels.triton.numbers import exactly
from geoloss_kernels.triton.plan import backward_plan, forward_plan

OPERATORS = ("geo_sums", "geo_ratio", "geo_loss")


@pytest.mark.parametrize("name", [each for name in OPERATORS for each in (name, f"{name}_backward")])
def test_schemas_are_those_of_the_compiled_operators(backend, name):
    ours, theirs = (getattr(each, name).default._schema for each in (library(backend), torch.ops.geoloss))
    assert str(ours) == str(theirs).replace("geoloss::", "geoloss_triton::")


def test_the_interpreter_is_no_default(backend):
    with gk.use_backend(None):
        assert backends.choose(torch.ones(1)) == "cpu"


def test_another_device_is_refused(backend):
    with pytest.raises(
        RuntimeError, match="backend: 'triton' is in force and cannot work on a tensor on meta"
    ):
        backends.choose(torch.ones(1, device="meta"))


@pytest.mark.parametrize("number", [0.0, 1.0, -3.0, 0.7, 1 / 3, 1e-5, 1e30, 123456789.123456789])
def test_a_float64_reaches_a_kernel_in_three_float32(backend, number):
    ((first, second, third),) = exactly([number])
    assert all(torch.tensor(part, dtype=torch.float32).item() == part for part in (first, second, third))
    assert first == torch.tensor(number, dtype=torch.float32).item()
    assert first + second + third == number


def test_rows_further_apart_than_int32_reaches(backend):
    """Their offsets within a plane are int64; the memory between them is never touched."""
    step = 2**31 + 5
    memory = torch.empty(2 * step, dtype=torch.uint8)
    target = memory.as_strided((1, 1, 1, 2, 3), (0, 0, 0, step, 1))
    target.copy_(torch.tensor([[0, 1, 1], [1, 0, 1]]))
    terms = ("target", "intersection", "first_order_forward_l1")
    input = torch.rand(1, 1, 1, 2, 3, dtype=torch.float64)
    given = Arguments(input, target, None, [], *encoded(terms, dimensions=3), 0, None, True)
    ours, exact = compute_with(backend, given), compute(reference.geo_sums, given.widened())
    torch.testing.assert_close(ours.sums, exact.sums)
    torch.testing.assert_close(ours.gradient, exact.gradient)


class TestNumbersAreNotCompiledIn:
    """Kernels are compiled for what a loss is, and not again where a number of it changes."""

    def test_spacing(self, backend):
        one, other = (
            columns_of(*encoded(["first_order_forward_l2", "second_order"], 3, spacing), maps=0)
            for spacing in ((1.0, 2.0, 3.0), (0.5, 0.5, 0.7))
        )
        assert one.each == other.each
        assert one.scales != other.scales
        assert one.scales[0][0] == (1.0, 0.0, 0.0)
        assert other.scales[1][1] == (4.0, 0.0, 0.0)

    def test_columns_of_one_spacing_share_its_scale(self, backend):
        terms = ["first_order_forward_l2", "first_order_central_l1", "second_order"]
        columns = columns_of(*encoded(terms, 3, (1.0, 2.0, 3.0)), maps=0)
        assert [column.scale for column in columns.each] == [0, 0, 1]

    def test_weights(self, backend):
        sums = torch.rand(2, 3, 2)
        one, other = (
            fractions_of(sums, None, [0, 0, -1, -1], weights, 1)
            for weights in ([0.5, 0.0, 1.0, 0.0, 1.0, 0.0], [0.25, 0.0, 1e-5, 0.0, 1.0, 0.0])
        )
        assert one.plan == other.plan
        assert [sum(number) for number in one.numbers] == [0.5, 1.0, 1.0]
        assert [sum(number) for number in other.numbers] == [0.25, 1e-5, 1.0]


def test_logarithms_are_taken_only_where_a_term_starts_from_one(backend):
    options = {"activation": "softmax", "real": tl.float32, "index": tl.int32, "labels": True}
    options |= {"masked": False, "dimensions": (True, True, True)}
    for name in VOXEL_TERMS:
        columns = columns_of(*encoded([name], 3), maps=1).each
        for plan in (forward_plan(columns, **options), backward_plan(columns, **options)):
            assert plan.log_prediction == (name in ("cross_entropy_foreground", "cross_entropy_uniform"))
            assert plan.log_complement == (name == "cross_entropy_background")


@pytest.mark.parametrize("shape", [(3, 100, 2), (1, 130, 1), (140, 1, 3)], ids=str)
def test_ratios_of_more_groups_than_a_program_has_lanes(backend, shape):
    """Each pooling in one loss, with class weights, against the reference."""
    sums, class_weights = torch.rand(shape, dtype=torch.float64), torch.rand(2, shape[1], dtype=torch.float64)
    weights = torch.linspace(0.5, 2, 6 * (shape[2] + 1)).tolist()
    fractions = [0, 0, 0, -1, 1, 0, 1, -1, 2, 0, 0, 1]
    results = []
    for geo_ratio in (backends.operators(sums).geo_ratio, reference.geo_ratio):
        leaf = sums.clone().requires_grad_()
        ratio = geo_ratio(leaf, class_weights, fractions, weights, 1)
        results.append((ratio.detach(), *torch.autograd.grad(ratio, leaf)))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("term", STENCIL_TERMS)
def test_stencils_across_tiles_and_blocks(backend, term, monkeypatch):
    """Tiles and blocks as small as they get, so that every neighbour lies in another one somewhere."""
    from geoloss_kernels.triton import launch

    tiny = launch.Tiling(planes=2, tiles_y=3, tiles_x=2, blocks=18, block_y=2, block_x=4, warps=4)
    monkeypatch.setattr(launch, "tiling", lambda arguments, plan: tiny)
    case = Case((1, 1, 5, 5, 7), (term, "intersection"), activation="sigmoid", spacing=(0.5, 2.0, 1.5))
    assert_backend_matches_reference(backend, case)
    assert_backend_matches_reference(backend, replace(case, mask="shared"))


@triton.jit
def copy_kernel(source, copy, size, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    place = tl.arange(0, BLOCK)
    inside = place < size
    if MASKED:
        tl.store(copy + place, tl.load(source + place, mask=inside, other=0), mask=inside)
    else:
        tl.store(copy + place, tl.load(source + place), mask=inside)


class TestBounds:
    """That the interpreter of the tests sees a lane out of bounds."""

    def test_within(self, backend):
        source, copy = torch.rand(20), torch.empty(20)
        copy_kernel[(1,)](source, copy, 20, BLOCK=32, MASKED=True)
        assert torch.equal(copy, source)

    def test_load_and_store_beyond(self, backend):
        source, copy = torch.rand(20), torch.empty(20)
        with pytest.raises(InterpreterError, match="load: 12 lanes out of bounds"):
            copy_kernel[(1,)](source, copy, 20, BLOCK=32, MASKED=False)
        with pytest.raises(InterpreterError, match="store: 1 lanes out of bounds"):
            copy_kernel[(1,)](torch.rand(21), copy, 21, BLOCK=32, MASKED=True)
