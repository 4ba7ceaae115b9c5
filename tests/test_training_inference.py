from __future__ import annotations

import csv
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn
from training_helpers import (
    LAS_AFFINE,
    MODALITIES,
    SHAPE,
    make_arrays,
    make_subject,
    make_subjects,
    tiny_config,
    write_image,
)

from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.errors import InputError, InputWarning
from geoloss_kernels.lesions.evaluation.evaluation import evaluate, evaluate_folders
from geoloss_kernels.lesions.prediction.prediction import Model, predict_subject, save_prediction
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.training.inference import predict_probability, to_mask
from geoloss_kernels.metrics import lesion_metrics

CPU = torch.device("cpu")


class BrightFlair(nn.Module):
    """A network that knows the answer: lesions of the tiny subjects are the bright voxels of FLAIR."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return 20 * (windows[:, 2:3] - 1.5)


@pytest.fixture
def model() -> Model:
    return Model(BrightFlair(), tiny_config(), CPU)


def test_prediction_is_in_the_grid_of_the_files(tmp_path: Path, model: Model) -> None:
    subject = make_subject(tmp_path / "s", seed=0)
    prediction = predict_subject(model, subject)
    assert np.array_equal(prediction.mask, make_arrays(seed=0)["mask"])
    assert prediction.mask.dtype == np.uint8
    assert prediction.probability.dtype == np.float32
    assert np.array_equal(prediction.probability > 0.5, prediction.mask == 1)
    for path, dtype in zip(
        save_prediction(prediction, tmp_path / "out"), (np.uint8, np.float32), strict=True
    ):
        saved = nib.Nifti1Image.from_filename(path)
        assert saved.shape == SHAPE
        assert np.array_equal(saved.affine, LAS_AFFINE)
        assert saved.get_data_dtype() == dtype
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"s_mask.nii.gz", "s_probability.nii.gz"}


def test_orientation_of_the_files_does_not_matter(tmp_path: Path, model: Model) -> None:
    """The same head stored with its axes permuted and flipped is segmented the same, voxel for voxel."""
    arrays = make_arrays(seed=0)
    permuted_affine = LAS_AFFINE[:, [2, 0, 1, 3]].copy()
    permuted_affine[:3, 3] += permuted_affine[:3, 0] * (SHAPE[2] - 1)
    permuted_affine[:, 0] *= -1
    paths = {
        name: write_image(tmp_path / f"{name}.nii.gz", values.transpose(2, 0, 1)[::-1], permuted_affine)
        for name, values in arrays.items()
    }
    straight = predict_subject(model, make_subject(tmp_path / "s", seed=0))
    permuted = predict_subject(model, Subject("p", {name: paths[name] for name in MODALITIES}))
    assert np.array_equal(permuted.probability, straight.probability.transpose(2, 0, 1)[::-1])


def test_probability_of_volumes_smaller_and_larger_than_a_window() -> None:
    config = tiny_config(channels=[2, 4])
    for shape in [(7, 5, 9), (16, 16, 16), (40, 17, 30)]:
        image = torch.randn(3, *shape)
        probability = predict_probability(BrightFlair(), image, config, CPU)
        assert probability.shape == shape
        assert torch.allclose(probability, (20 * (image[2] - 1.5)).sigmoid(), atol=1e-5)


def test_threshold_and_min_lesion_size(tmp_path: Path, model: Model) -> None:
    subject = make_subject(tmp_path / "s", seed=0)
    size = int(make_arrays(seed=0)["mask"].sum())
    assert predict_subject(model, subject, min_lesion_size=size + 1).mask.sum() == 0
    low, high = (int(predict_subject(model, subject, threshold=t).mask.sum()) for t in (1e-6, 0.999999))
    assert low > size >= high
    with pytest.raises(InputError, match="threshold: expected between 0 and 1"):
        predict_subject(model, subject, threshold=1.5)
    probability = np.zeros((5, 5, 5), np.float32)
    probability[0, 0, :3] = probability[4, 4, 4] = 0.9
    assert to_mask(probability, 0.5).sum() == 4
    assert to_mask(probability, 0.5, min_lesion_size=3).sum() == 3


def test_missing_modality(tmp_path: Path, model: Model) -> None:
    subject = make_subject(tmp_path / "s", seed=0)
    with pytest.raises(InputError, match="subject s has no t2 image, which the model needs"):
        predict_subject(model, Subject("s", {"t1": subject.images["t1"]}))


def test_evaluation_table(tmp_path: Path, model: Model) -> None:
    subjects = make_subjects(tmp_path / "data")
    empty = make_subject(tmp_path / "data" / "empty", seed=9)
    assert empty.mask is not None
    write_image(empty.mask, np.zeros(SHAPE, np.uint8))
    seen: list[str] = []
    table = evaluate(
        model, [*subjects, empty], tmp_path / "out", on_subject=lambda result: seen.append(result.name)
    )
    assert seen == ["subject0", "subject1", "subject2", "subject3", "empty"]
    assert table.summary.dice == pytest.approx(4 / 5)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "metrics.csv").read_text())))
    assert [row["subject"] for row in rows] == [*seen, "mean", "mean (undefined as 0)", "subjects in mean"]
    voxels = int(make_arrays(seed=0)["mask"].sum())
    assert float(rows[0]["reference ml"]) == pytest.approx(voxels * 1.5 / 1000)
    assert float(rows[0]["DSC"]) == 1
    assert (rows[4]["LTPR"], rows[4]["DSC"], rows[4]["LPPV"]) == ("nan", "0", "0")
    assert float(rows[5]["L-F1"]) == pytest.approx(2 * 1 * 0.8 / 1.8, abs=1e-6)
    markdown = (tmp_path / "out" / "metrics.md").read_text().splitlines()
    assert markdown[0].startswith("| subject | DSC | LTPR | LPPV | L-F1 |")
    assert markdown[2].startswith("| subject0 | 1.000 | 1.000 | 1.000 | 1.000 |")
    assert markdown[6].startswith("| empty | 0.000 | – | 0.000 | 0.000 |")
    assert len(list((tmp_path / "out" / "predictions").iterdir())) == 10


def test_means_say_over_whom_they_are(tmp_path: Path) -> None:
    """Nothing is predicted in two of five subjects, and there is nothing to find in one of these."""
    target = np.zeros(SHAPE, np.uint8)
    target[5:8, 5:8, 5:8] = 1
    pairs = [(target, target)] * 3 + [(0 * target, target), (0 * target, 0 * target)]
    for number, (prediction, reference) in enumerate(pairs):
        write_image(tmp_path / "predictions" / f"s{number}.nii.gz", prediction)
        write_image(tmp_path / "references" / f"s{number}.nii.gz", reference)
    evaluate_folders(tmp_path / "predictions", tmp_path / "references", tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "metrics.csv").read_text())))
    mean, with_zeros, defined = rows[5:]
    diagonal = float(np.linalg.norm(np.multiply(SHAPE, (1, 1, 1.5))))
    assert {name: float(rows[3][name]) for name in ("DSC", "LTPR", "HD95 mm", "ASD mm")} == pytest.approx(
        {"DSC": 0, "LTPR": 0, "HD95 mm": diagonal, "ASD mm": diagonal}, rel=1e-5
    )
    assert {rows[4][name] for name in ("DSC", "LTPR", "LPPV", "HD95 mm", "ASD mm")} == {"nan"}
    expected = {
        "DSC": (3 / 4, 3 / 5, 4),
        "LTPR": (3 / 4, 3 / 5, 4),
        "LPPV": (1, 3 / 5, 3),
        "L-F1": (2 * 3 / 4 / (7 / 4), 3 / 5, np.nan),
        "HD95 mm": (diagonal / 4, diagonal / 5, 4),
        "ASD mm": (diagonal / 4, diagonal / 5, 4),
        "reference lesions": (4 / 5, 4 / 5, 5),
    }
    for column, values in expected.items():
        found = [float(row[column]) for row in (mean, with_zeros, defined)]
        assert found == pytest.approx(values, rel=1e-5, nan_ok=True), column


def test_distances_are_in_millimetres_of_the_files_axes(tmp_path: Path) -> None:
    affine = np.array([[0.0, 0, -2, 0], [3, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    prediction, reference = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    prediction[4, 5, 6], reference[6, 5, 6] = 1, 1
    write_image(tmp_path / "predictions" / "s.nii.gz", prediction, affine)
    write_image(tmp_path / "references" / "s.nii.gz", reference, affine)
    (result,) = evaluate_folders(tmp_path / "predictions", tmp_path / "references").results
    assert result.surfaces.hausdorff_95 == pytest.approx(6)


@pytest.mark.parametrize(("connectivity", "lesions"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity_says_what_one_lesion_is(
    tmp_path: Path, connectivity: int, lesions: int, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5, 5, 5] = mask[6, 6, 5] = mask[7, 7, 6] = 1  # by an edge, then by a corner
    for folder in ("predictions", "references"):
        write_image(tmp_path / folder / "s.nii.gz", mask)
    folders = ["--predictions", str(tmp_path / "predictions"), "--references", str(tmp_path / "references")]
    out = ["--out", str(tmp_path / "out")]
    assert main(["evaluate", *folders, *out, "--connectivity", str(connectivity)]) == 0
    row = capsys.readouterr().out.splitlines()[2].split("|")
    assert row[10].strip() == row[11].strip() == str(lesions)
    with pytest.raises(SystemExit):
        main(["evaluate", *folders, *out, "--connectivity", "8"])


def test_predictions_without_a_reference_are_told(tmp_path: Path) -> None:
    for name in ("references/a", "predictions/a", "predictions/b"):
        write_image(tmp_path / f"{name}.nii.gz", make_arrays(0)["mask"])
    with pytest.warns(InputWarning, match="references: no reference for b: not evaluated"):
        table = evaluate_folders(tmp_path / "predictions", tmp_path / "references")
    assert [result.name for result in table.results] == ["a"]


def test_evaluation_needs_subjects_with_masks(tmp_path: Path, model: Model) -> None:
    with pytest.raises(InputError, match="expected at least one to evaluate"):
        evaluate(model, [])
    subject = make_subject(tmp_path / "s", seed=0)
    with pytest.raises(InputError, match="subject s has no lesion mask"):
        evaluate(model, [Subject("s", subject.images)])


def test_evaluation_uses_the_lesion_label(tmp_path: Path, model: Model) -> None:
    subject = make_subject(tmp_path / "s", seed=0)
    assert subject.mask is not None
    write_image(subject.mask, make_arrays(seed=0)["mask"] * 2)
    with pytest.raises(InputError, match="give lesion_label"):
        evaluate(model, [subject])
    assert evaluate(model, [subject], lesion_label=2).summary.dice == 1


def test_evaluation_of_folders(tmp_path: Path) -> None:
    masks = [make_arrays(seed)["mask"] for seed in (0, 1)]
    for name, mask in zip("ab", masks, strict=True):
        write_image(tmp_path / "references" / f"{name}.nii.gz", mask)
        write_image(tmp_path / "predictions" / f"{name}_mask.nii.gz", masks[0])
        write_image(tmp_path / "predictions" / f"{name}_probability.nii.gz", masks[0] * 0.7)
    table = evaluate_folders(tmp_path / "predictions", tmp_path / "references")
    assert [result.name for result in table.results] == ["a", "b"]
    assert table.results[0].metrics.dice == 1
    assert table.results[1].metrics == lesion_metrics(masks[0], masks[1])
    assert table.results[0].voxel_volume == pytest.approx(1.5)


def test_errors_of_folder_evaluation(tmp_path: Path) -> None:
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    with pytest.raises(InputError, match="predictions: no such folder"):
        evaluate_folders(predictions, references)
    mask = make_arrays(0)["mask"]
    write_image(predictions / "a.nii.gz", mask)
    references.mkdir()
    with pytest.raises(InputError, match="references: no NIfTI file"):
        evaluate_folders(predictions, references)
    write_image(references / "b.nii.gz", mask)
    with pytest.raises(InputError, match=r"no prediction for b.nii.gz"):
        evaluate_folders(predictions, references)
    write_image(predictions / "b.nii.gz", mask, np.eye(4))
    with pytest.raises(InputError, match=r"b.nii.gz: affine differs"):
        evaluate_folders(predictions, references)
    write_image(predictions / "b.nii.gz", mask * 2)
    with pytest.raises(InputError, match=r"b.nii.gz: expected a mask of 0 and 1, got values 0, 2$"):
        evaluate_folders(predictions, references, lesion_label=1)
    write_image(predictions / "b_mask.nii.gz", mask)
    with pytest.raises(InputError, match=r"a second mask of b, beside b.nii.gz"):
        evaluate_folders(predictions, references)
