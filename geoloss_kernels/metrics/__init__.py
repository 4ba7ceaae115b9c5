"""Voxel-wise and lesion-wise segmentation metrics (needs NumPy and SciPy)."""

from geoloss_kernels.metrics.lesions import (
    LesionMetrics,
    LesionSummary,
    dice_coefficient,
    label_lesions,
    lesion_metrics,
    summarise,
)

__all__ = [
    "LesionMetrics",
    "LesionSummary",
    "dice_coefficient",
    "label_lesions",
    "lesion_metrics",
    "summarise",
]
