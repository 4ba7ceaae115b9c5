"""The data sets like the paper's: voxels, splits, reproducibility, and what happens to a half-made folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.datasets import DatasetRecipe, Difficulty, generation, make_dataset, transplants
from geoloss_kernels.lesions.datasets.anatomy import make_anatomy, template
from geoloss_kernels.lesions.datasets.generation import CARD, make_plans, make_subject
from geoloss_kernels.lesions.datasets.label_maps import deform_label_map, read_label_map
from geoloss_kernels.lesions.datasets.mni_registration import register_to_mni, transformed
from geoloss_kernels.lesions.datasets.recipe import KINDS
from geoloss_kernels.lesions.datasets.scans import MODALITIES, Acquisition, make_scan
from geoloss_kernels.lesions.datasets.simulated_lesions import MINIMUM_VOXELS, make_lesions
from geoloss_kernels.lesions.datasets.transplants import transplant_lesions
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import exclusive
from geoloss_kernels.lesions.subjects.layouts import load_subjects

STEP = 3  # of the template's 1 mm voxels makes one voxel of a test's label map
CSF, GREY, WHITE, VENTRICLE, SKULL = 24, 3, 2, 4, 165
LESIONS_IN_MNI = ((-26, -30, 28), (28, 10, 26), (-24, 30, 14), (30, -44, 20))


def silent(message: str) -> None:
    """A log that nobody reads."""


def template_labels() -> np.ndarray:
    """The template as FreeSurfer's numbers, in a skull."""
    grey, white, csf = template()[0].values[:, ::STEP, ::STEP, ::STEP]
    brain = grey + white + csf > 0.5
    labels = np.choose(np.argmax(np.stack([csf, grey, white]), 0), (CSF, GREY, WHITE)) * brain
    ventricle_distance = template()[1].at(template_points(labels.shape))[0]
    labels[(ventricle_distance == 0) & (labels == CSF)] = VENTRICLE
    labels[ndimage.binary_dilation(brain, iterations=2) & ~brain] = SKULL
    return labels


def template_points(shape: tuple[int, ...]) -> np.ndarray:
    origin = template()[0].origin.reshape(3, 1, 1, 1)
    return (STEP * np.indices(shape) + origin).astype(np.float32)


def deepest_white_voxel(labels: np.ndarray) -> np.ndarray:
    depth = ndimage.distance_transform_edt(labels == WHITE)
    return np.array(np.unravel_index(np.argmax(depth), labels.shape))


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)
    return path


def write_label_map(path: Path, voxel_size: float) -> Path:
    """The template as another person's label map, larger by voxel_size / STEP, stored in LIA+ orientation.

    Its deepest voxel of white matter has no label, and a voxel of grey matter lies astray in a corner.
    """
    labels = template_labels()
    labels[1, 1, 1] = GREY
    labels[tuple(deepest_white_voxel(labels))] = 0
    stored = labels[::-1, :, ::-1].transpose(0, 2, 1)
    affine = voxel_size * np.array([[-1.0, 0, 0, 9], [0, 0, 1, -4], [0, -1, 0, 7], [0, 0, 0, 1 / voxel_size]])
    return write_nifti(path, stored, affine)


def write_lesion_mask(path: Path, radius: float) -> Path:
    """Balls in the white matter of the MNI space, stored at 2 mm in LAS+ orientation."""
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    points = np.tensordot(affine[:3, :3], np.indices((91, 109, 91)), 1) + affine[:3, 3].reshape(3, 1, 1, 1)
    centres = np.array(LESIONS_IN_MNI, dtype=float).reshape(-1, 3, 1, 1, 1)
    mask = (((points - centres) ** 2).sum(1) < radius**2).any(0)
    return write_nifti(path, mask, affine)


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of label maps and of lesion masks, three of each."""
    root = tmp_path_factory.mktemp("donors")
    for number in range(3):
        write_label_map(root / "anatomies" / f"person{number}.nii.gz", 2.9 + 0.1 * number)
        write_lesion_mask(root / "masks" / f"patient{number}.nii.gz", 6.0 + number)
    return {"anatomies": root / "anatomies", "lesion_masks": root / "masks"}


@pytest.fixture(scope="module")
def simulated() -> DatasetRecipe:
    return DatasetRecipe("ge30", subjects=4, seed=3, voxel_scale=4.0)


@pytest.fixture(scope="module")
def real(donors: Mapping[str, Path]) -> DatasetRecipe:
    return DatasetRecipe("si170", subjects=3, seed=1, voxel_scale=4.0, **donors)


@pytest.fixture(scope="module")
def simulated_folder(simulated: DatasetRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    make_dataset(folder, simulated, log=silent)
    return folder


@pytest.fixture(scope="module")
def real_folder(real: DatasetRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    make_dataset(folder, real, log=silent)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(("like", "sizes"), [("ge30", (15, 5, 10)), ("si170", (119, 17, 34))])
def test_by_default_the_splits_are_the_papers(like: str, sizes: tuple[int, int, int]) -> None:
    assert tuple(DatasetRecipe(like).split_sizes().values()) == sizes


@pytest.mark.parametrize("like", KINDS)
@pytest.mark.parametrize("subjects", range(3, 40))
def test_other_numbers_of_subjects_keep_the_proportions(like: str, subjects: int) -> None:
    sizes = DatasetRecipe(like, subjects=subjects).split_sizes().values()
    assert sum(sizes) == subjects
    paper = KINDS[like].splits
    for size, paper_size in zip(sizes, paper, strict=True):
        assert size >= 1
        assert abs(size - subjects * paper_size / sum(paper)) < 1.5


def test_the_folder_gives_the_splits_back(simulated_folder: Path) -> None:
    subjects = load_subjects(simulated_folder)
    assert {subject.name: subject.split for subject in subjects} == {
        "ge30_000": "train",
        "ge30_001": "train",
        "ge30_002": "validation",
        "ge30_003": "test",
    }
    assert all(tuple(subject.images) == MODALITIES for subject in subjects)
    assert not [name for name in files_of(simulated_folder) if "/." in name]


@pytest.mark.parametrize(
    ("folder", "voxel_size"), [("simulated_folder", (2.8, 2.8, 12.0)), ("real_folder", (4.0, 4.0, 4.0))]
)
def test_files_hold_images_and_masks_on_one_grid(
    folder: str, voxel_size: tuple[float, float, float], request: pytest.FixtureRequest
) -> None:
    for subject in load_subjects(request.getfixturevalue(folder)):
        mask = nibabel.load(subject.mask)
        np.testing.assert_allclose(mask.header.get_zooms(), voxel_size, rtol=1e-6)
        assert nibabel.aff2axcodes(mask.affine) == ("R", "A", "S")
        lesions = np.asarray(mask.dataobj)
        assert set(np.unique(lesions)) == {0, 1}
        labels, _ = ndimage.label(lesions, np.ones((3, 3, 3)))
        assert np.bincount(labels.ravel())[1:].min() >= MINIMUM_VOXELS
        for path in subject.images.values():
            image = nibabel.load(path)
            np.testing.assert_array_equal(image.affine, mask.affine)
            values = np.asarray(image.dataobj)
            assert (values[lesions > 0] > 0).all()
            litres = (values > 0).sum() * np.prod(voxel_size) / 1e6
            assert 1.2 < litres < 2.6


def test_the_card_holds_the_recipe(real: DatasetRecipe, real_folder: Path) -> None:
    card = json.loads((real_folder / CARD).read_text())
    assert card["recipe"]["like"] == "si170"
    assert card["recipe"]["seed"] == 1
    assert card["recipe"]["anatomies"] == [f"person{number}.nii.gz" for number in range(3)]
    assert card["recipe"]["difficulty"]["lesion_flair"] == real.difficulty.lesion_flair
    assert card["splits"] == {"train": 1, "validation": 1, "test": 1}
    assert set(card["sources"]) == {"si170_000", "si170_001", "si170_002"}
    assert str(real.anatomies) not in json.dumps(card)


def test_voxels_do_not_depend_on_the_number_of_workers(
    real: DatasetRecipe, real_folder: Path, tmp_path: Path
) -> None:
    make_dataset(tmp_path, real, workers=2, log=silent)
    assert files_of(tmp_path) == files_of(real_folder)


def test_a_subject_made_alone_is_that_of_the_data_set(
    simulated: DatasetRecipe, simulated_folder: Path
) -> None:
    plan = make_plans(simulated)[2]
    scan = make_subject(simulated, plan)
    np.testing.assert_array_equal(
        scan.mask, nibabel.load(simulated_folder / "labelsTr" / f"{plan.name}.nii.gz").get_fdata()
    )
    flair = nibabel.load(simulated_folder / "imagesTr" / f"{plan.name}_0002.nii.gz").get_fdata()
    np.testing.assert_allclose(flair / 1000, scan.images["flair"], atol=1.1e-3)
    other_seed = make_subject(replace(simulated, seed=4), plan)
    assert (other_seed.mask != scan.mask).any()


def test_an_interrupted_data_set_is_finished(
    simulated: DatasetRecipe, simulated_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "begun"
    shutil.copytree(simulated_folder, folder)
    for name in ("dataset.json", "splits_final.json", "labelsTr/ge30_001.nii.gz"):
        (folder / name).unlink()
    (folder / "labelsTr" / ".77.ge30_001.nii.gz").write_bytes(b"half a fi")
    kept = folder / "labelsTr" / "ge30_000.nii.gz"
    written = kept.stat().st_mtime_ns
    log: list[str] = []
    subjects = make_dataset(folder, simulated, log=log.append)
    assert len(subjects) == 4
    assert log[0] == "3 of 4 subjects are there already"
    assert log[1].startswith("ge30_001: train, ")
    assert kept.stat().st_mtime_ns == written
    assert files_of(folder) == files_of(simulated_folder)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 9}, "seed is 3 there, not 9"),
        ({"voxel_scale": 2.0}, "voxel_scale is 4.0 there, not 2.0"),
        ({"difficulty": Difficulty(noise=0.1)}, "noise is 0.03 there, not 0.1"),
    ],
)
def test_a_data_set_of_another_recipe_is_refused(
    change: dict[str, Any], difference: str, simulated: DatasetRecipe, simulated_folder: Path
) -> None:
    before = files_of(simulated_folder)
    with pytest.raises(InputError, match=f"holds another data set: {difference}"):
        make_dataset(simulated_folder, replace(simulated, **change), log=silent)
    assert files_of(simulated_folder) == before


def test_a_folder_in_use_is_refused(simulated: DatasetRecipe, simulated_folder: Path) -> None:
    with exclusive(simulated_folder), pytest.raises(InputError, match="in use by another process"):
        make_dataset(simulated_folder, simulated, log=silent)


def test_a_folder_that_holds_something_else_is_refused(simulated: DatasetRecipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=f"{tmp_path}: expected a new or empty folder"):
        make_dataset(tmp_path, simulated, log=silent)
    (tmp_path / CARD).write_text("{")
    with pytest.raises(InputError, match=f"{CARD}: not valid JSON"):
        make_dataset(tmp_path, simulated, log=silent)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", CARD}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"like": "ge31"}, "like: expected one of ge30, si170, got 'ge31'"),
        ({"subjects": 2}, "subjects: expected at least 3, one for each split, got 2"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"voxel_scale": 0.5}, "voxel_scale: expected 1 to 4, got 0.5"),
        ({"anatomies": Path("x")}, "anatomies and lesion_masks: expected both or neither"),
    ],
)
def test_bad_recipes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DatasetRecipe(**arguments)


def test_bad_sources_are_named(donors: Mapping[str, Path], tmp_path: Path) -> None:
    def make(**folders: Path) -> None:
        make_dataset(tmp_path / "out", DatasetRecipe(subjects=3, **{**donors, **folders}), log=silent)

    with pytest.raises(InputError, match="anatomies: expected a folder, got "):
        make(anatomies=tmp_path / "absent")
    (tmp_path / "few").mkdir()
    with pytest.raises(InputError, match=r"lesion_masks: expected at least 3 files .* found 0"):
        make(lesion_masks=tmp_path / "few")
    assert not (tmp_path / "out").exists()
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"damaged.nii.gz: not a readable NIfTI file"):
        read_label_map(damaged)
    oblong = write_nifti(tmp_path / "oblong.nii.gz", np.ones((4, 4, 4)), np.diag([1.0, 1.0, 3.0, 1.0]))
    with pytest.raises(InputError, match="expected cubic voxels, got 1 x 1 x 3 mm"):
        read_label_map(oblong)
    only_cortex = write_nifti(tmp_path / "cortex.nii.gz", np.full((8, 8, 8), GREY), np.eye(4))
    with pytest.raises(InputError, match="found no white matter"):
        read_label_map(only_cortex)


def test_a_missing_package_is_named(
    simulated: DatasetRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=r"make-dataset needs nilearn: pip install 'geoloss-kernels\[datas"):
        make_dataset(tmp_path, simulated, log=silent)


def test_splits_share_no_label_map_and_no_lesion_mask(tmp_path: Path) -> None:
    for number in range(6):
        for folder in ("anatomies", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{number}.nii.gz").touch()
    recipe = DatasetRecipe("ge30", anatomies=tmp_path / "anatomies", lesion_masks=tmp_path / "masks")
    plans = make_plans(recipe)
    assert [plan.index for plan in plans] == list(range(30))
    for one, other in combinations(("train", "validation", "test"), 2):
        for source in ("anatomy", "lesion_mask"):
            files = [
                {getattr(plan.donors, source) for plan in plans if plan.split == split}
                for split in (one, other)
            ]
            assert not files[0] & files[1]
    training = [plan.donors for plan in plans if plan.split == "train"]
    assert len(set(training[:9])) == 9  # three of each


def test_the_acquired_grid_is_where_its_affine_says() -> None:
    acquisition = Acquisition(in_plane=0.7, thickness=3)
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = (-20, 5, 40)
    shape = (30, 24, 20)
    positions = np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3].reshape(3, 1, 1, 1)
    acquired = np.stack([acquisition.acquire(axis.astype(np.float32)) for axis in positions])
    assert acquired.shape == (3, 42, 34, 6)
    new = acquisition.affine(affine)
    expected = np.tensordot(new[:3, :3], np.indices(acquired.shape[1:]), 1) + new[:3, 3].reshape(3, 1, 1, 1)
    inner = (slice(None), slice(1, -2), slice(1, -2))  # further out the border is repeated
    np.testing.assert_allclose(acquired[inner], expected[inner], atol=1e-4)


def test_a_label_map_becomes_tissues(donors: Mapping[str, Path]) -> None:
    label_map = read_label_map(donors["anatomies"] / "person1.nii.gz")
    anatomy, points = deform_label_map(label_map, 3.0, np.random.default_rng(0))
    assert points.shape == (3, *anatomy.white.shape)
    total = anatomy.csf + anatomy.grey + anatomy.white
    np.testing.assert_allclose(total[anatomy.brain], 1, atol=1e-5)
    assert not total[~anatomy.brain].any()
    assert ndimage.label(label_map.distances.values[1] > 0)[1] == 1
    assert anatomy.csf[anatomy.ventricle_distance == 0].mean() > 0.8
    assert 0.15 < anatomy.white.sum() / total.sum() < 0.5


def test_a_hole_in_the_white_matter_is_white_matter(donors: Mapping[str, Path]) -> None:
    voxel_size, labels = 3.0, template_labels()
    hole = voxel_size * (deepest_white_voxel(labels) - (np.array(labels.shape) - 1) / 2)
    label_map = read_label_map(donors["anatomies"] / "person1.nii.gz")
    csf, grey, white = label_map.tissues.at(hole.astype(np.float32).reshape(3, 1, 1, 1))
    assert (csf, grey) == (0, 0)
    assert white == pytest.approx(1, abs=1e-3)


def test_registration_finds_the_template_in_a_label_map(donors: Mapping[str, Path]) -> None:
    voxel_size, shape = 3.1, np.array(template_labels().shape)
    found = register_to_mni(donors["anatomies"] / "person2.nii.gz")
    index = np.random.default_rng(0).uniform(0.2, 0.8, (100, 3)) * shape
    expected = template()[0].origin + STEP * index
    points = (voxel_size * (index - (shape - 1) / 2)).T.astype(np.float32).reshape(3, -1, 1, 1)
    affinely, by_ventricles = (
        np.linalg.norm(mni[:, :, 0, 0].T - expected, axis=1)
        for mni in (transformed(points, found.affine), found.at(points))
    )
    assert affinely.max() < 2.0
    assert np.median(by_ventricles) < 0.5
    assert by_ventricles.max() < 1.3 * voxel_size  # at the foramen magnum, where the label map's brain ends


def test_registration_finds_the_ventricles_where_they_are_larger(tmp_path: Path) -> None:
    labels = template_labels()
    ventricles = ndimage.binary_dilation(labels == VENTRICLE, iterations=2)
    labels[ventricles] = VENTRICLE
    to_mni = register_to_mni(write_nifti(tmp_path / "large.nii.gz", labels, np.diag([STEP, STEP, STEP, 1.0])))
    just_outside = np.argwhere(ndimage.binary_dilation(ventricles) & ~ventricles)
    points = STEP * (just_outside - (np.array(labels.shape) - 1) / 2)
    points = points.T.astype(np.float32).reshape(3, -1, 1, 1)
    affinely, found = (
        template()[1].at(mni)[0].ravel() for mni in (transformed(points, to_mni.affine), to_mni.at(points))
    )
    assert np.median(affinely) > 5
    assert np.percentile(found, 90) < 1.5 * STEP
    assert (found == 0).mean() < 0.1


def test_transplanted_lesions_lie_where_the_mask_has_them(donors: Mapping[str, Path]) -> None:
    path = donors["anatomies"] / "person0.nii.gz"
    generator = np.random.default_rng(0)
    anatomy, points = deform_label_map(read_label_map(path), 2.0, generator)
    to_mni = register_to_mni(path)
    mni = to_mni.at(points)
    mask_file = donors["lesion_masks"] / "patient2.nii.gz"
    lesions = transplant_lesions(mask_file, anatomy, mni, Difficulty(), generator)
    assert lesions.severity.max() <= 1
    assert not (lesions.mask & (anatomy.csf >= 0.5)).any()
    centres = np.array(LESIONS_IN_MNI).T
    distance = np.linalg.norm(mni[:, lesions.mask][:, :, None] - centres[:, None], axis=0)
    assert distance.min(1).max() < 8.0 + 6.0  # the ball's radius, and the warp
    assert set(distance.argmin(1)) == set(range(len(LESIONS_IN_MNI)))


def test_the_outline_of_a_real_lesion_wavers_half_as_much(
    donors: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    anatomy = make_anatomy(2.0, np.random.default_rng(0))
    points = 2.0 * np.indices(anatomy.white.shape) + anatomy.affine[:3, 3].reshape(3, 1, 1, 1)

    def mask(tremor: float, bias: float) -> np.ndarray:
        difficulty = Difficulty(reference_tremor=tremor, reference_bias=bias)
        generator = np.random.default_rng(1)
        file = donors["lesion_masks"] / "patient2.nii.gz"
        return transplant_lesions(file, anatomy, points.astype(np.float32), difficulty, generator).mask

    exact, wavering = mask(0, 0), mask(0.8, 0.4)
    monkeypatch.setattr(transplants, "ERRORS_LEFT", 1.0)
    assert (exact != wavering).sum() > 0.05 * exact.sum()
    assert np.array_equal(wavering, mask(0.4, 0.2))


def test_mimics_show_in_flair_and_t2_and_not_in_t1() -> None:
    anatomy = make_anatomy(3.0, np.random.default_rng(0))

    def images(**intensities: float) -> dict[str, np.ndarray]:
        difficulty, generator = Difficulty(**intensities), np.random.default_rng(1)
        lesions = make_lesions(anatomy, difficulty, generator)
        return make_scan(anatomy, lesions, difficulty, Acquisition(), generator).images

    dark, bright = images(mimic_t2=0.0, mimic_flair=0.0), images()
    assert np.array_equal(dark["t1"], bright["t1"])
    for modality in ("t2", "flair"):
        difference = bright[modality] - dark[modality]
        assert difference.min() > -1e-3
        assert (difference > 0.02).mean() > 0.005


def test_difficulty_sets_the_contrast_and_the_reference() -> None:
    anatomy = make_anatomy(2.0, np.random.default_rng(0))

    def contrast_and_error(difficulty: Difficulty) -> tuple[float, float]:
        generator = np.random.default_rng(1)
        lesions = make_lesions(anatomy, difficulty, generator)
        flair = make_scan(anatomy, lesions, difficulty, Acquisition(), generator).images["flair"]
        white = (anatomy.white > 0.9) & (anatomy.ventricle_distance > 10)
        inside, outside = white & (lesions.severity > 0.4), white & (lesions.severity == 0)
        visible = lesions.severity > 0.5 * difficulty.severity[0]
        overlap = 2 * (visible & lesions.mask).sum() / (visible.sum() + lesions.mask.sum())
        return flair[inside].mean() / flair[outside].mean(), 1 - overlap

    easy = Difficulty(lesion_flair=0.92, reference_tremor=0.1, reference_bias=0.0)
    hard = Difficulty(lesion_flair=0.70, reference_tremor=0.6, reference_bias=0.0)
    easy_contrast, easy_error = contrast_and_error(easy)
    hard_contrast, hard_error = contrast_and_error(hard)
    assert easy_contrast > hard_contrast + 0.1
    assert hard_contrast > 1.05
    assert easy_error < hard_error


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    arguments = ["make-dataset", "--out", str(out), "--like", "si170", "--subjects", "3", "--seed", "2"]
    assert main([*arguments, "--voxel-scale", "4"]) == 0
    assert f"finished: {out}, 3 subjects" in capsys.readouterr().out
    assert sorted(subject.split for subject in load_subjects(out)) == ["test", "train", "validation"]
    assert main(arguments) == 2
    assert "geoloss: error: " in capsys.readouterr().err
