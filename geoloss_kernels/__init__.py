"""Fused kernels for geometric segmentation losses.

    import geoloss_kernels as gk
    loss = gk.DiceFOGLoss(sigmoid=True)      # MONAI's signatures: swap the import
    loss(logits, target).backward()

See `geoloss_kernels.losses` for the modules, `geoloss_kernels.functional` for the functions,
`geoloss_kernels.reference` for the same in plain PyTorch, `geoloss_kernels.backends` for what computes them.
"""

from geoloss_kernels import backends, distance, formulas, functional, reference
from geoloss_kernels.backends import build_info, use_backend
from geoloss_kernels.losses import (
    BCELoss,
    BoundaryLoss,
    CrossEntropyLoss,
    DiceBoundaryLoss,
    DiceCELoss,
    DiceFOGLoss,
    DiceHausdorffDTLoss,
    DiceLoss,
    DiceSOGLoss,
    FOGLoss,
    FormulaLoss,
    GeneralizedDiceLoss,
    HausdorffDTLoss,
    LogHausdorffDTLoss,
    SOGLoss,
    TverskyLoss,
)
from geoloss_kernels.reference import GEOLoss

__version__ = "0.1.0"

__all__ = [
    "FOGLoss",
    "SOGLoss",
    "DiceLoss",
    "TverskyLoss",
    "BCELoss",
    "CrossEntropyLoss",
    "DiceCELoss",
    "GeneralizedDiceLoss",
    "DiceFOGLoss",
    "DiceSOGLoss",
    "BoundaryLoss",
    "HausdorffDTLoss",
    "LogHausdorffDTLoss",
    "DiceBoundaryLoss",
    "DiceHausdorffDTLoss",
    "GEOLoss",
    "FormulaLoss",
    "formulas",
    "functional",
    "reference",
    "backends",
    "distance",
    "use_backend",
    "build_info",
]
