r"""From beliefs to lesions: steps 5 to 7 of lesion growth.

Seeds grow along their frontier into voxels that are likelier lesion than tissue. With Γ the gamma density
of F in lesions, N_k the Gaussian of F in tissue k with share π_k, and s the sum of L over the 6 neighbours,

    L = min(1, mean6(B) · Γ(F) / Σ_k π_k N_k(F) · exp(φ (2 s − 6)))

is written to the voxels of the frontier. The densities are fitted anew in every pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, logsumexp, polygamma

from geoloss_kernels.lga.belief import Beliefs
from geoloss_kernels.lga.neighbours import count26, mean6, sum6

Volume = NDArray[np.float32]

NEWTON_STEPS = 20
NARROWEST = 1e-6
"""Smallest ln(mean) − mean(ln) of a gamma density: a relative width of 0.14 %."""
NARROWEST_TISSUE = 1e-6
"""Smallest variance of F in a tissue."""
SMALLEST_CHANGE = 0.01
"""Growth ends when no voxel gets more than this; at clean-up, less is no neighbour."""
SURROUNDED = 18
"""of 26 neighbours"""


@dataclass(frozen=True)
class GammaDensity:
    """b^a F^(a−1) exp(−b F) / Γ(a)."""

    shape: float
    rate: float

    def log(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Logarithm of the density at positive ``values``."""
        constant = self.shape * np.log(self.rate) - gammaln(self.shape)
        return constant + (self.shape - 1) * np.log(values, dtype=np.float64) - self.rate * values


@dataclass(frozen=True)
class Mixture:
    """Shares, means and variances of the tissues; those without voxels are left out."""

    shares: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]

    def log(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Logarithm of Σ_k π_k N(F; μ_k, σ_k²)."""
        deviations = (values.astype(np.float64) - self.means[:, None]) ** 2 / self.variances[:, None]
        constants = np.log(self.shares) - 0.5 * np.log(2 * np.pi * self.variances)
        return logsumexp(constants[:, None] - 0.5 * deviations, axis=0)


def grow_lesions(beliefs: Beliefs, kappa: float = 0.3, phi: float = 1.0, passes: int = 50) -> Volume:
    """Lesion probability [X, Y, Z]: seeds, growth and clean-up. All 0 where there is no seed.

    Args:
        beliefs: from ``lesion_beliefs``.
        kappa: belief above which a voxel is a seed; smaller finds more.
        phi: strength of the Markov random field.
        passes: of the growth, at most.
    """
    lesions = find_seeds(beliefs.initial, kappa)
    neighbourhood = np.where(beliefs.total > 0, mean6(beliefs.total), 0)
    for _ in range(passes if lesions.any() else 0):
        if grow_once(lesions, neighbourhood, beliefs, phi) <= SMALLEST_CHANGE:
            break
    return clean_up(lesions)


def find_seeds(initial: Volume, kappa: float) -> Volume:
    """1 where B_grey · mean6(B_grey) > κ and at least 2 of the 6 neighbours are such voxels as well."""
    seeds = (initial * mean6(initial) > kappa).astype(np.float32)
    return seeds * (sum6(seeds) >= 2)


def grow_once(lesions: Volume, neighbourhood: Volume, beliefs: Beliefs, phi: float) -> float:
    """One pass over the frontier, in place; returns the largest new value.

    The frontier is swept in two halves, as the colours of a checkerboard, so that no voxel is updated
    together with a neighbour; the second half sees what the first one wrote.
    """
    frontier = np.nonzero((neighbourhood > 0) & (lesions == 0) & (beliefs.flair > 0) & (sum6(lesions) > 0))
    if frontier[0].size == 0:
        return 0.0
    flair = beliefs.flair[frontier]
    log_odds = (
        np.log(neighbourhood[frontier])
        + fit_gamma(beliefs.flair[lesions > 0.5]).log(flair)
        - fit_tissues(beliefs, lesions).log(flair)
    )
    colour = sum(frontier) % 2
    for half in (0, 1):
        near = sum6(lesions)[frontier]
        chosen = (colour == half) & (near > 1)
        exponent = log_odds[chosen] + phi * (2 * near[chosen] - 6)
        lesions[tuple(index[chosen] for index in frontier)] = np.exp(np.minimum(exponent, 0))
    return float(lesions[frontier].max())


def fit_gamma(values: NDArray[np.floating]) -> GammaDensity:
    """Maximum likelihood by Newton's method on ln a − ψ(a) = ln mean − mean ln; b = a / mean.

    Args:
        values: intensities of lesions, at least one of them; those that are not positive are left out.
    """
    positive = values[values > 0].astype(np.float64)
    mean = positive.mean()
    gap = max(float(np.log(mean) - np.log(positive).mean()), NARROWEST)
    shape = 0.5 / gap
    for _ in range(NEWTON_STEPS):
        # Newton on 1/a, which keeps a positive.
        step = (np.log(shape) - digamma(shape) - gap) / (shape**2 * (1 / shape - polygamma(1, shape)))
        shape = 1 / (1 / shape + step)
    return GammaDensity(float(shape), float(shape / mean))


def fit_tissues(beliefs: Beliefs, lesions: Volume) -> Mixture:
    """Share, mean and variance of positive F in each tissue, lesions (L ≥ 0.5) left out."""
    healthy = (lesions < 0.5) & (beliefs.flair > 0) & (beliefs.classes >= 0)
    classes, flair = beliefs.classes[healthy], beliefs.flair[healthy].astype(np.float64)
    counts = np.bincount(classes, minlength=3)
    present = counts > 0
    sums = np.bincount(classes, flair, minlength=3)[present]
    squares = np.bincount(classes, flair**2, minlength=3)[present]
    means = sums / counts[present]
    variances = np.maximum(squares / counts[present] - means**2, NARROWEST_TISSUE)
    return Mixture(counts[present] / counts.sum(), means, variances)


def clean_up(lesions: Volume) -> Volume:
    """Fills voxels that lesions surround, then deletes voxels without a lesion at any of their 6 faces."""
    filled = np.where(count26(lesions > SMALLEST_CHANGE) > SURROUNDED, np.float32(1), lesions)
    return filled * (sum6((filled > SMALLEST_CHANGE).astype(np.uint8)) > 0)
