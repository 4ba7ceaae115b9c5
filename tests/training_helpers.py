"""Tiny NIfTI subjects and a configuration that trains on them in a second."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.training.config import TrainingConfig

MODALITIES = ("t1", "t2", "flair")
SHAPE = (24, 28, 20)
LAS_AFFINE = np.array([[-1.0, 0, 0, 11], [0, 1, 0, -14], [0, 0, 1.5, -9], [0, 0, 0, 1]])


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape) - np.reshape(centre, (-1, *[1] * len(shape)))
    return (grid**2).sum(axis=0) <= radius**2


def write_image(path: Path, values: np.ndarray, affine: np.ndarray = LAS_AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def make_arrays(seed: int) -> dict[str, np.ndarray]:
    """A head with two bright lesions, in three contrasts, and the lesion mask."""
    generator = np.random.default_rng(seed)
    head = ball(SHAPE, (12, 14, 10), 9)
    lesions = np.zeros(SHAPE, bool)
    for _ in range(2):
        centre = np.add((12, 14, 10), generator.integers(-4, 5, 3))
        lesions |= ball(SHAPE, tuple(centre), 2)
    contrast = {"t1": (100, -40), "t2": (60, 40), "flair": (80, 60)}
    arrays = {
        name: ((head * tissue + lesions * lesion + head * generator.normal(0, 3, SHAPE)) * head).astype(
            np.float32
        )
        for name, (tissue, lesion) in contrast.items()
    }
    return {**arrays, "mask": lesions.astype(np.uint8)}


def make_subject(folder: Path, seed: int, split: str = "") -> Subject:
    paths = {
        name: write_image(folder / f"{name}.nii.gz", values) for name, values in make_arrays(seed).items()
    }
    return Subject(folder.name, {name: paths[name] for name in MODALITIES}, paths["mask"], split)


def make_subjects(
    root: Path, splits: tuple[str, ...] = ("train", "train", "validation", "test")
) -> list[Subject]:
    return [make_subject(root / f"subject{number}", number, split) for number, split in enumerate(splits)]


def tiny_config(**changes: object) -> TrainingConfig:
    values = {
        "patch_size": 16,
        "batch_size": 2,
        "steps_per_epoch": 2,
        "epochs": 4,
        "channels": [4, 8],
        "strides": [2],
        "validation_interval": 2,
        "device": "cpu",
        "seed": 7,
        **changes,
    }
    return TrainingConfig.from_mapping(values)
