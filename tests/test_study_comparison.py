"""Effects of losses: the statistics on tables with known answers, and what a report says of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.study.cells import Cell
from geoloss_kernels.lesions.study.comparison import (
    Components,
    Effect,
    estimate,
    flipped_signs_p,
    holm,
    pool,
    seeds_needed,
    subjects_needed,
)
from geoloss_kernels.lesions.study.data import StudyData
from geoloss_kernels.lesions.study.effects import (
    ALL_METRICS,
    METRICS,
    SIZE_METRICS,
    Comparisons,
    compare,
    differences,
)
from geoloss_kernels.lesions.study.measurements import (
    SIZES,
    TABLE_THRESHOLD,
    Details,
    Measurements,
    SizeCounts,
    measure_details,
)
from geoloss_kernels.lesions.study.methods import TITLES, contrasts
from geoloss_kernels.lesions.study.summary import Extent, power_blocks, sentences
from geoloss_kernels.metrics import LesionMetrics

EXTENT = Extent(steps="400 steps", done=6, planned=6)


def measurements(common: dict[str, int], hausdorff_95: float = 10.0) -> Measurements:
    """Subjects of 100 voxels in the reference and in the prediction, as many of them common as said."""
    counts = {name: LesionMetrics(100, 100, voxels, 10, 10, 5, 5) for name, voxels in common.items()}
    details = Details(hausdorff_95, {size: SizeCounts(4, 2, 5, 2) for size in SIZES})
    return Measurements(
        {name: {TABLE_THRESHOLD: metrics} for name, metrics in counts.items()}, dict.fromkeys(common, details)
    )


def effect(value: float, standard_error: float, seeds: int = 3) -> Effect:
    parts = Components(0.0, 24 * standard_error**2, 0.0)
    return Effect(value, standard_error**2, 23, seeds, 24, 0.5, parts)


def comparisons(**effects: tuple[float, float]) -> Comparisons:
    """Of rows (with _ for +) against Dice: (DSC, L-F1) with a standard error of 0.005; no other differs."""
    return Comparisons.of(
        {
            (method.replace("_", "+"), "dice"): {
                name: effect({"dice": dice, "lf1": lf1}.get(name, 0.0), 0.005) for name in ALL_METRICS
            }
            for method, (dice, lf1) in effects.items()
        }
    )


def test_mean_squares_of_a_table_worked_out_by_hand():
    found = estimate(np.array([[-1.0], [1.0]]) + np.array([[0.0, 3.0, 6.0]]))
    assert found.value == 3
    assert found.components == Components(training=2.0, subject=9.0, rest=0.0)
    assert found.variance == pytest.approx(2 / 2 + 9 / 3)
    assert found.freedom == pytest.approx((6 + 18) ** 2 / (6**2 / 1 + 18**2 / 2))
    assert (found.seeds, found.subjects) == (2, 3)


def test_one_seed_is_a_t_test_over_the_subjects():
    values = np.random.default_rng(0).normal(0.3, 1, 20)
    found = estimate(values[None])
    expected = stats.ttest_1samp(values, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


def test_seeds_that_agree_are_no_further_subjects():
    values = np.random.default_rng(0).normal(0.3, 1, 20)
    assert estimate(np.stack([values] * 3)).p == pytest.approx(estimate(values[None]).p)


def test_equal_losses_do_not_differ_and_undefined_subjects_are_left_out():
    assert estimate(np.zeros((3, 5))).p == 1
    values = np.array([[1.0, 2.0, math.nan], [2.0, 4.0, 1.0]])
    assert estimate(values) == estimate(values[:, :2])
    assert math.isnan(estimate(values[:, 1:]).value)


@pytest.mark.parametrize(("training", "subject", "rest"), [(0, 1, 1), (0.3, 1, 1), (0.6, 1, 1), (0, 0, 1)])
def test_size_under_the_null(training: float, subject: float, rest: float) -> None:
    generator = np.random.default_rng(1)
    studies = 400
    rejected = 0
    for _ in range(studies):
        table = training * generator.normal(size=(3, 1)) + subject * generator.normal(size=(1, 12))
        rejected += estimate(table + rest * generator.normal(size=(3, 12))).p < 0.05
    assert rejected / studies < 0.09


def test_luck_of_the_training_is_no_effect_though_every_subject_shows_it():
    generator = np.random.default_rng(2)
    tables = [generator.normal(size=(3, 1)) + 0.3 * generator.normal(size=(3, 12)) for _ in range(200)]
    found = [estimate(table) for table in tables]
    assert np.mean([each.permutation_p < 0.05 for each in found]) > 0.5
    assert np.mean([each.p < 0.05 for each in found]) < 0.1


def test_flipped_signs_are_exact_for_few_subjects_and_sampled_for_many():
    assert flipped_signs_p(np.arange(1.0, 7.0)) == 2 / 2**6
    assert flipped_signs_p(np.array([1.0, -1.0])) == 1
    many = np.random.default_rng(0).normal(0.4, 1, 30)
    assert flipped_signs_p(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)


def test_holm():
    assert holm([0.01, 0.04, math.nan, 0.03]) == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    assert holm([0.5, 0.9]) == [1, 1]


def test_sets_pool_to_their_mean():
    together = pool([effect(0.02, 0.01), effect(0.04, 0.01), estimate(np.full((1, 1), 1.0))])
    assert together.value == pytest.approx(0.03)
    assert math.sqrt(together.variance) == pytest.approx(0.01 / math.sqrt(2))
    assert together.freedom == pytest.approx(46)
    assert (together.subjects, together.sets, together.seeds) == (48, 2, 3)


def test_as_many_subjects_as_needed_find_the_effect_in_four_of_five_studies():
    seen = Effect(0.5, 0.1, 9, 1, 10, components=Components(0.0, 1.0, 0.0))
    needed = subjects_needed(seen, 0.05)
    assert needed is not None
    studies = np.random.default_rng(0).normal(0.5, 1, (2000, needed))
    assert (stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.04)


def test_subjects_do_not_help_where_trainings_differ_but_seeds_do():
    seen = Effect(0.1, 0.1, 9, 3, 20, components=Components(0.1, 0.01, 0.01))
    assert subjects_needed(seen, 0.05) is None
    by_normal_quantiles = 7.848880 * (0.1 + 0.01 / 20) / (0.01 - 7.848880 * 0.01 / 20)
    assert seeds_needed(seen, 0.05) == pytest.approx(by_normal_quantiles, rel=0.05)  # of t: wider
    assert seeds_needed(replace(seen, seeds=1), 0.05) is None
    assert subjects_needed(replace(seen, value=0.0), 0.05) is None


def test_what_is_detectable_is_found_in_four_of_five_studies():
    generator = np.random.default_rng(3)

    def study(effect: float) -> Effect:
        trainings, subjects = generator.normal(0, 0.3, (3, 1)), generator.normal(0, 1, (1, 24))
        return estimate(effect + trainings + subjects + generator.normal(0, 1, (3, 24)))

    detectable = float(np.median([study(0.0).detectable(0.05) for _ in range(200)]))
    found = np.mean([study(detectable).p < 0.05 for _ in range(300)])
    assert found == pytest.approx(0.8, abs=0.1)


def test_differences_are_of_units_seed_by_seed():
    better = [measurements({"a": 60, "b": 80, "c": 50}), measurements({"a": 70, "b": 70, "c": 60})]
    worse = [measurements({"a": 50, "b": 60, "c": 50})] * 2
    units = {"a": "mask 1", "b": "mask 1", "c": "mask 2"}
    found = differences(better, worse, units, METRICS["dice"])
    np.testing.assert_allclose(found, [[0.15, 0.0], [0.15, 0.1]])


def test_nothing_predicted_counts_as_nothing_right():
    nothing = LesionMetrics(0, 100, 0, 0, 10, 0, 0)
    details = Details(200.0, {size: SizeCounts(0, 0, 2, 1) for size in SIZES})
    assert METRICS["lppv"].value(nothing, details) == 0
    assert METRICS["lf1"].value(nothing, details) == 0
    assert math.isnan(SIZE_METRICS["ltpr_below_10"].value(nothing, details))
    assert SIZE_METRICS["lppv_below_10"].value(nothing, details) == 0.5


def test_counts_by_size_and_distance():
    reference = np.zeros((40, 40, 40), np.uint8)
    prediction = reference.copy()
    reference[2:4, 2:4, 2:4] = prediction[3:5, 2:4, 2:4] = 1  # 8 voxels, found
    reference[10, 10, 10:19] = 1  # 9, missed
    reference[20, 20, 10:20] = 1  # 10, missed
    reference[30:34, 30:34, 30:34] = prediction[30:32, 30:33, 30:33] = 1  # 64, found by 18
    prediction[2, 30, 2:30] = 1  # 28 that are none
    found = measure_details(prediction, reference, (1.0, 1.0, 2.0))
    assert found.sizes == {
        "below_10": SizeCounts(2, 1, 1, 1),
        "10_to_50": SizeCounts(1, 0, 2, 1),
        "above_50": SizeCounts(1, 1, 0, 0),
    }
    assert found.hausdorff_95 > 20
    empty = np.zeros_like(reference)
    assert measure_details(empty, empty, (1.0, 1.0, 1.0)).sizes["below_10"] == SizeCounts(0, 0, 0, 0)


def cells_of(folder: Path, rows: dict[str, list[dict[str, int]]]) -> list[Cell]:
    """Cells that are measured: method -> common voxels of each subject, for each seed."""
    data = StudyData("made", "made: of numbers", {})
    cells = []
    for method, of_seeds in rows.items():
        for seed, common in enumerate(of_seeds):
            place = folder / f"{method}-{seed}"
            cells.append(Cell(data, method, seed, place, place))
            measurements(common).write(cells[-1].measurements_file("test"))
    return cells


def test_rows_are_compared_over_the_seeds_that_both_have(tmp_path):
    low, high = {"a": 50, "b": 51, "c": 52}, {"a": 60, "b": 62, "c": 61}
    cells = cells_of(tmp_path, {"dice": [low, low], "dice+fog": [high, high], "dice+ce": [low]})
    found = compare(cells, contrasts({cell.method for cell in cells}))
    assert list(found.effects) == [("dice+fog", "dice"), ("dice+ce", "dice")]
    of_fog = found.effects["dice+fog", "dice"]["dice"]
    assert (of_fog.value, of_fog.seeds) == (pytest.approx(0.1), 2)
    assert found.effects["dice+ce", "dice"]["dice"].seeds == 1
    assert found.verdict(("dice+fog", "dice"), "dice") == 1
    assert found.verdict(("dice+ce", "dice"), "dice") == 0


def test_results_of_other_subjects_are_refused(tmp_path):
    cells = cells_of(tmp_path, {"dice": [{"a": 50, "b": 51}], "dice+fog": [{"a": 50, "x": 51}]})
    with pytest.raises(InputError, match=r"dice-0.test\.csv, got another reference of b"):
        compare(cells, [("dice+fog", "dice")])


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "test.csv").write_text("subject,predicted_voxels\na,1\n")
    with pytest.raises(InputError, match=r"test\.csv: expected measurements of a study"):
        Measurements.read(tmp_path / "test.csv")


def test_contrasts_of_rows():
    rows = {"dice", "dice+fog", "dice+ce", "dice+ce+fog", "dice+fog_3x_steps"}
    dice = [("dice+fog", "dice"), ("dice+ce", "dice"), ("dice+ce+fog", "dice")]
    assert contrasts(rows) == [*dice, ("dice+ce+fog", "dice+ce")]
    assert ("dice+fog_3x_steps", "dice_3x_steps") in contrasts(TITLES)
    assert ("dice+fog_3x_steps", "dice") not in contrasts(TITLES)
    assert not any("lst" in pair for pair in contrasts(TITLES))


def test_sentences_recommend_what_is_shown_to_be_better():
    losses = comparisons(dice_fog=(0.03, 0.02), dice_boundary=(0.05, -0.03), dice_ce=(0.0, 0.0))
    said = sentences(losses, Comparisons.of({}), EXTENT)
    assert said[0].startswith("Train with Dice + FOG: of 3 losses compared with Dice it gains most and is")
    assert "DSC +0.030 [+0.020, +0.040]" in said[0]
    assert said[1].startswith("Dice + FOG is shown to be better than Dice in DSC and L-F1")
    assert said[2].startswith("On lesions below 10 voxels, Dice + FOG is not told apart from Dice")
    assert said[3].startswith(
        "This rests on 1 data set(s), 24 independent test subjects, 3 seed(s) of each loss"
    )
    assert "missing" not in said[3]


def test_sentences_say_when_nothing_is_decided():
    losses = comparisons(dice_fog=(0.004, 0.002), dice_sog=(-0.03, 0.005))
    form = {("dice+fog_central", "dice+fog"): dict.fromkeys(ALL_METRICS, effect(0.03, 0.005))}
    said = sentences(losses, Comparisons.of(form), replace(EXTENT, done=5))
    assert said[0].startswith("Train with Dice, or with what you prefer: none of the 2 losses")
    assert "Dice + FOG comes closest" in said[0]
    assert said[1].startswith("Dice + FOG is not told apart from Dice in DSC and L-F1")
    assert said[2].startswith(
        "Of the other forms of FOG, Dice + FOG, central differences does best: it is shown"
    )
    assert said[-1].endswith("; it is preliminary, 1 of 6 trainings are missing.")
    assert sentences(Comparisons.of({}), Comparisons.of({}), EXTENT) == [
        "No loss is compared with Dice yet, so nothing can be recommended."
    ]


def test_one_seed_shows_nothing():
    table = {("dice+fog", "dice"): dict.fromkeys(ALL_METRICS, effect(0.03, 0.005, seeds=1))}
    said = sentences(Comparisons.of(table), Comparisons.of({}), EXTENT)
    assert said[0].startswith("Nothing is shown yet, with one seed of each loss: of 1 losses")
    assert said[1].startswith(
        "Dice + FOG is not judged, on one seed, against Dice in DSC and L-F1 (DSC +0.030"
    )
    assert "1 seed(s) of each loss" in said[-1]
    assert "with one seed nothing is shown" in said[-1]


def test_power_is_of_what_is_undecided():
    blocks = power_blocks({"ge30": comparisons(dice_fog=(0.03, 0.01))})
    header, *rows = blocks[-1].rows
    assert len(header) == len(rows[0])
    assert [row[:4] for row in rows] == [["ge30", "Dice + FOG", "L-F1", "+0.010"]]
    assert int(rows[0][5]) == pytest.approx(7.848880 * 24 * 0.005**2 / 0.01**2, rel=0.1)
