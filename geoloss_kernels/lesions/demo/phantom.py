"""Made-up subjects with multiple sclerosis lesions: T1, T2, FLAIR and a reference mask, as NIfTI files.

They need no download, look like brains, and are difficult on purpose: faint lesions, bright structures on
FLAIR that are not lesions, noise, uneven coils, and a reference mask that is off by part of a voxel. They are
for trying a training run, not for judging a method.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from geoloss_kernels.lesions.datasets.anatomy import make_anatomy
from geoloss_kernels.lesions.datasets.difficulty import Difficulty
from geoloss_kernels.lesions.datasets.scans import (
    MODALITIES,
    Acquisition,
    Scan,
    make_scan,
    write_image,
    write_mask,
)
from geoloss_kernels.lesions.datasets.simulated_lesions import make_lesions
from geoloss_kernels.lesions.files import replacing

DIFFICULTY = Difficulty(
    lesion_t1=0.62,
    lesion_t2=0.66,
    lesion_flair=0.82,
    mimic_flair=0.80,
    mimic_t2=0.0,
    severity=(0.55, 1.0),
    reference_tremor=0.35,
    reference_bias=0.15,
    blur=0.0,
)
"""Easy enough for a few hundred steps of training."""


def make_phantom(seed: int, index: int, voxel_size: float = 1.5) -> Scan:
    """Makes one subject; the same arguments give the same voxels, bit for bit.

    Args:
        seed: Seed of the data set, not negative.
        index: Number of the subject in it, not negative.
        voxel_size: Edge of the cubic voxels in mm.

    Raises:
        ValueError: `seed` or `index` is negative, or `voxel_size` is not between 1 and 4 mm.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    if not 1.0 <= voxel_size <= 4.0:
        raise ValueError(f"voxel_size must be between 1 and 4 mm, got {voxel_size}")
    generator = np.random.default_rng([seed, index])
    anatomy = make_anatomy(voxel_size, generator)
    lesions = make_lesions(anatomy, DIFFICULTY, generator)
    return make_scan(anatomy, lesions, DIFFICULTY, Acquisition(), generator)


def write_phantoms(
    directory: Path, counts: Mapping[str, int], seed: int = 0, voxel_size: float = 1.5, workers: int = 2
) -> Path:
    """Writes a folder per subject and a table of them, and returns the path of the table.

    A folder holds t1.nii.gz, t2.nii.gz, flair.nii.gz (int16) and mask.nii.gz (uint8). The table is a CSV file
    with the columns subject, t1, t2, flair, mask, split; its paths are relative to its own folder.

    Args:
        directory: Folder to write to; made if it does not exist.
        counts: Number of subjects of each split, such as `{"train": 6, "validation": 1, "test": 3}`.
        seed: Seed of the data set.
        voxel_size: Edge of the cubic voxels in mm.
        workers: Subjects made at a time; the result does not depend on it.
    """
    splits = [split for split, count in counts.items() for _ in range(count)]
    names = [f"phantom-{index:02d}" for index in range(len(splits))]

    def write(index: int) -> None:
        _write_subject(directory / names[index], make_phantom(seed, index, voxel_size))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(write, range(len(splits))))
    rows = [
        {"subject": name, **{key: f"{name}/{key}.nii.gz" for key in (*MODALITIES, "mask")}, "split": split}
        for name, split in zip(names, splits, strict=True)
    ]
    return _write_table(directory / "subjects.csv", rows)


def _write_subject(folder: Path, phantom: Scan) -> None:
    for modality, image in phantom.images.items():
        write_image(folder / f"{modality}.nii.gz", image, phantom.affine)
    write_mask(folder / "mask.nii.gz", phantom.mask, phantom.affine)


def _write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["subject", *MODALITIES, "mask", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return path
