"""Eq. 1: every named loss is the GEO loss of its Θ, Ψ, φ and Γ, in value and in gradient."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from geoloss_kernels import reference
from geoloss_kernels.reference import GEOLoss, gamma, geo_loss, phi, psi, theta


def first_order(axes: tuple[int, ...] | None = None, norm: str = "l2", operator: str = "forward") -> GEOLoss:
    return GEOLoss(
        theta.one, partial(psi.first_order, norm=norm), partial(phi.gradient, axes=axes, operator=operator)
    )


def second_order(**sides: bool) -> GEOLoss:
    return GEOLoss(theta.absolute_error, partial(psi.second_order, **sides), phi.laplacian)


def distance_to_target(s: Tensor, g: Tensor, phi: reference.geo.Operator) -> Tensor:
    return phi(g)


def squared_distances(s: Tensor, g: Tensor, phi: reference.geo.Operator) -> Tensor:
    return phi(g) ** 2 + phi(s) ** 2


# name: (the instance of Eq. 1, the named loss)
INSTANCES = {
    "BCE": (GEOLoss(theta.cross_entropy), reference.bce_loss),
    "weighted BCE": (
        GEOLoss(partial(theta.cross_entropy, pos_weight=5.0)),
        partial(reference.bce_loss, pos_weight=5.0),
    ),
    "Dice": (
        GEOLoss(theta.overlap_error, gamma=gamma.total),
        partial(reference.dice_loss, smooth_nr=0.0, smooth_dr=0.0),
    ),
    "smoothed Dice": (
        GEOLoss(theta.overlap_error, gamma=gamma.total, smooth_nr=2.0, smooth_dr=3.0),
        partial(reference.dice_loss, smooth_nr=1.0, smooth_dr=3.0),
    ),
    "Tversky": (
        GEOLoss(
            partial(theta.tversky_error, alpha=0.3, beta=0.7),
            gamma=partial(gamma.tversky_total, alpha=0.3, beta=0.7),
        ),
        partial(reference.tversky_loss, alpha=0.3, beta=0.7, smooth_nr=0.0, smooth_dr=0.0),
    ),
    "BD": (GEOLoss(theta.prediction, distance_to_target, phi.signed_distance), reference.boundary_loss),
    "HD": (GEOLoss(theta.squared_error, squared_distances, phi.distance), reference.hausdorff_dt_loss),
    "FOG": (first_order(), reference.fog_loss),
    "FOG squared": (first_order(norm="l2_squared"), partial(reference.fog_loss, norm="l2_squared")),
    "FOG l1": (first_order(norm="l1"), partial(reference.fog_loss, norm="l1")),
    "FOG central": (first_order(operator="central"), partial(reference.fog_loss, operator="central")),
    "FOG S": (first_order(axes=(0,)), partial(reference.fog_loss, axes=("sagittal",))),
    "FOG C": (first_order(axes=(1,)), partial(reference.fog_loss, axes=("coronal",))),
    "FOG A": (first_order(axes=(2,)), partial(reference.fog_loss, axes=("axial",))),
    "SOG": (second_order(), reference.sog_loss),
    "SOG signed": (second_order(signed=True), partial(reference.sog_loss, signed=True)),
    "SOG two-sided": (second_order(two_sided=True), partial(reference.sog_loss, two_sided=True)),
    "SOG two-sided signed": (
        second_order(two_sided=True, signed=True),
        partial(reference.sog_loss, two_sided=True, signed=True),
    ),
}
SHAPE = (2, 2, 4, 3, 5)


@pytest.fixture
def volumes() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    s = 0.05 + 0.9 * torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    g = (torch.rand(SHAPE, generator=generator) < 0.4).double()
    return s.requires_grad_(), g


def assert_same_loss(first: Tensor, second: Tensor, input: Tensor) -> None:
    torch.testing.assert_close(first, second)
    weights = torch.linspace(1, 2, first.numel(), dtype=first.dtype).view(first.shape)
    slopes = [torch.autograd.grad(loss, input, weights)[0] for loss in (first, second)]
    assert slopes[0].count_nonzero() > 0
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("spacing", [None, (0.7, 1.0, 3.0)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", INSTANCES)
def test_named_loss_is_an_instance(name, masked, spacing, volumes):
    (s, g), (instance, named) = volumes, INSTANCES[name]
    mask = torch.rand(2, 1, *SHAPE[2:], generator=torch.Generator().manual_seed(1)) < 0.8 if masked else None
    assert_same_loss(instance(s, g, mask, spacing), named(s, g, mask=mask, spacing=spacing), s)


@pytest.mark.parametrize("name", INSTANCES)
def test_formula_letter_for_letter(name, volumes):
    """Σ_v Θ(s_v, g_v) Ψ(s, g, v, φ) / Σ_v Γ(s_v, g_v) by hand, for the pieces of each instance."""
    (s, g), (instance, named) = volumes, INSTANCES[name]
    pieces = instance.loss.keywords
    correlation = 1.0 if pieces["psi"] is None else pieces["psi"](s, g, pieces["phi"])
    weight = torch.ones_like(s) if pieces["gamma"] is None else pieces["gamma"](s, g)
    above = (pieces["theta"](s, g) * correlation).sum((2, 3, 4)) + pieces["smooth_nr"]
    below = weight.sum((2, 3, 4)) + pieces["smooth_dr"]
    assert_same_loss((above / below)[..., None, None, None], named(s, g, reduction="none"), s)


def test_bce_as_printed_is_the_sum_over_voxels(volumes):
    s, g = volumes
    printed = GEOLoss(theta.cross_entropy, gamma=gamma.zero, smooth_dr=1.0, reduction="sum")(s, g)
    summed = torch.nn.functional.binary_cross_entropy(s, g, reduction="sum")
    assert_same_loss(printed, summed, s)


def test_dice_as_printed_is_one_minus_the_dice_coefficient(volumes):
    s, g = volumes
    printed = GEOLoss(theta.overlap_error, gamma=gamma.total, reduction="none")(s, g)
    coefficient = 2 * (s * g).sum((2, 3, 4)) / (s.sum((2, 3, 4)) + g.sum((2, 3, 4)))
    assert_same_loss(printed, (1 - coefficient)[..., None, None, None], s)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_options_mean_the_same_as_for_a_named_loss(reduction, batch, volumes):
    s, _ = volumes
    labels = torch.randint(0, 3, (2, 1, *SHAPE[2:]), generator=torch.Generator().manual_seed(2))
    options = {
        "softmax": True,
        "to_onehot_y": True,
        "include_background": False,
        "ignore_index": 2,
        "reduction": reduction,
        "batch": batch,
    }
    instance = GEOLoss(theta.one, psi.first_order, phi.gradient, **options)
    assert_same_loss(instance(s, labels), reference.fog_loss(s, labels, **options), s)


def test_phi_of_one_argument_serves_until_a_mask_or_a_spacing_is_given(volumes):
    s, g = volumes
    seen = []

    def identity(u: Tensor) -> Tensor:
        seen.append(u)
        return u

    loss = GEOLoss(theta.one, lambda s, g, phi: (phi(s) - phi(g)).abs(), identity)
    torch.testing.assert_close(loss(s, g), (s - g).abs().mean())
    assert len(seen) == 2
    for argument in ({"mask": g}, {"spacing": (1.0, 1.0, 1.0)}):
        with pytest.raises(TypeError, match=r"valid|spacing"):
            loss(s, g, **argument)


@pytest.mark.parametrize(
    ("error", "message", "pieces"),
    [
        (ValueError, "theta: .*shape", {"theta": lambda s, g: s.sum()}),
        (ValueError, "psi: .*shape", {"theta": theta.one, "psi": lambda s, g, phi: s[:1]}),
        (TypeError, "psi: .*got list", {"theta": theta.one, "psi": lambda s, g, phi: [s]}),
        (ValueError, "gamma: .*shape", {"theta": theta.one, "gamma": lambda s, g: s.sum()}),
    ],
)
def test_a_callable_of_the_wrong_shape_is_named(error, message, pieces, volumes):
    with pytest.raises(error, match=message):
        geo_loss(*volumes, **pieces)
