"""Where tissues lie in people in general: the MNI152 maps that nilearn ships, on a subject's grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lga.tissue import Array, Mask

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

SMOOTHING_MM = 1.5
HISTOGRAM_BINS = 32
SAMPLED_FRACTION = 0.1


def tissue_priors(t1: Array, brain: Mask, affine: NDArray[np.float64]) -> Array:
    """Priors [3, X, Y, Z] of CSF, grey and white matter on the grid of ``t1``, smoothed by 1.5 mm.

    The template's T1 is registered to ``t1`` by an affine transform (SimpleITK, mutual information). CSF is
    what of the brain is neither grey nor white matter.

    Args:
        t1: [X, Y, Z], brain-extracted.
        brain: the voxels of the brain.
        affine: of ``t1``, from voxels to mm (RAS).
    """
    import SimpleITK as sitk  # noqa: N813
    from nilearn import datasets

    fixed = _image(np.where(brain, t1, 0), affine)
    template = datasets.load_mni152_template(resolution=1)
    with _one_thread():
        transform = _register(fixed, _image(template.get_fdata(dtype=np.float32), template.affine))
    maps = []
    for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template):
        tissue = load(resolution=1)
        warped = sitk.Resample(_image(tissue.get_fdata(dtype=np.float32), tissue.affine), fixed, transform)
        maps.append(sitk.GetArrayFromImage(warped).T)
    sigmas = SMOOTHING_MM / np.linalg.norm(affine[:3, :3], axis=0)
    grey, white = (ndimage.gaussian_filter(tissue, sigmas) for tissue in maps)
    return np.stack([np.clip(1 - grey - white, 0, 1), grey, white]).astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads of ITK add up in an order of their own, and growth tells the last bits apart."""
    import SimpleITK as sitk  # noqa: N813

    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _image(values: Array, affine: NDArray[np.float64]) -> sitk.Image:
    """[X, Y, Z] with its affine as an image of ITK, whose coordinates are LPS."""
    import SimpleITK as sitk  # noqa: N813

    to_lps = np.diag([-1.0, -1.0, 1.0])
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T, dtype=np.float32))
    image.SetSpacing(sizes.tolist())
    image.SetDirection((to_lps @ affine[:3, :3] / sizes).ravel().tolist())
    image.SetOrigin((to_lps @ affine[:3, 3]).tolist())
    return image


def _register(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    import SimpleITK as sitk  # noqa: N813

    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    registration.SetMetricSamplingStrategy(registration.RANDOM)
    registration.SetMetricSamplingPercentage(SAMPLED_FRACTION, 1)  # the seed; 0 would be the clock
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=200, relaxationFactor=0.7
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel((4, 2))
    registration.SetSmoothingSigmasPerLevel((2.0, 1.0))  # mm
    registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    registration.SetInitialTransform(start, inPlace=False)
    return registration.Execute(fixed, moving)
