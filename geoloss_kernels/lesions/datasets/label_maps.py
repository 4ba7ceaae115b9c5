"""Brains of other people: whole-brain label maps with FreeSurfer's numbers, as SynthSeg is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.datasets.anatomy import (
    Anatomy,
    Maps,
    deformed_points,
    distance_maps,
    grid_over,
    largest_component,
)
from geoloss_kernels.lesions.datasets.fields import FloatVolume
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.imaging.grid import bounding_box
from geoloss_kernels.lesions.imaging.reading import load_images

LATERAL_VENTRICLES = (4, 43)  # without their temporal horns, as in the template
CSF = (*LATERAL_VENTRICLES, 5, 14, 15, 24, 30, 31, 44, 62, 63, 72)  # with vessels and choroid plexus
GREY_MATTER_OF_THE_LEFT = (3, 8, 9, 10, 11, 12, 13, 17, 18, 19, 20, 26, 27, 136)
GREY_MATTER_OF_THE_RIGHT = (42, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 58, 59, 137)
CEREBELLUM = (7, 8, 46, 47)
CORTICAL_PARCELLATION = (1000, 3000)
EXTRACEREBRAL = (*range(118, 136), 165)  # skin, skull, eyes, ...
FIRST_EXTRACEREBRAL_OF_SYNTHSEG = 500
BELOW_CEREBELLUM = 5.0  # mm
MARGIN = 4.0  # mm around the brain
PARTIAL_VOLUME = 0.5  # voxels, standard deviation of the smoothing of labels into shares
WARP_STRENGTH = 0.5


@dataclass(frozen=True)
class LabelMap:
    """One person's brain in mm from the middle of the label map, in RAS+ orientation.

    Attributes:
        tissues: Shares of CSF, grey and white matter, which sum to one in the brain and to zero elsewhere.
        distances: Ventricle distance and surface depth in mm.
        box: Corners [2, 3] in mm of a box that holds the brain.
    """

    tissues: Maps
    distances: Maps
    box: NDArray[np.float64]


@lru_cache(maxsize=1)
def read_label_map(path: Path) -> LabelMap:
    """Reads a label map.

    Raises:
        InputError: `path` cannot be read, its voxels are not cubic, or it holds no grey or no white matter or
            no lateral ventricles.
    """
    values, affine = read_volume(path)
    voxel_size = cubic_voxel_size(path, affine)
    labels = np.round(values).astype(np.int32)
    csf, grey, brain = _classes(labels)
    brain[..., : _foramen_magnum(labels, voxel_size)] = False
    white = brain & ~csf & ~grey
    ventricles = np.isin(labels, LATERAL_VENTRICLES)
    named = {"grey matter": grey, "white matter": white, "lateral ventricles": ventricles & brain}
    absent = next((name for name, mask in named.items() if not mask.any()), None)
    if absent:
        raise InputError(f"{path}: expected FreeSurfer's label numbers, found no {absent}")

    margin = int(np.ceil(MARGIN / voxel_size))
    box = bounding_box(brain, margin)
    csf, grey, white, brain, ventricles = (mask[box] for mask in (csf, grey, white, brain, ventricles))
    origin = voxel_size * (np.array([part.start for part in box]) - (np.array(labels.shape) - 1) / 2)
    corners = np.stack([origin, origin + voxel_size * np.array(brain.shape)])
    shares = np.stack([csf, grey, white]).astype(np.float32)
    tissues = ndimage.gaussian_filter(shares, (0, *[PARTIAL_VOLUME] * 3))
    return LabelMap(
        Maps(tissues, origin, voxel_size), distance_maps(ventricles, brain, origin, voxel_size), corners
    )


def deform_label_map(
    label_map: LabelMap, voxel_size: float, generator: np.random.Generator
) -> tuple[Anatomy, NDArray[np.float32]]:
    """A brain like that of the label map, and the position [3, X, Y, Z] in mm of its voxels in the latter.

    Args:
        label_map: The person.
        voxel_size: Edge of the cubic voxels in mm.
        generator: Source of randomness.
    """
    affine, shape = grid_over(label_map.box, voxel_size)
    points = deformed_points(shape, affine, generator, WARP_STRENGTH)
    ventricle_distance, surface_depth = label_map.distances.at(points)
    csf, grey, white = _whole(label_map.tissues.at(points), surface_depth > 0)
    return Anatomy(csf, grey, white, ventricle_distance, surface_depth, affine), points


def read_volume(path: Path) -> tuple[FloatVolume, NDArray[np.float64]]:
    """Voxels [X, Y, Z] in RAS+ orientation and their affine.

    Raises:
        InputError: `path` is no NIfTI file that can be read, or not of three dimensions.
    """
    images, grid = load_images({"volume": path})
    return grid.to_volume(images["volume"]), grid.volume_affine


def cubic_voxel_size(path: Path, affine: NDArray[np.float64]) -> float:
    """Edge in mm of the voxels of `affine`.

    Raises:
        InputError: they are not cubes.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(edges, edges[0], rtol=1e-3):
        raise InputError(
            f"{path}: expected cubic voxels, got {' x '.join(f'{edge:.3g}' for edge in edges)} mm"
        )
    return float(edges[0])


def _classes(labels: NDArray[np.int32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of CSF, grey matter and the whole brain; what the brain encloses unlabelled is white matter.

    Labels astray outside of the brain do not count.
    """
    first, last = CORTICAL_PARCELLATION
    parcel = (labels >= first) & (labels < last)
    named = (labels > 0) & (labels < FIRST_EXTRACEREBRAL_OF_SYNTHSEG)
    cerebral = (named & ~np.isin(labels, EXTRACEREBRAL)) | parcel
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(cerebral, iterations=2)) | cerebral
    grey = np.isin(labels, (*GREY_MATTER_OF_THE_LEFT, *GREY_MATTER_OF_THE_RIGHT)) | parcel
    return np.isin(labels, CSF), grey, largest_component(closed)


def _foramen_magnum(labels: NDArray[np.int32], voxel_size: float) -> int:
    """The slice where spinal cord begins: a little below the cerebellum, or 0 if that is not labelled."""
    slices = np.flatnonzero(np.isin(labels, CEREBELLUM).any((0, 1)))
    return max(int(slices[0] - BELOW_CEREBELLUM / voxel_size), 0) if slices.size else 0


def _whole(tissues: FloatVolume, brain: NDArray[np.bool_]) -> FloatVolume:
    """Shares that sum to one in the brain and are zero elsewhere; a voxel without a share is CSF."""
    tissues[0] += tissues.sum(0) < 1e-3
    return tissues / tissues.sum(0) * brain
