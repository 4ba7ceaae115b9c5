"""T1, T2 and FLAIR of a brain with lesions, on a scanner's grid, and their NIfTI files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.datasets.anatomy import Anatomy
from geoloss_kernels.lesions.datasets.difficulty import Difficulty
from geoloss_kernels.lesions.datasets.fields import FloatVolume, smooth_noise
from geoloss_kernels.lesions.datasets.simulated_lesions import Lesions, drop_small, make_mimics
from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.imaging.writing import save_image

TISSUES = {"t1": (0.16, 0.58, 0.86), "t2": (1.00, 0.56, 0.42), "flair": (0.13, 0.60, 0.50)}
"""Intensities of CSF, grey matter and white matter by modality."""

MODALITIES = tuple(TISSUES)
INTENSITY_SCALE = 1000.0


@dataclass(frozen=True)
class Acquisition:
    """The scanner's voxels, in units of the brain's cubic voxels.

    Attributes:
        in_plane: Edge of a voxel within a slice.
        thickness: Slices of the brain that are averaged into one.
    """

    in_plane: float = 1.0
    thickness: int = 1

    def acquire(self, volume: FloatVolume) -> FloatVolume:
        """`volume` [X, Y, Z] on the scanner's grid; slices that do not fill the last thick one are lost."""
        width, height, depth = volume.shape
        count = depth // self.thickness
        slices = volume[..., : count * self.thickness]
        thick = slices.reshape(width, height, count, self.thickness).mean(-1, dtype=np.float32)
        if self.in_plane == 1:
            return thick
        planes = torch.from_numpy(thick.transpose(2, 0, 1))[None]
        scaled = torch.nn.functional.interpolate(planes, scale_factor=1 / self.in_plane, mode="bilinear")
        return scaled[0].permute(1, 2, 0).numpy()

    def affine(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the scanner's voxels to mm, where `affine` leads there from those of the brain."""
        edges = np.array([self.in_plane, self.in_plane, self.thickness])
        acquired = affine.copy()
        acquired[:3, :3] *= edges
        acquired[:3, 3] += affine[:3, :3] @ ((edges - 1) / 2)
        return acquired


@dataclass(frozen=True)
class Scan:
    """One subject: images by modality and reference mask [X, Y, Z] on one grid in RAS+ orientation."""

    images: dict[str, FloatVolume]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


def make_scan(
    anatomy: Anatomy,
    lesions: Lesions,
    difficulty: Difficulty,
    acquisition: Acquisition,
    generator: np.random.Generator,
) -> Scan:
    """Images of one subject, 0 outside the brain, and the reference that was drawn on them.

    Args:
        anatomy: The brain.
        lesions: What has turned into lesion, on the brain's grid.
        difficulty: Contrast, blur and noise.
        acquisition: The grid of the images.
        generator: Source of randomness.
    """
    mimics = make_mimics(anatomy, generator)
    brain = acquisition.acquire(anatomy.brain.astype(np.float32)) > 0.5
    images = {}
    for modality in MODALITIES:
        signal = acquisition.acquire(_signal(modality, anatomy, lesions, mimics, difficulty, generator))
        images[modality] = _add_noise(signal, difficulty.noise, generator) * brain
    mask = drop_small((acquisition.acquire(lesions.mask.astype(np.float32)) > 0.5) & brain)
    return Scan(images, mask, acquisition.affine(anatomy.affine))


def write_image(path: Path, image: FloatVolume, affine: NDArray[np.float64]) -> None:
    """Writes an image as int16, at least 1 inside the brain, so that 0 means background."""
    scaled = np.maximum(np.round(INTENSITY_SCALE * image), 1)
    _write(path, np.where(image > 0, scaled, 0).astype(np.int16), affine)


def write_mask(path: Path, mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> None:
    """Writes a mask as uint8."""
    _write(path, mask.astype(np.uint8), affine)


def _signal(
    modality: str,
    anatomy: Anatomy,
    lesions: Lesions,
    mimics: FloatVolume,
    difficulty: Difficulty,
    generator: np.random.Generator,
) -> FloatVolume:
    """One image without noise: tissues mixed by their share of a voxel, lesions, point spread, coil bias."""
    shape, voxel_size = anatomy.white.shape, anatomy.voxel_size
    pure = (*TISSUES[modality], getattr(difficulty, f"lesion_{modality}"))
    csf, grey, white, lesion = generator.uniform(0.94, 1.06, size=4) * pure
    image = csf * anatomy.csf + grey * anatomy.grey + white * anatomy.white
    if modality != "t1":
        image += mimics * np.maximum(getattr(difficulty, f"mimic_{modality}") - image, 0)
    texture = 1 + 0.1 * smooth_noise(shape, 3 / voxel_size, generator)
    image += lesions.severity * (lesion * texture - image)
    if difficulty.blur:
        image = ndimage.gaussian_filter(image, difficulty.blur / voxel_size)
    image *= np.exp(0.12 * smooth_noise(shape, 45 / voxel_size, generator))
    return image.astype(np.float32)


def _add_noise(signal: FloatVolume, deviation: float, generator: np.random.Generator) -> FloatVolume:
    """The magnitude of a complex signal with Gaussian noise in both channels (Rician)."""
    real, imaginary = deviation * generator.standard_normal((2, *signal.shape), dtype=np.float32)
    return np.hypot(signal + real, imaginary).astype(np.float32)


def _write(path: Path, values: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    x, y, z = values.shape
    save_image(path, values, Grid((x, y, z), affine))
