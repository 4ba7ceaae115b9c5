"""How far FLAIR lies above what its tissue looks like: the belief that a voxel is lesion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.lga.tissue import CSF, GREY, WHITE, Array, Mask

BRIGHT_CSF = 2.4
"""The label of what T1 takes for CSF and FLAIR shows bright."""
GROWTH_OF_BRIGHT_CSF = 50
"""Steps through neighbours."""
HISTOGRAM_BINS = 256


@dataclass(frozen=True)
class Belief:
    """What growth works on; all [X, Y, Z].

    Attributes:
        flair: divided by its mode in the brain.
        labels: partial volume label p0: 1 CSF, 2 grey, 3 white matter, 0 outside of the brain.
        initial: belief among grey matter, where lesions start.
        total: belief among all tissues.
    """

    flair: Array
    labels: Array
    initial: Array
    total: Array


def class_of(labels: Array, tissue: int) -> Mask:
    """The voxels of one tissue."""
    if tissue == CSF:
        return (labels > 0) & (labels < 1.5)
    return (labels >= 1.5) & (labels <= 2.5) if tissue == GREY else labels > 2.5


def belief_map(t1: Array, flair: Array, brain: Mask, tissue: Array, white_matter_prior: Array) -> Belief:
    """B = Σ over tissues of p0 max(F - mean F of the tissue, 0) A.

    Args:
        t1, flair: [X, Y, Z], without bias fields.
        tissue: probabilities [3, X, Y, Z].
        white_matter_prior: A, 0 where there are no lesions.
    """
    labels = partial_volume_labels(t1, flair, brain, tissue)
    scaled = np.where(brain, flair / mode_of(flair[brain]), 0).astype(np.float32)
    beliefs = []
    for each in (CSF, GREY, WHITE):
        voxels = class_of(labels, each)
        mean = scaled[voxels].mean() if voxels.any() else 0.0
        belief = voxels * labels * np.maximum(scaled - mean, 0) * white_matter_prior
        beliefs.append(belief.astype(np.float32))
    return Belief(scaled, labels, beliefs[GREY], np.sum(beliefs, axis=0))


def partial_volume_labels(t1: Array, flair: Array, brain: Mask, tissue: Array) -> Array:
    """p0: 1 to 1.5 in CSF, 1.5 to 2.5 in grey, 2.5 to 3 in white matter, whole numbers where it is pure."""
    hard = np.where(brain, tissue.argmax(axis=0), -1)
    labels = np.zeros(t1.shape, np.float32)
    grey_mean = t1[hard == GREY].mean() if (hard == GREY).any() else 0.0
    for voxels, probability, mixed, pure in (
        (hard == CSF, tissue[CSF], 1.5, 1.0),
        ((hard == GREY) & (t1 < grey_mean), tissue[GREY], 1.5, 2.0),
        ((hard == GREY) & (t1 >= grey_mean), tissue[GREY], 2.5, 2.0),
        (hard == WHITE, tissue[WHITE], 2.5, 3.0),
    ):
        labels[voxels] = mixed + (pure - mixed) * _from_0_to_1(probability[voxels])
    return _mark_bright_csf(labels, flair)


def _mark_bright_csf(labels: Array, flair: Array) -> Array:
    grey = class_of(labels, GREY)
    if not grey.any():
        return labels
    bright = (labels > 0) & (labels < 1.5) & (flair > flair[grey].mean())
    around = grey & (flair > np.percentile(flair[grey], 95))
    if bright.any():
        bright = ndimage.binary_dilation(bright, iterations=GROWTH_OF_BRIGHT_CSF, mask=bright | around)
    return np.where(bright, np.float32(BRIGHT_CSF), labels)


def _from_0_to_1(values: Array) -> Array:
    """Scaled linearly; 1 where all are the same."""
    if values.size == 0 or values.max() == values.min():
        return np.ones_like(values)
    return (values - values.min()) / (values.max() - values.min())


def mode_of(values: NDArray[np.floating]) -> float:
    """The most frequent value, of a histogram of the values below the 99.5th percentile."""
    counts, edges = np.histogram(
        values, HISTOGRAM_BINS, (float(values.min()), float(np.percentile(values, 99.5)))
    )
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 2)
    top = int(smooth.argmax())
    return float(edges[top] + edges[top + 1]) / 2
