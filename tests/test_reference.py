"""The reference against analytic values, finite differences, and its own two forms of every loss."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from numerics import ACTIVATIONS, activations, encoded
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from geoloss_kernels import reference, terms
from geoloss_kernels.reference import TERMS, geo_ratio, options, phi, psi, theta
from geoloss_kernels.reference.terms import Column
from geoloss_kernels.reference.voxels import Voxels, prepare

FIRST_ORDER = [name for name in TERMS if name.startswith("first_order")]
SECOND_ORDER = [name for name in TERMS if name.startswith("second_order")]
SHAPES = [(1, 1, 1, 1, 1), (1, 2, 3, 1, 2), (2, 1, 1, 5, 1), (1, 2, 3, 2), (2, 1, 1, 3)]
WITHOUT_MAP = [name for name in TERMS if not name.startswith("map")]


def probabilities(*shape: int, seed: int = 0, low: float = 0.05, high: float = 0.95) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def binary(*shape: int, seed: int = 1) -> Tensor:
    return (probabilities(*shape, seed=seed) > 0.5).double()


def geo_sums(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    map: Tensor | None,
    terms: Sequence[str],
    activation: str = "none",
    spacing: Sequence[float] | None = None,
    axes: Sequence[int] | None = None,
    ignore_index: int | None = None,
    include_background: bool = True,
) -> Tensor:
    """The reference's, of terms by their names."""
    return reference.geo_sums(
        input,
        target,
        mask,
        [] if map is None else [map],
        *encoded(terms, input.ndim - 2, spacing, axes),
        ACTIVATIONS.index(activation),
        ignore_index,
        include_background,
    )


def one_sum(term: str, input: Tensor, target: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    return geo_sums(input, target, mask, None, [term], **options)[..., 0]


def mixed(sums: Tensor) -> Tensor:
    """Sums [N, C, K] -> [N, C], each term with its own weight: a gradient check of all terms in one."""
    return (sums * torch.linspace(1, 2, sums.shape[-1], dtype=sums.dtype)).sum(-1)


def single_voxel(side: int = 5, dimensions: int = 3) -> Tensor:
    volume = torch.zeros(1, 1, *[side] * dimensions, dtype=torch.float64)
    volume[(0, 0, *[side // 2] * dimensions)] = 1
    return volume


def plane(lengths: tuple[int, ...], spacing: tuple[float, ...], slopes: tuple[float, ...]) -> Tensor:
    """Σ_i slope_i x_i with x_i in mm."""
    grids = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in lengths], indexing="ij")
    return sum(k * h * grid for k, h, grid in zip(slopes, spacing, grids, strict=True))[None, None]


class TestOperators:
    def test_forward_difference_of_a_plane_is_its_slope_in_mm(self):
        u = plane((4, 5, 6), (0.7, 0.7, 3.0), (1.0, -2.0, 0.5))
        for axis, (size, slope) in enumerate(zip((0.7, 0.7, 3.0), (1.0, -2.0, 0.5), strict=True)):
            difference = phi.forward_difference(u, axis, size)
            last = u.shape[axis + 2] - 1
            inner = difference.narrow(axis + 2, 0, last)
            torch.testing.assert_close(inner, torch.full_like(inner, slope))
            assert difference.narrow(axis + 2, last, 1).count_nonzero() == 0

    def test_central_difference_of_a_plane_is_halved_at_the_clamped_border(self):
        u = plane((6,) * 3, (1.0, 2.0, 3.0), (0.0, 1.5, 0.0))
        difference = phi.central_difference(u, 1, 2.0)[0, 0, 0, :, 0]
        torch.testing.assert_close(difference, torch.tensor([0.75, 1.5, 1.5, 1.5, 1.5, 0.75]).double())

    def test_laplacian_of_a_single_voxel(self):
        result = phi.laplacian(single_voxel(), spacing=(1.0, 2.0, 0.5))[0, 0]
        assert result[2, 2, 2] == -2 * (1 + 1 / 4 + 4)
        assert (result[1, 2, 2], result[2, 1, 2], result[2, 2, 3]) == (1.0, 0.25, 4.0)
        assert result.count_nonzero() == 7

    def test_laplacian_of_a_plane_is_zero_inside(self):
        u = plane((5, 6, 7), (1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
        inner = phi.laplacian(u, (1.0, 2.0, 3.0))[..., 1:-1, 1:-1, 1:-1]
        torch.testing.assert_close(inner, torch.zeros_like(inner))

    @pytest.mark.parametrize("masked", [False, True])
    def test_laplacian_is_self_adjoint_and_sums_to_zero(self, masked):
        u, w = probabilities(2, 1, 4, 5, 3), probabilities(2, 1, 4, 5, 3, seed=2)
        valid = binary(2, 1, 4, 5, 3, seed=3).bool() if masked else None
        laplacian = partial(phi.laplacian, spacing=(1.0, 0.5, 2.0), valid=valid)
        torch.testing.assert_close((laplacian(u) * w).sum(), (u * laplacian(w)).sum())
        torch.testing.assert_close(laplacian(u).sum(), torch.zeros((), dtype=u.dtype))

    @pytest.mark.parametrize("operator", phi.OPERATORS)
    def test_a_difference_counts_only_between_valid_voxels(self, operator):
        u = probabilities(1, 1, 7)[..., None]
        valid = torch.tensor([1, 1, 0, 1, 1, 1, 0]).bool().view(1, 1, 7, 1)
        counts = {"forward": [1, 0, 0, 1, 1, 0, 0], "central": [1, 0, 0, 0, 1, 0, 0]}[operator]
        masked, free = (phi.gradient(u, [0], None, operator, v)[0].flatten() for v in (valid, None))
        torch.testing.assert_close(masked, free * torch.tensor(counts))

    def test_size_one_axes_have_no_differences(self):
        u = probabilities(2, 1, 1, 1, 1)
        for operator in phi.OPERATORS:
            assert all(d.count_nonzero() == 0 for d in phi.gradient(u, operator=operator))
        assert phi.laplacian(u).count_nonzero() == 0

    def test_checkerboard_is_seen_by_forward_and_nearly_not_by_central_differences(self):
        index = torch.stack(torch.meshgrid(*[torch.arange(6)] * 3, indexing="ij")).sum(0)
        board = (index % 2).double()[None, None]
        forward = psi.l2(phi.gradient(board))
        assert torch.all(forward[..., :-1, :-1, :-1] == math.sqrt(3))
        assert psi.l2(phi.gradient(board, operator="central"))[..., 1:-1, 1:-1, 1:-1].count_nonzero() == 0

    def test_unknown_operator_and_norm_are_named(self):
        u = probabilities(1, 1, 3, 3)
        with pytest.raises(ValueError, match=r"operator: .*'sobel'"):
            phi.gradient(u, operator="sobel")
        with pytest.raises(ValueError, match=r"norm: .*'linf'"):
            psi.first_order(u, u, phi.gradient, norm="linf")


class TestNorms:
    def test_values(self):
        d = [torch.tensor([3.0, 0.0, -1.0]), torch.tensor([-4.0, 0.0, 0.0])]
        assert psi.l2(d).tolist() == [5, 0, 1]
        assert psi.l2_squared(d).tolist() == [25, 0, 1]
        assert psi.l1(d).tolist() == [7, 0, 1]

    @pytest.mark.parametrize("norm", psi.NORMS)
    def test_gradient_is_zero_where_the_norm_is_zero(self, norm):
        d = torch.tensor([[0.0, 3.0], [0.0, 4.0]], requires_grad=True)
        (slope,) = torch.autograd.grad(psi.NORMS[norm](list(d)).sum(), d)
        assert slope[:, 0].tolist() == [0, 0]
        assert slope[:, 1].count_nonzero() == 2

    def test_nan_is_not_hidden(self):
        assert psi.l2([torch.tensor([math.nan, 0.0])]).isnan().tolist() == [True, False]


class TestAnalyticSums:
    @pytest.mark.parametrize(
        ("term", "expected"),
        [
            ("count", 125),
            ("target", 1),
            ("prediction", 0),
            ("absolute_error", 1),
            ("first_order_forward_l2", 3 + math.sqrt(3)),
            ("first_order_forward_l2_squared", 6),
            ("first_order_forward_l1", 6),
            ("first_order_central_l2", 3),
            ("first_order_central_l2_squared", 1.5),
            ("first_order_central_l1", 3),
            ("second_order", 6),
            ("second_order_signed", -6),
            ("second_order_two_sided", 6),
        ],
    )
    def test_missed_single_voxel(self, term, expected):
        g = single_voxel()
        torch.testing.assert_close(one_sum(term, torch.zeros_like(g), g).item(), float(expected))

    def test_single_voxel_false_positive_is_seen_by_two_sided_second_order_alone(self):
        s = single_voxel()
        g = torch.zeros_like(s)
        assert one_sum("second_order", s, g) == 0
        assert one_sum("second_order_two_sided", s, g) == 6
        assert one_sum("second_order_two_sided_signed", s, g) == -6

    @pytest.mark.parametrize(("axis", "expected"), [(0, 2.0), (1, 4.0), (2, 2 / 3)])
    def test_one_axis_and_spacing(self, axis, expected):
        g = single_voxel()
        value = one_sum("first_order_forward_l2", 0 * g, g, axes=[axis], spacing=(1.0, 0.5, 3.0))
        torch.testing.assert_close(value.item(), expected)

    def test_constant_error_has_no_first_order_sum(self):
        g = binary(1, 1, 4, 4, 4)
        for term in FIRST_ORDER:
            assert one_sum(term, g + 0.25, g) == 0

    def test_map_terms(self):
        s, g, weights = probabilities(2, 2, 3, 4), binary(2, 2, 3, 4), probabilities(2, 1, 3, 4, seed=5)
        sums = geo_sums(s, g, None, weights, ["map_prediction", "map_squared_error"])
        torch.testing.assert_close(sums[..., 0], (s * weights).sum((2, 3)))
        torch.testing.assert_close(sums[..., 1], ((s - g) ** 2 * weights).sum((2, 3)))


class TestGradients:
    @pytest.mark.parametrize(
        ("shape", "activation"),
        [(shape, activation) for shape in SHAPES for activation in activations(shape)],
    )
    def test_gradcheck_of_every_term(self, shape, activation):
        x = probabilities(*shape).requires_grad_()
        target, weights = probabilities(*shape, seed=4), probabilities(*shape, seed=5)
        spacing = (0.7, 1.0, 3.0)[: len(shape) - 2]

        def sums(input: Tensor) -> Tensor:
            return mixed(geo_sums(input, target, None, weights, list(TERMS), activation, spacing))

        assert gradcheck(sums, x)
        assert gradgradcheck(sums, x)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_gradcheck_with_mask_axes_and_without_background(self, activation):
        shape = (1, 3, 3, 2, 3)
        x, target = probabilities(*shape).requires_grad_(), probabilities(*shape, seed=4)
        mask = probabilities(*shape, seed=6) > 0.3

        def sums(input: Tensor) -> Tensor:
            terms = [*FIRST_ORDER, *SECOND_ORDER, "cross_entropy_background"]
            options = {"axes": (0, 2), "include_background": False}
            return mixed(geo_sums(input, target, mask, None, terms, activation, **options))

        assert gradcheck(sums, x)

    def test_gradient_is_zero_for_a_perfect_prediction(self):
        g = binary(1, 1, 4, 5, 6)
        for term in [*FIRST_ORDER, *SECOND_ORDER]:
            s = g.clone().requires_grad_()
            (slope,) = torch.autograd.grad(one_sum(term, s, g).sum(), s)
            assert slope.count_nonzero() == 0, term

    def test_gradient_of_first_order_l2_is_minus_the_divergence_of_the_unit_vector(self):
        s, g = probabilities(1, 1, 4, 5, 6).requires_grad_(), binary(1, 1, 4, 5, 6)
        (slope,) = torch.autograd.grad(one_sum("first_order_forward_l2", s, g).sum(), s)
        flux = [d / psi.l2(phi.gradient(s - g)) for d in phi.gradient(s - g)]
        expected = torch.zeros_like(slope)
        for axis, component in enumerate(flux):
            component = component.nan_to_num()
            expected = expected - component + component.roll(1, axis + 2)
        torch.testing.assert_close(slope, expected)

    def test_signed_second_order_pushes_both_sides_of_an_edge_the_same_way(self):
        g = torch.zeros(1, 1, 8, 1, dtype=torch.float64)
        g[:, :, 3:] = 1
        s = torch.full_like(g, 0.5).requires_grad_()
        push = {
            term: torch.autograd.grad(one_sum(term, s, g).sum(), s)[0].flatten()[2:4].tolist()
            for term in ("second_order_signed", "second_order")
        }
        assert push == {"second_order_signed": [1, 1], "second_order": [1, -1]}


class TestMask:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_values_at_invalid_voxels_have_no_effect(self, activation):
        shape = (2, 2, 4, 3, 5)
        mask = binary(2, 1, 4, 3, 5, seed=7)
        results = []
        for filler in (0.5, math.nan, math.inf):
            x, target, weights = (
                torch.where(mask.bool(), probabilities(*shape, seed=seed), filler) for seed in range(3)
            )
            x.requires_grad_()
            sums = geo_sums(x, target, mask, weights, list(TERMS), activation)
            (slope,) = torch.autograd.grad(sums.sum(), x)
            assert slope.masked_select(~mask.bool()).count_nonzero() == 0
            results.append((sums, slope))
        assert results[0][0].isfinite().all()
        for result in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))

    @pytest.mark.parametrize("term", [t for t in WITHOUT_MAP if "central" not in t])
    def test_masking_a_box_equals_cropping_to_it(self, term):
        s, g = probabilities(1, 1, 6, 7, 5), binary(1, 1, 6, 7, 5)
        mask = torch.zeros_like(s)
        box = (..., slice(1, 5), slice(2, 7), slice(0, 3))
        mask[box] = 1
        masked, cropped = one_sum(term, s, g, mask), one_sum(term, s[box], g[box])
        torch.testing.assert_close(masked, cropped)

    def test_central_differences_next_to_a_masked_voxel_do_not_count(self):
        s, g = probabilities(1, 1, 6, 1), torch.zeros(1, 1, 6, 1, dtype=torch.float64)
        mask = torch.tensor([0, 1, 1, 1, 1, 1]).view(1, 1, 6, 1)
        u = s.flatten()
        expected = (u[3] - u[1]).abs() / 2 + (u[4] - u[2]).abs() / 2 + (u[5] - u[3]).abs() / 2
        expected = expected + (u[5] - u[4]).abs() / 2
        torch.testing.assert_close(one_sum("first_order_central_l2", s, g, mask).squeeze(), expected)

    def test_a_mask_of_ones_changes_nothing(self):
        s, g, weights = probabilities(1, 2, 4, 3, 2), binary(1, 2, 4, 3, 2), probabilities(1, 2, 4, 3, 2)
        mask = torch.ones(1, 1, 4, 3, 2, dtype=torch.uint8)
        unmasked, masked = (geo_sums(s, g, m, weights, list(TERMS)) for m in (None, mask))
        assert torch.equal(unmasked, masked)

    def test_softmax_sees_the_logits_of_a_masked_channel(self):
        logits, g = torch.tensor([[1.0, -2.0, 0.5]]).view(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
        mask = torch.tensor([[1, 0, 1]]).view(1, 3, 1, 1)
        value = one_sum("prediction", logits, g, mask, activation="softmax").flatten()
        torch.testing.assert_close(value, logits.flatten().softmax(0) * torch.tensor([1, 0, 1]))

    @pytest.mark.parametrize("ignore_index", [0, 2, 255, -1])
    def test_ignore_index_of_a_label_map_is_a_mask_of_all_channels(self, ignore_index):
        s = probabilities(2, 3, 4, 5)
        labels = torch.tensor([0, 1, 2, 255, -1])[
            torch.randint(5, (2, 1, 4, 5), generator=torch.manual_seed(0))
        ]
        terms = ["count", "target", "intersection", "first_order_forward_l2"]
        ignored = geo_sums(s, labels, None, None, terms, ignore_index=ignore_index)
        masked = geo_sums(s, labels, labels != ignore_index, None, terms)
        assert torch.equal(ignored, masked)
        assert (ignored[..., 0] < 20).any()

    def test_ignore_index_of_a_full_target_concerns_that_channel_alone(self):
        s, g = probabilities(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
        g[0, 1, 0, 0] = -1
        assert one_sum("count", s, g, ignore_index=-1).tolist() == [[9, 8]]
        assert one_sum("target", s, g, ignore_index=-1).tolist() == [[0, 0]]

    def test_ignore_index_and_mask_both_hold(self):
        s, labels = probabilities(1, 2, 2, 2), torch.tensor([[0, 1], [1, 5]])[None, None]
        mask = torch.tensor([[1, 0], [1, 1]])[None, None]
        assert one_sum("count", s, labels, mask, ignore_index=5).tolist() == [[2, 2]]

    @pytest.mark.parametrize(
        "loss", [reference.bce_loss, reference.fog_loss, reference.sog_loss, reference.dice_loss]
    )
    def test_a_volume_without_valid_voxels_has_loss_and_gradient_zero(self, loss):
        s, g = probabilities(2, 1, 3, 3).requires_grad_(), binary(2, 1, 3, 3)
        mask = torch.ones_like(g)
        mask[0] = 0
        value = loss(s, g, mask=mask, reduction="none")
        assert value[0] == 0
        assert value[1] > 0
        (slope,) = torch.autograd.grad(value.sum(), s)
        assert slope[0].count_nonzero() == 0
        assert slope.isfinite().all()


class TestTargets:
    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.int16, torch.float32])
    def test_a_label_map_equals_its_one_hot_volumes(self, dtype):
        s, labels = probabilities(2, 3, 4, 3, 2), (3 * binary(2, 1, 4, 3, 2)).to(dtype)
        labels[0, 0, 0] = 1
        one_hot = torch.cat([labels == c for c in range(3)], 1)
        by_label, by_volume = (
            geo_sums(s, g, None, None, ["target", *FIRST_ORDER]) for g in (labels, one_hot)
        )
        assert torch.equal(by_label, by_volume)
        assert by_label[:, 2, 0].count_nonzero() == 0, "label 3 of 3 channels matches none"

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16])
    def test_every_dtype_of_a_binary_target_is_the_same(self, dtype):
        s, g = probabilities(1, 1, 4, 4), binary(1, 1, 4, 4)
        expected, got = (geo_sums(s, target, None, None, WITHOUT_MAP) for target in (g, g.to(dtype)))
        assert torch.equal(expected, got)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_sums_are_float32_or_better(self, dtype):
        logits, g = (20 * probabilities(1, 1, 40, 40, 45) - 10).to(dtype), binary(1, 1, 40, 40, 45)
        sums = geo_sums(logits, g, None, None, ["count", "prediction"], "sigmoid")
        assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert sums[0, 0, 0] == 72000, "beyond the largest number of float16"
        torch.testing.assert_close(sums[0, 0, 1].double(), logits.double().sigmoid().sum(), rtol=1e-6, atol=0)

    def test_without_background_channel_zero_is_gone_but_softmax_sees_it(self):
        logits, labels = probabilities(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
        full, rest = (
            geo_sums(logits, labels, None, None, ["prediction"], "softmax", include_background=flag)
            for flag in (True, False)
        )
        assert torch.equal(full[:, 1:], rest)


class TestCrossEntropy:
    def test_logits_are_stable_at_every_size(self):
        x = (
            torch.tensor([-math.inf, -1000, -50, 0, 50, 1000, math.inf])
            .view(1, 1, 7, 1)
            .double()
            .requires_grad_()
        )
        both = [Column("cross_entropy_foreground"), Column("cross_entropy_background")]
        big = [50.0 + math.exp(-50), 1000.0, math.inf]
        for g, expected in ((1.0, [[math.inf, 1000.0, 50.0]]), (0.0, [big])):
            target = torch.full_like(x, g)
            voxels = _voxels(x, target)
            density = torch.stack([TERMS[term.name](voxels, term) for term in both]).sum(0).flatten()
            wrong = density[:3] if g == 1 else density[4:]
            torch.testing.assert_close(wrong, torch.tensor(expected[0]).double())
            right = density[4:] if g == 1 else density[:3]
            assert right.isfinite().all()
            assert right.max() < 1e-20
            (slope,) = torch.autograd.grad(density.sum(), x)
            torch.testing.assert_close(slope, x.detach().sigmoid() - g)

    def test_clamped_probabilities_equal_torch(self):
        s = torch.tensor([0, 1e-44, 1e-30, 1e-6, 0.3, 1 - 1e-6, 1]).view(1, 1, 7, 1).requires_grad_()
        for g in (0.0, 1.0):
            value = one_sum("cross_entropy_foreground", s, torch.full_like(s, g))
            value = value + one_sum("cross_entropy_background", s, torch.full_like(s, g))
            expected = torch.nn.functional.binary_cross_entropy(s, torch.full_like(s, g), reduction="sum")
            torch.testing.assert_close(value.squeeze(), expected)

    @pytest.mark.parametrize(("s", "g", "slope"), [(0.0, 1.0, -1e12), (1.0, 0.0, 1e12), (0.0, 0.0, 1.0)])
    def test_slope_at_zero_and_one_is_finite(self, s, g, slope):
        x = torch.full((1, 1, 1, 1), s, dtype=torch.float64, requires_grad=True)
        density = theta.cross_entropy(x, torch.full_like(x, g))
        assert torch.autograd.grad(density.sum(), x)[0].item() == pytest.approx(slope)


def _voxels(logits: Tensor, target: Tensor) -> Voxels:
    return prepare(logits, target, activation="sigmoid")


VOLUME, BATCH, ALL = range(3)
NONE, MEAN_OF_ALL, SUM_OF_ALL = range(3)


def ratio_of(sums: Tensor, *fractions: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    """Fractions of each volume and channel, left apart."""
    weights = [number for fraction in fractions for row in fraction for number in row]
    return geo_ratio(sums, None, [VOLUME, 0, -1, -1] * len(fractions), weights, NONE)


class TestRatio:
    def test_is_a_sum_of_fractions(self):
        sums = probabilities(2, 3, 2)
        value = ratio_of(sums, ([1, -2, 0.5], [1, 1, 0]), ([0, 0, 3], [0, 2, 1]))
        a, b = sums.unbind(-1)
        torch.testing.assert_close(value, (a - 2 * b + 0.5) / (a + b) + 3 / (2 * b + 1))

    @pytest.mark.parametrize("reduction", [MEAN_OF_ALL, SUM_OF_ALL])
    def test_fractions_pool_and_are_weighted_and_reduced_each_on_its_own(self, reduction):
        """One of each volume and channel, one of each channel but the first, and one of everything."""
        sums, class_weights = probabilities(2, 3, 2), torch.tensor([[0.5, 1, 3], [2, 0, 1]]).double()
        fractions = [VOLUME, 0, 0, -1, BATCH, 1, 1, -1, ALL, 0, 0, 1]
        rows = [[1, 2, 0.5], [1, 1, 0.25], [0, 1, 0], [1, 0, 2], [1, 0, 7], [0, 2, 3]]
        weights = [number for row in rows for number in row]
        a, b = sums.unbind(-1)
        w, u = class_weights
        pooled_a, pooled_b = a.sum(0)[1:], b.sum(0)[1:]
        expected = [
            w * (a + 2 * b + 0.5) / (a + b + 0.25),
            u[1:] * pooled_b / (pooled_a + 2),
            ((w * a).sum() + 7) / ((u * 2 * b).sum() + 3),
        ]
        reduce = torch.mean if reduction == MEAN_OF_ALL else torch.sum
        value = geo_ratio(sums, class_weights, fractions, weights, reduction)
        torch.testing.assert_close(value, sum(reduce(each) for each in expected))

    @pytest.mark.parametrize(
        ("pooling", "skip", "shape"),
        [(VOLUME, 0, (2, 3)), (VOLUME, 2, (2, 1)), (BATCH, 1, (1, 2)), (ALL, 1, (1, 1))],
    )
    def test_shapes_without_a_reduction(self, pooling, skip, shape):
        value = geo_ratio(probabilities(2, 3, 1), None, [pooling, skip, -1, -1], [1, 0, 0, 1], NONE)
        assert value.shape == shape

    @pytest.mark.parametrize("pooling", [VOLUME, BATCH, ALL])
    def test_gradients(self, pooling):
        sums = probabilities(2, 2, 3).requires_grad_()
        class_weights = torch.tensor([[0.5, 2.0]]).double()

        def ratio(sums: Tensor) -> Tensor:
            weights = [1, -2, 0.5, 0.1, 1, 1, 0, 0.2]
            return geo_ratio(sums, class_weights, [pooling, 0, 0, -1], weights, NONE)

        assert gradcheck(ratio, sums)
        assert gradgradcheck(ratio, sums)

    def test_nothing_over_nothing_is_zero_with_gradient_zero(self):
        sums = torch.zeros(1, 1, 2, requires_grad=True)
        value = ratio_of(sums, ([1, 0, 0], [0, 1, 0]))
        assert value.item() == 0
        assert torch.autograd.grad(value.sum(), sums)[0].count_nonzero() == 0

    def test_something_over_nothing_is_infinite(self):
        assert ratio_of(torch.zeros(1, 1, 1), ([0, 2], [1, 0])).item() == math.inf

    def test_a_sum_of_weight_zero_is_left_out(self):
        assert ratio_of(torch.tensor([[[math.inf, 3.0]]]), ([0, 1, 0], [0, 0, 2])).item() == 1.5

    @pytest.mark.parametrize(
        ("fractions", "weights"),
        [([0, 0, -1, -1], [1] * 4), ([0, 0, -1, -1] * 2, [1] * 6), ([0, 0, -1], [1] * 6), ([], [])],
    )
    def test_rows_must_fit(self, fractions, weights):
        with pytest.raises(
            ValueError, match=r"4 integers and 2 · 3 floats for each fraction, got \d+ and \d+"
        ):
            geo_ratio(torch.zeros(1, 1, 2), None, fractions, weights, NONE)


MEAN = {"count": 1.0}
DICE = {"prediction": 1.0, "target": 1.0, "intersection": -2.0}
TOTAL = {"prediction": 1.0, "target": 1.0, "": 1e-5}

# Each loss as fractions of (weights of the sums above, below); "" is the constant term.
AS_RATIO = {
    "bce": (partial(reference.bce_loss, pos_weight=3.0), [
        ({"cross_entropy_foreground": 3.0, "cross_entropy_background": 1.0}, MEAN)]),
    "dice": (reference.dice_loss, [(DICE, TOTAL)]),
    "dice_smooth": (partial(reference.dice_loss, smooth_nr=1.0, smooth_dr=3.0), [
        ({**DICE, "": 2.0}, {**TOTAL, "": 3.0})]),
    "dice_squared": (partial(reference.dice_loss, squared_pred=True), [
        ({"squared_error": 1.0}, {"prediction_squared": 1.0, "target_squared": 1.0, "": 1e-5})]),
    "jaccard": (partial(reference.dice_loss, jaccard=True), [
        ({"prediction": 2.0, "target": 2.0, "intersection": -4.0},
         {"prediction": 2.0, "target": 2.0, "intersection": -2.0, "": 1e-5})]),
    "dice_soft": (partial(reference.dice_loss, soft_label=True), [({"absolute_error": 1.0}, TOTAL)]),
    "tversky": (partial(reference.tversky_loss, alpha=0.3, beta=0.7), [
        ({"prediction": 0.3, "target": 0.7, "intersection": -1.0},
         {"prediction": 0.3, "target": 0.7, "": 1e-5})]),
    "tversky_soft": (partial(reference.tversky_loss, alpha=0.3, beta=0.7, soft_label=True), [
        ({"prediction": -0.2, "target": 0.2, "absolute_error": 0.5},
         {"prediction": 0.3, "target": 0.7, "": 1e-5})]),
    **{f"fog_{operator}_{norm}": (partial(reference.fog_loss, operator=operator, norm=norm), [
        ({f"first_order_{operator}_{norm}": 1.0}, MEAN)])
        for operator in phi.OPERATORS for norm in psi.NORMS},
    **{f"sog{two}{sign}": (partial(reference.sog_loss, two_sided=bool(two), signed=bool(sign)), [
        ({f"second_order{two}{sign}": 1.0}, MEAN)])
        for two in ("", "_two_sided") for sign in ("", "_signed")},
    "dice_fog": (partial(reference.dice_fog_loss, lambda_dice=0.5, lambda_fog=2.0), [
        ({k: 0.5 * w for k, w in DICE.items()}, TOTAL), ({"first_order_forward_l2": 2.0}, MEAN)]),
    "dice_sog": (partial(reference.dice_sog_loss, lambda_dice=0.5, lambda_sog=2.0), [
        ({k: 0.5 * w for k, w in DICE.items()}, TOTAL), ({"second_order": 2.0}, MEAN)]),
}  # fmt: skip


class TestLossesAreRatiosOfSums:
    @pytest.mark.parametrize("batch", [False, True])
    @pytest.mark.parametrize("name", AS_RATIO)
    def test_value_and_gradient(self, name, batch):
        loss, fractions = AS_RATIO[name]
        shape = (2, 3, 4, 3, 5)
        logits = (4 * probabilities(*shape) - 2).requires_grad_()
        target, mask = probabilities(*shape, seed=8), binary(2, 1, 4, 3, 5, seed=9)
        spacing = (0.7, 1.0, 3.0)

        terms = sorted({term for fraction in fractions for part in fraction for term in part if term})
        sums = geo_sums(
            logits, target, mask, None, terms, "sigmoid", spacing, ignore_index=7, include_background=False
        )
        weights = [part.get(term, 0.0) for f in fractions for part in f for term in [*terms, ""]]
        pooling = BATCH if batch else VOLUME
        by_ratio = geo_ratio(sums, None, [pooling, 0, -1, -1] * len(fractions), weights, NONE)
        options = {"sigmoid": True, "include_background": False, "ignore_index": 7}
        value = loss(logits, target, mask=mask, spacing=spacing, batch=batch, reduction="none", **options)
        assert value.shape == (1 if batch else 2, 2, 1, 1, 1)
        torch.testing.assert_close(value.flatten(1), by_ratio)
        slopes = [torch.autograd.grad((v.flatten() ** 2).sum(), logits)[0] for v in (value, by_ratio)]
        torch.testing.assert_close(*slopes)

    @pytest.mark.parametrize("name", ["boundary", "hausdorff_dt"])
    def test_map_losses(self, name):
        s, g = probabilities(1, 2, 4, 5, 3).requires_grad_(), binary(1, 2, 4, 5, 3)
        if name == "boundary":
            loss, term, distance = reference.boundary_loss, "map_prediction", phi.signed_distance(g)
        else:
            loss, term = reference.hausdorff_dt_loss, "map_squared_error"
            distance = phi.distance(g) ** 2 + phi.distance(s) ** 2
        sums = geo_sums(s, g, None, distance, [term, "count"])
        by_ratio = ratio_of(sums, ([1, 0, 0], [0, 1, 0])).mean()
        value = loss(s, g)
        torch.testing.assert_close(value, by_ratio)
        torch.testing.assert_close(*[torch.autograd.grad(v, s)[0] for v in (value, by_ratio)])

    @pytest.mark.parametrize(
        ("both", "second", "weight"),
        [
            (reference.dice_boundary_loss, reference.boundary_loss, "lambda_boundary"),
            (reference.dice_hausdorff_dt_loss, reference.hausdorff_dt_loss, "lambda_hausdorff"),
        ],
    )
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_combined_map_losses_are_weighted_sums(self, both, second, weight, reduction):
        s, g = probabilities(2, 2, 4, 5), binary(2, 2, 4, 5)
        value = both(s, g, lambda_dice=0.5, reduction=reduction, **{weight: 0.01})
        expected = 0.5 * reference.dice_loss(s, g, reduction=reduction) + 0.01 * second(
            s, g, reduction=reduction
        )
        torch.testing.assert_close(value, expected)

    def test_a_precomputed_map_is_the_computed_one(self):
        s, g = probabilities(1, 2, 4, 5), binary(1, 2, 4, 5)
        given = phi.signed_distance(g, (1.0, 2.0)).requires_grad_()
        value = reference.boundary_loss(s, g, distance_map=given)
        assert value == reference.boundary_loss(s, g, spacing=(1.0, 2.0))
        assert not value.requires_grad, "the map is a constant"

    def test_the_far_policy_punishes_false_positives_of_an_empty_target(self):
        s, g = probabilities(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)
        assert reference.boundary_loss(s, g) == 0
        torch.testing.assert_close(reference.boundary_loss(s, g, empty="far"), 5 * s.mean())


@pytest.mark.parametrize(
    "resolve_axes", [terms.resolve_axes, options.resolve_axes], ids=["ours", "reference"]
)
class TestAxesByName:
    """The library's and the reference's, which are two so that each proves the other."""

    @pytest.mark.parametrize(
        ("axes", "order", "expected"),
        [
            (None, "xyz", None),
            (("sagittal",), "xyz", (0,)),
            (("coronal",), "xyz", (1,)),
            ("axial", "xyz", (2,)),
            ("sagittal", "zyx", (2,)),
            (("coronal", "axial"), "zyx", (1, 0)),
            (2, "zyx", (2,)),
            ((0, 2), "xyz", (0, 2)),
        ],
    )
    def test_axes_by_name(self, resolve_axes, axes, order, expected):
        assert resolve_axes(axes, order, 3) == expected

    @pytest.mark.parametrize(
        ("axes", "order", "dimensions", "message"),
        [
            ("left", "xyz", 3, "axes: .*'left'"),
            ("axial", "xyz", 2, "axes: .*'axial' in 2-D"),
            ((0,), "yxz", 3, "axis_order: .*'yxz'"),
        ],
    )
    def test_bad_axis_names(self, resolve_axes, axes, order, dimensions, message):
        with pytest.raises(ValueError, match=message):
            resolve_axes(axes, order, dimensions)


class TestOptions:
    def test_axis_order_chooses_the_derivative(self):
        g = plane((4, 4, 4), (1.0,) * 3, (0.1, 0.0, 0.0))
        fog = partial(reference.fog_loss, torch.zeros_like(g), g)
        assert fog(axes="sagittal") > 0
        assert fog(axes="sagittal", axis_order="zyx") == 0
        assert fog(axes="axial", axis_order="zyx") == fog(axes=[0])

    @pytest.mark.parametrize(
        ("option", "warning"),
        [
            ({"to_onehot_y": True}, "to_onehot_y=True"),
            ({"softmax": True}, "softmax=True"),
            ({"include_background": False}, "include_background=False"),
        ],
    )
    def test_options_for_several_channels_warn_with_one(self, option, warning):
        s, g = probabilities(1, 1, 3, 3), binary(1, 1, 3, 3)
        with pytest.warns(UserWarning, match=warning):
            value = reference.dice_loss(s, g, **option)
        assert value == reference.dice_loss(s, g)

    def test_channel_weights(self):
        s, g = probabilities(2, 3, 3, 3), binary(2, 3, 3, 3)
        plain = reference.dice_loss(s, g, reduction="none", include_background=False)
        for weight, factor in ((2.0, 2.0), ([1.0, 3.0], torch.tensor([1.0, 3.0]).view(1, 2, 1, 1))):
            weighted = reference.dice_loss(s, g, reduction="none", include_background=False, weight=weight)
            torch.testing.assert_close(weighted, plain * factor)
        for bad in ([1.0, 2.0, 3.0], [-1.0, 1.0]):
            with pytest.raises(ValueError, match="weight: "):
                reference.dice_loss(s, g, include_background=False, weight=bad)


STENCIL = ["count", "first_order_central_l1"]
INPUT, TARGET = torch.rand(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "message", "arguments"),
        [
            (TypeError, "input: .*torch.int64", {"input": torch.ones(1, 1, 2, 2, dtype=torch.int64)}),
            (ValueError, r"input: .*\(4, 5\)", {"input": torch.rand(4, 5)}),
            (ValueError, r"input: .*\(1, 1, 0, 4\)", {"input": torch.rand(1, 1, 0, 4)}),
            (TypeError, "target: expected a tensor, got NoneType", {"target": None}),
            (TypeError, "target: .*complex64", {"target": TARGET.to(torch.complex64)}),
            (ValueError, r"target: .*\(2, 2, 4, 5\)", {"target": torch.zeros(2, 2, 4, 5)}),
            (ValueError, "target: expected device cpu", {"target": TARGET.to("meta")}),
            (ValueError, r"mask: .*\(2, 1, 4, 4\)", {"mask": torch.ones(2, 1, 4, 4)}),
            (ValueError, r"map: .*\(1, 3, 4, 5\)", {"map": torch.ones(1, 3, 4, 5)}),
            (ValueError, "terms: .*'volume'", {"terms": ["count", "volume"]}),
            (ValueError, "terms: ", {"terms": []}),
            (ValueError, r"spacing: expected 2 .*\(1.0,\)", {"terms": STENCIL, "spacing": (1.0,)}),
            (ValueError, "spacing: ", {"terms": STENCIL, "spacing": (1.0, 0.0)}),
            (ValueError, "spacing: ", {"terms": STENCIL, "spacing": (1.0, math.nan)}),
            (ValueError, r"axes: .*0 to 1, got \(2,\)", {"terms": STENCIL, "axes": (2,)}),
            (ValueError, "axes: ", {"terms": STENCIL, "axes": (0, 0)}),
            (ValueError, "axes: ", {"terms": STENCIL, "axes": ()}),
            (ValueError, "include_background: .*1",
             {"input": INPUT[:, :1], "target": TARGET[:, :1], "include_background": False}),
        ],
    )  # fmt: skip
    def test_bad_arguments_of_geo_sums_are_named(self, error, message, arguments):
        good = {"input": INPUT, "target": TARGET, "mask": None, "map": None, "terms": ["count"]}
        with pytest.raises(error, match=message):
            geo_sums(**{**good, **arguments})

    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            ("sigmoid and softmax", {"sigmoid": True, "softmax": True}),
            ("reduction: .*'max'", {"reduction": "max"}),
            ("target: expected a label map", {"to_onehot_y": True}),
            ("target: .*to_onehot_y=False", {"target": TARGET[:, :1]}),
        ],
    )
    def test_bad_arguments_of_a_loss_are_named(self, message, arguments):
        with pytest.raises(ValueError, match=message):
            reference.dice_loss(**{"input": INPUT, "target": TARGET, **arguments})


def test_import_needs_only_torch():
    code = (
        "import sys, geoloss_kernels.reference; "
        "print(sorted({'scipy', 'monai', 'nibabel'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
