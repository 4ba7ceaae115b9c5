"""NIfTI files: whole, undamaged, of real numbers, with transforms that place them in space.

The sform says where the voxels lie where its code is above 0, else the qform where its code is, else the
voxel sizes alone: nibabel's rule, for every file that is read or written here. Where both are given, and put
a corner of the grid further apart than ``LARGEST_SHIFT``, a warning says so. Both are written with what is
predicted on a file's grid, so that a program that goes by the other one shows the result on the image.
"""

from __future__ import annotations

import gzip
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from geoloss_kernels.lesions.errors import InputError, one_line, warn
from geoloss_kernels.lesions.imaging.grid import LARGEST_SHIFT, Grid, edges_of, shift_between

Header = nib.nifti1.Nifti1Header

GZIP = b"\x1f\x8b"
HEADER_BYTES = 540
"""Of NIfTI-2, the longer one."""
SPACE_CODES = range(6)
"""What a sform or qform may lead to: nothing known, scanner, another image, Talairach, MNI, a template."""
PLACE = (
    *("xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)
"""Fields that place an image in space, beside the voxel sizes."""
EDGES_MM = (1e-3, 1e3)
"""Of the voxels of anything that is imaged."""
LEAST_VOLUME = 1e-3
"""Of a voxel whose edges are all 1: below, its axes lie in a plane."""


def read_header(path: Path) -> Header:
    """The header of a file, as it is stored.

    Raises:
        InputError: there is no file, it cannot be read, or is not one of NIfTI.
    """
    with _naming(path, "not a readable NIfTI file"), _opened(path) as file:
        return _parse(file.read(HEADER_BYTES), path)


def read_proxy(path: Path) -> tuple[ArrayProxy, Grid]:
    """The voxels of a file, read whole and held against its checksum if it is compressed, and its grid.

    Raises:
        InputError: as `read_header` and `grid_of`, or voxels are missing, damaged or no real numbers.
    """
    header = read_header(path)
    grid = grid_of(header, path)
    with _naming(path, "cannot read the voxels"), _opened(path) as file:
        content = file.read()
    with _naming(path, "not a readable NIfTI file"):
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        _require_numbers(header, path)
        _require_voxels(header, len(content), path)
        proxy = kind.from_bytes(content).dataobj
    assert isinstance(proxy, ArrayProxy)
    return proxy, grid


def grid_of(header: Header, path: Path) -> Grid:
    """Shape and place of an image, see the top of this file.

    Raises:
        InputError: there are other than three dimensions, or a transform that is given is not finite, not
            invertible or no transform.
    """
    shape = header.get_data_shape()
    if len(shape) < 3 or any(size != 1 for size in shape[3:]) or min(shape) < 1:
        raise InputError(f"{path}: expected a 3-D image, got shape {tuple(map(int, shape))}")
    x, y, z = map(int, shape[:3])
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    for name, code in codes.items():
        if code not in SPACE_CODES:
            raise InputError(f"{path}: {name}_code: expected 0 to {SPACE_CODES[-1]}, got {code}")
    given = {name: _transform(header, name, path) for name, code in codes.items() if code > 0}
    chosen = next(iter(given), "voxel sizes")
    affine = given[chosen] if given else _transform(header, chosen, path)
    return Grid((x, y, z), affine, space_code=codes.get(chosen, 0) or 1, header=header)


def warn_of_two_places(grid: Grid, path: Path) -> None:
    """Say so where the sform and the qform of a file put its voxels in different places."""
    if grid.header is None or not (grid.header["sform_code"] > 0 and grid.header["qform_code"] > 0):
        return
    millimetres, voxels = shift_between(grid.shape, grid.affine, grid.header.get_qform())
    if voxels > LARGEST_SHIFT:
        warn(
            f"{path}: sform and qform put its corners up to {millimetres:.3g} mm apart, "
            f"{voxels:.3g} voxels; the sform counts"
        )


def new_header(grid: Grid) -> Header:
    """A header that places an image on ``grid``, by both transforms of the grid's file where it is of one."""
    header = nib.Nifti1Header()
    if grid.header is None:
        header.set_sform(grid.affine, grid.space_code)
        header.set_qform(grid.affine, grid.space_code)
        header.set_xyzt_units("mm")
        return header
    for field in PLACE:
        header[field] = grid.header[field]
    header["pixdim"][:4] = grid.header["pixdim"][:4]
    edges = header["pixdim"][1:4]
    if not (np.isfinite(edges) & (edges > 0)).all():  # they did not count
        header["pixdim"][1:4] = grid.file_spacing
    return header


def _transform(header: Header, name: str, path: Path) -> NDArray[np.float64]:
    with _naming(path, name):
        make = {"sform": header.get_sform, "qform": header.get_qform, "voxel sizes": header.get_base_affine}
        affine = np.asarray(make[name](), dtype=np.float64)
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: {name}: expected finite numbers, got NaN or infinity")
    edges = edges_of(affine)
    least, largest = EDGES_MM
    if not all(least <= edge <= largest for edge in edges):
        shown = " x ".join(f"{edge:.3g}" for edge in edges)
        raise InputError(f"{path}: {name}: expected voxels of {least:g} to {largest:g} mm, got {shown} mm")
    if abs(np.linalg.det(affine[:3, :3] / edges)) < LEAST_VOLUME:
        raise InputError(f"{path}: {name}: expected a matrix that can be inverted, got axes in one plane")
    return affine


def _parse(start: bytes, path: Path) -> Header:
    if start[344:348] == b"n+1\x00":
        header = nib.Nifti1Header(start[:348], check=False)
    elif start[4:8] == b"n+2\x00":
        header = nib.Nifti2Header(start[:HEADER_BYTES], check=False)
    else:
        raise InputError(f"{path}: not a readable NIfTI file: expected .nii or .nii.gz, got another format")
    if header["pixdim"][0] != -1:
        header["pixdim"][0] = 1  # as the format says: 0, which many programs write, is 1
    return header


def _require_numbers(header: Header, path: Path) -> None:
    kind = header.get_data_dtype().kind
    if kind not in "iuf":
        found = header.get_value_label("datatype")
        raise InputError(f"{path}: expected a real number in each voxel, got {found}")


def _require_voxels(header: Header, size: int, path: Path) -> None:
    """Before memory is asked for that a damaged header would fill."""
    voxels = math.prod(map(int, header.get_data_shape())) * header.get_data_dtype().itemsize
    expected = int(header.get_data_offset()) + voxels
    if size < expected:
        raise InputError(f"{path}: cannot read the voxels: expected {expected} bytes, got {size}")


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile]:
    """The file's content, decompressed where it is compressed, whatever its name says."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.peek(2)[:2] == GZIP:  # type: ignore[attr-defined]
            with gzip.GzipFile(fileobj=file) as decompressed:
                yield decompressed
        else:
            yield file  # type: ignore[misc]


@contextmanager
def _naming(path: Path, problem: str) -> Iterator[None]:
    """Bring whatever a damaged file makes nibabel, zlib and NumPy raise, which share no class, out as an
    InputError that names it, and keep their own warnings quiet."""
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        reason = one_line(str(error)) or type(error).__name__
        raise InputError(f"{path}: {problem}: {reason}") from None
    finally:
        logger.setLevel(level)
