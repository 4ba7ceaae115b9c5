"""Voxel-wise and lesion-wise segmentation metrics (needs NumPy and SciPy)."""

from geoloss_kernels.metrics.lesions import (
    LesionMetrics,
    LesionSummary,
    dice_coefficient,
    label_lesions,
    lesion_metrics,
    summarise,
)
from geoloss_kernels.metrics.surfaces import SurfaceDistances, surface_distances

__all__ = [
    "LesionMetrics",
    "LesionSummary",
    "dice_coefficient",
    "label_lesions",
    "lesion_metrics",
    "summarise",
    "SurfaceDistances",
    "surface_distances",
]
