r"""Dice similarity coefficient and lesion-wise detection rates.

With GL lesions in the reference, PL lesions in the prediction, and a lesion being a connected component:

* ``DSC  = 2 |P ∩ G| / (|P| + |G|)``
* ``LTPR = TPR / GL``, TPR = number of reference lesions that the prediction overlaps
* ``LPPV = TPR / PL`` with the same TPR, as the paper defines it. One predicted lesion can cover several
  reference lesions, so this LPPV can exceed 1.
* ``LPPV (predicted) = (number of predicted lesions that touch a reference lesion) / PL``, the usual
  definition (1 - LFDR of the ISBI 2015 challenge)
* ``L-F1 = 2 LTPR LPPV / (LTPR + LPPV)``

Undefined values are NaN, and averages skip NaN: DSC when both masks are empty, LTPR when GL = 0, LPPV when PL
= 0. L-F1 is 0 when its numerator is certainly 0 (one of GL, PL is 0 but not both) and NaN only when neither
mask has a lesion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

_NEIGHBOURHOOD_ORDER = {2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}


@dataclass(frozen=True)
class LesionMetrics:
    """Counts of one subject, from which every rate follows.

    Voxel counts are of the whole masks; lesion counts are of the lesions that have at least ``min_size``
    voxels.
    """

    predicted_voxels: int
    reference_voxels: int
    common_voxels: int
    predicted_lesions: int
    reference_lesions: int
    detected_lesions: int
    """Reference lesions that the prediction overlaps (the paper's TPR)."""
    confirmed_lesions: int
    """Predicted lesions that overlap a reference lesion."""

    @property
    def dice(self) -> float:
        return _ratio(2 * self.common_voxels, self.predicted_voxels + self.reference_voxels)

    @property
    def ltpr(self) -> float:
        return _ratio(self.detected_lesions, self.reference_lesions)

    @property
    def lppv(self) -> float:
        return _ratio(self.detected_lesions, self.predicted_lesions)

    @property
    def lppv_predicted(self) -> float:
        return _ratio(self.confirmed_lesions, self.predicted_lesions)

    @property
    def lf1(self) -> float:
        return lesion_f1(self.ltpr, self.lppv)

    @property
    def lf1_predicted(self) -> float:
        return lesion_f1(self.ltpr, self.lppv_predicted)


@dataclass(frozen=True)
class LesionSummary:
    """Rates of a group of subjects; the two L-F1 values follow from the group's LTPR and LPPV."""

    subjects: int
    dice: float
    ltpr: float
    lppv: float
    lppv_predicted: float

    @property
    def lf1(self) -> float:
        return lesion_f1(self.ltpr, self.lppv)

    @property
    def lf1_predicted(self) -> float:
        return lesion_f1(self.ltpr, self.lppv_predicted)


def dice_coefficient(prediction: ArrayLike, target: ArrayLike) -> float:
    """Dice similarity coefficient of two binary masks of the same shape; NaN when both are empty."""
    predicted, reference = as_mask_pair(prediction, target)
    return _ratio(2 * _count(predicted & reference), _count(predicted) + _count(reference))


def lesion_metrics(
    prediction: ArrayLike,
    target: ArrayLike,
    connectivity: int = 26,
    min_overlap_voxels: int = 1,
    min_size: int = 0,
) -> LesionMetrics:
    """Compare two binary masks lesion by lesion.

    Args:
        prediction: 2-D or 3-D array or CPU tensor holding only 0 and 1 (any dtype).
        target: reference mask of the same shape.
        connectivity: neighbours that join voxels to one lesion: 6, 18 or 26 in 3-D, 4 or 8 in 2-D.
        min_overlap_voxels: a lesion counts as overlapped when at least this many of its voxels are in the
            other mask's lesions.
        min_size: lesions with fewer voxels are left out of the lesion counts on both sides (not out of the
            DSC).

    Raises:
        ValueError: shapes differ, a value is neither 0 nor 1, or an option is out of range.
    """
    predicted, reference = as_mask_pair(prediction, target)
    if min_overlap_voxels < 1:
        raise ValueError(f"min_overlap_voxels: expected at least 1, got {min_overlap_voxels}")
    predicted_labels, predicted_lesions = label_lesions(predicted, connectivity, min_size)
    reference_labels, reference_lesions = label_lesions(reference, connectivity, min_size)
    common = (predicted_labels > 0) & (reference_labels > 0)
    return LesionMetrics(
        predicted_voxels=_count(predicted),
        reference_voxels=_count(reference),
        common_voxels=_count(predicted & reference),
        predicted_lesions=predicted_lesions,
        reference_lesions=reference_lesions,
        detected_lesions=_overlapped(reference_labels[common], min_overlap_voxels),
        confirmed_lesions=_overlapped(predicted_labels[common], min_overlap_voxels),
    )


def label_lesions(
    mask: ArrayLike, connectivity: int = 26, min_size: int = 0
) -> tuple[NDArray[np.int32], int]:
    """Number the connected components of a binary mask that have at least ``min_size`` voxels: 1, 2, ...; 0
    elsewhere.

    Returns:
        The label map (same shape as ``mask``) and the number of components.
    """
    binary = _as_mask(mask, "mask")
    orders = _NEIGHBOURHOOD_ORDER.get(binary.ndim)
    if orders is None:
        raise ValueError(f"mask: expected 2 or 3 dimensions, got shape {binary.shape}")
    if connectivity not in orders:
        raise ValueError(
            f"connectivity: expected one of {sorted(orders)} in {binary.ndim}-D, got {connectivity}"
        )
    structure = ndimage.generate_binary_structure(binary.ndim, orders[connectivity])
    labels, count = ndimage.label(binary, structure=structure, output=np.int32)
    if min_size <= 1 or count == 0:
        return labels, count
    kept = np.bincount(labels.ravel()) >= min_size
    kept[0] = False
    renumbered = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return renumbered[labels], _count(kept)


def summarise(
    subjects: Iterable[LesionMetrics], aggregate: Literal["macro", "pooled"] = "macro"
) -> LesionSummary:
    """Rates of a group of subjects.

    ``"macro"`` averages DSC, LTPR and LPPV over the subjects that define them; ``"pooled"`` divides the
    summed counts. Either way L-F1 is the harmonic mean of the group's LTPR and LPPV, as in the rows of the
    paper's tables.
    """
    metrics = list(subjects)
    if aggregate == "macro":
        return LesionSummary(
            subjects=len(metrics),
            dice=nan_mean([m.dice for m in metrics]),
            ltpr=nan_mean([m.ltpr for m in metrics]),
            lppv=nan_mean([m.lppv for m in metrics]),
            lppv_predicted=nan_mean([m.lppv_predicted for m in metrics]),
        )
    if aggregate == "pooled":
        total = _total(metrics)
        return LesionSummary(len(metrics), total.dice, total.ltpr, total.lppv, total.lppv_predicted)
    raise ValueError(f"aggregate: expected 'macro' or 'pooled', got {aggregate!r}")


def lesion_f1(ltpr: float, lppv: float) -> float:
    """Harmonic mean; 0 when either rate is 0, NaN when no other value follows."""
    if ltpr == 0 or lppv == 0:
        return 0.0
    return 2 * ltpr * lppv / (ltpr + lppv)


def nan_mean(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN when there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _total(subjects: Sequence[LesionMetrics]) -> LesionMetrics:
    return LesionMetrics(**{f.name: sum(getattr(m, f.name) for m in subjects) for f in fields(LesionMetrics)})


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else math.nan


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _overlapped(labels_in_overlap: NDArray[np.int32], min_voxels: int) -> int:
    overlaps = np.bincount(labels_in_overlap)
    return _count(overlaps >= min_voxels)


def as_mask_pair(prediction: ArrayLike, target: ArrayLike) -> tuple[Mask, Mask]:
    """Both as booleans; ValueError unless they have one shape and hold 0 and 1 alone."""
    predicted, reference = _as_mask(prediction, "prediction"), _as_mask(target, "target")
    if predicted.shape != reference.shape:
        raise ValueError(f"target: expected the prediction's shape {predicted.shape}, got {reference.shape}")
    return predicted, reference


def _as_mask(values: Any, name: str) -> Mask:
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return array
    mask = array != 0
    if not np.array_equal(array, mask):
        raise ValueError(f"{name}: expected a binary mask of 0 and 1, got other values")
    return mask
