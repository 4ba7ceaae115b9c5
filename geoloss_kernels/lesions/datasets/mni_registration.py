"""Where a person's brain lies in the MNI space: affinely by its white matter, then by its ventricles.

Lesions crowd around the ventricles, whose size differs most between people. An affine transform alone leaves
up to half of the volume of a patient's lesions in another person's ventricles. Demons (Vercauteren et al.
2009, of SimpleITK) therefore match how far a point lies on its way from the ventricles to the surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.datasets.anatomy import Maps, template
from geoloss_kernels.lesions.datasets.fields import FloatVolume
from geoloss_kernels.lesions.datasets.label_maps import LabelMap, read_label_map
from geoloss_kernels.lesions.imaging.itk import naming_itk_errors
from geoloss_kernels.lesions.imaging.registration import Schedule, deform_onto, register_affinely

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

WHITE_OF_LABEL_MAP, WHITE_OF_TEMPLATE = 2, 1
SUBSAMPLING = 2  # voxels
WHITE_MATTER_SCHEDULE = Schedule(
    shrink_factors=(2, 1), smoothing=(4.0, 2.0), sampled_fraction=None, iterations=100
)
INSIDE_VENTRICLES = 30.0  # mm below their surface count as much as the way from there to that of the brain


@dataclass(frozen=True)
class ToMni:
    """From points of a label map, in mm, to the same anatomy in the MNI space.

    Attributes:
        displacement: [3, ...] in mm, added first.
        affine: Matrix [4, 4], applied then.
    """

    displacement: Maps
    affine: NDArray[np.float64]

    def at(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where points [3, X, Y, Z] lie in the MNI space."""
        return transformed(points + self.displacement.at(points), self.affine)


def register_to_mni(path: Path) -> ToMni:
    """Registers a label map with the MNI152 template. Deterministic.

    Args:
        path: A label map that `read_label_map` reads.

    Raises:
        InputError: it cannot be read or registered.
    """
    label_map = read_label_map(path)
    with naming_itk_errors(path, "cannot be registered to the template"):
        affine = _register_white_matter(label_map)
        return ToMni(_register_ventricles(label_map, affine), affine)


def transformed(points: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Points [3, X, Y, Z] after an affine transform [4, 4]."""
    # einsum, because the last bits of a BLAS product depend on the number of threads.
    linear = np.einsum("ij,jxyz->ixyz", matrix[:3, :3].astype(np.float32), points)
    return linear + matrix[:3, 3].astype(np.float32).reshape(3, 1, 1, 1)


def _register_white_matter(label_map: LabelMap) -> NDArray[np.float64]:
    """The affine transform with the best correlation, from centres of mass that coincide."""
    fixed = _white_matter(label_map.tissues, WHITE_OF_LABEL_MAP)
    moving = _white_matter(template()[0], WHITE_OF_TEMPLATE)
    return _matrix(register_affinely(fixed, moving, WHITE_MATTER_SCHEDULE))


def _register_ventricles(label_map: LabelMap, affine: NDArray[np.float64]) -> Maps:
    """What to add to points of a label map, before `affine`, for the ventricles to lie on the template's."""
    person, average = (_radial_position(maps) for maps in (label_map.distances, template()[1]))
    points = _voxel_centres(person)
    moving = Maps(average.at(transformed(points, affine)), person.origin, person.voxel_size)
    images = (_image(maps.values[0], maps.origin, maps.voxel_size) for maps in (person, moving))
    displacement = deform_onto(*images)
    return Maps(displacement, person.origin, person.voxel_size)


def _radial_position(distances: Maps) -> Maps:
    """[1, ...]: 0 on the surface of the ventricles, 1 on that of the brain and beyond, negative inside."""
    ventricle_distance, surface_depth = distances.values
    inside = ventricle_distance == 0
    below = distances.voxel_size * ndimage.distance_transform_edt(inside)
    outwards = ventricle_distance / np.where(inside, 1, ventricle_distance + surface_depth)
    position = np.where(inside, -below / INSIDE_VENTRICLES, outwards)
    return Maps(position[None].astype(np.float32), distances.origin, distances.voxel_size)


def _voxel_centres(maps: Maps) -> NDArray[np.float32]:
    """Positions [3, X, Y, Z] in mm."""
    index = np.indices(maps.values.shape[1:], dtype=np.float32)
    return (maps.voxel_size * index + maps.origin.reshape(3, 1, 1, 1)).astype(np.float32)


def _white_matter(tissues: Maps, number: int) -> sitk.Image:
    """White matter on every second voxel."""
    smooth = ndimage.gaussian_filter(tissues.values[number], SUBSAMPLING / 2)
    step = slice(None, None, SUBSAMPLING)
    return _image(smooth[step, step, step], tissues.origin, SUBSAMPLING * tissues.voxel_size)


def _image(values: FloatVolume, origin: NDArray[np.float64], voxel_size: float) -> sitk.Image:
    """[X, Y, Z] with its place in mm, which are SimpleITK's, too."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing([voxel_size] * 3)
    image.SetOrigin(origin.tolist())
    return image


def _matrix(transform: sitk.AffineTransform) -> NDArray[np.float64]:
    """x ↦ A (x - c) + c + t as one matrix."""
    linear = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + np.array(transform.GetTranslation()) - linear @ centre
    return matrix
