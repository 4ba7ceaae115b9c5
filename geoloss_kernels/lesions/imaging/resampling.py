"""Images on another grid, with the background that they had."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses


def resample(moving: sitk.Image, fixed: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """``moving`` on the grid of ``fixed``, by cubic splines, within the range of its foreground.

    Splines ring: next to a brain in a background of zeros they leave no voxel at 0. What is background is
    therefore told by itself: 0 where the nearer half of the neighbourhood, by linear weights, is 0 in
    ``moving``, or lies outside of it.

    Args:
        moving: image of SimpleITK, not of zeros alone.
        fixed: its grid is taken.
        transform: from points of ``fixed`` to points of ``moving``.
    """
    import SimpleITK as sitk  # noqa: N813

    values = sitk.GetArrayViewFromImage(moving)
    inside = values[values != 0]
    splines = sitk.Resample(moving, fixed, transform, sitk.sitkBSpline, 0.0)
    within = sitk.Clamp(splines, sitk.sitkFloat32, float(inside.min()), float(inside.max()))
    foreground = sitk.Cast(sitk.NotEqual(moving, 0.0), sitk.sitkFloat32)
    share = sitk.Resample(foreground, fixed, transform, sitk.sitkLinear, 0.0)
    return sitk.Mask(within, sitk.GreaterEqual(share, 0.5))
