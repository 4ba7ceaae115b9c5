"""The same bits from run to run and for any number of threads, and no element left unwritten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from numerics import (
    DEVICES,
    DTYPES,
    SHAPES,
    STENCIL_TERMS,
    VOXEL_TERMS,
    Arguments,
    Case,
    Result,
    activations,
    compute_with,
    fewer,
)

# Of several tiles each, in rows and in planes.
LARGE = [(1, 1, 80, 70, 65), (2, 3, 40, 50, 33), (1, 2, 1000, 130)]
TERMS = ("prediction", "cross_entropy_foreground", "first_order_forward_l2", "second_order_two_sided")


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def assert_same_bits(ours: Result, theirs: Result) -> None:
    assert torch.equal(ours.sums, theirs.sums)
    assert torch.equal(ours.gradient, theirs.gradient)


def compute_on(threads: int, backend: str, arguments: Arguments) -> Result:
    torch.set_num_threads(threads)
    return compute_with(backend, arguments)


def cases(dtype: torch.dtype) -> Iterator[Case]:
    for shape in LARGE:
        for activation in ("none", "sigmoid", "softmax"):
            yield Case(shape, TERMS, dtype, activation, mask="shared" if activation == "sigmoid" else None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestSameBits:
    def test_for_any_number_of_threads(self, backend, dtype):
        for case in cases(dtype):
            arguments = case.arguments(DEVICES[backend])
            alone = compute_on(1, backend, arguments)
            for threads in (2, 3):
                assert_same_bits(compute_on(threads, backend, arguments), alone)

    def test_from_run_to_run(self, backend, dtype):
        for case in cases(dtype):
            arguments = case.arguments(DEVICES[backend])
            first = compute_on(2, backend, arguments)
            for _ in range(3):
                assert_same_bits(compute_on(2, backend, arguments), first)

    def test_for_every_volume_of_a_batch(self, backend, dtype):
        """A volume's sums do not depend on the others in its batch."""
        case = Case((3, 1, 20, 30, 17), ("prediction", "intersection"), dtype, "sigmoid")
        arguments = case.arguments(DEVICES[backend])
        together = compute_with(backend, arguments).sums
        for n in range(3):
            alone = arguments._replace(input=arguments.input[n : n + 1], target=arguments.target[n : n + 1])
            torch.testing.assert_close(compute_with(backend, alone).sums[0], together[n], rtol=1e-6, atol=0)


class TestEveryElementIsWritten:
    """Under `poisoned`, PyTorch fills new tensors with NaN before the operators write to them."""

    def test_poison_is_there(self, poisoned):
        assert torch.empty_like(torch.ones(3)).isnan().all()

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "expanded"])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_of_sums_and_gradient(self, backend, dtype, layout, poisoned):
        for shape in fewer((*SHAPES, (1, 1, 40, 60, 17))):
            for terms in (VOXEL_TERMS, STENCIL_TERMS[::2], STENCIL_TERMS[1::2]):
                for mask in (None, "shared"):
                    case = Case(shape, terms, dtype, activations(shape)[-1], layout, mask=mask)
                    result = compute_with(backend, case.arguments(DEVICES[backend]))
                    assert not result.sums.isnan().any()
                    assert not result.gradient.isnan().any()

    @pytest.mark.parametrize("terms", [("count", "target"), ("prediction",)], ids=str)
    def test_where_channels_or_terms_need_no_gradient(self, backend, terms, poisoned):
        case = Case((2, 3, 4, 5, 7), terms, activation="sigmoid", include_background=False)
        result = compute_with(backend, case.arguments(DEVICES[backend]))
        assert result.gradient[:, 0].count_nonzero() == 0
        assert not result.gradient.isnan().any()
