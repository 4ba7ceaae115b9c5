"""Random multiple sclerosis lesions, and the bright structures on FLAIR that are easily taken for lesions.

Counts, sizes and sites follow the thirty consensus segmentations of Lesjak et al. 2018: a median of 80
lesions, of 18 mm³ each, mostly beside the ventricles and just below the cortex. Counts are lower and sizes
larger here because lesions of fewer than three voxels are not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.datasets.anatomy import Anatomy
from geoloss_kernels.lesions.datasets.difficulty import Difficulty
from geoloss_kernels.lesions.datasets.fields import FloatVolume, smooth_noise

MINIMUM_VOXELS = 3
TENTORIUM = -20.0  # mm along the foot-head axis of the MNI space: cerebellum and brainstem lie below
EDGE_WIDTH = 0.45  # mm, of the logistic lesion edge
PERIVENTRICULAR = 6.0  # mm from the ventricles


@dataclass(frozen=True)
class Lesions:
    """Lesions of one subject.

    Attributes:
        severity: How far each voxel has turned from tissue into lesion, 0 to 1.
        mask: Reference segmentation, traced with the small errors of a human hand.
    """

    severity: FloatVolume
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid of revolution: centre in voxels, axis of revolution, and the two radii in voxels."""

    centre: NDArray[np.float64]
    axis: NDArray[np.float64]
    radius_along: float
    radius_across: float

    def depth(self, coordinates: NDArray[np.int64], roughness: NDArray[np.float32]) -> NDArray[np.float64]:
        """Depth below the surface, in voxels, of coordinates [3, ...]; negative outside."""
        offset = coordinates - self.centre.reshape(3, 1, 1, 1)
        along = np.einsum("i,ixyz->xyz", self.axis, offset)
        across = np.sqrt(np.maximum((offset**2).sum(0) - along**2, 0))
        distance = np.hypot(along / self.radius_along, across / self.radius_across)
        mean_radius = (self.radius_along * self.radius_across**2) ** (1 / 3)
        return mean_radius * (1 + 0.22 * roughness - distance)


def make_lesions(anatomy: Anatomy, difficulty: Difficulty, generator: np.random.Generator) -> Lesions:
    """Draws the lesions of one subject.

    Args:
        anatomy: The brain they lie in.
        difficulty: Says how faint they are and how exact their reference is.
        generator: Source of randomness.
    """
    shape, voxel_size = anatomy.white.shape, anatomy.voxel_size
    depth = np.full(shape, -np.inf, dtype=np.float32)  # mm below the surface of the nearest lesion
    contrast = np.zeros(shape, dtype=np.float32)
    roughness = smooth_noise(shape, 2.5 / voxel_size, generator)
    for ellipsoid in _ellipsoids(anatomy, generator):
        _draw(ellipsoid, generator.uniform(*difficulty.severity), voxel_size, roughness, depth, contrast)

    susceptible = (anatomy.white > 0.25) & (anatomy.csf < 0.3)
    return trace(depth, contrast, susceptible, voxel_size, difficulty, generator)


def trace(
    depth: FloatVolume,
    contrast: FloatVolume,
    susceptible: NDArray[np.bool_],
    voxel_size: float,
    difficulty: Difficulty,
    generator: np.random.Generator,
) -> Lesions:
    """Lesions with soft edges, and the reference that a slightly unsteady hand draws of them.

    Args:
        depth: mm below the surface of the nearest lesion, negative outside.
        contrast: Severity that the lesion there has deep inside.
        susceptible: Voxels that can turn into lesion.
        voxel_size: Edge of the cubic voxels in mm.
        difficulty: Says how unsteady.
        generator: Source of randomness.
    """
    severity = contrast / (1 + np.exp(-np.clip(depth / EDGE_WIDTH, -30, 30))) * susceptible
    tremor = difficulty.reference_tremor * smooth_noise(depth.shape, 2.5 / voxel_size, generator)
    bias = generator.uniform(-difficulty.reference_bias, difficulty.reference_bias)
    mask = (depth + voxel_size * (tremor + bias) > 0) & susceptible
    return Lesions(severity.astype(np.float32), drop_small(mask))


def make_mimics(anatomy: Anatomy, generator: np.random.Generator) -> FloatVolume:
    """Brightness on FLAIR and T2, 0 to 1, of structures that are not lesions.

    These are the caps and the rim of the ventricles, the choroid plexus inside them, spots of the cortex, and
    a faint patchy haze of the deep white matter.
    """
    shape, voxel_size = anatomy.white.shape, anatomy.voxel_size

    def patches(sigma_mm: float, threshold: float) -> FloatVolume:
        return np.clip(smooth_noise(shape, sigma_mm / voxel_size, generator) - threshold, 0, 1)

    distance = anatomy.ventricle_distance
    rim = np.exp(-distance / 1.5) * patches(7, -0.2) * (anatomy.csf < 0.5)
    plexus = patches(2, 0.8) * (distance < 0.5) * anatomy.csf
    cortex = 0.6 * patches(1.8, 1.6) * anatomy.grey
    haze = 0.3 * np.exp(-distance / 10) * patches(6, 0.2) * anatomy.white
    brightest = np.maximum.reduce([rim, plexus, cortex, haze])
    return (np.clip(brightest, 0, 1) * anatomy.brain).astype(np.float32)


def _ellipsoids(anatomy: Anatomy, generator: np.random.Generator) -> list[Ellipsoid]:
    count = int(np.clip(generator.lognormal(np.log(70), 0.5), 15, 180))
    prior = _site_prior(anatomy)
    sites = generator.choice(prior.size, size=count, replace=False, p=(prior / prior.sum()).ravel())
    return [_ellipsoid(np.array(np.unravel_index(site, prior.shape)), anatomy, generator) for site in sites]


def _site_prior(anatomy: Anatomy) -> NDArray[np.float64]:
    """Relative frequency of lesion centres: beside the ventricles, below the cortex, seldom elsewhere."""
    cortex_distance = anatomy.voxel_size * ndimage.distance_transform_edt(anatomy.grey < 0.5)
    periventricular = np.exp(-anatomy.ventricle_distance / PERIVENTRICULAR)
    juxtacortical = np.exp(-(((cortex_distance - 1.5) / 1.5) ** 2))
    height = anatomy.affine[2, 3] + anatomy.voxel_size * np.arange(anatomy.white.shape[2])
    supratentorial = np.where(height < TENTORIUM, 0.2, 1.0)
    return (anatomy.white > 0.6) * (periventricular + 0.06 + 0.10 * juxtacortical) * supratentorial


def _ellipsoid(site: NDArray[np.int64], anatomy: Anatomy, generator: np.random.Generator) -> Ellipsoid:
    """A lesion of random size; beside the ventricles larger and pointing away from them (Dawson finger)."""
    x, y, z = site
    below_tentorium = anatomy.affine[2, 3] + anatomy.voxel_size * z < TENTORIUM
    periventricular = anatomy.ventricle_distance[x, y, z] < PERIVENTRICULAR
    volume = generator.lognormal(np.log(50), 1.5) * (3 if periventricular else 1)  # mm³
    volume = np.clip(volume, 8, 150 if below_tentorium else 8000)
    radius = (3 * volume / (4 * np.pi)) ** (1 / 3) / anatomy.voxel_size
    elongation = generator.uniform(1.2, 2.5) if periventricular else generator.uniform(0.8, 1.6)
    axis = _away_from_ventricles(site, anatomy) if periventricular else generator.standard_normal(3)
    return Ellipsoid(
        centre=site + generator.uniform(-0.5, 0.5, size=3),
        axis=axis / max(float(np.linalg.norm(axis)), 1e-6),
        radius_along=radius * elongation ** (2 / 3),
        radius_across=radius * elongation ** (-1 / 3),
    )


def _away_from_ventricles(site: NDArray[np.int64], anatomy: Anatomy) -> NDArray[np.float64]:
    """Gradient of the distance to the ventricles, by central differences."""
    distance = anatomy.ventricle_distance
    ends = [np.minimum(site + step, np.array(distance.shape) - 1) for step in np.eye(3, dtype=int)]
    starts = [np.maximum(site - step, 0) for step in np.eye(3, dtype=int)]
    return np.array(
        [distance[tuple(end)] - distance[tuple(start)] for end, start in zip(ends, starts, strict=True)]
    )


def _draw(
    ellipsoid: Ellipsoid,
    contrast_of_lesion: float,
    voxel_size: float,
    roughness: FloatVolume,
    depth: FloatVolume,
    contrast: FloatVolume,
) -> None:
    """Merges one lesion into the volumes `depth` and `contrast`, in place."""
    reach = int(np.ceil(1.5 * max(ellipsoid.radius_along, ellipsoid.radius_across) + 3))
    low = np.maximum(np.round(ellipsoid.centre).astype(int) - reach, 0)
    high = np.minimum(np.round(ellipsoid.centre).astype(int) + reach + 1, depth.shape)
    box = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
    coordinates = np.indices(high - low) + low.reshape(3, 1, 1, 1)
    new_depth = voxel_size * ellipsoid.depth(coordinates, roughness[box])
    nearer = new_depth > depth[box]
    depth[box][nearer] = new_depth[nearer]
    contrast[box][nearer] = contrast_of_lesion


def drop_small(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Removes lesions (26-connected) of fewer than `MINIMUM_VOXELS` voxels."""
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    large = np.bincount(labels.ravel()) >= MINIMUM_VOXELS
    large[0] = False
    return large[labels]
