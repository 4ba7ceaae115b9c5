"""CSF, grey and white matter on T1: a Gaussian mixture with an atlas and a Markov random field.

The posterior of class k in voxel v is

    q_vk ∝ prior_vk · N(T1_v; μ_k, σ_k²) · exp(β Σ_{u next to v} q_uk)

found by expectation maximisation, first with β = 0; the neighbours then enter by their mean field.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lga.neighbours import sum6

CSF, GREY, WHITE = range(3)
"""Places of the tissues in every array of three."""

SMALLEST_PRIOR = 0.01
"""The atlas rules out no tissue anywhere in the brain."""
LONGEST_EM = 50
CONVERGED = 1e-3
"""Change of a mean, in parts of the range of the means."""
FIELD_SWEEPS = 4


def segment_tissues(
    t1: NDArray[np.float32], brain: NDArray[np.bool_], priors: NDArray[np.float32], field: float = 0.25
) -> NDArray[np.float32]:
    """Posterior probabilities of the three tissues.

    Args:
        t1: image [X, Y, Z] without its bias field.
        brain: voxels to classify.
        priors: [3, X, Y, Z] for CSF, grey and white matter; need not sum to 1.
        field: β of the Markov random field, 0 for none.

    Returns:
        [3, X, Y, Z], sums to 1 inside the brain, 0 outside.
    """
    values = t1[brain].astype(np.float64)
    log_priors = np.log(np.maximum(priors[:, brain], SMALLEST_PRIOR))
    posterior = _expectation_maximisation(values, log_priors)
    volume = np.zeros((3, *brain.shape), np.float32)
    volume[:, brain] = posterior
    for _ in range(FIELD_SWEEPS if field > 0 else 0):
        neighbours = field * sum6(volume)[:, brain]
        posterior = _posterior(values, log_priors + neighbours, *_moments(values, posterior))
        volume[:, brain] = posterior
    return volume


def _expectation_maximisation(
    values: NDArray[np.float64], log_priors: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Posteriors [3, voxels] without the field, starting from the atlas."""
    posterior = np.exp(log_priors)
    posterior /= posterior.sum(axis=0)
    means, variances = _moments(values, posterior)
    for _ in range(LONGEST_EM):
        posterior = _posterior(values, log_priors, means, variances)
        previous = means
        means, variances = _moments(values, posterior)
        if np.abs(means - previous).max() <= CONVERGED * np.ptp(means):
            break
    return posterior


def _moments(
    values: NDArray[np.float64], posterior: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance [3] of each tissue."""
    weights = posterior.sum(axis=1)
    means = posterior @ values / weights
    variances = np.array([share @ (values - mean) ** 2 for share, mean in zip(posterior, means, strict=True)])
    smallest = np.finfo(np.float32).eps * values.var() + np.finfo(np.float64).tiny
    return means, np.maximum(variances / weights, smallest)


def _posterior(
    values: NDArray[np.float64],
    log_priors: NDArray[np.floating],
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Bayes' rule in logarithms: [3, voxels], sums to 1 over the tissues."""
    logs = log_priors - 0.5 * (
        np.log(variances)[:, None] + (values - means[:, None]) ** 2 / variances[:, None]
    )
    posterior = np.exp(logs - logs.max(axis=0))
    return posterior / posterior.sum(axis=0)
