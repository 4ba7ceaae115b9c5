"""The lesion growth algorithm: each step against its equation, and the whole on a made-up subject."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from geoloss_kernels.lesions import lga
from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.demo.phantom import write_phantoms
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.lga.belief import Belief, belief_map, class_of, mode_of, partial_volume_labels
from geoloss_kernels.lesions.lga.growth import clean_up, fit_gamma, lesion_odds, seeds
from geoloss_kernels.lesions.lga.priors import tissue_priors
from geoloss_kernels.lesions.lga.tissue import CSF, GREY, WHITE, segment_tissue, sum_of_neighbours
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.metrics import lesion_metrics

SHAPE = (12, 13, 14)
NEIGHBOURS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))


def random_volume(seed: int = 0, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, SHAPE).astype(np.float32)


def by_hand(values: np.ndarray) -> np.ndarray:
    """Σ of the 6 neighbours, voxel by voxel."""
    total = np.zeros(values.shape)
    for place in np.ndindex(values.shape):
        for step in NEIGHBOURS:
            other = tuple(np.add(place, step))
            if all(0 <= i < size for i, size in zip(other, values.shape, strict=True)):
                total[place] += values[other]
    return total


def test_sum_of_neighbours():
    values = random_volume()
    np.testing.assert_allclose(sum_of_neighbours(values), by_hand(values), rtol=1e-5)
    stacked = np.stack([values, 2 * values])
    np.testing.assert_allclose(sum_of_neighbours(stacked)[1], 2 * sum_of_neighbours(values), rtol=1e-6)


def test_tissue_follows_intensity_where_priors_say_nothing():
    classes = np.zeros(SHAPE, int)
    classes[4:8], classes[8:] = 1, 2
    t1 = np.array([20.0, 60.0, 100.0])[classes] + np.random.default_rng(0).normal(0, 4, SHAPE)
    brain = np.ones(SHAPE, bool)
    brain[0] = False
    vague = np.stack([0.3 + 0.1 * (classes == k) for k in range(3)]).astype(np.float32)
    tissue = segment_tissue(t1.astype(np.float32), brain, vague)
    np.testing.assert_allclose(tissue[:, brain].sum(axis=0), 1, rtol=1e-5)
    assert not tissue[:, ~brain].any()
    assert (tissue.argmax(axis=0) == classes)[brain].mean() > 0.99


def test_neighbours_outvote_noise():
    classes = np.repeat(np.arange(3), 4)[:, None, None] * np.ones(SHAPE, int)
    t1 = np.array([20.0, 60.0, 100.0])[classes] + np.random.default_rng(0).normal(0, 16, SHAPE)
    alone = np.abs(t1[..., None] - [20.0, 60.0, 100.0]).argmin(axis=-1) != classes
    vague = np.stack([0.3 + 0.01 * (classes == k) for k in range(3)]).astype(np.float32)
    tissue = segment_tissue(t1.astype(np.float32), np.ones(SHAPE, bool), vague)
    assert np.count_nonzero(alone) > 100
    assert np.count_nonzero(tissue.argmax(axis=0) != classes) < np.count_nonzero(alone)


@pytest.mark.parametrize(("degrees", "shear", "scale"), [(0, 0, 1), (-12, 0.05, 1.08), (15, 0, 0.95)])
def test_priors_follow_a_head_that_is_turned_and_stretched(degrees, shear, scale):
    """The template's own T1 and white matter, moved together."""
    template, white = (
        load(resolution=2) for load in (datasets.load_mni152_template, datasets.load_mni152_wm_template)
    )
    turn = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    matrix = scale * turn @ (np.eye(3) + shear * np.eye(3)[:, [2, 0, 1]].T * [0, 0, 1])
    centre = (np.array(template.shape) - 1) / 2
    t1, expected = (
        ndimage.affine_transform(image.get_fdata(dtype=np.float32), matrix, centre - matrix @ centre, order=1)
        for image in (template, white)
    )
    brain = t1 > 0.05
    found = tissue_priors(t1, brain, template.affine)[WHITE]
    assert np.corrcoef(found[brain], expected[brain])[0, 1] > 0.95


def test_partial_volume_labels_reach_from_pure_to_mixed():
    tissue = np.zeros((3, 1, 1, 8), np.float32)
    t1 = np.array([1, 1, 3, 3, 5, 5, 9, 9], np.float32).reshape(1, 1, 8)
    for x, (kind, probability) in enumerate(
        [
            (CSF, 1.0),
            (CSF, 0.6),
            (GREY, 0.9),
            (GREY, 0.6),
            (GREY, 0.8),
            (GREY, 0.5),
            (WHITE, 1.0),
            (WHITE, 0.7),
        ]
    ):
        tissue[kind, 0, 0, x] = probability
    dark = np.zeros(t1.shape, np.float32)
    labels = partial_volume_labels(t1, dark, np.ones(t1.shape, bool), tissue)
    np.testing.assert_allclose(labels.ravel(), [1, 1.5, 2, 1.5, 2, 2.5, 3, 2.5], atol=1e-6)


def test_csf_that_flair_shows_bright_is_grown_among_bright_grey_matter():
    tissue = np.zeros((3, 1, 1, 50), np.float32)
    tissue[GREY] = 0.9
    tissue[GREY, 0, 0, 7] = 0.6
    tissue[:, 0, 0, 1] = (1, 0, 0)
    flair = (14.9 - 0.1 * np.arange(50, dtype=np.float32)).reshape(1, 1, 50)
    flair[..., 40:46] = 20  # the 95th percentile of grey matter lies here, out of reach
    flair[..., 1:3] = 30  # CSF, and the one voxel of grey matter beyond
    t1 = np.linspace(1, 2, 50, dtype=np.float32).reshape(1, 1, 50)
    labels = partial_volume_labels(t1, flair, np.ones(t1.shape, bool), tissue).ravel()
    assert np.flatnonzero(labels == np.float32(2.4)).tolist() == [1, 2]


def test_belief_is_its_equation():
    t1, flair = random_volume(1, 1, 9), random_volume(2, 1, 9)
    tissue = np.random.default_rng(3).dirichlet([1, 1, 1], SHAPE).transpose(3, 0, 1, 2).astype(np.float32)
    brain, prior = random_volume(4) > 0.2, random_volume(5)
    belief = belief_map(t1, flair, brain, tissue, prior)
    scaled = flair / mode_of(flair[brain])
    expected = np.zeros(SHAPE)
    for kind in (CSF, GREY, WHITE):
        for place in zip(*np.nonzero(class_of(belief.labels, kind)), strict=True):
            above = scaled[place] - scaled[class_of(belief.labels, kind)].mean()
            expected[place] = belief.labels[place] * max(above, 0) * prior[place]
    np.testing.assert_allclose(belief.total, expected, rtol=1e-4, atol=1e-5)
    grey = class_of(belief.labels, GREY)
    np.testing.assert_array_equal(belief.initial, np.where(grey, belief.total, 0))
    assert not belief.total[~brain].any()


def test_every_label_of_the_brain_has_one_tissue():
    labels = np.array([0, 0.5, 1, 1.49, 1.5, 2, 2.4, 2.5, 2.51, 3], np.float32)
    classes = np.stack([class_of(labels, kind) for kind in (CSF, GREY, WHITE)])
    assert classes.sum(axis=0).tolist() == [0, *[1] * 9]
    assert classes.argmax(axis=0)[1:].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_seeds_are_their_equation():
    initial = random_volume(6, 0, 2)
    strong = initial * by_hand(initial) / 6 > 0.9
    expected = strong & (by_hand(strong.astype(float)) >= 2)
    assert expected.any()
    np.testing.assert_array_equal(seeds(initial, 0.9), expected)


@pytest.mark.parametrize("shape", [0.7, 3.0, 200.0])
def test_gamma_is_fitted_with_most_likelihood(shape):
    values = np.random.default_rng(0).gamma(shape, 1 / 4.0, 5000)
    found, rate = fit_gamma(values)
    expected, _, scale = stats.gamma.fit(values, floc=0)
    assert found == pytest.approx(expected, rel=1e-5)
    assert rate == pytest.approx(1 / scale, rel=1e-5)


def test_clean_up_fills_what_is_surrounded_and_deletes_what_is_alone():
    lesion = np.zeros(SHAPE, np.float32)
    lesion[2:5, 2:5, 2:5] = 0.8
    lesion[3, 3, 3] = 0
    lesion[9, 9, 9] = 1
    cleaned = clean_up(lesion)
    assert cleaned[3, 3, 3] == 1
    assert cleaned[9, 9, 9] == 0
    assert np.count_nonzero(cleaned) == 27


def bright_ball() -> tuple[Belief, np.ndarray]:
    """White matter with a ball that is bright in FLAIR, in whose middle is what T1 takes for grey matter."""
    z, y, x = np.indices((24, 24, 24))
    radius = np.sqrt((z - 12) ** 2 + (y - 12) ** 2 + (x - 12) ** 2)
    noise = np.random.default_rng(0).normal(0, 0.03, radius.shape)
    flair = (np.where(radius < 6, 1.6, 1.0) + noise).astype(np.float32)
    labels = np.where(radius < 3, 2.0, 3.0).astype(np.float32)
    labels[:2] = 1.0
    above = np.maximum(flair - 1.1, 0)
    return Belief(flair, labels, (above * labels * (labels == 2)).astype(np.float32), above * labels), radius


def test_growth_reaches_what_looks_like_its_seeds_and_nothing_else():
    belief, radius = bright_ball()
    started = seeds(belief.initial, 0.3)
    lesion = lga.grow_lesions(belief, lga.GrowthOptions(kappa=0.3)) > 0.5
    assert np.count_nonzero(started) > 50
    assert lesion[started].all()
    assert np.count_nonzero(lesion) > 1.2 * np.count_nonzero(started)
    assert not lesion[radius > 6].any()


def grown_by_hand(belief: Belief, kappa: float) -> np.ndarray:
    """Growth voxel by voxel, before the clean-up."""
    lesion = seeds(belief.initial, kappa).astype(np.float64)
    smooth = np.where(belief.total > 0, by_hand(belief.total) / 6, 0)
    for _ in range(50):
        odds = lesion_odds(belief, lesion.astype(np.float32))
        frontier = (smooth > 0) & (lesion == 0) & (by_hand(lesion) > 0)
        largest = 0.0
        for parity in (0, 1):
            around = by_hand(lesion)
            for place in zip(*np.nonzero(frontier & (around > 1)), strict=True):
                if sum(place) % 2 == parity:
                    value = smooth[place] * odds[place] * np.exp(2 * around[place] - 6)
                    lesion[place] = min(1, value)
                    largest = max(largest, lesion[place])
        if largest <= 0.01:
            return lesion
    return lesion


def test_growth_is_its_equations():
    belief, _ = bright_ball()
    middle = (slice(4, 20),) * 3
    belief = Belief(*(getattr(belief, name)[middle] for name in ("flair", "labels", "initial", "total")))
    expected = clean_up(grown_by_hand(belief, 0.3).astype(np.float32))
    assert 0 < np.count_nonzero((expected > 0) & (expected < 1)) < np.count_nonzero(expected == 1)
    np.testing.assert_allclose(
        lga.grow_lesions(belief, lga.GrowthOptions(kappa=0.3)), expected, rtol=1e-3, atol=1e-6
    )


def test_nothing_grows_without_seeds():
    belief, _ = bright_ball()
    assert not lga.grow_lesions(belief, lga.GrowthOptions(kappa=100.0)).any()


@pytest.mark.parametrize("name", ["kappa", "neighbour_weight"])
def test_options_are_checked(name):
    with pytest.raises(ValueError, match=f"{name}: expected a finite number, at least 0, got -1"):
        lga.GrowthOptions(**{name: -1})


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Made up, with lesions that are grown to sizes which seeds of three voxels fit into, dark as grey matter
    in T1 and as bright in FLAIR as in patients."""
    folder = tmp_path_factory.mktemp("phantoms")
    made = load_subjects(write_phantoms(folder, {"test": 1}, seed=3, voxel_size=2.0))[0]
    assert made.mask is not None
    lesions = ndimage.binary_dilation(values_of(made.mask) > 0, iterations=2)
    lesions &= values_of(made.images["t1"]) > 0
    for modality, factor in (("t1", 0.7), ("flair", 1.4)):
        path = made.images[modality]
        values = values_of(path).astype(np.float32)
        values[lesions] *= factor
        nib.save(nib.Nifti1Image(values, nib.Nifti1Image.from_filename(path).affine), path)
    nib.save(nib.Nifti1Image(lesions.astype(np.uint8), nib.Nifti1Image.from_filename(path).affine), made.mask)
    return made


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


@pytest.fixture(scope="module")
def preparation(subject: Subject) -> lga.Preparation:
    return lga.prepare(subject)


def test_lesions_of_a_made_up_subject_are_found(subject, preparation):
    reference = values_of(subject.mask) > 0
    found = {kappa: lesion_metrics(lga.grow(preparation, kappa) > 0.5, reference) for kappa in (0.1, 0.5)}
    assert max(each.dice for each in found.values()) > 0.5
    assert found[0.1].predicted_voxels > found[0.5].predicted_voxels


def test_command(subject, preparation, tmp_path, capsys):
    images = [word for name in ("t1", "flair") for word in (f"--{name}", str(subject.images[name]))]
    assert main(["lga", *images, "--name", "anna", "--kappa", "0.1", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("anna: ")
    mask, probability = (
        nib.Nifti1Image.from_filename(tmp_path / f"anna_{name}.nii.gz") for name in ("mask", "probability")
    )
    like = nib.Nifti1Image.from_filename(subject.images["flair"])
    np.testing.assert_allclose(mask.affine, like.affine, atol=1e-5)
    np.testing.assert_allclose(np.asarray(probability.dataobj), lga.grow(preparation, 0.1), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(probability.dataobj) > 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either DIR|CSV or the images one by one"),
        (["--t1", "none.nii.gz", "--flair", "none.nii.gz"], "none.nii.gz: no such file"),
        (["--t1", "none.nii.gz"], "subject subject has no flair image"),
        (["--t1", "none.nii.gz", "--kappa", "-1"], "kappa: expected a finite number, at least 0, got -1"),
        (["--t1", "none.nii.gz", "--kappa", "inf"], "kappa: expected a finite number, at least 0, got inf"),
        (["--t1", "none.nii.gz", "--kappa", "nan"], "kappa: expected a finite number, at least 0, got nan"),
        (["--t1", "none.nii.gz", "--threshold", "1"], "threshold: expected between 0 and 1"),
        (
            ["--t1", "none.nii.gz", "--min-lesion-size", "-3"],
            "min_lesion_size: expected a finite number, at least 0, got -3",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message, tmp_path, capsys):
    assert main(["lga", *arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_an_image_without_brain_is_named(subject, tmp_path):
    like = nib.Nifti1Image.from_filename(subject.images["flair"])
    empty = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(like.shape, np.float32), like.affine), empty)
    with pytest.raises(InputError, match=r"empty.nii.gz: expected a brain"):
        lga.prepare(Subject("nobody", {"t1": subject.images["t1"], "flair": empty}))


@pytest.mark.parametrize(
    ("voxels", "edge", "message"),
    [
        ((1, 1, 1), 1.0, "cannot be registered to the template: "),
        ((30, 30, 1), 1.0, "cannot be registered to the template: "),
        ((20, 20, 20), 0.002, "cannot be registered to the template: "),
        ((20, 20, 20), 100.0, "expected a brain of at most 500 mm, got 2000 mm"),
    ],
)
def test_brains_that_no_template_lies_on(
    tmp_path: Path, voxels: tuple[int, ...], edge: float, message: str
) -> None:
    brain = np.zeros((40, 40, 40), np.float32)
    brain[tuple(slice(5, 5 + count) for count in voxels)] = 100
    images = {name: tmp_path / f"{name}.nii.gz" for name in lga.MODALITIES}
    for path in images.values():
        nib.save(nib.Nifti1Image(brain, np.diag([edge, edge, edge, 1])), path)
    with pytest.raises(InputError, match=f"t1.nii.gz: {message}"):
        lga.prepare(Subject("s", images))
