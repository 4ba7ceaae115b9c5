"""From raw scans to what the network takes: every image on the FLAIR's grid, without its bias field.

N4 by SimpleITK, on each image's own grid, and then rigid registration by SimpleITK (Mattes mutual information
of a fifth of the voxels, three resolutions), which bias fields would mislead by half a millimetre.
Intensities are left in the scanner's units: the trainer normalises each volume itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import replacing, write_text
from geoloss_kernels.lesions.imaging.registration import Schedule, improve
from geoloss_kernels.lesions.progress import Log
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.subjects.table import format_table

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses


RIGID_SCHEDULE = Schedule(shrink_factors=(4, 2, 1), smoothing=(2.0, 1.0, 0.0), sampled_fraction=0.2)
N4_SHRINK_FACTOR = 4


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
        InputError: a subject lacks the reference, or an image cannot be read.
    """
    done = [_preprocess_subject(subject, out / subject.name, options, log) for subject in subjects]
    write_text(out / "subjects.csv", format_table(done))
    return done


def register_rigidly(fixed: sitk.Image, moving: sitk.Image, seed: int = 0) -> sitk.Euler3DTransform:
    """The rigid transform from points of ``fixed`` to the same anatomy in ``moving``, in mm.

    For images of different contrast that overlap: it starts from the scanner's coordinates, with the centre
    of rotation in the middle of ``fixed``.
    """
    import SimpleITK as sitk  # noqa: N813

    middle = fixed.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in fixed.GetSize()])
    transform = sitk.Euler3DTransform(middle)
    improve(transform, fixed, moving, RIGID_SCHEDULE, seed)
    return transform


def correct_bias(image: sitk.Image) -> sitk.Image:
    """``image`` divided by its smooth bias field: N4 on a coarser grid, within Otsu's foreground."""
    import SimpleITK as sitk  # noqa: N813

    foreground = sitk.OtsuThreshold(image, 0, 1)
    shrink = [N4_SHRINK_FACTOR if size > 16 * N4_SHRINK_FACTOR else 1 for size in image.GetSize()]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.Execute(sitk.Shrink(image, shrink), sitk.Shrink(foreground, shrink))
    return image / sitk.Exp(corrector.GetLogBiasFieldAsImage(image))


def correct_subject(subject: Subject, modalities: Sequence[str], folder: Path) -> Subject:
    """``subject`` with those of its images that are of ``modalities``, corrected and written into ``folder``.

    Raises:
        InputError: an image cannot be read.
    """
    corrected = {
        modality: _write(correct_bias(_read(path)), folder, modality)
        for modality, path in subject.images.items()
        if modality in modalities
    }
    return replace(subject, images=corrected)


def _preprocess_subject(subject: Subject, folder: Path, options: PreprocessingOptions, log: Log) -> Subject:
    import SimpleITK as sitk  # noqa: N813

    if options.reference not in subject.images:
        raise InputError(f"{subject.name}: expected an image {options.reference}, to register the others to")
    images = {name: _read(path) for name, path in subject.images.items()}
    corrected = {name: correct_bias(image) for name, image in images.items()}
    fixed = corrected[options.reference]
    written = {}
    for name, image in (corrected if options.correct_bias else images).items():
        if name != options.reference:
            transform = register_rigidly(fixed, corrected[name], options.seed)
            shift = math.hypot(*transform.GetTranslation())
            log(f"{subject.name}: {name} is turned by {_rotation(transform):.2f}° and off by {shift:.2f} mm")
            image = sitk.Resample(image, fixed, transform, sitk.sitkBSpline, 0.0)
        written[name] = _write(image, folder, name)
    if subject.mask is None:
        return replace(subject, images=written)
    mask = sitk.Resample(_read(subject.mask), fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    return replace(subject, images=written, mask=_write(mask, folder, "mask"))


def _rotation(transform: sitk.Euler3DTransform) -> float:
    """The angle in degrees, from the trace of the matrix."""
    matrix = transform.GetMatrix()
    cosine = (matrix[0] + matrix[4] + matrix[8] - 1) / 2
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _read(path: Path) -> sitk.Image:
    import SimpleITK as sitk  # noqa: N813

    try:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[-1].strip()}") from None
    if image.GetDimension() != 3:
        raise InputError(f"{path}: expected a 3-D image, got {image.GetDimension()} dimensions")
    return image


def _write(image: sitk.Image, folder: Path, name: str) -> Path:
    import SimpleITK as sitk  # noqa: N813

    path = folder / f"{name}.nii.gz"
    with replacing(path) as temporary:
        sitk.WriteImage(image, str(temporary))
    return path
