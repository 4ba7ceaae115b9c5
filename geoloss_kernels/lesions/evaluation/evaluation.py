"""Comparison of predictions with reference masks, of a model or of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lesions.errors import InputError, LesionLabelError, warn
from geoloss_kernels.lesions.evaluation.table import EvaluationTable, SubjectResult
from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.imaging.reading import load_mask, read_grid
from geoloss_kernels.lesions.prediction.prediction import Model, predict_subject, save_prediction
from geoloss_kernels.lesions.subjects.folders import IMAGE_SUFFIXES
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.metrics import lesion_metrics, surface_distances

CONNECTIVITY = 26


def evaluate(
    model: Model,
    subjects: Sequence[Subject],
    out_dir: Path | None = None,
    *,
    threshold: float | None = None,
    min_lesion_size: int | None = None,
    lesion_label: int | None = None,
    connectivity: int = CONNECTIVITY,
    on_subject: Callable[[SubjectResult], None] | None = None,
) -> EvaluationTable:
    """Predict every subject and compare with its mask, on the full grid of the files.

    With ``out_dir``, writes the table and ``predictions/<subject>_{mask,probability}.nii.gz``. ``threshold``
    and ``min_lesion_size`` are those of ``predict_subject``, ``connectivity`` that of ``lesion_metrics``;
    ``on_subject`` is called after each subject.

    Raises:
        InputError: there is no subject, or one has no mask.
    """
    if not subjects:
        raise InputError("subjects: expected at least one to evaluate, got none")
    label = model.config.lesion_label if lesion_label is None else lesion_label
    results = []
    for subject in subjects:
        if subject.mask is None:
            raise InputError(f"subject {subject.name} has no lesion mask to evaluate against")
        prediction = predict_subject(model, subject, threshold=threshold, min_lesion_size=min_lesion_size)
        like = (prediction.grid, subject.images[model.config.modalities[0]])
        reference = load_mask(subject.mask, label, like=like)
        results.append(compare_masks(subject.name, prediction.mask, reference, prediction.grid, connectivity))
        if out_dir is not None:
            save_prediction(prediction, out_dir / "predictions")
        if on_subject is not None:
            on_subject(results[-1])
    return _table(results, out_dir)


def evaluate_folders(
    predictions: Path,
    references: Path,
    out_dir: Path | None = None,
    *,
    lesion_label: int | None = None,
    connectivity: int = CONNECTIVITY,
) -> EvaluationTable:
    """Compare mask files of two folders by name: ``<subject>[_mask].nii[.gz]`` on both sides.

    Raises:
        InputError: a reference has no prediction, their grids differ, or a prediction is not of 0 and 1.
    """
    predicted, expected = _masks_by_subject(predictions), _masks_by_subject(references)
    if alone := sorted(predicted.keys() - expected.keys()):
        warn(f"{references}: no reference for {', '.join(alone)}: not evaluated")
    results = []
    for name, reference_file in expected.items():
        if name not in predicted:
            raise InputError(f"{predictions}: no prediction for {reference_file.name}")
        grid = read_grid(reference_file)
        try:
            prediction = load_mask(predicted[name], like=(grid, reference_file))
        except LesionLabelError as error:  # the label is that of the references
            raise InputError(error.problem) from None
        reference = load_mask(reference_file, lesion_label)
        results.append(compare_masks(name, prediction, reference, grid, connectivity))
    return _table(results, out_dir)


def compare_masks(
    name: str, prediction: NDArray[np.uint8], reference: NDArray[np.uint8], grid: Grid, connectivity: int
) -> SubjectResult:
    """The result of one subject, of two masks in its files' grid."""
    metrics = lesion_metrics(prediction, reference, connectivity)
    surfaces = surface_distances(prediction, reference, grid.file_spacing)
    return SubjectResult(name, metrics, grid.voxel_volume, surfaces)


def _table(results: Sequence[SubjectResult], out_dir: Path | None) -> EvaluationTable:
    table = EvaluationTable(results)
    if out_dir is not None:
        table.write(out_dir)
    return table


def _masks_by_subject(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    masks: dict[str, Path] = {}
    for path in sorted(folder.glob("[!.]*")):
        suffix = next((ending for ending in IMAGE_SUFFIXES if path.name.lower().endswith(ending)), None)
        if suffix is None or path.name[: -len(suffix)].endswith("_probability"):
            continue
        name = path.name[: -len(suffix)].removesuffix("_mask")
        if name in masks:
            raise InputError(f"{path}: a second mask of {name}, beside {masks[name].name}")
        masks[name] = path
    if not masks:
        raise InputError(f"{folder}: no NIfTI file (.nii or .nii.gz)")
    return masks
