"""Where a person's brain lies in the MNI space, by an affine transform of its white matter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.datasets.anatomy import Maps, template
from geoloss_kernels.datasets.label_maps import read_label_map

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

WHITE_OF_LABEL_MAP, WHITE_OF_TEMPLATE = 2, 1
SUBSAMPLING = 2  # voxels
SHRINK_FACTORS = (2, 1)
SMOOTHING_SIGMAS = (4.0, 2.0)  # mm


def register_to_mni(path: Path) -> NDArray[np.float64]:
    """The matrix [4, 4] from points of a label map, in mm, to the same anatomy in the MNI space.

    It maximises the correlation of the white matter maps, from their centres of mass on. Deterministic: it
    looks at every voxel, on one thread.

    Args:
        path: A label map that `read_label_map` reads.
    """
    import SimpleITK as sitk  # noqa: N813

    fixed = _white_matter(read_label_map(path).tissues, WHITE_OF_LABEL_MAP)
    moving = _white_matter(template()[0], WHITE_OF_TEMPLATE)
    transform = sitk.AffineTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    registration = sitk.ImageRegistrationMethod()
    registration.SetNumberOfThreads(1)
    registration.SetMetricAsCorrelation()
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=100, relaxationFactor=0.7
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel(SHRINK_FACTORS)
    registration.SetSmoothingSigmasPerLevel(SMOOTHING_SIGMAS)
    registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    registration.SetInitialTransform(transform, inPlace=True)
    registration.Execute(fixed, moving)
    return _matrix(transform)


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
