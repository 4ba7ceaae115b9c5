"""Images and masks of files, as arrays on the files' grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from geoloss_kernels.lesions.errors import InputError, LesionLabelError
from geoloss_kernels.lesions.imaging.grid import Grid, require_same_grid
from geoloss_kernels.lesions.imaging.nifti import grid_of, read_header, read_proxy, warn_of_two_places

SHOWN = 6
"""Values that a message lists."""
ROUNDINGS = 4
"""In units of the last place, for a value that a program has computed and not set."""
LARGEST_ROUNDING = 0.01


@dataclass(frozen=True)
class Voxels:
    """What a file holds.

    Attributes:
        values: [X, Y, Z], in the file's own type where that is not scaled.
        grid: of the file.
        rounding: how far a value may be from what it stands for, by the file's type and slope.
    """

    values: NDArray[np.generic]
    grid: Grid
    rounding: float


def read_grid(path: Path) -> Grid:
    """The grid of a file, from its header alone."""
    grid = grid_of(read_header(path), path)
    warn_of_two_places(grid, path)
    return grid


def read_voxels(path: Path) -> Voxels:
    """Read a file whole.

    Raises:
        InputError: the file is damaged, not 3-D, without a usable place in space, or has voxels that are not
            finite.
    """
    proxy, grid = read_proxy(path)
    try:
        values = np.asanyarray(proxy).reshape(grid.shape)
    except (ValueError, OSError, MemoryError) as error:
        raise InputError(f"{path}: cannot read the voxels: {error}") from None
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{path}: expected finite voxels, got NaN or infinity")
    warn_of_two_places(grid, path)
    return Voxels(values, grid, _rounding(proxy))


def load_image(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """An image in single precision, and its grid."""
    voxels = read_voxels(path)
    with np.errstate(over="ignore"):
        values = voxels.values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        largest = np.abs(voxels.values).max()
        raise InputError(f"{path}: expected voxels that fit into single precision, got {largest:g}")
    return values, voxels.grid


def load_images(paths: Mapping[str, Path]) -> tuple[dict[str, NDArray[np.float32]], Grid]:
    """Read images that must share one voxel grid; voxels that are not finite are errors."""
    arrays: dict[str, NDArray[np.float32]] = {}
    reference: tuple[Grid, Path] | None = None
    for modality, path in paths.items():
        array, grid = load_image(path)
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

    A value counts as a label where it differs by no more than the file's type and slope round: 0.99999994 in
    single precision is 1, and so is 255 times a slope of 0.00392.

    Args:
        path: NIfTI file holding 0 and 1, or any labels when ``lesion_label`` is given.
        lesion_label: the value that marks lesions; every other value is background.
        like: grid that the mask must share, and the file it came from.

    Raises:
        LesionLabelError: there are other values than 0 and 1, and no ``lesion_label``.
        InputError: the file cannot be read, or its grid is another one.
    """
    voxels = read_voxels(path)
    if like is not None:
        require_same_grid(voxels.grid, path, *like)
    if lesion_label is not None:
        return _is(lesion_label, voxels).astype(np.uint8)
    mask = _is(1, voxels)
    if not (mask | _is(0, voxels)).all():
        values = np.unique(voxels.values)
        shown = ", ".join(map(_shown, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
        raise LesionLabelError(f"{path}: expected a mask of 0 and 1, got values {shown}")
    return mask.astype(np.uint8)


def load_labels(path: Path, *, like: tuple[Grid, Path]) -> NDArray[np.integer]:
    """Read a mask of any labels, on a grid that it must share, in the smallest type of integers.

    Raises:
        InputError: the file cannot be read, its grid is another one, or a value is no whole number.
    """
    voxels = read_voxels(path)
    require_same_grid(voxels.grid, path, *like)
    whole = voxels.values if voxels.rounding == 0 else np.rint(voxels.values)
    apart = np.abs(np.subtract(voxels.values, whole, dtype=np.float64))
    wrong = apart > voxels.rounding * np.maximum(1, np.abs(whole))
    if wrong.any():
        shown = _shown(voxels.values[wrong].flat[0])
        raise InputError(f"{path}: expected whole numbers as labels, got {shown}")
    least, largest = int(whole.min()), int(whole.max())
    types = (np.uint8, np.int16, np.int32, np.int64, np.uint64)
    holding = (kind for kind in types if np.iinfo(kind).min <= least and largest <= np.iinfo(kind).max)
    kind = next(holding, None)
    if kind is None:
        raise InputError(f"{path}: expected labels that fit into 64 bits, got {least} to {largest}")
    return whole.astype(kind)


def _is(label: int, voxels: Voxels) -> NDArray[np.bool_]:
    if voxels.rounding == 0:
        return np.asarray(voxels.values == label)
    return np.abs(np.subtract(voxels.values, label, dtype=np.float64)) <= voxels.rounding * max(1, abs(label))


def _rounding(proxy: ArrayProxy) -> float:
    stored, slope, inter = proxy.dtype, float(proxy.slope), float(proxy.inter)
    scaled = (slope, inter) != (1, 0)
    last_place = np.finfo(stored).eps if stored.kind == "f" else 0.0
    if scaled:
        last_place = max(last_place, np.finfo(np.float32).eps * (1 + abs(inter)))
    step = abs(slope) if scaled and stored.kind != "f" else 0.0  # some programs round, others cut off
    return float(min(step + ROUNDINGS * last_place, LARGEST_ROUNDING))


def _shown(value: np.generic) -> str:
    """As many digits as tell the value from every other of its type."""
    return str(value).removesuffix(".0")
