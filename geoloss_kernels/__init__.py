"""Fused kernels for geometric segmentation losses.

    import geoloss_kernels as gk
    loss = gk.DiceFOGLoss(sigmoid=True)      # MONAI's signatures: swap the import
    loss(logits, target).backward()

    loss = gk.DiceCELoss(softmax=True, to_onehot_y=True) + 0.5 * gk.FOGLoss(softmax=True, to_onehot_y=True)

See `geoloss_kernels.losses` for the modules, `geoloss_kernels.formulas` for what they are made of,
`geoloss_kernels.functional` for the functions, `geoloss_kernels.metrics` for lesion-wise metrics,
`geoloss_kernels.reference` for the same in plain PyTorch, `geoloss_kernels.backends` for what computes them.
"""

import importlib
from typing import Any

from geoloss_kernels import backends, distance, formulas, functional, phi, reference
from geoloss_kernels.backends import build_info, use_backend
from geoloss_kernels.checks import check_target
from geoloss_kernels.explanation import explain
from geoloss_kernels.head_loss import HeadLoss
from geoloss_kernels.heads import head_argmax, head_probabilities
from geoloss_kernels.losses import (
    BCELoss,
    BoundaryLoss,
    CrossEntropyLoss,
    DiceBoundaryLoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceFOGLoss,
    DiceHausdorffDTLoss,
    DiceLoss,
    DiceSOGLoss,
    FocalLoss,
    FOGLoss,
    FormulaLoss,
    GeneralizedDiceLoss,
    GEOLoss,
    HausdorffDTLoss,
    LogHausdorffDTLoss,
    SOGLoss,
    TverskyLoss,
)
from geoloss_kernels.phi import norm
from geoloss_kernels.split_network import HeadlessNetwork, split_head

__version__ = "0.1.0"

__all__ = [
    "FOGLoss",
    "SOGLoss",
    "DiceLoss",
    "TverskyLoss",
    "BCELoss",
    "CrossEntropyLoss",
    "DiceCELoss",
    "FocalLoss",
    "DiceFocalLoss",
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
    "HeadLoss",
    "head_argmax",
    "head_probabilities",
    "HeadlessNetwork",
    "split_head",
    "formulas",
    "phi",
    "norm",
    "explain",
    "functional",
    "reference",
    "backends",
    "distance",
    "metrics",
    "check_target",
    "use_backend",
    "build_info",
]


def __getattr__(name: str) -> Any:
    """`geoloss_kernels.metrics` when it is asked for: it needs numpy and scipy, which the losses do not."""
    if name == "metrics":
        return importlib.import_module("geoloss_kernels.metrics")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
