"""The losses and, for each, every implementation that is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from monai.losses import BoundaryLoss, DiceLoss, HausdorffDTLoss
from torch import Tensor

import geoloss_kernels as gk
from bench import distance_transforms, plain_losses, scipy_losses
from bench.inputs import Volumes
from bench.providers import COPY, SUM, Loss, Provider, compiled, of_loss, of_operators
from geoloss_kernels import formulas, reference
from geoloss_kernels.formulas import Formula

OURS = "ours"
OPERATORS = "ours, operators alone"
EAGER = "reference, eager"
COMPILED = "reference, torch.compile"
PLAIN = "plain PyTorch, eager"
PLAIN_COMPILED = "plain PyTorch, torch.compile"
MONAI = "MONAI"
SCIPY = "scipy + PyTorch"
SCIPY_ALONE = "scipy"
EDT = "edt"

MEMORY = "memory"
LOSSES = ("fog", "dice_fog", "dice", "sog", "boundary", "hausdorff", "edt_sparse", "edt_dense")


@dataclass(frozen=True)
class Case:
    """One loss and its implementations.

    Attributes:
        from_logits: the input is logits, else probabilities.
        reference: the definition of right, for the correctness gate; None for what is no loss.
    """

    name: str
    title: str
    from_logits: bool
    providers: Sequence[Provider]
    reference: Loss | None = None

    def input_of(self, volumes: Volumes) -> Tensor:
        return volumes.logits if self.from_logits else volumes.probabilities


def _fused_case(
    name: str,
    title: str,
    formula: Formula,
    ours: Loss,
    reference: Loss,
    plain: Loss,
    from_logits: bool,
    others: Sequence[Provider] = (),
) -> Case:
    """A loss that torch.compile can take as one graph."""
    providers = [
        of_loss(OURS, ours),
        of_operators(OPERATORS, formula, "sigmoid" if from_logits else "none"),
        of_loss(EAGER, reference),
        compiled(COMPILED, reference),
        of_loss(PLAIN, plain),
        compiled(PLAIN_COMPILED, plain),
        *others,
    ]
    return Case(name, title, from_logits, providers, reference)


def _distance_case(name: str, title: str, ours: Loss, reference: Loss, monai: Loss, scipy: Loss) -> Case:
    """A loss with distance transforms, which but for ours leave PyTorch and so cannot be compiled."""
    providers = [
        of_loss(OURS, ours),
        of_loss(EAGER, reference),
        of_loss(MONAI, monai),
        of_loss(SCIPY, scipy),
    ]
    return Case(name, title, True, providers, reference)


def _transform_case(name: str, title: str, make_mask: distance_transforms.MakeMask) -> Case:
    """A distance transform on its own, which checks itself."""
    return Case(name, title, False, distance_transforms.providers(make_mask, OURS, EDT, SCIPY_ALONE))


def make_cases() -> list[Case]:
    """Every case; those that name a compiled provider compile at its first call."""
    return [
        Case(MEMORY, "memory traffic", False, [SUM, COPY]),
        _fused_case(
            "fog",
            "FOG (l2) from probabilities",
            formulas.fog(),
            gk.FOGLoss(),
            reference.fog_loss,
            plain_losses.fog_loss,
            from_logits=False,
        ),
        _fused_case(
            "dice_fog",
            "Dice + FOG from logits",
            formulas.dice() + formulas.fog(),
            gk.DiceFOGLoss(sigmoid=True),
            partial(reference.dice_fog_loss, sigmoid=True),
            plain_losses.dice_fog_loss,
            from_logits=True,
        ),
        _fused_case(
            "dice",
            "Dice from logits",
            formulas.dice(),
            gk.DiceLoss(sigmoid=True),
            partial(reference.dice_loss, sigmoid=True),
            plain_losses.dice_loss,
            from_logits=True,
            others=[of_loss(MONAI, DiceLoss(sigmoid=True))],
        ),
        _fused_case(
            "sog",
            "SOG from probabilities",
            formulas.sog(),
            gk.SOGLoss(),
            reference.sog_loss,
            plain_losses.sog_loss,
            from_logits=False,
        ),
        _distance_case(
            "boundary",
            "boundary loss (BD) from logits",
            gk.BoundaryLoss(sigmoid=True),
            partial(reference.boundary_loss, sigmoid=True),
            BoundaryLoss(sigmoid=True),
            scipy_losses.boundary_loss,
        ),
        _distance_case(
            "hausdorff",
            "Hausdorff loss (HD) from logits",
            gk.HausdorffDTLoss(include_background=True, sigmoid=True),
            partial(reference.hausdorff_dt_loss, sigmoid=True),
            HausdorffDTLoss(include_background=True, sigmoid=True),
            scipy_losses.hausdorff_dt_loss,
        ),
        _transform_case(
            "edt_sparse", "distance to the nearest lesion", distance_transforms.outside_of_lesions
        ),
        _transform_case("edt_dense", "distances within noise", distance_transforms.noise),
    ]
