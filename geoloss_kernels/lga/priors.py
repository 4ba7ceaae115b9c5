"""Tissue priors in a subject's space: nilearn's MNI152 maps, brought there by affine registration of T1."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

HISTOGRAM_BINS = 32
SAMPLED_FRACTION = 0.1
SHRINK_FACTORS = (4, 2)
SMOOTHING_SIGMAS = (3.0, 1.5)
"""mm"""
PRIOR_SMOOTHING = 1.5
"""mm; blurs what an affine transform cannot align"""
BRAIN_LEVEL = 0.05
"""Brightness of the template, of 1, above which a voxel is brain."""


def register_priors(
    t1: NDArray[np.float32], brain: NDArray[np.bool_], affine: NDArray[np.float64], seed: int = 0
) -> NDArray[np.float32]:
    """Priors [3, X, Y, Z] of CSF, grey and white matter on the subject's grid, 0 outside the template.

    Mattes mutual information of a tenth of the voxels, from coinciding centres of mass. Deterministic on one
    machine.

    Args:
        t1: T1 image [X, Y, Z].
        brain: its brain; the template shows nothing else.
        affine: from voxels to mm.
        seed: of the voxels that the registration looks at.
    """
    import SimpleITK as sitk  # noqa: N813

    template, maps = _template()
    fixed = _to_itk(np.where(brain, t1, 0).astype(np.float32), affine)
    transform = _register_affinely(fixed, template, seed)
    resampled = [sitk.Resample(tissue, fixed, transform, sitk.sitkLinear, 0.0) for tissue in maps]
    return np.stack([sitk.GetArrayFromImage(tissue).T for tissue in resampled])


@lru_cache(maxsize=1)
def _template() -> tuple[sitk.Image, tuple[sitk.Image, ...]]:
    """T1 of the template, and its maps of CSF, grey and white matter, smoothed."""
    from nilearn import datasets

    t1 = datasets.load_mni152_template(resolution=1)
    values = t1.get_fdata(dtype=np.float32)
    brain = ndimage.binary_closing(values > BRAIN_LEVEL)
    grey, white = (
        load(resolution=1).get_fdata(dtype=np.float32)
        for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    csf = np.clip(brain - grey - white, 0, 1).astype(np.float32)
    smooth = (ndimage.gaussian_filter(tissue, PRIOR_SMOOTHING) for tissue in (csf, grey, white))
    return _to_itk(values, t1.affine), tuple(_to_itk(tissue, t1.affine) for tissue in smooth)


def _to_itk(values: NDArray[np.float32], affine: NDArray[np.float64]) -> sitk.Image:
    """An image of SimpleITK, whose axes point to the left and to the back."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    to_lps = np.diag([-1.0, -1.0, 1.0])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((to_lps @ affine[:3, 3]).tolist())
    image.SetDirection((to_lps @ affine[:3, :3] / spacing).ravel().tolist())
    return image


def _register_affinely(fixed: sitk.Image, moving: sitk.Image, seed: int) -> sitk.AffineTransform:
    """The affine transform from points of ``fixed`` to the same anatomy in ``moving``, in mm."""
    import SimpleITK as sitk  # noqa: N813

    transform = sitk.AffineTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    registration.SetMetricSamplingStrategy(registration.RANDOM)
    registration.SetMetricSamplingPercentage(SAMPLED_FRACTION, seed + 1)  # 0 would be the clock
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0,
        minStep=1e-2,
        numberOfIterations=100,
        relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-6,
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel(SHRINK_FACTORS)
    registration.SetSmoothingSigmasPerLevel(SMOOTHING_SIGMAS)
    registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    registration.SetInitialTransform(transform, inPlace=True)
    registration.Execute(fixed, moving)
    return transform
