"""Image files, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lesions.files import replacing
from geoloss_kernels.lesions.imaging.grid import Grid


def save_image(path: Path, values: NDArray[np.generic], grid: Grid) -> None:
    """Write values in the file's grid as NIfTI (temporary name, then renamed)."""
    image = nib.Nifti1Image(values, grid.affine)
    image.set_sform(grid.affine, grid.space_code)
    image.set_qform(grid.affine, grid.space_code)
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nib.save(image, temporary)
