"""CSF, grey and white matter from T1: a mixture of three Gaussians with spatial priors, fitted by EM.

The classes' prior at a voxel is the template's, times a Potts field's mean field exp(β Σ P of the 6
neighbours) as in Zhang et al., IEEE TMI 20 (2001).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

CSF, GREY, WHITE = range(3)
ITERATIONS = 30
NEIGHBOUR_WEIGHT = 0.25
LEAST_PRIOR = 1e-3


def sum_of_neighbours(values: Array) -> Array:
    """Σ over the 6 neighbours of each voxel [..., X, Y, Z]; 0 outside of the volume."""
    total = np.zeros_like(values)
    for axis in (-3, -2, -1):
        along, sums = np.moveaxis(values, axis, 0), np.moveaxis(total, axis, 0)
        sums[1:] += along[:-1]
        sums[:-1] += along[1:]
    return total


def segment_tissue(t1: Array, brain: Mask, priors: Array) -> Array:
    """Probabilities [3, X, Y, Z] of CSF, grey and white matter, 0 outside of ``brain``.

    Args:
        t1: [X, Y, Z], without bias field.
        brain: the voxels to segment.
        priors: [3, X, Y, Z], not necessarily normalised.
    """
    values = t1[brain].astype(np.float64)
    prior = np.maximum(priors[:, brain], LEAST_PRIOR)
    prior /= prior.sum(axis=0)
    posterior = np.zeros_like(priors, dtype=np.float32)
    posterior[:, brain] = prior
    for _ in range(ITERATIONS):
        weights = posterior[:, brain].astype(np.float64)
        totals = weights.sum(axis=1)
        means = weights @ values / totals
        variances = (weights * (values - means[:, None]) ** 2).sum(axis=1) / totals
        deviations = np.sqrt(variances)[:, None]
        log_density = -0.5 * ((values - means[:, None]) / deviations) ** 2 - np.log(deviations)
        log_density += np.log(prior) + NEIGHBOUR_WEIGHT * sum_of_neighbours(posterior)[:, brain]
        density = np.exp(log_density - log_density.max(axis=0))
        posterior[:, brain] = density / density.sum(axis=0)
    return posterior
