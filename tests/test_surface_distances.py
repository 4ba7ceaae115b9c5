"""Distances between surfaces, held to MONAI's and to what can be seen by eye."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from geoloss_kernels.metrics import SurfaceDistances, surface_distances

SHAPE = (18, 20, 14)
SPACING = (0.7, 1.3, 3.0)


def blobs(seed: int, share: float = 0.02) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, bool)
    for corner in generator.integers(0, np.subtract(SHAPE, 5), (3, 3)):
        x, y, z = corner
        mask[x : x + 4, y : y + 5, z : z + 3] = True
    return mask | (generator.random(SHAPE) < share)


@pytest.mark.parametrize("spacing", [None, SPACING])
@pytest.mark.parametrize("seed", range(6))
def test_values_are_those_of_monai(seed: int, spacing: tuple[float, ...] | None) -> None:
    prediction, target = blobs(seed), blobs(seed + 100)
    found = surface_distances(prediction, target, spacing)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, target)]
    edges = (1.0, 1.0, 1.0) if spacing is None else spacing
    hausdorff = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=edges)
    average = compute_average_surface_distance(
        *tensors, include_background=True, symmetric=True, spacing=edges
    )
    assert found.hausdorff_95 == pytest.approx(float(hausdorff), rel=1e-5)
    assert found.average == pytest.approx(float(average), rel=1e-5)


def test_two_voxels_are_as_far_apart_as_their_centres() -> None:
    prediction, target = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    prediction[2, 3, 4], target[5, 3, 6] = 1, 1
    distance = pytest.approx(math.hypot(3 * 0.7, 2 * 3.0))
    assert surface_distances(prediction, target, SPACING) == SurfaceDistances(distance, distance)


def test_the_inside_does_not_count() -> None:
    """A plate of 20 x 20 voxels, moved by two along its normal."""
    target = np.zeros((30, 30, 7), np.uint8)
    target[5:25, 5:25, 3] = 1
    prediction = np.roll(target, 2, axis=2)
    assert surface_distances(prediction, target) == SurfaceDistances(2.0, 2.0)
    assert surface_distances(target, target) == SurfaceDistances(0.0, 0.0)


def test_an_empty_mask_counts_as_far_as_the_volume_reaches() -> None:
    target = blobs(0)
    diagonal = math.sqrt(sum((size * edge) ** 2 for size, edge in zip(SHAPE, SPACING, strict=True)))
    empty = np.zeros(SHAPE, np.uint8)
    for pair in ((empty, target), (target, empty)):
        found = surface_distances(*pair, SPACING)
        assert found == SurfaceDistances(pytest.approx(diagonal), pytest.approx(diagonal))
    worst = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    worst[0][0, 0, 0], worst[1][-1, -1, -1] = 1, 1
    assert surface_distances(*worst, SPACING).hausdorff_95 < diagonal
    assert all(math.isnan(value) for value in vars(surface_distances(empty, empty, SPACING)).values())


def test_two_dimensions() -> None:
    prediction, target = np.zeros((5, 6), bool), np.zeros((5, 6), bool)
    prediction[1, 1], target[1, 4] = True, True
    assert surface_distances(prediction, target, (1.0, 2.0)) == SurfaceDistances(6.0, 6.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, math.nan, 1.0), (1.0, -1.0, 1.0)])
def test_bad_spacing(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="spacing: expected 3 finite positive numbers, got"):
        surface_distances(blobs(0), blobs(1), spacing)


def test_bad_masks() -> None:
    with pytest.raises(ValueError, match="target: expected the prediction's shape"):
        surface_distances(blobs(0), blobs(1)[1:])
    with pytest.raises(ValueError, match="prediction: expected a binary mask"):
        surface_distances(2 * blobs(0), blobs(1))
