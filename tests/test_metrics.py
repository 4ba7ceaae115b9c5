from __future__ import annotations

import math

import lesion_metrics.metrics as peer
import numpy as np
import pytest
import torch
from scipy import ndimage

from geoloss_kernels.metrics import (
    LesionMetrics,
    dice_coefficient,
    label_lesions,
    lesion_metrics,
    summarise,
)
from geoloss_kernels.metrics.lesions import lesion_f1


def line(*voxels: int, length: int = 12) -> np.ndarray:
    """A 3-D mask that lies on a line."""
    mask = np.zeros((1, 1, length), np.uint8)
    mask[0, 0, list(voxels)] = 1
    return mask


def random_blobs(generator: np.random.Generator, shape: tuple[int, ...], level: float) -> np.ndarray:
    return ndimage.gaussian_filter(generator.normal(size=shape), 1.2) > level


def test_counts_of_a_hand_made_case() -> None:
    reference = line(0, 1, 4, 5, 6, 9)
    prediction = line(1, 4, 11)
    metrics = lesion_metrics(prediction, reference)
    assert metrics == LesionMetrics(
        predicted_voxels=3,
        reference_voxels=6,
        common_voxels=2,
        predicted_lesions=3,
        reference_lesions=3,
        detected_lesions=2,
        confirmed_lesions=2,
    )
    assert metrics.dice == pytest.approx(4 / 9)
    assert metrics.ltpr == pytest.approx(2 / 3)
    assert metrics.lppv == pytest.approx(2 / 3)
    assert metrics.lf1 == pytest.approx(2 / 3)


def test_one_prediction_over_several_lesions_makes_the_paper_lppv_exceed_one() -> None:
    metrics = lesion_metrics(line(2, 3, 4, 5, 6), line(2, 4, 6))
    assert metrics.ltpr == 1
    assert metrics.lppv == 3
    assert metrics.lppv_predicted == 1
    assert metrics.lf1 == pytest.approx(1.5)
    assert metrics.lf1_predicted == 1


def test_fragments_of_one_lesion_lower_the_paper_lppv_only() -> None:
    metrics = lesion_metrics(line(2, 4, 6), line(2, 3, 4, 5, 6))
    assert (metrics.ltpr, metrics.lppv, metrics.lppv_predicted) == (1, pytest.approx(1 / 3), 1)


@pytest.mark.parametrize(("connectivity", "lesions"), [(6, 4), (18, 3), (26, 2)])
def test_connectivity(connectivity: int, lesions: int) -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True  # share an edge
    mask[3, 3, 3] = mask[4, 4, 4] = True  # share a corner
    assert label_lesions(mask, connectivity)[1] == lesions
    assert lesion_metrics(mask, mask, connectivity).reference_lesions == lesions


@pytest.mark.parametrize(("connectivity", "lesions"), [(4, 2), (8, 1)])
def test_connectivity_in_two_dimensions(connectivity: int, lesions: int) -> None:
    assert lesion_metrics(np.eye(2), np.eye(2), connectivity).reference_lesions == lesions


def test_min_size_removes_lesions_on_both_sides_and_keeps_the_dice() -> None:
    reference, prediction = line(0, 2, 3, 6, 7, 8), line(0, 6, 7, 11)
    all_lesions, large_lesions = (lesion_metrics(prediction, reference, min_size=size) for size in (0, 2))
    assert (all_lesions.reference_lesions, all_lesions.predicted_lesions) == (3, 3)
    assert (large_lesions.reference_lesions, large_lesions.predicted_lesions) == (2, 1)
    assert large_lesions.detected_lesions == 1
    assert large_lesions.dice == all_lesions.dice


def test_min_overlap_voxels() -> None:
    reference, prediction = line(0, 1, 2, 5, 6, 7), line(2, 5, 6)
    assert lesion_metrics(prediction, reference).detected_lesions == 2
    assert lesion_metrics(prediction, reference, min_overlap_voxels=2).detected_lesions == 1
    assert lesion_metrics(prediction, reference, min_overlap_voxels=3).detected_lesions == 0


def test_label_map_is_numbered_without_gaps() -> None:
    labels, count = label_lesions(line(0, 2, 3, 5, 7, 8), min_size=2)
    assert count == 2
    assert labels[0, 0].tolist() == [0, 0, 1, 1, 0, 0, 0, 2, 2, 0, 0, 0]


def test_undefined_values_are_nan() -> None:
    empty, lesion = line(), line(3)
    both = lesion_metrics(empty, empty)
    assert all(
        math.isnan(value) for value in (both.dice, both.ltpr, both.lppv, both.lppv_predicted, both.lf1)
    )
    missed = lesion_metrics(empty, lesion)
    assert (missed.dice, missed.ltpr, missed.lf1) == (0, 0, 0)
    assert math.isnan(missed.lppv)
    invented = lesion_metrics(lesion, empty)
    assert (invented.dice, invented.lppv, invented.lf1) == (0, 0, 0)
    assert math.isnan(invented.ltpr)


@pytest.mark.parametrize("shape", [(24, 30), (14, 18, 16)])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_lesion_metrics_package(shape: tuple[int, ...], seed: int) -> None:
    generator = np.random.default_rng(seed)
    prediction, reference = (random_blobs(generator, shape, level) for level in (0.25, 0.2))
    ours = lesion_metrics(prediction, reference, connectivity=26 if len(shape) == 3 else 8)
    assert 0 < ours.detected_lesions < ours.reference_lesions
    assert ours.dice == pytest.approx(peer.dice(prediction, reference), abs=0)
    assert ours.ltpr == pytest.approx(peer.ltpr(prediction, reference), abs=0)
    assert 1 - ours.lppv_predicted == pytest.approx(peer.lfdr(prediction, reference), abs=1e-15)
    assert ours.predicted_lesions == peer.iou_per_lesion(prediction, reference, return_count=True)[1]


def test_dice_of_tensors() -> None:
    prediction = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    target = torch.tensor([[1, 0, 1, 0]])
    assert dice_coefficient(prediction, target) == 0.5
    assert math.isnan(dice_coefficient(torch.zeros(2, 2), torch.zeros(2, 2)))


def test_macro_summary_skips_nan_and_takes_lf1_from_the_means() -> None:
    subjects = [
        lesion_metrics(line(0, 4), line(0, 2)),
        lesion_metrics(line(0), line(0)),
        lesion_metrics(line(), line(5)),
    ]
    summary = summarise(subjects)
    assert summary.subjects == 3
    assert summary.dice == pytest.approx((0.5 + 1 + 0) / 3)
    assert summary.ltpr == pytest.approx((0.5 + 1 + 0) / 3)
    assert summary.lppv == pytest.approx((0.5 + 1) / 2)
    assert summary.lf1 == pytest.approx(2 * 0.5 * 0.75 / 1.25)


def test_pooled_summary_divides_summed_counts() -> None:
    subjects = [lesion_metrics(line(0, 4, 6), line(0, 2)), lesion_metrics(line(0), line(0))]
    summary = summarise(subjects, "pooled")
    assert (summary.dice, summary.ltpr, summary.lppv) == (
        pytest.approx(4 / 7),
        pytest.approx(2 / 3),
        pytest.approx(1 / 2),
    )
    assert math.isnan(summarise([]).dice)
    assert math.isnan(summarise([], "pooled").dice)


@pytest.mark.parametrize(
    ("lppv", "ltpr", "printed"),
    [
        (0.580, 0.834, 0.684),
        (0.627, 0.863, 0.726),
        (0.592, 0.898, 0.714),
        (0.602, 0.889, 0.718),
        (0.586, 0.862, 0.698),
        (0.606, 0.857, 0.710),
        (0.600, 0.855, 0.705),
        (0.418, 0.708, 0.526),
        (0.666, 0.873, 0.756),
    ],
)
def test_f1_of_the_paper_rows(lppv: float, ltpr: float, printed: float) -> None:
    assert lesion_f1(ltpr, lppv) == pytest.approx(printed, abs=1.1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction": line(1) * 2}, "prediction: expected a binary mask"),
        ({"target": line(1) * 0.5}, "target: expected a binary mask"),
        ({"target": line(1, length=5)}, "target: expected the prediction's shape"),
        ({"connectivity": 8}, "connectivity: expected one of"),
        ({"min_overlap_voxels": 0}, "min_overlap_voxels: expected at least 1"),
    ],
)
def test_errors_name_the_argument(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lesion_metrics(**{"prediction": line(1), "target": line(1), **arguments})


def test_other_errors() -> None:
    with pytest.raises(ValueError, match="mask: expected 2 or 3 dimensions"):
        label_lesions(np.ones(3))
    with pytest.raises(ValueError, match="aggregate: expected 'macro' or 'pooled'"):
        summarise([], "median")  # type: ignore[arg-type]
