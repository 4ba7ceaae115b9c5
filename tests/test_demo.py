"""The demonstration from end to end, and its pictures and table."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.evaluation.table import DEFINED, MEAN, MEAN_WITH_ZEROS
from geoloss_kernels.lesions.reporting.figures import (
    DISTANCE,
    FALSE_ALARM,
    FOUND,
    MISSED,
    AxialView,
    compare,
    draw_segmentation,
    draw_transforms,
    geometric_transforms,
)
from geoloss_kernels.lesions.reporting.tables import markdown_table

VOXEL_SIZE = (1.0, 1.5, 2.0)


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--quick", "--seed", "3", "--out", str(out)]) == 0
    return out


@pytest.fixture
def brain() -> np.ndarray:
    x, y, z = np.indices((60, 50, 30))
    inside = ((x - 30) / 28) ** 2 + ((y - 25) / 23) ** 2 + ((z - 15) / 14) ** 2 < 1
    return inside * (1 + 0.01 * x).astype(np.float32)


@pytest.fixture
def lesion() -> np.ndarray:
    mask = np.zeros((60, 50, 30), dtype=bool)
    mask[38:44, 30:34, 12:16] = True
    return mask


def pixels_near(picture: np.ndarray, colour: str, tolerance: float = 0.2) -> int:
    return int((np.abs(picture[..., :3] - to_rgb(colour)).max(-1) < tolerance).sum())


def test_demonstration_writes_table_and_pictures(demonstration):
    with (demonstration / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["Dice", "Dice + FOG"]
    assert all(0 <= float(row["DSC"]) <= 1 and float(row["loss ms/step"]) > 0 for row in rows)
    markdown = (demonstration / "results.md").read_text()
    assert all(f"| {row['loss'].ljust(10)} | {row['DSC']} |" in markdown for row in rows)
    for name in ("segmentation-phantom-02.png", "transforms.png"):
        picture = matplotlib.image.imread(demonstration / name)
        assert picture.shape[1] > 1000
        assert picture[..., :3].std() > 0.1


def test_demonstration_tests_on_a_subject_that_neither_run_has_seen(demonstration):
    with (demonstration / "subjects" / "subjects.csv").open(newline="") as file:
        splits = {row["subject"]: row["split"] for row in csv.DictReader(file)}
    for loss in ("dice", "dice+fog"):
        with (demonstration / loss / "test" / "metrics.csv").open(newline="") as file:
            rows = [row["subject"] for row in csv.DictReader(file)]
        tested = [name for name in rows if name not in (MEAN, MEAN_WITH_ZEROS, DEFINED)]
        assert len(tested) == len(rows) - 3
        assert tested
        assert all(splits[subject] == "test" for subject in tested)


def test_both_runs_differ_in_the_loss_alone(demonstration):
    configurations = [
        (demonstration / loss / "config.toml").read_text().splitlines() for loss in ("dice", "dice+fog")
    ]
    changed = [pair for pair in zip(*configurations, strict=True) if pair[0] != pair[1]]
    assert changed == [('loss = "dice"', 'loss = "dice+fog"')]


@pytest.mark.parametrize("arguments", [["--seed", "-1"], []])
def test_user_errors_name_the_argument(arguments, tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("precious")
    out = tmp_path / "new" if arguments else tmp_path
    assert main(["demo", "--quick", "--out", str(out), *arguments]) == 2
    assert ("--seed" if arguments else "--out") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_markdown_table_aligns_its_columns():
    assert markdown_table([["loss", "DSC"], ["Dice", "0.7"]]) == (
        "| loss | DSC |\n| ---- | --: |\n| Dice | 0.7 |\n"
    )


def test_overlay_marks_found_missed_and_false_alarm():
    reference, prediction = np.zeros((2, 3, 1, 1), dtype=bool)
    reference[:2], prediction[1:] = True, True
    overlay = compare(prediction, reference)
    assert overlay.shape == (3, 1, 1, 4)
    for voxel, colour in zip(overlay[:, 0, 0], (MISSED, FOUND, FALSE_ALARM), strict=True):
        np.testing.assert_allclose(voxel[:3], to_rgb(colour), atol=1e-6)


def test_axial_view_shows_anterior_up_and_the_right_side_on_the_left():
    volume = np.zeros((40, 40, 3))
    volume[30:34, 8:12, 1] = 1  # right and back in RAS+
    figure = Figure(figsize=(4, 4), dpi=50)
    axes = figure.add_axes((0, 0, 1, 1))
    AxialView(1, (19.5, 19.5), 20.0, (1.0, 1.0)).draw(axes, volume, cmap="gray")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., 0]
    rows, columns = np.nonzero(picture > 128)
    assert rows.mean() > 0.6 * picture.shape[0]
    assert columns.mean() < 0.4 * picture.shape[1]


def test_segmentation_picture_shows_all_three_kinds_of_voxels(tmp_path, brain, lesion):
    images = {"T1": brain, "T2": brain, "FLAIR": brain}
    predictions = {"exact": lesion, "shifted": np.roll(lesion, 3, axis=0)}
    path = draw_segmentation(tmp_path / "a.png", images, lesion, predictions, VOXEL_SIZE, "Title")
    picture = matplotlib.image.imread(path)
    areas = {colour: pixels_near(picture, colour) for colour in (FOUND, MISSED, FALSE_ALARM)}
    assert all(area > 300 for area in areas.values())
    assert areas[FOUND] > areas[MISSED] + areas[FALSE_ALARM]
    assert [child.name for child in tmp_path.iterdir()] == ["a.png"]


def test_segmentation_picture_needs_equal_shapes_and_a_lesion(tmp_path, brain, lesion):
    with pytest.raises(ValueError, match=r"T1: expected .*\(60, 50, 30\), got \(59, 50, 30\)"):
        draw_segmentation(tmp_path / "a.png", {"T1": brain[1:]}, lesion, {}, VOXEL_SIZE, "Title")
    with pytest.raises(ValueError, match="at least one lesion"):
        draw_segmentation(tmp_path / "a.png", {"T1": brain}, lesion & False, {}, VOXEL_SIZE, "Title")


def test_transforms_are_those_of_a_box(lesion):
    transforms = geometric_transforms(lesion, VOXEL_SIZE)
    for axis, name in enumerate(("FOG sagittal", "FOG coronal", "FOG axial")):
        values = transforms[name]
        face = lesion.sum() / lesion.any(tuple({0, 1, 2} - {axis})).sum()
        assert (values > 0).sum() == (values < 0).sum() == face
        assert np.unique(values).tolist() == pytest.approx([-1 / VOXEL_SIZE[axis], 0, 1 / VOXEL_SIZE[axis]])
    assert transforms["SOG"].sum() == pytest.approx(0, abs=1e-3)
    assert (transforms[DISTANCE][lesion] <= 0).all()
    assert transforms[DISTANCE][37, 31, 13] == pytest.approx(VOXEL_SIZE[0])


def test_transforms_picture_has_both_signs(tmp_path, lesion):
    picture = matplotlib.image.imread(draw_transforms(tmp_path / "b.png", lesion, VOXEL_SIZE, "Title"))
    for colour in ("#7f3b08", "#2d004b"):  # both ends of the colour map
        assert pixels_near(picture, colour, 0.1) > 300
