"""Where a person's brain lies in the MNI space, by an affine transform of its white matter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.datasets.anatomy import Maps, template
from geoloss_kernels.datasets.label_maps import read_label_map
from geoloss_kernels.training.registration import Schedule, register_affinely

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

WHITE_OF_LABEL_MAP, WHITE_OF_TEMPLATE = 2, 1
SUBSAMPLING = 2  # voxels
SCHEDULE = Schedule(shrink_factors=(2, 1), smoothing=(4.0, 2.0), sampled_fraction=None, iterations=100)


def register_to_mni(path: Path) -> NDArray[np.float64]:
    """The matrix [4, 4] from points of a label map, in mm, to the same anatomy in the MNI space.

    It maximises the correlation of the white matter maps, from their centres of mass on. Deterministic.

    Args:
        path: A label map that `read_label_map` reads.
    """
    fixed = _white_matter(read_label_map(path).tissues, WHITE_OF_LABEL_MAP)
    moving = _white_matter(template()[0], WHITE_OF_TEMPLATE)
    return _matrix(register_affinely(fixed, moving, SCHEDULE))


def transformed(points: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Points [3, X, Y, Z] after an affine transform [4, 4]."""
    # einsum, because the last bits of a BLAS product depend on the number of threads.
    linear = np.einsum("ij,jxyz->ixyz", matrix[:3, :3].astype(np.float32), points)
    return linear + matrix[:3, 3].astype(np.float32).reshape(3, 1, 1, 1)


def _white_matter(tissues: Maps, number: int) -> sitk.Image:
    """White matter on every second voxel; the mm of `tissues` are SimpleITK's."""
    import SimpleITK as sitk  # noqa: N813

    smooth = ndimage.gaussian_filter(tissues.values[number], SUBSAMPLING / 2)
    step = slice(None, None, SUBSAMPLING)
    image = sitk.GetImageFromArray(np.ascontiguousarray(smooth[step, step, step].T))
    image.SetSpacing([SUBSAMPLING * tissues.voxel_size] * 3)
    image.SetOrigin(tissues.origin.tolist())
    return image


def _matrix(transform: sitk.AffineTransform) -> NDArray[np.float64]:
    """x ↦ A (x - c) + c + t as one matrix."""
    linear = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + np.array(transform.GetTranslation()) - linear @ centre
    return matrix
