r"""How much a voxel looks like lesion before its neighbours are asked: steps 2 to 4 of lesion growth.

With p the partial-volume label (1 CSF, 2 grey, 3 white matter), F the FLAIR divided by the mode of its
histogram, A the prior probability of white matter, the belief of class c is

    B_c = p · 1[c] · max(F − mean_c F, 0) · A

Lesions look like grey matter on T1, so B_grey plants the seeds; the sum over the classes is grown into.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lga.tissue import CSF, GREY, WHITE

LESION_LIKE = 2.4
"""Partial-volume label of bright CSF: grey matter that is nearly white."""
BRIGHT_GREY_PERCENTILE = 95
BRIGHT_PASSES = 50
HISTOGRAM_BINS = 256
HISTOGRAM_SMOOTHING = 2.0
"""bins"""

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class Beliefs:
    """What growth starts from; arrays [X, Y, Z]."""

    flair: Volume
    """FLAIR over its mode; 0 outside the brain."""
    classes: NDArray[np.int8]
    """0 CSF, 1 grey, 2 white matter, −1 outside the brain."""
    initial: Volume
    """Belief of grey matter."""
    total: Volume
    """Sum of the beliefs of the three classes."""


def lesion_beliefs(
    t1: Volume, flair: Volume, brain: NDArray[np.bool_], tissues: Volume, white_prior: Volume
) -> Beliefs:
    """Steps 2 to 4.

    Args:
        t1, flair: images [X, Y, Z].
        brain: voxels of the brain.
        tissues: posterior probabilities [3, X, Y, Z] of CSF, grey and white matter.
        white_prior: A, 0 where no lesion can be.
    """
    scaled = np.where(brain, flair / flair_mode(flair[brain]), 0).astype(np.float32)
    labels = mark_bright_csf(partial_volume_labels(t1, brain, tissues), scaled)
    classes = tissue_classes(labels)
    beliefs = [class_belief(labels, classes == tissue, scaled, white_prior) for tissue in (CSF, GREY, WHITE)]
    return Beliefs(scaled, classes, beliefs[GREY], beliefs[CSF] + beliefs[GREY] + beliefs[WHITE])


def partial_volume_labels(t1: Volume, brain: NDArray[np.bool_], tissues: Volume) -> Volume:
    """Label p from 1 (pure CSF) over 2 (pure grey) to 3 (pure white matter); 0 outside the brain.

    The most probable tissue decides the interval; its posterior, stretched to the whole range that it takes
    among the voxels of that tissue, decides the place in it. Grey matter darker than its mean on T1 lies
    towards CSF, brighter grey matter towards white matter.
    """
    hard = np.where(brain, tissues.argmax(axis=0), -1)
    grey = hard == GREY
    dark = grey & (t1 < t1[grey].mean(dtype=np.float64)) if grey.any() else grey
    labels = np.zeros(brain.shape, np.float32)
    for voxels, tissue, mixed, pure in (
        (hard == CSF, CSF, 1.5, 1.0),
        (dark, GREY, 1.5, 2.0),
        (grey & ~dark, GREY, 2.5, 2.0),
        (hard == WHITE, WHITE, 2.5, 3.0),
    ):
        labels[voxels] = mixed + (pure - mixed) * _stretched(tissues[tissue][voxels])
    return labels


def mark_bright_csf(labels: Volume, flair: Volume) -> Volume:
    """``labels`` with 2.4 where CSF is brighter on FLAIR than grey matter is on average.

    These are lesions as dark as CSF on T1. The set grows through face neighbours of grey matter that are
    brighter than 95 % of it, and those get 2.4 as well.
    """
    classes = tissue_classes(labels)
    grey = classes == GREY
    if not grey.any():
        return labels
    seeds = (classes == CSF) & (flair > flair[grey].mean(dtype=np.float64))
    bright = grey & (flair > np.percentile(flair[grey], BRIGHT_GREY_PERCENTILE))
    grown = ndimage.binary_dilation(seeds, mask=bright | seeds, iterations=BRIGHT_PASSES)
    return np.where(grown, np.float32(LESION_LIKE), labels)


def tissue_classes(labels: Volume) -> NDArray[np.int8]:
    """0 where 0 < p < 1.5, 1 where 1.5 ≤ p ≤ 2.5, 2 where p > 2.5, −1 where p = 0."""
    return np.where(labels > 2.5, WHITE, np.where(labels >= 1.5, GREY, np.where(labels > 0, CSF, -1))).astype(
        np.int8
    )


def class_belief(labels: Volume, members: NDArray[np.bool_], flair: Volume, white_prior: Volume) -> Volume:
    """B_c of the class whose voxels are ``members``."""
    belief = np.zeros_like(flair)
    if members.any():
        excess = np.maximum(flair[members] - flair[members].mean(dtype=np.float64), 0)
        belief[members] = labels[members] * excess * white_prior[members]
    return belief


def flair_mode(values: Volume) -> float:
    """The most frequent positive intensity: the peak of the smoothed histogram."""
    positive = values[values > 0]
    counts, edges = np.histogram(positive, HISTOGRAM_BINS, (0.0, float(np.percentile(positive, 99.9))))
    peak = int(ndimage.gaussian_filter1d(counts.astype(np.float64), HISTOGRAM_SMOOTHING).argmax())
    return float(edges[peak : peak + 2].mean())


def _stretched(probability: Volume) -> Volume:
    """Scaled to 0 … 1; 1 where all are equal."""
    if probability.size == 0:
        return probability
    low, high = probability.min(), probability.max()
    return (probability - low) / (high - low) if high > low else np.ones_like(probability)
