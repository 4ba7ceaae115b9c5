"""Targets that no loss would complain about."""

from __future__ import annotations

import pytest
import torch

from geoloss_kernels.checks import check_target


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32])
def test_labels_of_channels_pass(dtype: torch.dtype) -> None:
    target = torch.tensor([0, 1, 2, 2, 0]).to(dtype)[None, None]
    check_target(target, 3, to_onehot_y=True)
    with pytest.raises(
        ValueError, match=r"target: expected labels 0 to 1, one for each channel, got 2(\.0)? in 2 of 5"
    ):
        check_target(target, 2, to_onehot_y=True)


@pytest.mark.parametrize(
    ("values", "dtype", "shown"),
    [
        ([0, 1, 255], torch.uint8, "255"),
        ([0, -1, 2], torch.int64, "-1"),
        ([0.0, 0.9999, 1.0], torch.float64, "0.9999"),
        ([0.0, float("nan"), 1.0], torch.float32, "nan"),
        ([0.0, 1e9, float("inf")], torch.float32, "1000000000.0, inf"),
    ],
)
def test_labels_without_a_channel_are_named(values: list[float], dtype: torch.dtype, shown: str) -> None:
    with pytest.raises(ValueError, match=f"got {shown} in"):
        check_target(torch.tensor(values, dtype=dtype), 3, to_onehot_y=True)


def test_an_ignored_label_is_none_of_them() -> None:
    target = torch.tensor([0, 1, 255, 254], dtype=torch.uint8)
    with pytest.raises(ValueError, match="or 255 to ignore, got 254 in 1 of 4 voxels"):
        check_target(target, 2, to_onehot_y=True, ignore_index=255)
    check_target(target[:3], 2, to_onehot_y=True, ignore_index=255)


def test_many_values_are_cut_short() -> None:
    with pytest.raises(ValueError, match="got 2, 3, 4, 5, 6, 7 and 92 more in 98 of 100 voxels"):
        check_target(torch.arange(100), 2, to_onehot_y=True)


def test_probabilities_and_masks() -> None:
    check_target(torch.tensor([0.0, 0.3, 1.0]), 2)
    check_target(torch.tensor([True, False]), 1)
    check_target(torch.tensor([True, False]), 2, to_onehot_y=True)
    check_target(torch.tensor([0, 1]), 1, to_onehot_y=True)
    for one_channel in (2, 1.0001, -0.1):
        with pytest.raises(ValueError, match="target: expected values from 0 to 1, got"):
            check_target(torch.tensor([0.0, one_channel]), 1, to_onehot_y=True)
    with pytest.raises(ValueError, match="expected real values"):
        check_target(torch.zeros(3, dtype=torch.complex64), 1)
    with pytest.raises(ValueError, match="channels: expected at least 1, got 0"):
        check_target(torch.zeros(3), 0)
