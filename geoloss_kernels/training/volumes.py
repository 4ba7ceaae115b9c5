"""From NIfTI files to network input and back to the input's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
import torch
from nibabel import orientations
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from geoloss_kernels.training.errors import InputError, LesionLabelError
from geoloss_kernels.training.files import replacing
from geoloss_kernels.training.subjects import Subject

Scalar = TypeVar("Scalar", bound=np.generic)

AFFINE_TOLERANCE_MM = 1e-2


@dataclass(frozen=True)
class Grid:
    """Voxel grid of an image file, and where the canonical (RAS), cropped volume lies in it."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    crop: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))
    """Box of the volume in the RAS-ordered grid."""
    space_code: int = 1
    """NIfTI code of the space the affine leads to (1 scanner, 4 MNI)."""

    @property
    def volume_affine(self) -> NDArray[np.float64]:
        """From voxels of the volume to mm (RAS)."""
        canonical = self.affine @ orientations.inv_ornt_aff(self._to_canonical(), self.shape)
        canonical[:3, 3] += canonical[:3, :3] @ [axis.start or 0 for axis in self.crop]
        return canonical

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along the R, A and S axes of the volume."""
        x, y, z = np.linalg.norm(self.volume_affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_volume(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Values in the file's grid -> RAS order, cropped."""
        return self._canonical(values)[self.crop]

    def to_file(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Values of the volume -> the file's grid; 0 outside the crop."""
        canonical = np.zeros(self._canonical_shape(), values.dtype)
        canonical[self.crop] = values
        identity = orientations.axcodes2ornt("RAS")
        back = orientations.ornt_transform(identity, self._to_canonical())
        return np.ascontiguousarray(orientations.apply_orientation(canonical, back))

    def _to_canonical(self) -> NDArray[np.float64]:
        return orientations.io_orientation(self.affine)

    def _canonical(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        return orientations.apply_orientation(values, self._to_canonical())

    def _canonical_shape(self) -> tuple[int, ...]:
        shape = [0, 0, 0]
        for axis, target in enumerate(self._to_canonical()[:, 0].astype(int)):
            shape[target] = self.shape[axis]
        return tuple(shape)


@dataclass(frozen=True)
class Volume:
    """A subject ready for the network."""

    name: str
    image: Tensor
    """[modalities, x, y, z] float32, RAS order, cropped to the head, normalised; 0 outside the head."""
    mask: Tensor | None
    """[1, x, y, z] uint8 of 0 and 1."""
    grid: Grid

    @cached_property
    def lesion_voxels(self) -> Tensor:
        """[lesion voxels, 3] coordinates; empty without a mask."""
        return torch.empty(0, 3, dtype=torch.int64) if self.mask is None else self.mask[0].nonzero()


def load_volume(
    subject: Subject, modalities: Sequence[str], lesion_label: int | None = None, *, with_mask: bool = True
) -> Volume:
    """Read, check and preprocess one subject.

    The images are put in RAS order, cropped to the voxels where any modality is not 0, and normalised per
    modality to mean 0 and standard deviation 1 over the modality's nonzero voxels.

    Raises:
        InputError: names the file whose shape, affine or values do not fit.
    """
    arrays, grid = load_images({modality: subject.images[modality] for modality in modalities})
    canonical = np.stack([grid.to_volume(array) for array in arrays.values()])
    for path, channel in zip((subject.images[m] for m in modalities), canonical, strict=True):
        if not channel.any():
            raise InputError(f"{path}: expected an image, got zeros only")
    crop = bounding_box((canonical != 0).any(axis=0))
    grid = replace(grid, crop=crop)
    image = torch.from_numpy(np.stack([_normalise(channel) for channel in canonical[(slice(None), *crop)]]))
    mask = None
    if with_mask and subject.mask is not None:
        lesions = load_mask(subject.mask, lesion_label, like=(grid, subject.images[modalities[0]]))
        mask = torch.from_numpy(np.ascontiguousarray(grid.to_volume(lesions)[None]))
    return Volume(subject.name, image, mask, grid)


def load_images(paths: Mapping[str, Path]) -> tuple[dict[str, NDArray[np.float32]], Grid]:
    """Read images that must share one voxel grid; voxels that are not finite are errors."""
    arrays: dict[str, NDArray[np.float32]] = {}
    reference: tuple[Grid, Path] | None = None
    for modality, path in paths.items():
        array, grid = _read(path)
        if reference is None:
            reference = (grid, path)
        _require_same_grid(grid, path, *reference)
        arrays[modality] = array
    if reference is None:
        raise ValueError("paths: expected at least one image, got none")
    return arrays, reference[0]


def load_mask(
    path: Path, lesion_label: int | None = None, *, like: tuple[Grid, Path] | None = None
) -> NDArray[np.uint8]:
    """Read a lesion mask as 0 and 1 in the file's own grid.

    Args:
        path: NIfTI file holding 0 and 1, or any labels when ``lesion_label`` is given.
        lesion_label: the value that marks lesions; every other value is background.
        like: grid that the mask must share, and the file it came from.

    Raises:
        LesionLabelError: there are other values than 0 and 1, and no ``lesion_label``.
        InputError: the file cannot be read, or its grid is another one.
    """
    array, grid = _read(path)
    if like is not None:
        _require_same_grid(grid, path, *like)
    if lesion_label is not None:
        return (array == lesion_label).astype(np.uint8)
    mask = array != 0
    if not np.array_equal(array, mask):
        values = ", ".join(f"{value:g}" for value in np.unique(array)[:6])
        raise LesionLabelError(f"{path}: expected a mask of 0 and 1, got values {values}")
    return mask.astype(np.uint8)


def check_subject(subject: Subject, modalities: Sequence[str], lesion_label: int | None = None) -> int | None:
    """Check shapes and affines from the headers, and the values of the mask.

    Returns:
        Lesion voxels of the mask; None without a mask.

    Raises:
        InputError: names the file at fault.
    """
    first = subject.images[modalities[0]]
    reference = _grid_of(_open(first), first)
    for modality in modalities[1:]:
        path = subject.images[modality]
        _require_same_grid(_grid_of(_open(path), path), path, reference, first)
    if subject.mask is None:
        return None
    return int(load_mask(subject.mask, lesion_label, like=(reference, first)).sum(dtype=np.int64))


def save_image(path: Path, values: NDArray[np.generic], grid: Grid) -> None:
    """Write values in the file's grid as NIfTI (temporary name, then renamed)."""
    image = nib.Nifti1Image(values, grid.affine)
    image.set_sform(grid.affine, grid.space_code)
    image.set_qform(grid.affine, grid.space_code)
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nib.save(image, temporary)


def _read(path: Path) -> tuple[NDArray[np.float32], Grid]:
    image = _open(path)
    grid = _grid_of(image, path)
    try:
        array = np.asanyarray(image.dataobj).astype(np.float32, copy=False).reshape(grid.shape)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot read the voxels: {error}") from None
    if not np.isfinite(array).all():
        raise InputError(f"{path}: expected finite voxels, got NaN or infinity")
    return array, grid


def _open(path: Path) -> nib.nifti1.Nifti1Image:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        image = nib.load(path)
    except (ImageFileError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable NIfTI file: {error}") from None
    return image  # type: ignore[return-value]


def _grid_of(image: nib.nifti1.Nifti1Image, path: Path) -> Grid:
    if len(image.shape) < 3 or any(size != 1 for size in image.shape[3:]):
        raise InputError(f"{path}: expected a 3-D image, got shape {image.shape}")
    x, y, z = image.shape[:3]
    space_code = int(image.header["sform_code"]) or int(image.header["qform_code"]) or 1
    return Grid((x, y, z), np.asarray(image.affine, dtype=np.float64), space_code=space_code)


def _require_same_grid(grid: Grid, path: Path, expected: Grid, expected_path: Path) -> None:
    if grid.shape != expected.shape:
        raise InputError(f"{path}: shape {grid.shape} differs from {expected.shape} of {expected_path}")
    difference = float(np.abs(grid.affine - expected.affine).max())
    if difference > AFFINE_TOLERANCE_MM:
        raise InputError(f"{path}: affine differs by up to {difference:g} mm from that of {expected_path}")


def bounding_box(foreground: NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice, slice]:
    """The box of the voxels [X, Y, Z] that are True, wider by ``margin`` voxels where the volume reaches that
    far; there has to be one."""
    (found,) = ndimage.find_objects(foreground.astype(np.uint8))
    x, y, z = (
        slice(max(axis.start - margin, 0), min(axis.stop + margin, size))
        for axis, size in zip(found, foreground.shape, strict=True)
    )
    return x, y, z


def _normalise(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    inside = channel != 0
    values = channel[inside].astype(np.float64)
    if values.size == 0:
        return channel
    deviation = values.std()
    normalised = np.zeros_like(channel)
    normalised[inside] = (values - values.mean()) / (deviation if deviation > 0 else 1.0)
    return normalised
