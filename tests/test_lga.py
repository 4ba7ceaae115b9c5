"""Lesion growth: every step against its equation, voxel by voxel; a phantom and the command end to end."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from scipy import ndimage, stats
from test_cli import error_of
from training_helpers import ball, write_image

from geoloss_kernels.cli import main
from geoloss_kernels.datasets.anatomy import make_anatomy
from geoloss_kernels.datasets.scans import Scan
from geoloss_kernels.demo.phantom import make_phantom
from geoloss_kernels.lga import Preparation, grow, lesion_growth, prepare, segment
from geoloss_kernels.lga.belief import (
    Beliefs,
    class_belief,
    flair_mode,
    lesion_beliefs,
    mark_bright_csf,
    partial_volume_labels,
    tissue_classes,
)
from geoloss_kernels.lga.growth import (
    clean_up,
    find_seeds,
    fit_gamma,
    fit_tissues,
    grow_lesions,
    grow_once,
)
from geoloss_kernels.lga.neighbours import count26, mean6, sum6
from geoloss_kernels.lga.priors import register_priors
from geoloss_kernels.lga.segmentation import distance_to_outer_csf
from geoloss_kernels.lga.tissue import CSF, GREY, WHITE, segment_tissues
from geoloss_kernels.metrics import dice_coefficient
from geoloss_kernels.training import InputError, Subject
from geoloss_kernels.training.preprocessing import correct_bias
from geoloss_kernels.training.volumes import load_mask

SHAPE = (7, 6, 5)
FACES = [step for step in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1]
AROUND = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def sum_over(values: np.ndarray, voxel: tuple[int, ...], steps: list[tuple[int, ...]]) -> float:
    """Sum over the neighbours of ``voxel`` that are in the volume."""
    places = [tuple(np.add(voxel, step)) for step in steps]
    return sum(
        float(values[place])
        for place in places
        if all(0 <= index < size for index, size in zip(place, values.shape, strict=True))
    )


def random_beliefs(generator: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> Beliefs:
    """Arrays as unrelated as the equations allow: they must not depend on where the arrays come from."""
    initial = generator.uniform(0, 1.2, shape).astype(np.float32) * (generator.uniform(size=shape) < 0.8)
    return Beliefs(
        flair=generator.uniform(0.4, 2.0, shape).astype(np.float32),
        classes=generator.integers(-1, 3, shape).astype(np.int8),
        initial=initial,
        total=initial + generator.uniform(0, 0.5, shape).astype(np.float32),
    )


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


class TestNeighbours:
    def test_sums_equal_loops(self, generator):
        values = generator.normal(size=SHAPE).astype(np.float32)
        mask = values > 0
        for voxel in np.ndindex(SHAPE):
            assert sum6(values)[voxel] == pytest.approx(sum_over(values, voxel, FACES), abs=1e-5)
            assert mean6(values)[voxel] == pytest.approx(sum_over(values, voxel, FACES) / 6, abs=1e-5)
            assert count26(mask)[voxel] == sum_over(mask, voxel, AROUND)

    def test_leading_axes_are_left_alone(self, generator):
        values = generator.normal(size=(3, *SHAPE)).astype(np.float32)
        np.testing.assert_array_equal(sum6(values), np.stack([sum6(volume) for volume in values]))


class TestTissues:
    def test_finds_the_layers_of_a_noisy_ball(self, generator):
        shape = (32, 32, 32)
        brain, white = ball(shape, (16, 16, 16), 14), ball(shape, (16, 16, 16), 8)
        truth = np.where(white, WHITE, np.where(ball(shape, (16, 16, 16), 11), GREY, CSF))
        t1 = (np.array([20.0, 60, 90])[truth] + generator.normal(0, 9, shape)).astype(np.float32) * brain
        priors = ndimage.gaussian_filter(np.eye(3)[truth], (3, 3, 3, 0)).transpose(3, 0, 1, 2) * brain
        posterior = segment_tissues(t1, brain, priors.astype(np.float32))
        np.testing.assert_allclose(posterior.sum(0)[brain], 1, atol=1e-5)
        assert not posterior[:, ~brain].any()
        with_field = (posterior.argmax(0) == truth)[brain].mean()
        without = segment_tissues(t1, brain, priors.astype(np.float32), field=0)
        assert with_field > 0.97
        assert with_field > (without.argmax(0) == truth)[brain].mean()

    def test_posterior_without_field_is_bayes_rule(self, generator):
        brain = np.ones(SHAPE, bool)
        truth = generator.integers(0, 3, SHAPE)
        t1 = (np.array([0.0, 10, 20])[truth] + generator.normal(0, 1, SHAPE)).astype(np.float32)
        posterior = segment_tissues(t1, brain, _lean(truth), 0)
        np.testing.assert_array_equal(posterior.argmax(0), truth)
        weights = [_lean(truth)[k] * stats.norm.pdf(t1, *_weighted(t1, posterior[k])) for k in range(3)]
        np.testing.assert_allclose(posterior, np.stack(weights) / np.sum(weights, 0), atol=1e-3)


def _lean(truth: np.ndarray) -> np.ndarray:
    """Priors of 0.5 for the true tissue and 0.25 for the others."""
    return (0.25 + 0.25 * np.eye(3)[truth].transpose(3, 0, 1, 2)).astype(np.float32)


def _weighted(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    mean = np.average(values, weights=weights)
    return mean, np.sqrt(np.average((values - mean) ** 2, weights=weights))


class TestBeliefs:
    def test_partial_volume_labels_of_one_voxel_each(self):
        # CSF mixed and pure; grey darker and brighter than the mean (50), each mixed and pure; white the same
        posterior = np.array(
            [
                [0.6, 1.0, 0.3, 0.0, 0.2, 0.0, 0.0, 0.0],
                [0.4, 0.0, 0.6, 1.0, 0.5, 0.9, 0.4, 0.1],
                [0.0, 0.0, 0.1, 0.0, 0.3, 0.1, 0.6, 0.9],
            ],
            np.float32,
        ).reshape(3, 8, 1, 1)
        t1 = np.array([5, 5, 40, 40, 60, 60, 90, 90], np.float32).reshape(8, 1, 1)
        labels = partial_volume_labels(t1, np.ones((8, 1, 1), bool), posterior)
        np.testing.assert_allclose(labels.ravel(), [1.5, 1.0, 1.5, 2.0, 2.5, 2.0, 2.5, 3.0], atol=1e-6)

    def test_places_between_are_linear_and_the_outside_is_zero(self):
        posterior = np.array([[0.2, 0.1, 0.0, 0.0], [0.2, 0.1, 0.1, 0.0], [0.6, 0.8, 0.9, 1.0]], np.float32)
        brain = np.array([True, True, True, False]).reshape(4, 1, 1)
        labels = partial_volume_labels(np.ones((4, 1, 1), np.float32), brain, posterior.reshape(3, 4, 1, 1))
        np.testing.assert_allclose(labels.ravel(), [2.5, 2.5 + 0.5 * 2 / 3, 3.0, 0.0], atol=1e-6)

    def test_classes_are_intervals_of_the_label(self):
        labels = np.array([0.0, 1.0, 1.49, 1.5, 2.0, 2.4, 2.5, 2.51, 3.0], np.float32)
        assert tissue_classes(labels).tolist() == [-1, 0, 0, 1, 1, 1, 1, 2, 2]

    def test_bright_csf_becomes_lesion_like_and_grows_through_bright_grey(self):
        labels = np.full((40, 3, 3), 2.0, np.float32)
        flair = np.full(labels.shape, 1.0, np.float32)
        labels[4:7, 1, 1] = 1.2
        flair[4:6, 1, 1] = 1.5  # CSF brighter than grey matter
        flair[6, 1, 1] = 0.2  # CSF that is dark
        flair[1:4, 1, 1] = 2.0  # bright grey matter beside it
        flair[30:32, 1, 1] = 2.0  # and far away
        marked = mark_bright_csf(labels, flair)
        expected = labels.copy()
        expected[1:6, 1, 1] = 2.4
        np.testing.assert_array_equal(marked, expected)

    def test_belief_of_a_class_is_its_equation(self, generator):
        labels = generator.uniform(1.5, 2.5, SHAPE).astype(np.float32)
        members = generator.uniform(size=SHAPE) < 0.5
        flair = generator.uniform(0, 2, SHAPE).astype(np.float32)
        prior = generator.uniform(size=SHAPE).astype(np.float32)
        belief = class_belief(labels, members, flair, prior)
        mean = np.mean([flair[voxel] for voxel in np.ndindex(SHAPE) if members[voxel]])
        for voxel in np.ndindex(SHAPE):
            expected = labels[voxel] * max(flair[voxel] - mean, 0) * prior[voxel] if members[voxel] else 0
            assert belief[voxel] == pytest.approx(expected, abs=1e-5)

    def test_beliefs_are_those_of_the_classes(self, generator):
        t1 = generator.uniform(20, 90, SHAPE).astype(np.float32)
        flair = generator.uniform(50, 200, SHAPE).astype(np.float32)
        brain = generator.uniform(size=SHAPE) < 0.9
        tissues = generator.dirichlet((1, 1, 1), SHAPE).transpose(3, 0, 1, 2).astype(np.float32)
        prior = generator.uniform(size=SHAPE).astype(np.float32)
        beliefs = lesion_beliefs(t1, flair, brain, tissues, prior)
        scaled = np.where(brain, flair / flair_mode(flair[brain]), 0).astype(np.float32)
        labels = mark_bright_csf(partial_volume_labels(t1, brain, tissues), scaled)
        parts = [class_belief(labels, tissue_classes(labels) == k, scaled, prior) for k in range(3)]
        np.testing.assert_allclose(beliefs.flair, scaled, rtol=1e-6)
        np.testing.assert_array_equal(beliefs.initial, parts[GREY])
        np.testing.assert_allclose(beliefs.total, np.sum(parts, 0), rtol=1e-6)
        assert not beliefs.total[~brain].any()

    def test_mode_is_the_peak_and_follows_the_unit(self, generator):
        values = np.concatenate([generator.normal(100, 5, 20_000), generator.normal(40, 15, 8_000)])
        assert flair_mode(values.astype(np.float32)) == pytest.approx(100, abs=1.5)
        assert flair_mode(values.astype(np.float32) * 7) == pytest.approx(
            7 * flair_mode(values.astype(np.float32)), rel=1e-4
        )


class TestGrowth:
    def test_seeds_equal_loops(self, generator):
        initial = random_beliefs(generator).initial
        candidates = np.zeros(SHAPE)
        for voxel in np.ndindex(SHAPE):
            candidates[voxel] = initial[voxel] * sum_over(initial, voxel, FACES) / 6 > 0.3
        expected = [candidates[v] * (sum_over(candidates, v, FACES) >= 2) for v in np.ndindex(SHAPE)]
        assert 0 < sum(expected) < candidates.sum()
        np.testing.assert_array_equal(find_seeds(initial, 0.3).ravel(), expected)

    @pytest.mark.parametrize(("shape", "rate"), [(0.7, 2.0), (3.0, 1.5), (60.0, 40.0)])
    def test_gamma_density_is_the_likeliest(self, generator, shape, rate):
        values = generator.gamma(shape, 1 / rate, 4000)
        fitted = fit_gamma(values)
        expected_shape, _, expected_scale = stats.gamma.fit(values, floc=0)
        assert fitted.shape == pytest.approx(expected_shape, rel=1e-4)
        assert fitted.rate == pytest.approx(1 / expected_scale, rel=1e-4)
        np.testing.assert_allclose(
            fitted.log(values), stats.gamma.logpdf(values, fitted.shape, scale=1 / fitted.rate), rtol=1e-9
        )

    def test_gamma_density_of_equal_values_is_narrow_and_finite(self):
        fitted = fit_gamma(np.full(5, 1.7))
        assert fitted.shape / fitted.rate == pytest.approx(1.7)
        assert fitted.log(np.array([1.7]))[0] > fitted.log(np.array([1.71]))[0] > -np.inf

    def test_tissues_are_fitted_to_what_is_no_lesion(self, generator):
        beliefs = random_beliefs(generator)
        lesions = generator.uniform(size=SHAPE).astype(np.float32)
        mixture = fit_tissues(beliefs, lesions)
        for k in range(3):
            values = beliefs.flair[(beliefs.classes == k) & (lesions < 0.5)]
            everything = beliefs.flair[(beliefs.classes >= 0) & (lesions < 0.5)]
            assert mixture.shares[k] == pytest.approx(values.size / everything.size)
            assert mixture.means[k] == pytest.approx(values.mean(), rel=1e-5)
            assert mixture.variances[k] == pytest.approx(values.var(), rel=1e-4)
        values = np.array([0.5, 1.2])
        expected = sum(
            share * stats.norm.pdf(values, mean, np.sqrt(variance))
            for share, mean, variance in zip(*vars(mixture).values(), strict=True)
        )
        np.testing.assert_allclose(mixture.log(values), np.log(expected), rtol=1e-9)

    def test_tissue_without_voxels_is_left_out(self, generator):
        beliefs = random_beliefs(generator)
        beliefs.classes[beliefs.classes == CSF] = GREY
        mixture = fit_tissues(beliefs, np.zeros(SHAPE, np.float32))
        assert mixture.shares.size == 2
        assert mixture.shares.sum() == pytest.approx(1)

    def test_a_pass_equals_loops(self, generator):
        shape = (9, 9, 9)
        beliefs = random_beliefs(generator, shape)
        lesions = find_seeds(beliefs.initial, 0.5)
        neighbourhood = np.where(beliefs.total > 0, mean6(beliefs.total), 0)
        expected, largest = pass_by_loops(lesions, neighbourhood, beliefs, phi=0.7)
        assert grow_once(lesions, neighbourhood, beliefs, 0.7) == pytest.approx(largest, rel=1e-4)
        np.testing.assert_allclose(lesions, expected, rtol=2e-4, atol=1e-12)
        assert ((lesions > 0) & (lesions < 1)).any()

    def test_growth_without_frontier_ends(self, generator):
        lesions = np.ones(SHAPE, np.float32)
        assert grow_once(lesions, np.ones(SHAPE, np.float32), random_beliefs(generator), 1.0) == 0

    def test_clean_up_equals_loops(self, generator):
        lesions = np.where(generator.uniform(size=SHAPE) < 0.6, generator.uniform(size=SHAPE), 0.0)
        lesions[:4] *= generator.uniform(size=(4, 6, 5)) < 0.2
        lesions = lesions.astype(np.float32)
        filled = lesions.copy()
        for voxel in np.ndindex(SHAPE):
            if sum_over(lesions > 0.01, voxel, AROUND) > 18:
                filled[voxel] = 1
        expected = [filled[v] if sum_over(filled > 0.01, v, FACES) > 0 else 0 for v in np.ndindex(SHAPE)]
        assert (filled != lesions).any()
        assert (np.reshape(expected, SHAPE) != filled).any()
        np.testing.assert_array_equal(clean_up(lesions).ravel(), np.float32(expected))

    def test_nothing_grows_without_seeds(self, generator):
        beliefs = random_beliefs(generator)
        assert not grow_lesions(beliefs, kappa=100).any()

    def test_a_seed_grows_to_the_whole_lesion(self, generator):
        """A bright ball of which only three crossing bars may be seeds."""
        shape = (24, 24, 24)
        lesion = ball(shape, (12, 12, 12), 6)
        core = lesion & ((np.abs(np.indices(shape) - 12) <= 1).sum(0) >= 2)
        flair = np.where(lesion, 1.6, 1.0) + generator.normal(0, 0.1, shape)
        excess = np.maximum(flair - 1.1, 0).astype(np.float32)
        beliefs = Beliefs(
            flair.astype(np.float32), np.full(shape, GREY, np.int8), 2 * excess * core, 2 * excess
        )
        assert dice_coefficient(find_seeds(beliefs.initial, 0.5), lesion) < 0.6
        assert dice_coefficient(grow_lesions(beliefs, 0.5) > 0.5, lesion) > 0.95


def pass_by_loops(
    lesions: np.ndarray, neighbourhood: np.ndarray, beliefs: Beliefs, phi: float
) -> tuple[np.ndarray, float]:
    """The equation of growth, one voxel after the other; and the largest new value."""
    lesions = lesions.astype(np.float64)
    gamma_shape, _, gamma_scale = stats.gamma.fit(beliefs.flair[lesions > 0.5].astype(np.float64), floc=0)
    frontier = [
        voxel
        for voxel in np.ndindex(lesions.shape)
        if neighbourhood[voxel] > 0 and lesions[voxel] == 0 and sum_over(lesions, voxel, FACES) > 0
    ]
    healthy = (lesions < 0.5) & (beliefs.classes >= 0)
    tissues = [beliefs.flair[healthy & (beliefs.classes == k)].astype(np.float64) for k in range(3)]
    for half in (0, 1):
        updates = {}
        for voxel in frontier:
            near = sum_over(lesions, voxel, FACES)
            if sum(voxel) % 2 != half or near <= 1:
                continue
            flair = float(beliefs.flair[voxel])
            healthy_density = sum(
                values.size / healthy.sum() * stats.norm.pdf(flair, values.mean(), values.std())
                for values in tissues
            )
            odds = neighbourhood[voxel] * stats.gamma.pdf(flair, gamma_shape, scale=gamma_scale)
            updates[voxel] = min(1.0, odds / healthy_density * np.exp(phi * (2 * near - 6)))
        for voxel, value in updates.items():
            lesions[voxel] = value
    return lesions, max(lesions[voxel] for voxel in frontier)


@pytest.fixture(scope="module")
def phantom() -> Scan:
    return make_phantom(seed=1, index=0, voxel_size=3.0)


@pytest.fixture(scope="module")
def subject(phantom: Scan, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The phantom in LPS order, without its bias fields."""
    folder = tmp_path_factory.mktemp("data") / "anna"
    affine = phantom.affine @ np.diag([-1, -1, 1, 1])
    affine[:2, 3] += phantom.affine.diagonal()[:2] * (np.array(phantom.mask.shape[:2]) - 1)
    images = {
        name: write_image(folder / f"{name}.nii.gz", phantom.images[name][::-1, ::-1], affine)
        for name in ("t1", "flair")
    }
    for path in images.values():
        sitk.WriteImage(correct_bias(sitk.ReadImage(str(path))), str(path))
    mask = write_image(folder / "mask.nii.gz", phantom.mask[::-1, ::-1].astype(np.uint8), affine)
    return Subject("anna", images, mask)


@pytest.fixture(scope="module")
def preparation(subject: Subject) -> Preparation:
    return prepare(subject)


class TestPhantom:
    def test_lesions_are_found(self, subject, preparation):
        reference = load_mask(subject.mask)
        dice = {kappa: dice_coefficient(grow(preparation, kappa) > 0.5, reference) for kappa in (0.05, 0.2)}
        assert dice[0.05] > 0.5
        assert dice[0.2] > 0.3

    def test_maps_are_probabilities_on_the_grid_of_the_files(self, subject, preparation):
        probability = grow(preparation, 0.1)
        assert probability.dtype == np.float32
        assert probability.shape == nib.load(subject.images["flair"]).shape
        assert probability.min() == 0
        assert probability.max() == 1

    def test_seeds_of_a_larger_kappa_are_among_those_of_a_smaller(self, preparation):
        seeds = [find_seeds(preparation.beliefs.initial, kappa) > 0 for kappa in (0.05, 0.2, 0.4)]
        for smaller, larger in itertools.pairwise(seeds):
            assert not (larger & ~smaller).any()
            assert 0 < larger.sum() < smaller.sum()

    def test_a_preparation_can_be_used_again(self, preparation):
        first = grow(preparation, 0.3)
        grow(preparation, 0.05)
        np.testing.assert_array_equal(grow(preparation, 0.3), first)

    def test_segment_is_both_stages_bit_for_bit(self, subject, preparation):
        np.testing.assert_array_equal(segment(subject, 0.1), grow(preparation, 0.1))

    def test_priors_follow_an_affine_motion(self, phantom):
        anatomy = make_anatomy(3.0, np.random.default_rng([1, 0]))
        inside, t1 = anatomy.brain, phantom.images["t1"]
        motion = np.diag([1.08, 0.93, 1.05, 1.0])
        motion[:2, :2] @= [[np.cos(0.14), -np.sin(0.14)], [np.sin(0.14), np.cos(0.14)]]
        motion[:3, 3] = (22, -19, 25)
        priors = register_priors(t1, inside, anatomy.affine)
        moved = register_priors(t1, inside, motion @ anatomy.affine)
        assert np.corrcoef(priors[WHITE][inside], anatomy.white[inside])[0, 1] > 0.6
        for tissue in (CSF, GREY, WHITE):
            assert np.corrcoef(priors[tissue][inside], moved[tissue][inside])[0, 1] > 0.97

    def test_arrays_in_memory(self, phantom):
        anatomy = make_anatomy(3.0, np.random.default_rng([1, 0]))
        tissues = np.stack([anatomy.csf, anatomy.grey, anatomy.white])
        arrays = (phantom.images["t1"], phantom.images["flair"], anatomy.brain, tissues, (3.0, 3.0, 3.0))
        whole = lesion_growth(*arrays, kappa=0.1) > 0.5
        inner = lesion_growth(*arrays, kappa=0.1, outer_csf_margin=9) > 0.5
        assert dice_coefficient(whole, phantom.mask) > dice_coefficient(whole, ~phantom.mask & anatomy.brain)
        assert 0 < inner.sum() < whole.sum()

    def test_outer_csf_is_the_outside_and_csf_near_the_surface(self):
        brain = ball((41, 41, 41), (20, 20, 20), 19)
        tissues = np.zeros((3, *brain.shape), np.float32)
        tissues[WHITE] = 1
        for centre in ((20, 20, 20), (20, 20, 34)):
            tissues[CSF][ball(brain.shape, centre, 2)] = 2
        distance = distance_to_outer_csf(brain, tissues, (1.0, 1.0, 2.0))
        assert distance[20, 20, 34] == 0
        assert distance[20, 20, 20] > 15
        assert not distance[~brain].any()
        assert distance[20, 20, 30] == 4  # two voxels of 2 mm from the edge of the pool


class TestCommand:
    def test_files_one_by_one(self, subject, preparation, tmp_path, capsys):
        files = [f"--{name}={path}" for name, path in subject.images.items()]
        arguments = ["--name", "bea", "--kappa", "0.1", "--min-lesion-volume", "0", "--out", str(tmp_path)]
        assert main(["lga", *files, *arguments]) == 0
        probability = nib.load(tmp_path / "bea_probability.nii.gz")
        mask = nib.load(tmp_path / "bea_mask.nii.gz")
        for image in (probability, mask):
            np.testing.assert_allclose(image.affine, nib.load(subject.images["flair"]).affine, atol=1e-5)
        np.testing.assert_array_equal(probability.get_fdata(), grow(preparation, 0.1))
        np.testing.assert_array_equal(mask.get_fdata(), probability.get_fdata() > 0.5)
        assert mask.get_data_dtype() == np.uint8
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "bea_mask.nii.gz",
            "bea_probability.nii.gz",
        ]
        millilitres = mask.get_fdata().sum() * 27 / 1000
        assert capsys.readouterr().out == (
            f"bea: {millilitres:.2f} ml of lesions, {tmp_path / 'bea_mask.nii.gz'}\n"
        )

    def test_several_kappas_and_a_folder_with_brain_masks(self, subject, tmp_path):
        folder = tmp_path / "data" / "anna"
        folder.mkdir(parents=True)
        for name, path in subject.images.items():
            (folder / path.name).symlink_to(path)
            assert name in path.name
        flair = nib.load(subject.images["flair"])
        half = flair.get_fdata() > 0
        half[half.shape[0] // 2 :] = False
        write_image(folder / "brainmask.nii.gz", half.astype(np.uint8), flair.affine)
        arguments = ["--pattern", "brain=brainmask", "--kappa", "0.05", "0.2", "--out", str(tmp_path / "out")]
        assert main(["lga", str(folder.parent), *arguments, "--min-lesion-volume", "60"]) == 0
        sizes = []
        for kappa in ("0.05", "0.2"):
            mask = nib.load(tmp_path / "out" / f"kappa-{kappa}" / "anna_mask.nii.gz").get_fdata() > 0
            labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
            assert count == 0 or np.bincount(labels.ravel())[1:].min() * 27 >= 60
            assert not (mask & ~half).any()
            sizes.append(mask.sum())
        assert sizes[0] > sizes[1]

    def test_neither_source_nor_files(self, tmp_path, capsys):
        message = error_of(capsys, "lga", "--out", tmp_path)
        assert message == "lga: expected either DIR|CSV or the images one by one (--t1 --flair)"

    def test_missing_image(self, subject, tmp_path, capsys):
        message = error_of(capsys, "lga", "--t1", subject.images["t1"], "--out", tmp_path)
        assert message == "subject subject has no flair image, which lesion growth needs"

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--kappa", "0", "kappa: expected positive numbers, got 0"),
            ("--kappa", "nan", "kappa: expected positive numbers, got nan"),
            ("--threshold", "1", "threshold: expected a number from 0 to below 1, got 1"),
            ("--min-lesion-volume", "-1", "min_lesion_volume: expected at least 0 mm³, got -1"),
            ("--outer-csf-margin", "-2", "outer_csf_margin: expected at least 0 mm, got -2"),
        ],
    )
    def test_options_out_of_range(self, tmp_path, capsys, option, value, message):
        assert (
            error_of(capsys, "lga", "--t1", "x", "--flair", "y", "--out", tmp_path, option, value) == message
        )

    def test_another_grid(self, subject, tmp_path, capsys):
        other = write_image(tmp_path / "t1.nii.gz", np.ones((5, 5, 5), np.float32))
        message = error_of(
            capsys, "lga", "--t1", other, "--flair", subject.images["flair"], "--out", tmp_path
        )
        assert message.startswith(f"{subject.images['flair']}: shape (54, 67, 54) differs from (5, 5, 5)")

    @pytest.mark.parametrize(("edge", "litres"), [(10, "0.00"), (200, "8.00")])
    def test_what_is_no_brain(self, tmp_path, capsys, edge, litres):
        images = {
            name: write_image(tmp_path / f"{name}.nii.gz", np.ones((edge,) * 3, np.uint8), np.eye(4))
            for name in ("t1", "flair")
        }
        message = error_of(capsys, "lga", "--t1", images["t1"], "--flair", images["flair"], "--out", tmp_path)
        assert message == (
            f"{images['t1']} and {images['flair']}: expected a brain of 0.3 to 2.8 litres where they are not "
            f"0, got {litres}"
        )

    def test_a_missing_package_is_named(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("geoloss_kernels.cli.find_spec", lambda name: None if name == "nilearn" else name)
        message = error_of(capsys, "lga", "--t1", "x", "--flair", "y", "--out", tmp_path)
        assert message == "lga needs nilearn: pip install 'geoloss-kernels[lga]'"

    def test_growth_wants_sensible_numbers(self, preparation):
        with pytest.raises(InputError, match="kappa: expected a positive number, got -1"):
            grow(preparation, -1)
        with pytest.raises(InputError, match=r"phi: expected a number of at least 0, got -0\.5"):
            grow(preparation, phi=-0.5)
