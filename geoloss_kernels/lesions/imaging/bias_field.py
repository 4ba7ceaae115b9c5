"""Bias fields of coils, removed by SimpleITK's N4."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

N4_SHRINK_FACTOR = 4


def correct_bias(image: sitk.Image) -> sitk.Image:
    """``image`` divided by its smooth bias field: N4 on a coarser grid, within Otsu's foreground."""
    import SimpleITK as sitk  # noqa: N813

    foreground = sitk.OtsuThreshold(image, 0, 1)
    shrink = [N4_SHRINK_FACTOR if size > 16 * N4_SHRINK_FACTOR else 1 for size in image.GetSize()]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.Execute(sitk.Shrink(image, shrink), sitk.Shrink(foreground, shrink))
    return image / sitk.Exp(corrector.GetLogBiasFieldAsImage(image))
