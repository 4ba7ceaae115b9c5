"""Registration by SimpleITK: the one way in which images are brought to lie on each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

HISTOGRAM_BINS = 32
FIRST_STEP = 1.0
"""mm"""


@dataclass(frozen=True)
class Schedule:
    """How a transform is improved, from coarse images to fine ones.

    Attributes:
        shrink_factors: of each resolution.
        smoothing: standard deviation in mm, of each resolution.
        sampled_fraction: of the voxels, for Mattes's mutual information between images of different contrast.
            None: all voxels, and the correlation of images of the same contrast.
        shortest_step: mm; the end.
        iterations: the end of each resolution, at the latest.
    """

    shrink_factors: tuple[int, ...]
    smoothing: tuple[float, ...]
    sampled_fraction: float | None
    shortest_step: float = 1e-3
    iterations: int = 300


def improve(
    transform: sitk.Transform, fixed: sitk.Image, moving: sitk.Image, schedule: Schedule, seed: int = 0
) -> float:
    """Improve ``transform``, from points of ``fixed`` to the same anatomy in ``moving``, in place.

    Gradient descent with regular steps. The same from run to run, bit for bit. Returns the metric at the end;
    less is better.

    Args:
        transform: where to start; rigid or affine.
        fixed, moving: images of SimpleITK.
        schedule: resolutions, metric and end.
        seed: of the voxels that are sampled, not negative.
    """
    import SimpleITK as sitk  # noqa: N813

    registration = sitk.ImageRegistrationMethod()
    if schedule.sampled_fraction is None:
        registration.SetMetricAsCorrelation()
    else:
        registration.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
        registration.SetMetricSamplingStrategy(registration.RANDOM)
        registration.SetMetricSamplingPercentage(schedule.sampled_fraction, seed + 1)  # 0 would be the clock
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=FIRST_STEP,
        minStep=schedule.shortest_step,
        numberOfIterations=schedule.iterations,
        relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-6,
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel(schedule.shrink_factors)
    registration.SetSmoothingSigmasPerLevel(schedule.smoothing)
    registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    registration.SetInitialTransform(transform, inPlace=True)
    with _one_thread():
        registration.Execute(fixed, moving)
    return float(registration.GetMetricValue())


def register_affinely(fixed: sitk.Image, moving: sitk.Image, schedule: Schedule) -> sitk.AffineTransform:
    """The affine transform from points of ``fixed`` to the same anatomy in ``moving``, in mm.

    From centres of mass that coincide, in two ways, of which the one with the better metric counts: at once,
    and after a rigid transform at the coarsest resolution. The first goes astray where a head is turned by
    12°, the second now and then where it is not.
    """
    import SimpleITK as sitk  # noqa: N813

    rigid = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    at_once = _as_affine(rigid)
    coarsest = replace(schedule, shrink_factors=schedule.shrink_factors[:1], smoothing=schedule.smoothing[:1])
    improve(rigid, fixed, moving, coarsest)
    candidates = (at_once, _as_affine(rigid))
    metrics = [improve(candidate, fixed, moving, schedule) for candidate in candidates]
    return candidates[int(np.argmin(metrics))]


def _as_affine(rigid: sitk.Euler3DTransform) -> sitk.AffineTransform:
    import SimpleITK as sitk  # noqa: N813

    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return affine


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads add up in an order of their own. The metric asks for the global number only."""
    import SimpleITK as sitk  # noqa: N813

    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
