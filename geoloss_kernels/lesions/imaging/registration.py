"""Registration by SimpleITK: the one way in which images are brought to lie on each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

HISTOGRAM_BINS = 32
FIRST_STEP = 1.0
"""mm"""

DEMONS_ITERATIONS = 100
DEMONS_SMOOTHING = 1.5
"""voxels, of the displacement after each iteration"""


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


RIGID_SCHEDULE = Schedule(shrink_factors=(4, 2, 1), smoothing=(2.0, 1.0, 0.0), sampled_fraction=0.2)


def improve(
    transform: sitk.Transform, fixed: sitk.Image, moving: sitk.Image, schedule: Schedule, seed: int = 0
) -> None:
    """Improve ``transform``, from points of ``fixed`` to the same anatomy in ``moving``, in place.

    Gradient descent with regular steps. The same from run to run, bit for bit.

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


def register_rigidly(fixed: sitk.Image, moving: sitk.Image, seed: int = 0) -> sitk.Euler3DTransform:
    """The rigid transform from points of ``fixed`` to the same anatomy in ``moving``, in mm.

    For images of different contrast that overlap: it starts from the scanner's coordinates, with the centre
    of rotation in the middle of ``fixed``.
    """
    import SimpleITK as sitk  # noqa: N813

    middle = fixed.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in fixed.GetSize()])
    transform = sitk.Euler3DTransform(middle)
    improve(transform, fixed, moving, RIGID_SCHEDULE, seed)
    return transform


def register_affinely(fixed: sitk.Image, moving: sitk.Image, schedule: Schedule) -> sitk.AffineTransform:
    """The affine transform from points of ``fixed`` to the same anatomy in ``moving``, in mm.

    It starts from centres of mass that coincide. Deterministic.
    """
    import SimpleITK as sitk  # noqa: N813

    transform = sitk.AffineTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    improve(transform, fixed, moving, schedule)
    return transform


def deform_onto(fixed: sitk.Image, moving: sitk.Image) -> NDArray[np.float32]:
    """Displacement [3, X, Y, Z], in mm, from points of ``fixed`` to points of ``moving`` of the same value.

    Symmetric demons on one grid. Deterministic.
    """
    import SimpleITK as sitk  # noqa: N813

    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(DEMONS_ITERATIONS)
    demons.SetStandardDeviations(DEMONS_SMOOTHING)
    with _one_thread():
        field = demons.Execute(fixed, moving)
    return np.ascontiguousarray(sitk.GetArrayFromImage(field).transpose(3, 2, 1, 0), dtype=np.float32)


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
