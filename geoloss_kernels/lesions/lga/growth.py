"""Seeds where the belief is high among grey matter, and their growth into neighbours that look like them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from geoloss_kernels.lesions.lga.belief import Belief, class_of
from geoloss_kernels.lesions.lga.tissue import CSF, GREY, WHITE, Array, Mask, sum_of_neighbours

MOST_ITERATIONS = 50
LEAST_CHANGE = 0.01
FULL_NEIGHBOURHOOD = 18
"""A voxel with more of its 26 neighbours in lesions lies in one itself."""


@dataclass(frozen=True)
class GrowthOptions:
    """How lesions start and spread.

    Attributes:
        kappa: threshold of the belief at seeds: less finds more. LST's documentation tries 0.05 to 1.
        neighbour_weight: φ, of the Markov field.

    Raises:
        ValueError: names the value that is negative or not finite.
    """

    kappa: float = 0.3
    neighbour_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("kappa", "neighbour_weight"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise ValueError(f"{name}: expected a finite number, at least 0, got {value}")


def grow_lesions(belief: Belief, options: GrowthOptions = GrowthOptions()) -> Array:
    """The probability of lesion [X, Y, Z], from 0 to 1; 0 everywhere if there are no seeds. Deterministic.

    Seeds have L = 1. In up to 50 rounds, those neighbours x of lesions that have not been reached yet become

        L(x) = min(1, mean6 B(x) · Gamma(F(x)) / Σ π N(F(x)) · exp(φ (2 sum6 L(x) - 6)))

    where sum6 L(x) > 1, with F the scaled FLAIR, the gamma distribution fitted to lesions and a Gaussian to
    each tissue outside, one half of a checkerboard after the other. Then holes are filled and single voxels
    deleted.

    Args:
        belief: from `belief_map`.
        options: kappa and φ.
    """
    lesion = seeds(belief.initial, options.kappa).astype(np.float32)
    smooth = np.where(belief.total > 0, sum_of_neighbours(belief.total) / 6, 0).astype(np.float32)
    halves = _checkerboard(lesion.shape)
    for _ in range(MOST_ITERATIONS):
        if np.count_nonzero(lesion > 0.5) < 2:
            break
        odds = smooth * lesion_odds(belief, lesion)
        frontier = (smooth > 0) & (lesion == 0) & (sum_of_neighbours(lesion) > 0)
        largest = 0.0
        for half in halves:
            around = sum_of_neighbours(lesion)
            grown = frontier & half & (around > 1)
            field = np.exp(options.neighbour_weight * (2 * around[grown] - 6))
            lesion[grown] = np.minimum(1, odds[grown] * field)
            largest = max(largest, float(lesion[grown].max(initial=0)))
        if largest <= LEAST_CHANGE:
            break
    return clean_up(lesion)


def seeds(initial: Array, kappa: float) -> Mask:
    """Where the belief times its neighbours' mean exceeds kappa, if two neighbours are seeds, too."""
    found = initial * sum_of_neighbours(initial) / 6 > kappa
    return found & (sum_of_neighbours(found.astype(np.float32)) >= 2)


def lesion_odds(belief: Belief, lesion: Array) -> Array:
    """Gamma(F) of the lesions over the mixture of the tissues' Gaussians."""
    shape, rate = fit_gamma(belief.flair[(lesion > 0.5) & (belief.flair > 0)].astype(np.float64))
    inside = (belief.labels > 0) & (belief.flair > 0)
    values = belief.flair[inside].astype(np.float64)
    log_gamma = shape * np.log(rate) - special.gammaln(shape) + (shape - 1) * np.log(values) - rate * values
    odds = np.zeros_like(belief.flair)
    odds[inside] = np.exp(log_gamma) / np.maximum(_healthy_density(belief, lesion, inside), 1e-12)
    return odds


def _healthy_density(belief: Belief, lesion: Array, inside: Mask) -> NDArray[np.float64]:
    """Σ π N(F) of the three tissues, outside of lesions, at the voxels ``inside``."""
    values = belief.flair[inside].astype(np.float64)
    healthy = inside & (lesion < 0.5)
    density = np.zeros_like(values)
    for tissue in (CSF, GREY, WHITE):
        own = belief.flair[healthy & class_of(belief.labels, tissue)].astype(np.float64)
        if own.size < 2 or own.std() == 0:
            continue
        deviation = own.std()
        weight = own.size / np.count_nonzero(healthy)
        exponent = -0.5 * ((values - own.mean()) / deviation) ** 2
        density += weight * np.exp(exponent) / (deviation * np.sqrt(2 * np.pi))
    return density


def fit_gamma(values: NDArray[np.float64]) -> tuple[float, float]:
    """Shape and rate of the gamma distribution of most likelihood, by Newton's method (Minka 2002)."""
    mean = values.mean()
    gap = max(np.log(mean) - np.log(values).mean(), 1e-9)
    shape = 0.5 / gap
    for _ in range(20):
        slope = np.log(shape) - special.digamma(shape) - gap
        change = slope / (shape**2 * (1 / shape - special.polygamma(1, shape)))
        shape = 1 / (1 / shape + change)
        if abs(change) * shape < 1e-10:
            break
    return float(shape), float(shape / mean)


def clean_up(lesion: Array) -> Array:
    """Fills voxels that lesions surround, and deletes those without a neighbour."""
    found = (lesion > LEAST_CHANGE).astype(np.float32)
    box = ndimage.uniform_filter(found, 3, mode="constant") * 27 - found
    filled = np.where(box > FULL_NEIGHBOURHOOD + 0.5, np.float32(1), lesion)
    alone = sum_of_neighbours((filled > LEAST_CHANGE).astype(np.float32)) < 0.5
    return np.where(alone, np.float32(0), filled).astype(np.float32)


def _checkerboard(shape: tuple[int, ...]) -> tuple[Mask, Mask]:
    even = np.indices(shape).sum(axis=0) % 2 == 0
    return even, ~even
