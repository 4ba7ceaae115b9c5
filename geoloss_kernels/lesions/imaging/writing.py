"""Image files, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lesions.files import replacing
from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.imaging.nifti import new_header


def save_image(path: Path, values: NDArray[np.generic], grid: Grid) -> None:
    """Write values in the file's grid as NIfTI (temporary name, then renamed)."""
    header = new_header(grid)
    header.set_data_dtype(values.dtype)
    image = nib.Nifti1Image(values, None, header)
    with replacing(path) as temporary:
        nib.save(image, temporary)
