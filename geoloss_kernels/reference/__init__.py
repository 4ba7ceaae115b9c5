"""The definition of right: Eq. 1 and every loss in plain, differentiable PyTorch on any device."""

from geoloss_kernels.reference import gamma, phi, psi, theta
from geoloss_kernels.reference.definitions import (
    bce_loss,
    boundary_loss,
    dice_boundary_loss,
    dice_fog_loss,
    dice_hausdorff_dt_loss,
    dice_loss,
    dice_sog_loss,
    fog_loss,
    hausdorff_dt_loss,
    log_hausdorff_dt_loss,
    sog_loss,
    tversky_loss,
)
from geoloss_kernels.reference.geo import GEOLoss, geo_loss
from geoloss_kernels.reference.ratio import geo_ratio
from geoloss_kernels.reference.sums import geo_sums
from geoloss_kernels.reference.terms import TERMS

__all__ = [
    "theta",
    "psi",
    "phi",
    "gamma",
    "geo_loss",
    "GEOLoss",
    "geo_sums",
    "geo_ratio",
    "TERMS",
    "bce_loss",
    "dice_loss",
    "tversky_loss",
    "fog_loss",
    "sog_loss",
    "boundary_loss",
    "hausdorff_dt_loss",
    "log_hausdorff_dt_loss",
    "dice_fog_loss",
    "dice_sog_loss",
    "dice_boundary_loss",
    "dice_hausdorff_dt_loss",
]
