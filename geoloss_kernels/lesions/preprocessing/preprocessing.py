"""From raw scans to what the network takes: every image on the FLAIR's grid, without its bias field.

N4 by SimpleITK, on each image's own grid, and then rigid registration by SimpleITK (Mattes mutual information
of a fifth of the voxels, three resolutions), which bias fields would mislead by half a millimetre.
Intensities are left in the scanner's units, and a background of zeros stays one: the trainer crops and
normalises each volume by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import write_text
from geoloss_kernels.lesions.imaging.bias_field import correct_bias
from geoloss_kernels.lesions.imaging.grid import Grid, require_same_grid
from geoloss_kernels.lesions.imaging.itk import from_sitk, naming_itk_errors, to_sitk
from geoloss_kernels.lesions.imaging.reading import load_image, load_labels, read_grid
from geoloss_kernels.lesions.imaging.registration import register_rigidly
from geoloss_kernels.lesions.imaging.resampling import resample
from geoloss_kernels.lesions.imaging.writing import save_image
from geoloss_kernels.lesions.progress import Log
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.subjects.table import format_table

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses


@dataclass(frozen=True)
class PreprocessingOptions:
    """What to do beside registration.

    Args:
        reference: the modality whose grid all images get; the lesion mask lies on it already.
        correct_bias: divide every image that is written by the bias field that N4 finds.
        seed: of the voxels that the registration looks at.
    """

    reference: str = "flair"
    correct_bias: bool = True
    seed: int = 0


def preprocess(
    subjects: Sequence[Subject],
    out: Path,
    options: PreprocessingOptions = PreprocessingOptions(),
    log: Log = print,
) -> list[Subject]:
    """Register and correct the images of ``subjects``; write them and a table of them into ``out``.

    A subject becomes ``out/<name>/<modality>.nii.gz`` and, if it has one, ``mask.nii.gz``, with
    ``out/subjects.csv`` as the table. Deterministic on one machine.

    Raises:
        InputError: a subject lacks the reference, its mask lies on another grid, or an image cannot be read,
            corrected or registered.
    """
    for subject in subjects:
        _check(subject, options.reference)
    done = [_preprocess_subject(subject, out / subject.name, options, log) for subject in subjects]
    write_text(out / "subjects.csv", format_table(done))
    return done


def correct_subject(subject: Subject, modalities: Sequence[str], folder: Path) -> Subject:
    """``subject`` with those of its images that are of ``modalities``, corrected and written into ``folder``.

    Raises:
        InputError: an image cannot be read or corrected.
    """
    scans = {name: _read(path) for name, path in subject.images.items() if name in modalities}
    images = {name: scan.values for name, scan in scans.items()}
    return replace(subject, images=_write(folder, images, {name: scan.grid for name, scan in scans.items()}))


@dataclass(frozen=True)
class _SubjectImage:
    """An image of a subject, without its bias field and as it was."""

    path: Path
    grid: Grid
    corrected: sitk.Image
    original: sitk.Image

    @property
    def values(self) -> NDArray[np.float32]:
        return from_sitk(self.corrected)


def _check(subject: Subject, reference: str) -> None:
    """Raise InputError for what can be known before anything is computed."""
    if reference not in subject.images:
        raise InputError(f"{subject.name}: expected an image {reference}, to register the others to")
    grids = {name: read_grid(path) for name, path in subject.images.items()}
    if subject.mask is not None:
        require_same_grid(read_grid(subject.mask), subject.mask, grids[reference], subject.images[reference])


def _preprocess_subject(subject: Subject, folder: Path, options: PreprocessingOptions, log: Log) -> Subject:
    """Nothing is written before everything of the subject is computed."""
    scans = {name: _read(path) for name, path in subject.images.items()}
    fixed = scans[options.reference]
    values = {}
    for name, scan in scans.items():
        image = scan.corrected if options.correct_bias else scan.original
        if scan is not fixed:
            with naming_itk_errors(scan.path, f"cannot be registered to {fixed.path}"):
                transform = register_rigidly(fixed.corrected, scan.corrected, options.seed)
                image = resample(image, fixed.corrected, transform)
            shift = math.hypot(*transform.GetTranslation())
            log(f"{subject.name}: {name} is turned by {_rotation(transform):.2f}° and off by {shift:.2f} mm")
        values[name] = from_sitk(image)
    mask = None if subject.mask is None else load_labels(subject.mask, like=(fixed.grid, fixed.path))
    images = _write(folder, values, dict.fromkeys(values, fixed.grid))
    if mask is None:
        return replace(subject, images=images)
    return replace(subject, images=images, mask=_write(folder, {"mask": mask}, {"mask": fixed.grid})["mask"])


def _rotation(transform: sitk.Euler3DTransform) -> float:
    """The angle in degrees, from the trace of the matrix."""
    matrix = transform.GetMatrix()
    cosine = (matrix[0] + matrix[4] + matrix[8] - 1) / 2
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _read(path: Path) -> _SubjectImage:
    values, grid = load_image(path)
    if not values.any():
        raise InputError(f"{path}: expected an image, got zeros only")
    original = to_sitk(values, grid.affine)
    with naming_itk_errors(path, "cannot be corrected for its bias field"):
        return _SubjectImage(path, grid, correct_bias(original), original)


def _write(
    folder: Path, images: Mapping[str, NDArray[np.generic]], grids: Mapping[str, Grid]
) -> dict[str, Path]:
    """Name -> file of each image."""
    files = {name: folder / f"{name}.nii.gz" for name in images}
    for name, values in images.items():
        save_image(files[name], values, grids[name])
    return files
