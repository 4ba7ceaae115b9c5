"""Open formulas in the operators: sums and gradients of random losses against autograd through them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from geoloss_kernels import backends, phi
from geoloss_kernels.phi import norm
from tests.open_cases import OpenCase, random_case

SAMPLED = int(os.environ.get("GEOLOSS_OPEN_CASES", "150"))
"""of 2,000 cases that are known to hold"""


def compare(case: OpenCase) -> None:
    input = case.tensors[0].requires_grad_()
    operators = backends.operators_for_programs(input)
    assert operators is not None
    ours = case.sums(operators.geo_sums, input)
    exact = case.sums_by_autograd(input)
    weights = torch.randn(exact.shape, generator=torch.Generator().manual_seed(case.seed)).to(exact)
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)
    if not exact.requires_grad:
        return
    (expected,) = torch.autograd.grad(exact, input, weights, materialize_grads=True)
    (gradient,) = torch.autograd.grad(ours, input, weights, materialize_grads=True)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10 * (1 + expected.abs().max()))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("seed", range(SAMPLED))
def test_random_losses_match_autograd(seed: int) -> None:
    compare(random_case(seed))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("operator", [phi.forward(), phi.central(), phi.sobel(), phi.laplacian()])
@pytest.mark.parametrize("masked", [False, True])
def test_several_tiles_match_autograd(operator: phi.Stencil, masked: bool) -> None:
    case = replace(
        random_case(3),
        shape=(1, 1, 70, 45, 19),
        stencil=operator,
        psi=lambda s, g, phi: norm(phi(s) - phi(g)) * (s + g),
        activation="sigmoid",
        masked=masked,
        spacing=(1.0, 0.7, 2.5),
        include_background=True,
    )
    compare(case)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "operator", [phi.central(), phi.stencil(torch.arange(27.0).reshape(1, 3, 3, 3) - 13)]
)
def test_slopes_of_neighbours_that_do_not_count_are_left_out(operator: phi.Stencil) -> None:
    """Linear in φ, so that its slope does not vanish where φ does."""
    case = replace(
        random_case(3),
        shape=(1, 1, 4, 5, 6),
        stencil=operator,
        psi=lambda s, g, phi: (phi(s) * (1 + g)).sum(0),
        activation="sigmoid",
        masked=True,
        spacing=(1.0, 0.7, 2.5),
        include_background=True,
    )
    compare(case)
