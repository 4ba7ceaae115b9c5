"""Value and slope of every term over its whole range, against the reference in float64 on the same inputs.

Each point is a volume of its own, so that every one is seen.
"""

from __future__ import annotations

import math

import pytest
import torch
from numerics import (
    ACTIVATIONS,
    DEVICES,
    INTERPRETED,
    STENCIL_TERMS,
    TOLERANCES,
    VOXEL_TERMS,
    Arguments,
    compute,
    compute_with,
    encoded,
)
from torch import Tensor

from geoloss_kernels import backends, reference, use_backend
from geoloss_kernels.terms import TERM_KINDS

FIRST_ORDER = [name for name in STENCIL_TERMS if name.startswith("first_order")]
CROSS_ENTROPY = [name for name in VOXEL_TERMS if name.startswith("cross_entropy")]
SIZES = (0.0, 1e-6, 1e-3, 1.0, 10.0, 50.0, 80.0, 100.0, 200.0, math.inf)
LOGITS = [sign * size for size in SIZES for sign in (1, -1)]
TARGETS = [0.0, 0.25, 1.0]


def test_terms_are_declared_alike_everywhere():
    """In Python, by their numbers in the kernels, and in the reference."""
    assert [kind.number for kind in TERM_KINDS.values()] == list(range(len(TERM_KINDS)))
    assert list(reference.TERMS) == list(TERM_KINDS)
    of_kernels = {name: torch.ops.geoloss.term_properties(kind.number) for name, kind in TERM_KINDS.items()}
    assert of_kernels == {
        name: [kind.reads_log_prediction, kind.reads_log_complement, kind.reads_map, kind.has_slope]
        for name, kind in TERM_KINDS.items()
    }
    for number in (-1, len(TERM_KINDS)):
        with pytest.raises(RuntimeError, match=f"kind: expected 0 to {len(TERM_KINDS) - 1}, got {number}"):
            torch.ops.geoloss.term_properties(number)


def probabilities(dtype: torch.dtype) -> list[float]:
    limits = torch.finfo(dtype)
    small = [0.0, limits.smallest_normal, 1e-30, 1e-13, 1e-12, 1e-6, 1e-3]
    return [*small, 0.25, 0.5, 0.999, 1 - limits.eps, 1.0]


def arguments(input: Tensor, target: Tensor, term: str, activation: str, backend: str) -> Arguments:
    device = DEVICES[backend]
    terms, parameters = encoded([term], dimensions=2)
    map_ = torch.linspace(-3, 2, len(input), dtype=input.dtype).view(-1, 1, 1, 1).expand_as(input[:, :1])
    return Arguments(
        input=input.to(device),
        target=target.to(device),
        mask=None,
        maps=[map_.to(device)] if TERM_KINDS[term].reads_map else [],
        terms=terms,
        parameters=parameters,
        activation=ACTIVATIONS.index(activation),
        ignore_index=None,
        include_background=True,
    )


def grid(values: list[float], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Each value with each target, as single-voxel volumes [P, 1, 1, 1]."""
    pairs = torch.cartesian_prod(torch.tensor(values, dtype=dtype), torch.tensor(TARGETS, dtype=dtype))
    points, targets = pairs.view(-1, 2, 1, 1, 1).unbind(1)
    return points, targets


def assert_values_and_slopes_match(backend: str, given: Arguments, floor: float) -> None:
    """To the relative precision of the sums, or absolutely to ``floor``; not a number nowhere."""
    ours, exact = compute_with(backend, given), compute(reference.geo_sums, given.widened())
    relative = TOLERANCES[given.input.dtype].sums
    for name, mine, theirs in zip(("value", "slope"), ours, exact, strict=True):
        assert not theirs.isnan().any()
        torch.testing.assert_close(
            mine.double(), theirs, rtol=relative, atol=floor, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("term", VOXEL_TERMS)
class TestVoxelTerms:
    def test_range_of_probabilities(self, backend, term, dtype):
        given = arguments(*grid(probabilities(dtype), dtype), term, "none", backend)
        assert_values_and_slopes_match(backend, given, torch.finfo(dtype).eps)

    def test_range_of_logits(self, backend, term, dtype):
        given = arguments(*grid(LOGITS, dtype), term, "sigmoid", backend)
        assert_values_and_slopes_match(backend, given, torch.finfo(dtype).eps)

    def test_range_of_softmax(self, backend, term, dtype):
        logits, target = grid([value for value in LOGITS if math.isfinite(value)], dtype)
        pair = torch.cat([logits, torch.zeros_like(logits)], 1)
        given = arguments(pair, torch.cat([target, 1 - target], 1), term, "softmax", backend)
        assert_values_and_slopes_match(backend, given, torch.finfo(dtype).eps)

    def test_range_of_softmax_of_three_channels(self, backend, term, dtype):
        """Of which one, two or all are as large, and the largest is any."""
        values = [-200.0, -100.0, -10.0, 0.0, 1e-3, 60.0, 100.0, 200.0]
        triples = torch.cartesian_prod(*[torch.tensor(values, dtype=dtype)] * 3).view(-1, 3, 1, 1)
        target = torch.eye(3, dtype=dtype)[torch.arange(len(triples)) % 3].view(triples.shape)
        given = arguments(triples, 0.1 + 0.7 * target, term, "softmax", backend)
        assert_values_and_slopes_match(backend, given, TOLERANCES[dtype].floor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("term", ["prediction", *CROSS_ENTROPY])
def test_range_of_logits_keeps_small_values_to_relative_precision(backend, term, dtype):
    sign = 1 if TERM_KINDS[term].reads_log_prediction else -1
    target = torch.tensor(1.0 if sign > 0 else 0.0, dtype=dtype)
    logits = sign * torch.linspace(0, 80, 161, dtype=dtype).view(-1, 1, 1, 1)
    given = arguments(logits, target.expand_as(logits), term, "sigmoid", backend)
    ours, exact = compute_with(backend, given), compute(reference.geo_sums, given.widened())
    assert 0 < exact.sums.min() < 1e-34
    torch.testing.assert_close(ours.sums.double(), exact.sums, rtol=TOLERANCES[dtype].sums, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("term", FIRST_ORDER)
def test_range_of_differences(backend, term, dtype):
    """One difference along x; those below 1e-19, whose squares leave float32, count as 0 in the l2 norm."""
    sizes = [0.0, 1e-18, 1e-12, 1e-6, 1e-3, 0.5, 1.0]
    steps = torch.tensor([sign * size for size in sizes for sign in (1, -1)], dtype=dtype).view(-1, 1, 1, 1)
    edges = torch.cat([torch.zeros_like(steps), steps], -1)
    given = arguments(edges, torch.zeros_like(edges), term, "none", backend)
    assert_values_and_slopes_match(backend, given, torch.finfo(dtype).tiny)


def all_numbers(dtype: torch.dtype) -> Tensor:
    """Every number of a 16-bit dtype, [1, 1, 256, 256]."""
    return torch.arange(2**16).to(torch.int16).view(dtype).view(1, 1, 256, 256)


def one_by_one(numbers: Tensor) -> Tensor:
    """Each number as a volume of its own, [P, 1, 1, 1]; some of them where a program is started for each."""
    return numbers.flatten()[:: 2003 if INTERPRETED else 1].view(-1, 1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
class TestHalfPrecision:
    def test_whole_range_is_read_exactly(self, backend, dtype):
        numbers = one_by_one(all_numbers(dtype)).to(DEVICES[backend])
        given = arguments(numbers, torch.zeros_like(numbers), "prediction", "none", backend)
        sums = compute_with(backend, given).sums.view(-1)
        torch.testing.assert_close(sums, numbers.flatten().float(), rtol=0, atol=0, equal_nan=True)

    def test_whole_range_is_written_exactly(self, backend, dtype):
        """The slope of s g is g."""
        numbers = all_numbers(dtype).to(DEVICES[backend])
        volume = torch.zeros_like(numbers).requires_grad_()
        given = arguments(volume, numbers, "intersection", "none", backend)
        with use_backend(backend):
            sums = backends.operators(volume).geo_sums(*given)
            (slope,) = torch.autograd.grad(sums, volume, torch.ones_like(sums))
        torch.testing.assert_close(slope, numbers, rtol=0, atol=0, equal_nan=True)

    def test_whole_range_is_rounded_to_nearest_even(self, backend, dtype):
        """The slope of s is 1: gradients next to, on and between the dtype's numbers come out rounded."""
        numbers = all_numbers(dtype).flatten().float()
        numbers = numbers[numbers.isfinite()].sort().values
        between = (numbers[1:].double() + numbers[:-1].double()).div(2).float()
        limit = torch.finfo(dtype).max
        beyond = torch.tensor([1.001 * limit, -1.001 * limit, 3e38, math.inf, -math.inf, math.nan])
        slopes = [between, between.nextafter(numbers[1:]), between.nextafter(numbers[:-1]), beyond, numbers]
        wanted = torch.cat([one_by_one(each).flatten() for each in slopes]).to(DEVICES[backend])
        volumes = torch.zeros(len(wanted), 1, 1, 1, dtype=dtype, device=wanted.device).requires_grad_()
        given = arguments(volumes, torch.zeros_like(volumes), "prediction", "none", backend)
        with use_backend(backend):
            sums = backends.operators(volumes).geo_sums(*given)
            (slope,) = torch.autograd.grad(sums, volumes, wanted.view(-1, 1, 1))
        torch.testing.assert_close(slope.flatten(), wanted.to(dtype), rtol=0, atol=0, equal_nan=True)
