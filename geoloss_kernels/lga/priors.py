"""Tissue priors in a subject's space: nilearn's MNI152 maps, brought there by affine registration of T1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

HISTOGRAM_BINS = 32
REGISTRATION_VOXEL = 2.0
"""mm; both images are brought to cubes of this edge, whatever the thickness of the slices"""
SAMPLED_FRACTION = 0.3
SHRINK_FACTORS = (3, 1)
SMOOTHING_SIGMAS = (4.0, 1.5)
"""mm"""
PRIOR_SMOOTHING = 1.5
"""mm; blurs what an affine transform cannot align"""
BRAIN_LEVEL = 0.05
"""Brightness of the template, of 1, above which a voxel is brain."""


def register_priors(
    t1: NDArray[np.float32], brain: NDArray[np.bool_], affine: NDArray[np.float64], seed: int = 0
) -> NDArray[np.float32]:
    """Priors [3, X, Y, Z] of CSF, grey and white matter on the subject's grid, 0 outside the template.

    Mattes mutual information, from coinciding centres of mass, first rigid and then affine. Deterministic, on
    one thread.

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

    fixed, moving = _isotropic(fixed), _isotropic(moving)
    rigid = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    _optimise(rigid, fixed, moving, SHRINK_FACTORS[:1], SMOOTHING_SIGMAS[:1], seed)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    _optimise(affine, fixed, moving, SHRINK_FACTORS, SMOOTHING_SIGMAS, seed)
    return affine


def _optimise(
    transform: sitk.Transform,
    fixed: sitk.Image,
    moving: sitk.Image,
    shrink_factors: tuple[int, ...],
    smoothing_sigmas: tuple[float, ...],
    seed: int,
) -> None:
    """Improves ``transform`` in place."""
    import SimpleITK as sitk  # noqa: N813

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
    registration.SetShrinkFactorsPerLevel(shrink_factors)
    registration.SetSmoothingSigmasPerLevel(smoothing_sigmas)
    registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    registration.SetInitialTransform(transform, inPlace=True)
    with _one_thread():
        registration.Execute(fixed, moving)


@contextmanager
def _one_thread() -> Iterator[None]:
    """For reproducible sums: more threads take them in any order. The metric knows the global number only."""
    import SimpleITK as sitk  # noqa: N813

    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _isotropic(image: sitk.Image) -> sitk.Image:
    """The image on cubes of ``REGISTRATION_VOXEL``."""
    import SimpleITK as sitk  # noqa: N813

    extent = np.multiply(image.GetSize(), image.GetSpacing())
    size = [int(length) for length in np.ceil(extent / REGISTRATION_VOXEL)]
    edge = (REGISTRATION_VOXEL,) * 3
    return sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), edge, image.GetDirection(), 0.0
    )
