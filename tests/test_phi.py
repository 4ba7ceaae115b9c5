"""φ: operators on tensors against the reference and by hand; the stencils and adjoints of the kernels."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from geoloss_kernels import distance, phi, reference
from geoloss_kernels.phi import Component, Stencil
from tests.host_programs import instruction_sets, stencil_and_adjoint

SHAPES = [(2, 1, 5), (1, 2, 4, 7), (2, 2, 3, 5, 4), (1, 1, 1, 4, 1), (1, 1, 1, 1, 1)]
NAMED = {"forward": phi.forward(), "central": phi.central(), "laplacian": phi.laplacian()}


def volume(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_reference(name: str, u: Tensor, spacing: tuple[float, ...] | None, valid: Tensor | None) -> Tensor:
    if name == "laplacian":
        return reference.phi.laplacian(u, spacing, valid).unsqueeze(0)
    return torch.stack(reference.phi.gradient(u, None, spacing, name, valid))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMED)
def test_a_named_operator_is_the_reference_s(name: str, masked: bool, shape: tuple[int, ...]) -> None:
    u, spacing = volume(shape), (0.7, 1.5, 3.0)[: len(shape) - 2]
    valid = volume(shape, 1) > 0.3 if masked else None
    inside = u if valid is None else torch.where(valid, u, 0)
    for sizes in (None, spacing):
        ours = NAMED[name](inside, sizes, valid)
        expected = by_reference(name, inside, sizes, valid)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("operator", [phi.forward(), phi.central(), phi.sobel()])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_ramp_of_slope_1_gives_1(operator: Stencil, dimensions: int) -> None:
    spacing = (0.5, 2.0, 3.0)[:dimensions]
    for axis in range(dimensions):
        shape = [1] * (dimensions + 2)
        shape[axis + 2] = 6
        ramp = (spacing[axis] * torch.arange(6.0)).reshape(shape).expand(1, 1, *(6,) * dimensions)
        inner = (slice(None), slice(None), slice(None), *(slice(1, -1),) * dimensions)
        result = operator(ramp, spacing)[inner]
        for component in range(dimensions):
            expected = torch.full_like(result[component], float(component == axis))
            torch.testing.assert_close(result[component], expected)


@pytest.mark.parametrize("operator", [*NAMED.values(), phi.sobel()])
def test_a_constant_gives_exactly_0(operator: Stencil) -> None:
    assert not operator(torch.full((1, 1, 4, 5, 6), 0.3), (0.7, 0.3, 1.1)).any()


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_stencil_is_a_correlation_with_clamped_indices(dimensions: int) -> None:
    kernel = volume((2, *(3,) * dimensions)) - 0.5
    u = volume((2, 3, *(5, 4, 6)[:dimensions]), 1)
    extended = torch.nn.functional.pad(u.flatten(0, 1)[:, None], (1, 1) * dimensions, "replicate")
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[dimensions - 1]
    expected = convolve(extended, kernel[:, None]).transpose(0, 1).reshape(2, *u.shape)
    torch.testing.assert_close(phi.stencil(kernel)(u), expected, rtol=1e-12, atol=1e-13)


def test_sobel_is_smoothed_across_its_axis() -> None:
    component = phi.sobel().kernels(2, (1.0, 1.0))[1]
    assert dict(component.taps) == {(y, x): x / 2 * (0.5, 0.25)[abs(y)] for y in (-1, 0, 1) for x in (-1, 1)}
    assert component.centre == 0


@pytest.mark.parametrize("operator", [phi.sobel(), phi.stencil(volume((2, 3, 3, 3), 3))])
def test_an_invalid_neighbour_counts_as_the_centre(operator: Stencil) -> None:
    u, valid = volume((1, 1, 3, 3, 3)), torch.ones(1, 1, 3, 3, 3, dtype=torch.bool)
    valid[..., 0, 1, 2] = valid[..., 2, 2, 0] = False
    filled = torch.where(valid, u, u[..., 1, 1, 1])
    ours = operator(torch.where(valid, u, 0), None, valid)[..., 1, 1, 1]
    torch.testing.assert_close(ours, operator(filled)[..., 1, 1, 1])


@pytest.mark.parametrize("empty", ["zero", "far"])
def test_a_distance_is_that_of_the_mask(empty: str) -> None:
    u, spacing = volume((2, 2, 5, 6)), (0.5, 2.0)
    u[0, 0] = 0
    signed = phi.signed_distance(empty)(u, spacing)
    assert torch.equal(signed[0], distance.signed_distance_map(u, spacing, empty))
    assert torch.equal(phi.distance(empty)(u)[0], distance.distance_map(u, None, empty))
    valid = volume((2, 2, 5, 6), 1) > 0.5
    masked = phi.distance(empty)(u, spacing, valid)
    assert torch.equal(masked[0], distance.distance_map(torch.where(valid, u, 0), spacing, empty))


@pytest.mark.parametrize(
    "make", [phi.forward, phi.central, phi.laplacian, phi.sobel, phi.distance, phi.signed_distance]
)
def test_operators_are_values(make: Callable[[], object]) -> None:
    assert make() == make() == pickle.loads(pickle.dumps(make()))
    assert len({make(), make()}) == 1
    assert repr(make()).startswith(f"phi.{make.__name__}(")


def test_a_kernel_of_another_shape_is_refused() -> None:
    for shape in ((3, 3, 3, 3, 3), (2, 3, 4), (3,), (0, 3, 3), (1, 5, 5, 5)):
        with pytest.raises(ValueError, match="kernel: expected shape"):
            phi.stencil(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"a stencil \[K, 3, 3\] fits volumes with 2 spatial axes, got 3"):
        phi.stencil(torch.zeros(1, 3, 3))(torch.zeros(1, 1, 4, 4, 4))


def test_the_norm_has_the_slope_0_where_it_is_0() -> None:
    u = torch.tensor([[0.0, 3.0], [0.0, 4.0]], requires_grad=True)
    norm = phi.norm(u)
    assert norm.tolist() == [0.0, 5.0]
    (slope,) = torch.autograd.grad(norm.sum(), u)
    torch.testing.assert_close(slope, torch.tensor([[0.0, 0.6], [0.0, 0.8]]))
    assert torch.equal(phi.norm([u[0], u[1]]), norm)


def codes(component: Component) -> list[int]:
    """As csrc/cpu/open_stencil_rows.h numbers the taps of a 3-D component."""
    return [9 * (z + 1) + 3 * (y + 1) + x + 1 for (z, y, x), _ in component.taps]


OPERATORS: dict[str, Stencil] = {
    **NAMED,
    "sobel": phi.sobel(),
    "random": phi.stencil(volume((1, 3, 3, 3), 5) - 0.3),
    "zero_sum": phi.stencil(torch.tensor([[[-1.0, 0, 0], [0, 0, 0], [0, 0, 1.0]]]).repeat(3, 1, 1)[None]),
}


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_kernels_stencil_and_its_adjoint(name: str, masked: bool, instruction_set: str) -> None:
    """The adjoint against autograd through the operator on tensors."""
    operator = OPERATORS[name]
    for shape in itertools.product((1, 3), (1, 4), (1, 2, 7, 16, 33, 70)):
        u, flux = volume(shape).requires_grad_(), volume(shape, 1) - 0.5
        valid = volume(shape, 2) > 0.4 if masked else None
        inside = u if valid is None else torch.where(valid, u, 0)
        own_flux = flux if valid is None else torch.where(valid, flux, 0)
        whole = None if valid is None else valid[None, None]
        spacing = (0.7, 1.0, 2.5)
        results = operator(inside[None, None], spacing, whole)[:, 0, 0]
        for result, component in zip(results, operator.kernels(3, spacing), strict=True):
            (gradient,) = torch.autograd.grad(
                (result * own_flux).sum(), u, retain_graph=True, materialize_grads=True
            )
            weights = [weight for _, weight in component.taps]
            ours, gathered = stencil_and_adjoint(
                codes(component),
                weights,
                component.centre,
                operator.needs_all_neighbours,
                u.detach(),
                valid,
                own_flux,
                instruction_set,
            )
            if valid is not None:
                ours, gathered = torch.where(valid, ours, 0), torch.where(valid, gathered, 0)
            torch.testing.assert_close(ours, result.detach(), rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(gathered, gradient, rtol=1e-12, atol=1e-13)
