"""Images and masks of files, as arrays on the files' grids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from geoloss_kernels.lesions.errors import InputError, LesionLabelError
from geoloss_kernels.lesions.imaging.grid import Grid, require_same_grid


def load_images(paths: Mapping[str, Path]) -> tuple[dict[str, NDArray[np.float32]], Grid]:
    """Read images that must share one voxel grid; voxels that are not finite are errors."""
    arrays: dict[str, NDArray[np.float32]] = {}
    reference: tuple[Grid, Path] | None = None
    for modality, path in paths.items():
        array, grid = _read(path)
        if reference is None:
            reference = (grid, path)
        require_same_grid(grid, path, *reference)
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
        require_same_grid(grid, path, *like)
    if lesion_label is not None:
        return (array == lesion_label).astype(np.uint8)
    mask = array != 0
    if not np.array_equal(array, mask):
        values = ", ".join(f"{value:g}" for value in np.unique(array)[:6])
        raise LesionLabelError(f"{path}: expected a mask of 0 and 1, got values {values}")
    return mask.astype(np.uint8)


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


def read_grid(path: Path) -> Grid:
    """The grid of a file, from its header alone."""
    return _grid_of(_open(path), path)


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
