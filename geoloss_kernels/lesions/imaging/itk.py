"""Arrays and affines as images of SimpleITK, and back; SimpleITK itself reads and writes no file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lesions.errors import InputError

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses


def to_sitk(values: NDArray[np.float32], affine: NDArray[np.float64]) -> sitk.Image:
    """[X, Y, Z] with its affine, from voxels to mm (RAS), as an image of SimpleITK, whose mm are LPS."""
    import SimpleITK as sitk  # noqa: N813

    to_lps = np.diag([-1.0, -1.0, 1.0])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_lps @ affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((to_lps @ affine[:3, 3]).tolist())
    return image


def from_sitk(image: sitk.Image) -> NDArray[np.float32]:
    """The values [X, Y, Z] of an image of SimpleITK, on the grid that it has."""
    import SimpleITK as sitk  # noqa: N813

    return np.ascontiguousarray(sitk.GetArrayFromImage(image).T, dtype=np.float32)


@contextmanager
def naming_itk_errors(path: Path, problem: str) -> Iterator[None]:
    """Bring SimpleITK's RuntimeErrors out as InputErrors that name the image: one that is too small, too far
    from the other, ..."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(f"{path}: {problem}: {str(error).strip().splitlines()[-1].strip()}") from None
