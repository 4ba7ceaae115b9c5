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

from geoloss_kernels.lesions.errors import InputError
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
    assert [row["subject"] for row in rows] == [*seen, "mean"]
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
