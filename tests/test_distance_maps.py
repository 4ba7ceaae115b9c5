"""Distance maps against brute force, the published formulas and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import BoundaryLoss, HausdorffDTLoss
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from geoloss_kernels.distance import distance_map, signed_distance_map


def random_mask(*shape: int, seed: int = 0, fraction: float = 0.3) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < fraction


def brute_force(mask: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """Distance of every voxel of ``mask`` [*spatial] to the nearest voxel outside it, in mm; 0 outside."""
    positions = torch.argwhere(torch.ones_like(mask)).double() * torch.tensor(spacing).double()
    outside = positions[~mask.flatten()]
    return torch.where(mask, torch.cdist(positions, outside).amin(1).view(mask.shape), 0.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 2.0, 3.5), (0.7, 0.7, 3.0)])
def test_equals_brute_force(spacing):
    mask = random_mask(1, 1, 5, 6, 4)
    inside, outside = (brute_force(m, spacing) for m in (mask[0, 0], ~mask[0, 0]))
    target = mask.double()
    torch.testing.assert_close(distance_map(target, spacing)[0, 0], inside + outside)
    expected = torch.where(mask[0, 0], 1.0 - inside, outside)
    torch.testing.assert_close(signed_distance_map(target, spacing)[0, 0], expected)


def test_half_space():
    mask = torch.zeros(1, 1, 6, 3)
    mask[:, :, 3:] = 1
    assert signed_distance_map(mask)[0, 0, :, 1].tolist() == [3, 2, 1, 0, -1, -2]
    assert distance_map(mask)[0, 0, :, 1].tolist() == [3, 2, 1, 1, 2, 3]
    assert signed_distance_map(mask, spacing=(2.0, 1.0))[0, 0, :, 1].tolist() == [6, 4, 2, -1, -3, -5]


def test_single_voxel():
    mask = torch.zeros(1, 1, 5, 5, 5)
    mask[0, 0, 2, 2, 2] = 1
    signed = signed_distance_map(mask)[0, 0]
    assert signed[2, 2, 2] == 0
    torch.testing.assert_close(signed[0, 0, 0].item(), math.sqrt(12), rtol=1e-6, atol=0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 3.0)])
def test_signed_map_is_kervadecs_formula(spacing):
    mask = random_mask(6, 5, 7).numpy()
    outside, inside = (distance_transform_edt(m, sampling=spacing) for m in (~mask, mask))
    expected = outside * ~mask - (inside - 1) * mask
    got = signed_distance_map(torch.from_numpy(mask)[None, None], spacing, dtype=torch.float64)
    np.testing.assert_array_equal(got[0, 0].numpy(), expected)


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 2, 5, 4, 6)])
def test_equals_monai(shape):
    target = random_mask(*shape).float()
    target[0, 0], target[0, 1] = 0, 1
    torch.testing.assert_close(signed_distance_map(target), BoundaryLoss().compute_distance_map(target))
    field = torch.cat([HausdorffDTLoss().distance_field(target[:, [c]]) for c in range(shape[1])], 1)
    torch.testing.assert_close(distance_map(target), field)


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_foreground_is_never_positive(size):
    mask = random_mask(1, 1, 8, 8, fraction=0.6)
    signed = signed_distance_map(mask, (size, 2 * size))
    assert signed[mask].max() <= 0
    assert signed[~mask].min() > 0


class TestMasksWithoutBoundary:
    target = torch.stack([torch.zeros(3, 4), torch.ones(3, 4)])[None]

    @pytest.mark.parametrize("function", [signed_distance_map, distance_map])
    def test_zero(self, function):
        assert function(self.target).count_nonzero() == 0

    def test_far_is_the_diagonal(self):
        assert signed_distance_map(self.target, empty="far").unique().tolist() == [-5, 5]
        assert torch.all(signed_distance_map(self.target, empty="far")[:, 0] == 5)
        assert distance_map(self.target, spacing=(2.0, 2.0), empty="far").unique().tolist() == [10]

    def test_far_is_more_than_any_distance_within_the_volume(self):
        mask = torch.zeros(1, 1, 7, 6, 5)
        mask[0, 0, 0, 0, 0] = 1
        far = signed_distance_map(torch.zeros_like(mask), (1.0, 2.0, 3.0), empty="far")
        assert far.min() > signed_distance_map(mask, (1.0, 2.0, 3.0)).max()

    def test_masks_with_a_boundary_do_not_depend_on_the_policy(self):
        target = random_mask(2, 2, 4, 5)
        assert torch.equal(signed_distance_map(target), signed_distance_map(target, empty="far"))


@pytest.mark.parametrize("function", [signed_distance_map, distance_map])
class TestDtypes:
    @pytest.mark.parametrize(
        "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32]
    )
    def test_distances_are_float32_and_not_truncated(self, function, dtype):
        mask = random_mask(1, 1, 6, 6, 6)
        result = function(mask.to(dtype))
        assert result.dtype == torch.float32
        assert torch.equal(result, function(mask.double()).float())
        assert (result % 1).count_nonzero() > 0

    def test_float64_keeps_its_precision(self, function):
        mask = random_mask(1, 1, 6, 6, 6)
        assert function(mask.double()).dtype == torch.float64
        assert function(mask.double(), dtype=torch.float32).dtype == torch.float32

    def test_is_a_constant(self, function):
        assert not function(torch.rand(1, 1, 3, 3, requires_grad=True)).requires_grad

    @pytest.mark.parametrize(
        ("error", "message", "arguments"),
        [
            (TypeError, "target: expected a tensor, got ndarray", {"target": np.zeros((1, 1, 2, 2))}),
            (ValueError, r"target: .*\(2, 2\)", {"target": torch.zeros(2, 2)}),
            (TypeError, "target: .*complex", {"target": torch.zeros(1, 1, 2, 2, dtype=torch.complex64)}),
            (ValueError, "spacing: expected 2 ", {"spacing": (1.0, 1.0, 1.0)}),
            (ValueError, "spacing: ", {"spacing": (1.0, -1.0)}),
            (ValueError, "empty: .*'ones'", {"empty": "ones"}),
            (TypeError, "dtype: .*int64", {"dtype": torch.int64}),
        ],
    )
    def test_bad_arguments_are_named(self, function, error, message, arguments):
        with pytest.raises(error, match=message):
            function(**{"target": torch.zeros(1, 1, 2, 2), **arguments})
