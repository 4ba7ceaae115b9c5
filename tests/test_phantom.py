"""The made-up subjects: statistics, reproducibility and files."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from geoloss_kernels.lesions.datasets.anatomy import make_anatomy
from geoloss_kernels.lesions.datasets.fields import smooth_noise
from geoloss_kernels.lesions.datasets.scans import MODALITIES, Scan
from geoloss_kernels.lesions.datasets.simulated_lesions import MINIMUM_VOXELS, make_lesions, make_mimics
from geoloss_kernels.lesions.demo.phantom import DIFFICULTY, make_phantom, write_phantoms

ANY_CONNECTION = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def phantoms() -> list[Scan]:
    return [make_phantom(seed=0, index=index) for index in range(4)]


def test_smooth_noise_has_zero_mean_unit_variance_and_the_asked_smoothness():
    generator = np.random.default_rng(0)
    for sigma in (1.5, 6.0):
        field = smooth_noise((40, 50, 60), sigma, generator)
        assert field.shape == (40, 50, 60)
        assert field.mean() == pytest.approx(0, abs=1e-4)
        assert field.std() == pytest.approx(1, abs=1e-3)
        # The correlation of Gaussian-filtered white noise at a lag of 2 sigma is exp(-1).
        lag = int(2 * sigma)
        assert (field[lag:] * field[:-lag]).mean() == pytest.approx(np.exp(-1), abs=0.15)


def test_tissues_share_the_brain_and_nothing_lies_outside_it():
    anatomy = make_anatomy(3.0, np.random.default_rng(0))
    total = anatomy.csf + anatomy.grey + anatomy.white
    np.testing.assert_allclose(total[anatomy.brain], 1, atol=1e-5)
    assert not total[~anatomy.brain].any()
    litres = anatomy.brain.sum() * anatomy.voxel_size**3 / 1e6
    assert 1.5 < litres < 2.5


def test_anatomy_lies_in_mni_space():
    anatomy = make_anatomy(3.0, np.random.default_rng(1))
    assert nibabel.aff2axcodes(anatomy.affine) == ("R", "A", "S")
    ventricles = np.argwhere(anatomy.ventricle_distance == 0)
    centre = anatomy.affine[:3, :3] @ ventricles.mean(0) + anatomy.affine[:3, 3]
    # The lateral ventricles surround the midline, a little behind and above the anterior commissure.
    np.testing.assert_allclose(centre, (0, -10, 14), atol=12)


def test_lesion_load_and_count_are_those_of_patients(phantoms):
    for phantom in phantoms:
        _, count = ndimage.label(phantom.mask, ANY_CONNECTION)
        millilitres = phantom.mask.sum() * 1.5**3 / 1000
        assert 10 <= count <= 200
        assert 0.3 <= millilitres <= 60


def test_no_lesion_is_smaller_than_the_minimum(phantoms):
    for phantom in phantoms:
        labels, _ = ndimage.label(phantom.mask, ANY_CONNECTION)
        assert np.bincount(labels.ravel())[1:].min() >= MINIMUM_VOXELS


def test_lesions_lie_in_the_white_matter_inside_the_brain():
    generator = np.random.default_rng(3)
    anatomy = make_anatomy(2.0, generator)
    lesions = make_lesions(anatomy, DIFFICULTY, generator)
    assert not (lesions.mask & ~anatomy.brain).any()
    assert lesions.severity.min() >= 0
    assert lesions.severity.max() <= 1
    assert anatomy.white[lesions.mask].mean() > 0.7


def test_the_reference_is_near_the_lesions_but_not_exact():
    generator = np.random.default_rng(4)
    anatomy = make_anatomy(1.5, generator)
    lesions = make_lesions(anatomy, DIFFICULTY, generator)
    visible = lesions.severity > 0.4
    dice = 2 * (visible & lesions.mask).sum() / (visible.sum() + lesions.mask.sum())
    assert 0.7 < dice < 0.97


def test_mimics_are_bright_and_lie_inside_the_brain():
    generator = np.random.default_rng(5)
    anatomy = make_anatomy(2.0, generator)
    mimics = make_mimics(anatomy, generator)
    assert 0 <= mimics.min() < 0.5 < mimics.max() <= 1
    assert not mimics[~anatomy.brain].any()


def test_lesions_of_white_matter_are_brighter_on_flair_and_t2_and_darker_on_t1(phantoms):
    for index, phantom in enumerate(phantoms):
        white = make_anatomy(1.5, np.random.default_rng([0, index])).white > 0.9
        healthy = white & ~ndimage.binary_dilation(phantom.mask, iterations=2)
        ratio = {
            name: image[white & phantom.mask].mean() / image[healthy].mean()
            for name, image in phantom.images.items()
        }
        assert ratio["flair"] > 1.2
        assert ratio["t2"] > 1.1
        assert ratio["t1"] < 0.9


def test_images_are_zero_outside_the_brain_and_cover_the_mask(phantoms):
    for phantom in phantoms:
        brain = phantom.images["t1"] > 0
        for image in phantom.images.values():
            np.testing.assert_array_equal(image > 0, brain)
        assert not (phantom.mask & ~brain).any()


def test_a_seed_gives_the_same_voxels_and_another_seed_or_index_gives_others():
    first, again = make_phantom(5, 1, 3.0), make_phantom(5, 1, 3.0)
    for name in MODALITIES:
        np.testing.assert_array_equal(first.images[name], again.images[name])
    np.testing.assert_array_equal(first.mask, again.mask)
    for other in (make_phantom(6, 1, 3.0), make_phantom(5, 2, 3.0)):
        assert (first.mask != other.mask).any()
        assert (first.images["t1"] > 0).mean() == pytest.approx((other.images["t1"] > 0).mean(), rel=0.2)
        assert np.abs(first.images["t1"] - other.images["t1"]).mean() > 0.01


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((-1, 0), "seed"), ((0, -1), "index"), ((0, 0, 0.5), "voxel_size"), ((0, 0, 9.0), "voxel_size")],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        make_phantom(*arguments)


def test_files_hold_the_subjects_on_one_grid(tmp_path):
    table = write_phantoms(tmp_path, {"train": 1, "test": 1}, seed=7, voxel_size=3.0)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train", "test"]
    for index, row in enumerate(rows):
        expected = make_phantom(7, index, 3.0)
        for key in (*MODALITIES, "mask"):
            image = nibabel.load(tmp_path / row[key])
            np.testing.assert_array_equal(image.affine, expected.affine)
            np.testing.assert_allclose(image.header.get_zooms(), (3.0, 3.0, 3.0))
            assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / row["mask"]).dataobj), expected.mask)
        stored = nibabel.load(tmp_path / row["flair"]).get_fdata()
        np.testing.assert_allclose(stored / 1000, expected.images["flair"], atol=1.1e-3)
        np.testing.assert_array_equal(stored > 0, expected.images["flair"] > 0)
    assert {path.name for path in tmp_path.iterdir()} == {"subjects.csv", "phantom-00", "phantom-01"}


def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    counts = {"train": 2}
    for workers in (1, 2):
        write_phantoms(tmp_path / str(workers), counts, voxel_size=4.0, workers=workers)
    for path in sorted((tmp_path / "1").rglob("*.nii.gz")):
        twin = tmp_path / "2" / path.relative_to(tmp_path / "1")
        np.testing.assert_array_equal(nibabel.load(path).get_fdata(), nibabel.load(twin).get_fdata())
