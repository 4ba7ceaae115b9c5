"""Made-up subjects with multiple sclerosis lesions: T1, T2, FLAIR and a reference mask, as NIfTI files.

They need no download, look like brains, and are difficult on purpose: faint lesions, bright structures on
FLAIR that are not lesions, noise, uneven coils, and a reference mask that is off by part of a voxel. They are
for trying a training run, not for judging a method.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.demo.anatomy import Anatomy, make_anatomy
from geoloss_kernels.demo.fields import Volume, smooth_noise
from geoloss_kernels.demo.lesions import Lesions, make_lesions, make_mimics
from geoloss_kernels.training.files import replacing

MODALITIES = ("t1", "t2", "flair")
INTENSITY_SCALE = 1000.0


@dataclass(frozen=True)
class Contrast:
    """Intensities in one modality: (CSF, grey matter, white matter, lesion), and what mimics lesions."""

    tissues: tuple[float, float, float, float]
    mimic: float | None = None


CONTRASTS = {
    "t1": Contrast((0.16, 0.58, 0.86, 0.62)),
    "t2": Contrast((1.00, 0.56, 0.42, 0.66)),
    "flair": Contrast((0.13, 0.60, 0.50, 0.82), mimic=0.80),
}


@dataclass(frozen=True)
class Phantom:
    """One subject: images and mask [X, Y, Z] on one grid in RAS+ orientation."""

    images: dict[str, Volume]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


def make_phantom(seed: int, index: int, voxel_size: float = 1.5) -> Phantom:
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
    lesions = make_lesions(anatomy, generator)
    mimics = make_mimics(anatomy, generator)
    images = {name: _render(CONTRASTS[name], anatomy, lesions, mimics, generator) for name in MODALITIES}
    return Phantom(images, lesions.mask, anatomy.affine)


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


def _render(
    contrast: Contrast, anatomy: Anatomy, lesions: Lesions, mimics: Volume, generator: np.random.Generator
) -> Volume:
    """One image: tissues mixed by their share of a voxel, coil bias, Rician noise; 0 outside the brain."""
    shape, voxel_size = anatomy.white.shape, anatomy.voxel_size
    csf, grey, white, lesion = generator.uniform(0.94, 1.06, size=4) * contrast.tissues
    image = csf * anatomy.csf + grey * anatomy.grey + white * anatomy.white
    if contrast.mimic is not None:
        image += mimics * np.maximum(contrast.mimic - image, 0)
    texture = 1 + 0.1 * smooth_noise(shape, 3 / voxel_size, generator)
    image += lesions.severity * (lesion * texture - image)
    image *= np.exp(0.12 * smooth_noise(shape, 45 / voxel_size, generator))
    real, imaginary = 0.03 * generator.standard_normal((2, *shape), dtype=np.float32)
    return (np.hypot(image + real, imaginary) * anatomy.brain).astype(np.float32)


def _write_subject(folder: Path, phantom: Phantom) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in phantom.images.items():
        # At least 1 inside the brain, so that 0 means background.
        stored = np.where(image > 0, np.maximum(np.round(INTENSITY_SCALE * image), 1), 0).astype(np.int16)
        _write_nifti(folder / f"{name}.nii.gz", stored, phantom.affine)
    _write_nifti(folder / "mask.nii.gz", phantom.mask.astype(np.uint8), phantom.affine)


def _write_nifti(path: Path, data: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nibabel.save(image, temporary)


def _write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["subject", *MODALITIES, "mask", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return path
