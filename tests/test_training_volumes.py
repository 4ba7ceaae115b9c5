from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from training_helpers import LAS_AFFINE, MODALITIES, SHAPE, make_arrays, make_subject, write_image

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.imaging.reading import load_mask
from geoloss_kernels.lesions.imaging.writing import save_image
from geoloss_kernels.lesions.subjects.checks import check_subject
from geoloss_kernels.lesions.training.volumes import load_volume

# Voxel axes (I, P, L) with 3, 2 and 1 mm voxels.
PERMUTED_AFFINE = np.array([[0.0, 0, -1, 50], [0, -2, 0, 60], [-3, 0, 0, 70], [0, 0, 0, 1]])


def test_volume_is_in_ras_order_cropped_and_normalised(tmp_path: Path) -> None:
    subject = make_subject(tmp_path / "s", seed=0)
    arrays = make_arrays(seed=0)
    volume = load_volume(subject, MODALITIES)
    head = np.flip(arrays["t1"], axis=0) != 0
    corners = np.argwhere(head)
    box = tuple(slice(low, high + 1) for low, high in zip(corners.min(0), corners.max(0), strict=True))
    assert volume.grid.crop == box
    assert volume.image.shape == (3, *head[box].shape)
    assert volume.image.dtype == torch.float32
    assert volume.mask is not None
    assert np.array_equal(volume.mask[0].numpy(), np.flip(arrays["mask"], axis=0)[box])
    for channel in volume.image.numpy():
        inside = channel[head[box]]
        assert inside.mean() == pytest.approx(0, abs=1e-4)
        assert inside.std() == pytest.approx(1, abs=1e-4)
        assert not channel[~head[box]].any()


@pytest.mark.parametrize("affine", [LAS_AFFINE, PERMUTED_AFFINE])
def test_values_return_to_their_voxels(affine: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    whole = Grid(SHAPE, affine)
    assert np.array_equal(whole.to_file(whole.to_volume(values)), values)
    cropped = Grid(SHAPE, affine, crop=(slice(2, 9), slice(3, 12), slice(0, 7)))
    restored = cropped.to_file(cropped.to_volume(values))
    kept = restored != 0
    assert kept.sum() == 7 * 9 * 7
    assert np.array_equal(restored[kept], values[kept])


def test_first_axis_runs_to_the_right_and_spacing_follows_the_axes() -> None:
    grid = Grid(SHAPE, PERMUTED_AFFINE)
    assert grid.spacing == (1, 2, 3)
    assert grid.voxel_volume == pytest.approx(6)
    along_inferior, along_posterior, along_left = np.indices(SHAPE)
    assert (np.diff(grid.to_volume(along_left), axis=0) == -1).all()
    assert (np.diff(grid.to_volume(along_posterior), axis=1) == -1).all()
    assert (np.diff(grid.to_volume(along_inferior), axis=2) == -1).all()


def test_saved_image_keeps_grid_and_space(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), LAS_AFFINE)
    image.set_sform(LAS_AFFINE, 4)
    nib.save(image, tmp_path / "in.nii.gz")
    subject = make_subject(tmp_path / "s", seed=0)
    volume = load_volume(type(subject)("s", {"t1": tmp_path / "in.nii.gz"}), ["t1"])
    save_image(tmp_path / "out.nii.gz", np.zeros(SHAPE, np.uint8), volume.grid)
    saved = nib.Nifti1Image.from_filename(tmp_path / "out.nii.gz")
    assert saved.shape == SHAPE
    assert np.array_equal(saved.affine, LAS_AFFINE)
    assert saved.get_data_dtype() == np.uint8
    assert int(saved.header["sform_code"]) == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (
            np.ones((24, 28, 19), np.float32),
            LAS_AFFINE,
            r"t2.nii.gz: shape \(24, 28, 19\) differs from .*t1.nii.gz",
        ),
        (
            np.ones(SHAPE, np.float32),
            PERMUTED_AFFINE,
            r"t2.nii.gz: affine differs by up to .* mm from that of",
        ),
        (np.ones((*SHAPE, 2), np.float32), LAS_AFFINE, r"t2.nii.gz: expected a 3-D image, got shape"),
    ],
)
def test_headers_that_do_not_fit(
    tmp_path: Path, values: np.ndarray, affine: np.ndarray, message: str
) -> None:
    subject = make_subject(tmp_path / "s", seed=0)
    write_image(subject.images["t2"], values, affine)
    for check in (check_subject, load_volume):
        with pytest.raises(InputError, match=message):
            check(subject, MODALITIES)


def test_voxels_that_do_not_fit(tmp_path: Path) -> None:
    subject = make_subject(tmp_path / "s", seed=0)
    write_image(subject.images["t2"], np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(InputError, match=r"t2.nii.gz: expected finite voxels"):
        load_volume(subject, MODALITIES)
    write_image(subject.images["t2"], np.zeros(SHAPE, np.float32))
    with pytest.raises(InputError, match=r"t2.nii.gz: expected an image, got zeros only"):
        load_volume(subject, MODALITIES)
    subject.images["t2"].write_bytes(subject.images["t1"].read_bytes()[:3000])
    with pytest.raises(InputError, match=r"t2.nii.gz: cannot read the voxels"):
        load_volume(subject, MODALITIES)
    subject.images["t2"].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"t2.nii.gz: not a readable NIfTI file"):
        load_volume(subject, MODALITIES)


def test_masks_need_a_label_unless_binary(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.int16)
    labels[3, 4, 5], labels[6, 7, 8] = 1, 2
    path = write_image(tmp_path / "mask.nii.gz", labels)
    with pytest.raises(
        InputError, match=r"mask.nii.gz: expected a mask of 0 and 1, got values 0, 1, 2; give lesion_label"
    ):
        load_mask(path)
    assert np.argwhere(load_mask(path, lesion_label=2)).tolist() == [[6, 7, 8]]
    only_two = write_image(tmp_path / "two.nii.gz", labels * (labels == 2))
    with pytest.raises(InputError, match="got values 0, 2"):
        load_mask(only_two)
    assert not load_mask(write_image(tmp_path / "none.nii.gz", np.zeros(SHAPE, np.float32))).any()


def test_check_subject_reads_the_mask(tmp_path: Path) -> None:
    subject = make_subject(tmp_path / "s", seed=0)
    assert check_subject(subject, MODALITIES) == make_arrays(seed=0)["mask"].sum()
    assert subject.mask is not None
    write_image(subject.mask, np.full(SHAPE, 3, np.uint8))
    with pytest.raises(InputError, match="expected a mask of 0 and 1, got values 3"):
        check_subject(subject, MODALITIES)
    write_image(subject.mask, np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"mask.nii.gz: shape \(4, 4, 4\) differs"):
        check_subject(subject, MODALITIES)
