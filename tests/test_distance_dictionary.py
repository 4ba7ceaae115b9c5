"""DistanceMapd in MONAI's pipelines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlipd, RandSpatialCropd
from monai.utils import set_determinism

import geoloss_kernels as gk
from geoloss_kernels.distance import DistanceMapd, distance_map, signed_distance_map

SPACING = (0.7, 0.8, 3.0)


def mask() -> torch.Tensor:
    return (torch.rand(2, 8, 9, 10, generator=torch.Generator().manual_seed(0)) < 0.1).float()


def test_adds_a_map_and_keeps_the_sample():
    sample = {"label": mask(), "name": "p1"}
    result = DistanceMapd("label")(sample)
    assert set(sample) == {"label", "name"}
    assert result["label"] is sample["label"]
    assert torch.equal(result["label_distance"], signed_distance_map(mask()[None])[0])


@pytest.mark.parametrize("given", [mask().numpy(), mask().to(torch.uint8), mask().bool()], ids=repr)
def test_takes_arrays_and_any_dtype(given):
    expected = distance_map(mask()[None], SPACING)[0]
    result = DistanceMapd(["label"], kind="both", spacing=SPACING, postfix="d")({"label": given})
    assert torch.equal(result["label_d"], expected)


@pytest.mark.parametrize(
    "given",
    [np.flip(np.flip(mask().numpy(), 1), 1), mask().numpy().astype(">f4"), mask().numpy().astype(">i2")],
    ids=["negative strides", "big-endian", "big-endian integers"],
)
def test_takes_arrays_that_torch_does_not(given):
    before = given.copy()
    result = DistanceMapd("label")({"label": given})["label_distance"]
    assert torch.equal(result, signed_distance_map(mask()[None])[0])
    flipped = DistanceMapd("label")({"label": np.flip(given, 2)})["label_distance"]
    assert torch.equal(flipped, result.flip(2))
    assert np.array_equal(given, before)


def test_an_array_of_no_numbers_is_named():
    with pytest.raises(TypeError, match=r"'label': expected an array of numbers, got <U1"):
        DistanceMapd("label")({"label": np.full((1, 3, 3, 3), "a")})


def test_spacing_and_metadata_of_a_metatensor():
    label = MetaTensor(mask(), affine=torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64)))
    result = DistanceMapd("label", spacing="pixdim")({"label": label})["label_distance"]
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, label.affine)
    torch.testing.assert_close(result.as_tensor(), signed_distance_map(mask()[None], SPACING)[0])


def test_map_moves_with_its_mask_in_a_pipeline():
    set_determinism(0)
    keys = ["label", "label_distance"]
    pipeline = Compose([DistanceMapd("label"), RandFlipd(keys, 1.0, 1), RandSpatialCropd(keys, (4, 5, 6))])
    whole = signed_distance_map(mask()[None])[0]
    sample = pipeline({"label": mask()})
    assert sample["label_distance"].shape == (2, 4, 5, 6)
    inside = sample["label_distance"] <= 0
    assert torch.equal(inside, sample["label"] > 0.5)
    assert set(np.unique(sample["label_distance"])) <= set(np.unique(whole))
    set_determinism(None)


def test_a_loss_takes_the_map():
    target, s = mask()[None], torch.rand(1, 2, 8, 9, 10)
    sample = DistanceMapd("g", spacing=SPACING)({"g": target[0]})
    loss = gk.BoundaryLoss(spacing=SPACING)
    assert torch.equal(loss(s, target, distance_map=sample["g_distance"][None]), loss(s, target))


def test_missing_keys():
    with pytest.raises(KeyError, match="no 'label'"):
        DistanceMapd("label")({"image": mask()})
    assert set(DistanceMapd(["label"], allow_missing_keys=True)({"image": mask()})) == {"image"}


@pytest.mark.parametrize(
    ("message", "arguments"),
    [("kind: expected one of signed, both", {"kind": "inner"}), ("spacing: .*'mm'", {"spacing": "mm"})],
)
def test_bad_arguments_are_named(message, arguments):
    with pytest.raises(ValueError, match=message):
        DistanceMapd("label", **arguments)


def test_spacing_of_a_tensor_without_metadata():
    with pytest.raises(TypeError, match="spacing: 'pixdim' needs metadata, but 'label' is a Tensor"):
        DistanceMapd("label", spacing="pixdim")({"label": mask()})
