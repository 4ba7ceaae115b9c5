"""Where tissues lie in people in general: the MNI152 maps that nilearn ships, on a subject's grid."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.imaging.itk import to_sitk
from geoloss_kernels.lesions.imaging.registration import Schedule, register_affinely
from geoloss_kernels.lesions.lga.tissue import Array, Mask

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

SMOOTHING_MM = 1.5
"""Blurs what an affine transform cannot align."""
REGISTRATION_VOXEL_MM = 2.0
"""Both images are brought to cubes of this edge, whatever the thickness of the slices."""
PRIOR_SCHEDULE = Schedule(
    shrink_factors=(3, 1), smoothing=(4.0, 1.5), sampled_fraction=0.3, shortest_step=1e-2, iterations=100
)


def tissue_priors(t1: Array, brain: Mask, affine: NDArray[np.float64]) -> Array:
    """Priors [3, X, Y, Z] of CSF, grey and white matter on the grid of ``t1``, smoothed by 1.5 mm.

    The template's T1 is registered to ``t1`` by an affine transform (mutual information). CSF is what is
    neither grey nor white matter, outside of the template's brain, too. Deterministic.

    Args:
        t1: [X, Y, Z].
        brain: its brain; the template shows nothing else.
        affine: of ``t1``, from voxels to mm (RAS).
    """
    import SimpleITK as sitk  # noqa: N813

    template, maps = _template()
    fixed = to_sitk(np.where(brain, t1, 0).astype(np.float32), affine)
    transform = register_affinely(_on_cubes(fixed), _on_cubes(template), PRIOR_SCHEDULE)
    grey, white = (sitk.GetArrayFromImage(sitk.Resample(tissue, fixed, transform)).T for tissue in maps)
    return np.stack([np.clip(1 - grey - white, 0, 1), grey, white]).astype(np.float32)


@lru_cache(maxsize=1)
def _template() -> tuple[sitk.Image, tuple[sitk.Image, ...]]:
    """T1 of the template, and its maps of grey and white matter, smoothed."""
    from nilearn import datasets

    t1 = datasets.load_mni152_template(resolution=1)
    maps = []
    for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template):
        tissue = load(resolution=1).get_fdata(dtype=np.float32)  # 1 mm: voxels are mm
        maps.append(to_sitk(ndimage.gaussian_filter(tissue, SMOOTHING_MM), t1.affine))
    return to_sitk(t1.get_fdata(dtype=np.float32), t1.affine), tuple(maps)


def _on_cubes(image: sitk.Image) -> sitk.Image:
    import SimpleITK as sitk  # noqa: N813

    extent = np.multiply(image.GetSize(), image.GetSpacing())
    size = [int(count) for count in np.ceil(extent / REGISTRATION_VOXEL_MM)]
    edges = (REGISTRATION_VOXEL_MM,) * 3
    return sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), edges, image.GetDirection()
    )
