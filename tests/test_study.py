"""`geoloss reproduce`: the paper's numbers, the statistics, the report, and a study from end to end."""

from __future__ import annotations

import base64
import csv
import io
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import study_helpers
import torch
from study_helpers import TINY, reproduce
from training_helpers import make_subject, make_subjects

from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.datasets import DatasetRecipe
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import exclusive
from geoloss_kernels.lesions.imaging.reading import load_images, load_mask
from geoloss_kernels.lesions.preprocessing.preprocessing import correct_subject
from geoloss_kernels.lesions.study import lga_row, paper
from geoloss_kernels.lesions.study.cost import Cost, peak_memory
from geoloss_kernels.lesions.study.document import Heading, Paragraph, Picture, Table, to_html, to_markdown
from geoloss_kernels.lesions.study.measurements import (
    SIZES,
    THRESHOLDS,
    Details,
    Measurements,
    SizeCounts,
    mask_file,
    measure,
)
from geoloss_kernels.lesions.study.methods import METHODS, TITLES, VARIANTS
from geoloss_kernels.lesions.study.paper import Rates
from geoloss_kernels.lesions.study.patients import load_patients
from geoloss_kernels.lesions.study.presets import PRESETS
from geoloss_kernels.lesions.study.report import added_time, compare_with_baseline, findings, table_rows
from geoloss_kernels.lesions.study.settings import StudyFolders, open_study
from geoloss_kernels.lesions.study.statistics import Row, by_subject, mean_rates, paired_p
from geoloss_kernels.lesions.subjects.table import format_table
from geoloss_kernels.lesions.training.named_losses import LOSSES
from geoloss_kernels.lesions.training.network import NETWORKS
from geoloss_kernels.metrics import LesionMetrics
from geoloss_kernels.metrics.lesions import lesion_f1

NO_P = {"dice": math.nan, "lf1": math.nan}
NAN = Rates(math.nan, math.nan, math.nan, math.nan)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All rows on made-up subjects, which this process makes itself."""
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        patch.setitem(PRESETS, "tiny", replace(TINY, epochs=2, steps_per_epoch=2))
        assert reproduce("--out", out) == 0
    return out


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    path = root / "heads.csv"
    path.write_text(format_table(make_subjects(root / "subjects")))
    return path


@pytest.fixture(scope="module")
def small_study(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows on subjects that were there, not interrupted."""
    out = tmp_path_factory.mktemp("small") / "out"
    assert reproduce("--out", out, *small_options(table)) == 0
    return out


def small_options(table: Path) -> tuple[object, ...]:
    return ("--data", f"si170={table}", "--rows", "dice", "dice+fog", "dice+fog_weight_10")


def counts(predicted: int, reference: int, common: int, lesions: tuple[int, int, int]) -> LesionMetrics:
    return LesionMetrics(predicted, reference, common, *lesions, confirmed_lesions=lesions[-1])


def measurements(**subjects: LesionMetrics) -> Measurements:
    sizes = {size: SizeCounts(4, 3, 2, 1) for size in SIZES}
    return Measurements(
        {name: dict.fromkeys(THRESHOLDS, metrics) for name, metrics in subjects.items()},
        dict.fromkeys(subjects, Details(12.5, sizes)),
    )


def row(method: str, *rates: float, p: dict[str, float] = NO_P, cost: Cost | None = None) -> Row:
    return Row(method, 1, 10, Rates(*rates), NAN, p, cost)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def printed_rows() -> Iterator[tuple[int, str, Rates]]:
    for printed in paper.TABLES:
        for method, rates in printed.rows.items():
            yield printed.number, method, rates


def test_paper_lf1_is_the_harmonic_mean_in_all_rows_but_the_misprinted_one():
    rounding = 0.001  # of the rates, and of their mean
    wrong = {
        (number, method): lesion_f1(rates.ltpr, rates.lppv)
        for number, method, rates in printed_rows()
        if abs(lesion_f1(rates.ltpr, rates.lppv) - rates.lf1) > rounding
    }
    assert wrong == pytest.approx(paper.MISPRINTS, abs=1e-4)


def test_paper_rows_that_are_printed_twice_agree():
    ablation, comparison, _ = (printed.rows for printed in paper.TABLES)
    common = ablation.keys() & comparison.keys()
    assert common == {"dice", "dice+fog", "dice+sog"}
    assert all(ablation[method] == comparison[method] for method in common)


def test_every_row_of_the_paper_is_a_method_and_every_method_a_row():
    assert {method for _, method, _ in printed_rows()} == set(METHODS)
    assert set(METHODS) - {"lst"} <= set(LOSSES)
    assert paper.methods_of("si170") == set(paper.TABLES[2].rows)
    assert paper.methods_of("elsewhere") == set()


def test_presets_make_valid_configurations():
    for preset in PRESETS.values():
        for dataset in ("ge30", "si170", "elsewhere"):
            for method in set(TITLES) - {"lst"}:
                config = preset.config(dataset, method, 0)
                assert config.loss in LOSSES
                assert method in VARIANTS or config.loss == method
                assert config.epochs == preset.epochs * (3 if method.endswith("_3x_steps") else 1)
                assert config.network in NETWORKS
    published = PRESETS["paper"].config("ge30", "dice+boundary", 1)
    assert (published.epochs, published.batch_size, published.learning_rate) == (100, 4, 1e-3)
    assert (published.weight_decay, published.loss_schedule_step) == (1e-6, 0.01)


def test_rates_are_averaged_over_subjects_and_seeds_and_lf1_follows_from_the_averages():
    first = measurements(a=counts(10, 10, 5, (4, 4, 2)), b=counts(10, 30, 5, (2, 4, 2)))
    second = measurements(a=counts(10, 10, 10, (4, 4, 4)), b=counts(0, 30, 0, (0, 4, 0)))
    dice = ((0.5 + 0.25) / 2 + (1 + 0) / 2) / 2
    lppv = ((0.5 + 1) / 2 + 1) / 2  # undefined for b without a prediction
    ltpr = ((0.5 + 0.5) / 2 + (1 + 0) / 2) / 2
    assert mean_rates([first, second]) == pytest.approx((dice, lppv, ltpr, 2 * lppv * ltpr / (lppv + ltpr)))
    assert by_subject([first, second], lambda metrics: metrics.dice) == pytest.approx({"a": 0.75, "b": 0.125})


def test_paired_test_is_exact_and_skips_undefined_values():
    better = {str(number): number + 0.1 * (number + 1) for number in range(6)}
    worse = {str(number): float(number) for number in range(6)}
    assert paired_p(better, worse) == pytest.approx(2 / 2**6)
    assert paired_p({**better, "x": math.nan}, {**worse, "x": 1.0}) == pytest.approx(2 / 2**6)
    assert paired_p(worse, worse) == 1
    assert math.isnan(paired_p({"x": math.nan}, {"x": 1.0}))


def test_verdict_follows_the_numbers():
    dice = row("dice", 0.70, 0.5, 0.8, 0.6)
    p = {"dice": 0.01, "lf1": 0.2}
    assert compare_with_baseline(row("dice+fog", 0.71, 0.6, 0.9, 0.7, p=p), dice) == (
        "Dice + FOG beats Dice in all four rates. DSC +0.010 (p = 0.01) and L-F1 +0.100 (p = 0.2); "
        "significant at 0.05 over 10 subjects: DSC."
    )
    worse = compare_with_baseline(row("dice+fog", 0.70, 0.4, 0.7, 0.5, p=p), dice)
    assert worse.startswith("Dice + FOG does not beat Dice in any of the four rates. DSC +0.000 (p = 0.01)")
    mixed = compare_with_baseline(row("dice+fog", 0.71, 0.5, 0.9, 0.5, p={"dice": 0.5, "lf1": 0.5}), dice)
    assert mixed.startswith("Dice + FOG beats Dice in DSC and LTPR, not in LPPV and L-F1.")
    assert mixed.endswith("neither is significant at 0.05 over 10 subjects.")


def test_findings_name_the_best_row_here_and_in_the_paper():
    rows = {"dice": row("dice", 0.7, 0.5, 0.8, 0.6), "lst": row("lst", 0.8, 0.5, 0.8, math.nan)}
    assert findings(rows, paper.TABLES[1].rows) == [
        "Best DSC: LST (LGA) (0.800); in the paper Dice (0.705).",
        "Best L-F1: Dice (0.600); in the paper Dice (0.684).",
    ]


def test_added_time_is_that_of_the_loss_relative_to_a_step_with_dice():
    rates = (0.7, 0.5, 0.8, 0.6)
    rows = {
        "lst": row("lst", *rates),
        "dice": row("dice", *rates, cost=Cost(0.002, 0.1, None, 9)),
        "dice+fog": row("dice+fog", *rates, cost=Cost(0.003, 0.2, None, 9)),
        "dice+hausdorff": row("dice+hausdorff", *rates, cost=Cost(0.052, 0.1, None, 9)),
    }
    (sentence,) = added_time(rows)
    assert sentence == "Time that the loss adds to a step with Dice: Dice + FOG +1.0%, Dice + HD +50.0%."
    assert added_time({name: rows[name] for name in ("lst", "dice")}) == []
    assert added_time({name: rows[name] for name in ("lst", "dice+fog")}) == []


def test_loss_memory_is_measured_on_this_machine():
    config = TINY.config("si170", "dice+hausdorff", 0)
    large = replace(config, patch_size=(64, 64, 64), batch_size=4)
    maps = 3 * 4 * 64**3 * 4  # the distances of reference and prediction, and their sum
    assert peak_memory(large, torch.device("cpu")) > maps / 2


def test_table_shows_our_numbers_beside_the_papers():
    fog = Row("dice+fog", 2, 10, Rates(0.7, 0.6, 0.8, 0.69), Rates(0.01, 0.02, 0.03, 0.04), NO_P, None)
    dice = row("dice", 0.5, math.nan, 0.0, 0.0, cost=Cost(0.0021, 0.05, 3_000_000, 9))
    header, *rows = table_rows({"dice+fog": fog, "dice": dice}, paper.TABLES[0].rows)
    assert header[:5] == ["Method", "DSC", "paper", "LPPV", "paper"]
    assert rows[0][:5] == ["Dice + FOG", "0.700 ± 0.010", "0.712", "0.600 ± 0.020", "0.627"]
    assert rows[0][-3:] == ["–", "–", "–"]
    assert rows[1][3:5] == ["–", "0.580"]
    assert rows[1][-3:] == ["2.1", "50", "3.0"]
    assert {len(cells) for cells in rows} == {len(header)}


def test_measurements_survive_being_written(tmp_path):
    written = replace(measurements(a=counts(10, 10, 5, (4, 4, 2))), notes={"kappa": 0.3})
    written.write(tmp_path / "test.csv")
    written.write_thresholds(tmp_path / "thresholds.csv")
    assert Measurements.read(tmp_path / "test.csv", tmp_path / "thresholds.csv") == written
    of_table = Measurements.read(tmp_path / "test.csv", tmp_path / "elsewhere.csv")
    assert of_table.thresholds == (0.5,)
    assert of_table.at() == written.at()


def test_measuring_thresholds_probabilities(tmp_path):
    subject = make_subject(tmp_path / "subject", 1)
    reference = load_mask(subject.mask)
    _, grid = load_images({"flair": subject.images["flair"]})
    rims = 0.25 + 0.5 * reference.astype(np.float32)
    measured = measure(lambda _: (rims, grid), [subject], tmp_path / "masks")
    by_threshold = measured.subjects["subject"]
    assert all(by_threshold[threshold].dice == 1 for threshold in THRESHOLDS if 0.25 < threshold < 0.75)
    assert by_threshold[0.1].predicted_voxels == reference.size
    assert by_threshold[0.9].predicted_voxels == 0
    np.testing.assert_array_equal(load_mask(mask_file(tmp_path / "masks", subject)), reference)
    too_large = reference.sum() * grid.voxel_volume + 1
    cleaned = measure(lambda _: (rims, grid), [subject], tmp_path / "cleaned", min_lesion_volume=too_large)
    assert cleaned.at()["subject"].predicted_voxels == 0


def test_document_escapes_and_embeds(tmp_path):
    (tmp_path / "figures").mkdir()
    picture = tmp_path / "figures" / "a.png"
    picture.write_bytes(b"pixels")
    blocks = [
        Heading("A < B", 1),
        Paragraph("p < 0.05"),
        Table([["x", "DSC"], ["1", "0.5"]]),
        Picture(picture, "C"),
    ]
    html = to_html(blocks, "T & U")
    assert "<title>T &amp; U</title>" in html
    assert "<h1>A &lt; B</h1>\n<p>p &lt; 0.05</p>" in html
    assert f'src="data:image/png;base64,{base64.b64encode(b"pixels").decode()}"' in html
    assert to_markdown(blocks, tmp_path) == (
        "# A < B\n\np < 0.05\n\n| x | DSC |\n| - | --: |\n| 1 | 0.5 |\n\n![C](figures/a.png)\n\nC\n"
    )


def test_patients_are_resampled_to_the_voxels_of_the_training(tmp_path):
    original = make_subject(tmp_path / "source" / "patient", 1, "train")
    (resampled,) = load_patients(tmp_path / "source", (2.0, 2.0, 2.0), tmp_path / "resampled")
    _, fine = load_images(original.images)
    images, coarse = load_images(resampled.images)
    assert coarse.spacing == pytest.approx((2, 2, 2))
    centres = [
        grid.affine @ [*np.argwhere(load_mask(subject.mask)).mean(0), 1]
        for grid, subject in ((fine, original), (coarse, resampled))
    ]
    np.testing.assert_allclose(*centres, atol=0.5)
    volumes = [
        load_mask(subject.mask).sum() * grid.voxel_volume
        for grid, subject in ((fine, original), (coarse, resampled))
    ]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.3)
    assert (images["t1"] == 0).mean() > 0.3
    assert load_patients(tmp_path / "source", fine.spacing, tmp_path / "unused")[0].mask == original.mask
    assert not (tmp_path / "unused").exists()


def test_study_reports_every_row_beside_the_paper(study):
    markdown = (study / "report.md").read_text()
    for number, method, rates in printed_rows():
        section = re.search(rf"## Table {number}:.*?(?=\n## )", markdown, re.DOTALL)
        (line,) = re.findall(rf"^\| {re.escape(METHODS[method])} +\|.*$", section[0], re.MULTILINE)
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        assert cells[2:9:2] == [f"{rate:.3f}" for rate in rates]
    assert markdown.count("Dice + FOG beats Dice in ") + markdown.count("Dice + FOG does not beat Dice") == 3


def test_report_is_one_file_with_all_three_figures(study):
    html = (study / "report.html").read_text()
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for number, source in enumerate(sources, 1):
        picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert picture.shape[1] > 1000
        assert picture[..., :3].std() > 0.05
        assert (study / "figures" / f"figure-{number}.png").is_file()
    assert "href=" not in html


def test_results_list_every_test_subject_of_every_row(study):
    rows = read_csv(study / "results.csv")
    expected = {
        (dataset, METHODS[method]) for dataset in ("ge30", "si170") for method in paper.methods_of(dataset)
    }
    assert {(line["dataset"], line["method"]) for line in rows} == expected
    assert len(rows) == len(expected)  # one test subject
    assert all(line["test set"] == "test" and line["threshold"] == "0.5" for line in rows)
    by_threshold = read_csv(study / "thresholds.csv")
    assert len(by_threshold) == len(THRESHOLDS) * len(rows)


def test_finished_study_is_only_reported_again(study, capsys):
    trained = {path: path.stat().st_mtime_ns for path in study.rglob("last.pt")}
    assert len(trained) == 14
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", replace(TINY, epochs=2, steps_per_epoch=2))
        assert main(["reproduce", "--out", str(study)]) == 0
    assert capsys.readouterr().out.count("done already") == 16
    assert {path: path.stat().st_mtime_ns for path in study.rglob("last.pt")} == trained


def test_variants_of_fog_have_a_table_of_their_own(small_study):
    markdown = (small_study / "report.md").read_text()
    assert "| Dice + 10 FOG" not in markdown[: markdown.index("## Further rows, on si170")]
    assert re.search(r"^\| Dice \+ 10 FOG +\|", markdown, re.MULTILINE)
    assert "Dice + 10 FOG beats" in markdown or "Dice + 10 FOG does not beat" in markdown
    config = (small_study / "si170" / "dice+fog_weight_10-0" / "run" / "config.toml").read_text()
    assert 'loss = "dice+fog"\nloss_coefficient = 10.0\n' in config


def test_killed_study_goes_on_to_the_same_results(small_study, table, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, study_helpers.__file__, "--out", out, *small_options(table)]
    delays = []
    for awaited in ("dice-0/run/last.pt", "dice+fog-0/run/config.toml"):
        process = subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while not (out / "si170" / awaited).exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        delays.append(random.uniform(0, 0.5))
        time.sleep(delays[-1])
        process.kill()
        process.wait()
    assert not (out / "report.md").exists(), delays
    assert main(["reproduce", "--out", str(out)]) == 0
    for name in ("results.csv", "thresholds.csv"):
        assert (out / name).read_bytes() == (small_study / name).read_bytes(), delays


def test_study_goes_on_from_its_results_alone(table, tmp_path, capsys):
    results = tmp_path / "results"
    options = ("--results", results, "--data", f"si170={table}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", replace(TINY, epochs=1, steps_per_epoch=1))
        assert reproduce("--out", tmp_path / "first", *options, "--rows", "dice", "dice+fog") == 0
        kept = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
        assert {"study.json", "report.md", "si170/data.json", "si170/dice-0/test.csv"} <= kept
        assert not any(str(tmp_path) in (results / name).read_text() for name in kept if name[-3:] != "png")
        first = (results / "results.csv").read_bytes()
        shutil.rmtree(tmp_path / "first")
        assert main(["reproduce", "--out", str(tmp_path / "second"), "--results", str(results)]) == 2
        assert "expected where 'heads.csv' of this study is on this machine" in capsys.readouterr().err
        more = ("--rows", "dice", "dice+fog", "dice+ce", "--only-report")
        assert reproduce("--out", tmp_path / "second", *options[:2]) == 2
        assert main(["reproduce", "--out", str(results), *more, "--beside", str(results)]) == 0
        assert "1 of 3 trainings: si170 Dice + CE (seed 0). With" in (results / "report.md").read_text()
        assert (results / "results.csv").read_bytes() == first
        capsys.readouterr()
        assert reproduce("--out", tmp_path / "second", *options, *more[:-1]) == 0
        assert capsys.readouterr().out.count("done already") == 2
        others = make_subjects(tmp_path / "others")[:-1]
        (tmp_path / "others.csv").write_text(format_table(others))
        changed = ("--results", results, "--data", f"si170={tmp_path / 'others.csv'}")
        assert reproduce("--out", tmp_path / "third", *changed) == 2
        assert "the inventory of data si170 is " in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("run")] == ["run"]
    lines = (results / "results.csv").read_text().splitlines()
    assert lines[: len(first.splitlines())] == first.decode().splitlines()
    assert "What is missing" not in (results / "report.md").read_text()


def test_more_test_subjects_leave_the_training_as_it_is():
    assert DatasetRecipe("ge30", 24, test_subjects=24).split_sizes() == {
        "train": 12,
        "validation": 4,
        "test": 24,
    }
    with pytest.raises(InputError, match="test_subjects: expected at least 1, got 0"):
        DatasetRecipe("ge30", 24, test_subjects=0)


def test_more_seeds_are_not_kept_while_the_study_is_in_use(small_study, capsys):
    before = (small_study / "study.json").read_bytes()
    with exclusive(small_study):
        assert main(["reproduce", "--out", str(small_study), "--seeds", "2"]) == 2
    assert "in use by another process" in capsys.readouterr().err
    assert (small_study / "study.json").read_bytes() == before


def test_lst_sees_images_without_bias_fields(tmp_path, monkeypatch):
    subject = make_subject(tmp_path / "one", 1, "test")
    seen = {}

    def prepare(given):
        seen.update(load_images(given.images)[0])
        raise InputError("seen")

    monkeypatch.setattr(lga_row, "prepare", prepare)
    with pytest.raises(InputError, match="seen"):
        lga_row.segmenter(0.3)(subject)
    corrected = correct_subject(subject, ("t1", "flair"), tmp_path / "corrected")
    expected = load_images(corrected.images)[0]
    assert set(seen) == {"t1", "flair"}
    for modality, image in expected.items():
        np.testing.assert_array_equal(seen[modality], image)
        assert not np.array_equal(image, load_images({modality: subject.images[modality]})[0][modality])


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--preset", "cpu"], "preset is tiny there, not cpu"),
        (["--rows", "dice"], 'rows is ["dice", "dice+fog", "dice+fog_weight_10"] there, not ["dice"]'),
    ],
)
def test_study_with_other_settings_is_refused(small_study, options, difference, capsys):
    assert main(["reproduce", "--out", str(small_study), *options]) == 2
    assert capsys.readouterr().err.strip().endswith(f"holds a study with other settings: {difference}")


def test_study_of_another_preset_of_the_same_name_is_refused(small_study):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", replace(TINY, epochs=7))
        with pytest.raises(InputError, match="epochs is 6 there, not 7"):
            open_study(StudyFolders(small_study, small_study), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "huge"], "--preset: expected one of smoke, cpu, gpu, paper"),
        (["--test-subjects", "0"], "--test-subjects: expected at least 1, got 0"),
        (["--data", "x", "--test-subjects", "9"], "--data, --test-subjects: expected subjects"),
        (["--only-report"], "--out: expected a study's folder"),
        (["--seeds", "0"], "--seeds: expected at least 1, got 0"),
        (["--rows", "dice", "fog"], "--rows: expected names of lst, dice"),
        (["--rows", "dice", "dice"], "--rows: expected different names"),
        (["--data", "a=x", "--data", "a=y"], "--data: expected different names"),
        (["--anatomies", "a"], "--anatomies and --lesion-masks: expected both or neither"),
        (
            ["--data", "x", "--anatomies", "a", "--lesion-masks", "m"],
            "--data, --anatomies: expected subjects",
        ),
    ],
)
def test_user_errors_name_the_option(options, message, tmp_path, capsys):
    assert main(["reproduce", "--out", str(tmp_path / "new"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_study_in_use_is_refused(small_study, capsys):
    with exclusive(small_study):
        assert main(["reproduce", "--out", str(small_study)]) == 2
    assert "in use by another process" in capsys.readouterr().err


def test_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("precious")
    assert reproduce("--out", tmp_path) == 2
    assert "--out: expected a new or empty folder, or a study's" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_other_data_more_seeds_and_patients_get_their_own_tables(table, tmp_path, capsys):
    out = tmp_path / "out"
    options = ("--data", table, "--rows", "dice", "--real-patients", table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", replace(TINY, epochs=1, steps_per_epoch=1))
        assert reproduce("--out", out, *options) == 0
        assert not re.search(r"\d ± \d", (out / "report.md").read_text())
        assert reproduce("--out", out, "--seeds", 2) == 0
        assert "done already" in capsys.readouterr().out
        assert reproduce("--out", out, "--seeds", 1) == 2
        assert "seeds is 2 there, not 1" in capsys.readouterr().err
    markdown = (out / "report.md").read_text()
    assert "## Results on heads" in markdown
    assert f"heads: subjects of {table.name};" in markdown
    assert str(table.parent) not in markdown
    assert "## Other patients, by the networks of heads" in markdown
    assert "paper |" not in markdown
    assert re.search(r"\| Dice +\| \d\.\d{3} ± \d\.\d{3} \|", markdown)
    lines = read_csv(out / "results.csv")
    assert sorted({(line["test set"], line["seed"]) for line in lines}) == [
        ("patients", "0"),
        ("patients", "1"),
        ("test", "0"),
        ("test", "1"),
    ]
    assert len(lines) == 2 * (1 + 4)
