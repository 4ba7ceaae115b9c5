"""The losses as modules, with MONAI's signatures: swap the import, keep the arguments.

``forward(input, target, mask=None, spacing=None)``; a ``spacing`` given there takes the place of the
module's. What every argument means, which shapes and dtypes are taken and what is raised is said once in
`geoloss_kernels.functional`: in `Options` for the arguments that all losses share, and in the function of the
same name for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from geoloss_kernels import formulas, functional
from geoloss_kernels.formulas import Formula
from geoloss_kernels.functional import Axes, Options

if TYPE_CHECKING:
    from typing_extensions import Unpack

Activation = Callable[[Tensor], Tensor]
Weight = Sequence[float] | float | Tensor


class KeywordOptions(TypedDict, total=False):
    """The shared options that no loss takes by position."""

    batch: bool
    ignore_index: int | None
    ddp: bool


class AxisOptions(KeywordOptions, total=False):
    """The options of losses with first-order differences."""

    axes: Axes
    axis_order: str


class FormulaLoss(_Loss):
    """A loss that a `Formula` describes."""

    class_weight: Tensor | None

    def __init__(
        self,
        formula: Formula,
        spacing: Sequence[float] | None,
        *options: Any,
        weight: Weight | None = None,
        **more_options: Any,
    ) -> None:
        """``options`` are those of `Options`, in its order."""
        self.options = Options(*options, **more_options)
        super().__init__(reduction=self.options.reduction)
        self.formula = formula
        self.spacing = spacing
        self.register_buffer("class_weight", functional.checked_weight(weight))

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Tensor:
        return self._evaluate(input, target, mask, self._spacing(spacing), None)

    def _spacing(self, spacing: Sequence[float] | None) -> Sequence[float] | None:
        return self.spacing if spacing is None else spacing

    def _evaluate(
        self,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None,
        spacing: Sequence[float] | None,
        map: Tensor | None,
    ) -> Tensor:
        return functional.evaluate(
            self.formula, input, target, mask, spacing, self.options, map, self.class_weight
        )

    def extra_repr(self) -> str:
        changed = {
            name: value for name, value in vars(self.options).items() if value != getattr(Options, name, None)
        }
        if self.spacing is not None:
            changed["spacing"] = self.spacing
        return ", ".join([f"terms={self.formula.terms}", *(f"{k}={v!r}" for k, v in changed.items())])


class BCELoss(FormulaLoss):
    """`functional.bce_loss`: (weighted) binary cross-entropy."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        reduction: str = "mean",
        *,
        pos_weight: float = 1.0,
        **options: Unpack[KeywordOptions],
    ) -> None:
        formula = formulas.bce(pos_weight)
        super().__init__(
            formula, None, include_background, to_onehot_y, sigmoid, softmax, None, reduction, **options
        )


class DiceLoss(FormulaLoss):
    """`functional.dice_loss`: MONAI's DiceLoss."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Weight | None = None,
        soft_label: bool = False,
        ignore_index: int | None = None,
        ddp: bool = False,
    ) -> None:
        formula = formulas.dice(smooth_nr, smooth_dr, squared_pred, jaccard, soft_label)
        shared = (
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            batch,
            ignore_index,
        )
        super().__init__(formula, None, *shared, weight=weight, ddp=ddp)


class TverskyLoss(FormulaLoss):
    """`functional.tversky_loss`: MONAI's TverskyLoss, with [N, C, 1, ...] for ``reduction="none"``."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        ignore_index: int | None = None,
        ddp: bool = False,
    ) -> None:
        formula = formulas.tversky(alpha, beta, smooth_nr, smooth_dr, soft_label)
        shared = (
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            batch,
            ignore_index,
        )
        super().__init__(formula, None, *shared, ddp=ddp)


class FOGLoss(FormulaLoss):
    """`functional.fog_loss`: the first-order gradient loss, Eq. 2."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        reduction: str = "mean",
        *,
        norm: str = "l2",
        operator: str = "forward",
        spacing: Sequence[float] | None = None,
        **options: Unpack[AxisOptions],
    ) -> None:
        formula = formulas.fog(norm, operator)
        super().__init__(
            formula, spacing, include_background, to_onehot_y, sigmoid, softmax, None, reduction, **options
        )


class SOGLoss(FormulaLoss):
    """`functional.sog_loss`: the second-order gradient loss, Eq. 3 with |Δ|."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        reduction: str = "mean",
        *,
        two_sided: bool = False,
        signed: bool = False,
        spacing: Sequence[float] | None = None,
        **options: Unpack[KeywordOptions],
    ) -> None:
        formula = formulas.sog(two_sided, signed)
        super().__init__(
            formula, spacing, include_background, to_onehot_y, sigmoid, softmax, None, reduction, **options
        )


class DiceFOGLoss(FormulaLoss):
    """`functional.dice_fog_loss`: λ_dice Dice + λ_fog FOG in one pass."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        reduction: str = "mean",
        *,
        lambda_dice: float = 1.0,
        lambda_fog: float = 1.0,
        norm: str = "l2",
        operator: str = "forward",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        spacing: Sequence[float] | None = None,
        **options: Unpack[AxisOptions],
    ) -> None:
        dice, fog = formulas.dice(smooth_nr, smooth_dr), formulas.fog(norm, operator)
        formula = lambda_dice * dice + lambda_fog * fog
        super().__init__(
            formula, spacing, include_background, to_onehot_y, sigmoid, softmax, None, reduction, **options
        )


class DiceSOGLoss(FormulaLoss):
    """`functional.dice_sog_loss`: λ_dice Dice + λ_sog SOG in one pass."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        reduction: str = "mean",
        *,
        lambda_dice: float = 1.0,
        lambda_sog: float = 1.0,
        two_sided: bool = False,
        signed: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        spacing: Sequence[float] | None = None,
        **options: Unpack[KeywordOptions],
    ) -> None:
        dice, sog = formulas.dice(smooth_nr, smooth_dr), formulas.sog(two_sided, signed)
        formula = lambda_dice * dice + lambda_sog * sog
        super().__init__(
            formula, spacing, include_background, to_onehot_y, sigmoid, softmax, None, reduction, **options
        )


class BoundaryLoss(FormulaLoss):
    """`functional.boundary_loss`: MONAI's BoundaryLoss, with [N, C, 1, ...] for ``reduction="none"``."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        reduction: str = "mean",
        batch: bool = False,
        *,
        spacing: Sequence[float] | None = None,
        empty: str = "zero",
        ignore_index: int | None = None,
        ddp: bool = False,
        formula: Formula | None = None,
    ) -> None:
        shared = (
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            batch,
            ignore_index,
        )
        super().__init__(formula or formulas.boundary(), spacing, *shared, ddp=ddp)
        self.empty = empty

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        distance_map: Tensor | None = None,
    ) -> Tensor:
        spacing = self._spacing(spacing)
        if distance_map is None:
            distance_map = functional.target_distance(input, target, mask, spacing, self.options, self.empty)
        return self._evaluate(input, target, mask, spacing, distance_map)


class DiceBoundaryLoss(BoundaryLoss):
    """`functional.dice_boundary_loss`: λ_dice Dice + λ_boundary BD in one pass.

    Takes `BoundaryLoss`'s keyword arguments, too.
    """

    def __init__(
        self,
        *,
        lambda_dice: float = 1.0,
        lambda_boundary: float = 1.0,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        **options: Any,
    ) -> None:
        dice = formulas.dice(smooth_nr, smooth_dr)
        super().__init__(formula=lambda_dice * dice + lambda_boundary * formulas.boundary(), **options)


class HausdorffDTLoss(FormulaLoss):
    """`functional.hausdorff_dt_loss`: MONAI's HausdorffDTLoss, which leaves the background out by default."""

    def __init__(
        self,
        alpha: float = 2.0,
        include_background: bool = False,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        reduction: str = "mean",
        batch: bool = False,
        *,
        spacing: Sequence[float] | None = None,
        empty: str = "zero",
        ignore_index: int | None = None,
        ddp: bool = False,
        formula: Formula | None = None,
    ) -> None:
        shared = (
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            batch,
            ignore_index,
        )
        super().__init__(formula or formulas.hausdorff(), spacing, *shared, ddp=ddp)
        self.alpha = alpha
        self.empty = empty

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        distance_map: Tensor | None = None,
    ) -> Tensor:
        spacing = self._spacing(spacing)
        distance = functional.hausdorff_distance(
            input, target, mask, spacing, self.options, self.alpha, self.empty, distance_map
        )
        return self._evaluate(input, target, mask, spacing, distance)


class LogHausdorffDTLoss(HausdorffDTLoss):
    """`functional.log_hausdorff_dt_loss`: MONAI's LogHausdorffDTLoss."""

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        distance_map: Tensor | None = None,
    ) -> Tensor:
        return torch.log1p(super().forward(input, target, mask, spacing, distance_map))


class DiceHausdorffDTLoss(HausdorffDTLoss):
    """`functional.dice_hausdorff_dt_loss`: λ_dice Dice + λ_hausdorff HD in one pass.

    Takes `HausdorffDTLoss`'s keyword arguments, too.
    """

    def __init__(
        self,
        *,
        lambda_dice: float = 1.0,
        lambda_hausdorff: float = 1.0,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        **options: Any,
    ) -> None:
        dice = formulas.dice(smooth_nr, smooth_dr)
        super().__init__(formula=lambda_dice * dice + lambda_hausdorff * formulas.hausdorff(), **options)
