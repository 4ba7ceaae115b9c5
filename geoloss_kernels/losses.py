"""The losses as modules, with MONAI's signatures: swap the import, keep the arguments.

``forward(input, target, mask=None, spacing=None, distance_map=None)`` of a loss takes

* ``input`` [N, C, *spatial] of 1 to 3 spatial axes: float64, float32, float16 or bfloat16;
* ``target`` of the same shape, of these types, bool or any integer type, or with ``to_onehot_y`` a label map
  [N, 1, *spatial];
* ``mask`` [N, 1 or C, *spatial], nonzero where a voxel is valid: an invalid voxel is in no sum, and a
  difference counts only where both of its ends are valid;
* ``spacing``, the voxel size along each spatial axis of the tensor in mm, in place of the loss's own;
* ``distance_map``, the target's distance map where it is known, [N, 1 or C, *spatial]; of a loss with several
  distances a sequence of them.

Sums are computed in one pass over input and target, in float32 (float64 for float64 input), with the backend
that `geoloss_kernels.backends` chooses. Losses are differentiable once in ``input``, and deterministic:
bit-equal from run to run and for any number of threads. A volume without valid voxels has a loss of 0 (Dice:
of a perfect match). Wrong shapes, dtypes, devices, axes or spacings raise a ValueError or TypeError that
names the argument, what was expected and what came.

Losses add up and scale; the sum is one pass, too:

    loss = DiceCELoss(softmax=True, to_onehot_y=True) + 0.5 * FOGLoss(softmax=True, to_onehot_y=True)

A named loss is a formula with the options of `Options`, in MONAI's order. What its other arguments mean is
said by the formula of the same name in `geoloss_kernels.formulas`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from geoloss_kernels import formulas
from geoloss_kernels.call import OPTION_NAMES, Options, shared_options
from geoloss_kernels.evaluation import DistanceMaps, evaluate
from geoloss_kernels.formulas import Combination, Formula


class FormulaLoss(_Loss):
    """The loss that a formula describes, as a module.

        FormulaLoss(formulas.dice() + 0.5 * formulas.fog(norm="l1"), softmax=True, to_onehot_y=True)

    Args:
        formula: see `geoloss_kernels.formulas`.
        options: the fields of `Options`.

    Losses whose options are the same add up, and scale by numbers; ValueError names an option that differs.
    """

    def __init__(self, formula: Formula, **options: Any) -> None:
        if not isinstance(formula, Formula):
            raise TypeError(f"formula: expected a formula, got {type(formula).__name__}")
        self.options = Options(**options)
        super().__init__(reduction=self.options.reduction)
        self.formula = formula
        for number, weight in enumerate(self._class_weights()):
            self.register_buffer(_buffer_name(number), weight)

    def _class_weights(self) -> tuple[Tensor, ...]:
        """Those of the formula, each once."""
        weights = [weight for _, part in self.formula.parts for weight in part.class_weights()]
        return tuple({id(weight): weight for weight in weights}.values())

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        distance_map: DistanceMaps = None,
    ) -> Tensor:
        current_weight = self._current_weight if self._buffers else None
        return evaluate(
            self.formula, self.options, input, target, mask, spacing, distance_map, current_weight
        )

    def _current_weight(self, weight: Tensor) -> Tensor:
        """The module's buffer of a class weight; one that a formula has made of others as it is."""
        for number, own in enumerate(self._class_weights()):
            if own is weight:
                buffer: Tensor = getattr(self, _buffer_name(number))
                return buffer
        return weight

    def __add__(self, other: Any) -> FormulaLoss:
        if not isinstance(other, FormulaLoss):
            return NotImplemented
        return _composed(self._summand() + other._summand(), shared_options(self.options, other.options))

    def __radd__(self, other: Any) -> FormulaLoss:
        """Lets Python's ``sum`` start from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: Any) -> FormulaLoss:
        if not isinstance(factor, (int, float)):
            return NotImplemented
        return _composed(factor * self._summand(), self.options)

    __rmul__ = __mul__

    def _summand(self) -> Formula:
        """The formula with the class weights as they are now; TypeError for a loss that is no sum."""
        weighted = [
            (factor, part.with_class_weights(self._current_weight)) for factor, part in self.formula.parts
        ]
        return Combination(tuple(weighted))

    def extra_repr(self) -> str:
        changed = [f"{name}={value!r}" for name, value in self.options.changed().items()]
        return ", ".join([repr(self.formula), *changed])


def _buffer_name(number: int) -> str:
    """Of a loss's class weights."""
    return f"class_weight_{number}" if number else "class_weight"


def _composed(formula: Formula, options: Options) -> FormulaLoss:
    return FormulaLoss(formula, **{name: getattr(options, name) for name in OPTION_NAMES})


class NamedLoss(FormulaLoss):
    """A `FormulaLoss` with a signature of its own: options and the formula's parameters, by position or name.

    A subclass gives the function that makes its formula, and the names that come by position, in order;
    parameters and options that it does not name are taken by keyword, but for those that are fixed.
    """

    make_formula: ClassVar[Callable[..., Formula]]
    signature: ClassVar[inspect.Signature]

    def __init_subclass__(
        cls,
        formula: Callable[..., Formula] | None = None,
        positional: str = "",
        defaults: dict[str, Any] | None = None,
        fixed: str = "",
        **arguments: Any,
    ) -> None:
        super().__init_subclass__(**arguments)
        if formula is None:
            return
        cls.make_formula = staticmethod(formula)
        cls.signature = _signature(formula, positional.split(), defaults or {}, fixed.split())
        cls.__signature__ = cls.signature  # type: ignore[attr-defined]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        given = self.bind(*arguments, **keywords)
        options = {name: given.pop(name) for name in OPTION_NAMES if name in given}
        super().__init__(self.make_formula(**given), **options)

    @classmethod
    def bind(cls, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """Every argument by its name; TypeError as a function of this signature would raise it."""
        try:
            bound = cls.signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise TypeError(f"{cls.__name__}: {error}") from None
        bound.apply_defaults()
        return dict(bound.arguments)


_SHORT = "include_background to_onehot_y sigmoid softmax"
_LONG = f"{_SHORT} other_act"


def _signature(
    formula: Callable[..., Formula],
    positional: Sequence[str],
    defaults: dict[str, Any],
    fixed: Sequence[str],
) -> inspect.Signature:
    """The formula's parameters and all options but the ``fixed`` ones, those of ``positional`` first."""
    own = inspect.signature(formula).parameters
    known = {
        **{name: parameter.default for name, parameter in own.items()},
        **{field.name: field.default for field in fields(Options)},
        **defaults,
    }
    for name in fixed:
        known.pop(name, None)
    kinds = inspect.Parameter
    return inspect.Signature(
        [
            *(kinds(name, kinds.POSITIONAL_OR_KEYWORD, default=known[name]) for name in positional),
            *(
                kinds(name, kinds.KEYWORD_ONLY, default=default)
                for name, default in known.items()
                if name not in positional
            ),
        ]
    )


class BCELoss(NamedLoss, formula=formulas.bce, positional=f"{_SHORT} reduction"):
    """1/|Ω| Σ -(w g log s + (1 - g) log(1 - s)), w = ``pos_weight``: the paper's BCE, and torch's.

    Under a sigmoid or softmax the logarithms come from the logits and are finite for every finite one; of
    probabilities they are clamped at -100.
    """


class CrossEntropyLoss(
    NamedLoss,
    formula=formulas.cross_entropy,
    positional=f"{_SHORT} weight reduction ignore_index label_smoothing",
):
    """-Σ_v Σ_c w_c g_c log s_c / Σ_v Σ_c w_c g_c: torch.nn.CrossEntropyLoss, and under a sigmoid binary.

    ``reduction`` "none" gives the one ratio, as [1, 1, 1, ...]: there is none of each voxel.
    """


class DiceLoss(
    NamedLoss,
    formula=formulas.dice,
    positional=(
        f"{_LONG} squared_pred jaccard reduction smooth_nr smooth_dr batch weight soft_label ignore_index"
    ),
):
    """1 - (2 Σsg + nr) / (Σs + Σg + dr): MONAI's DiceLoss."""


class TverskyLoss(
    NamedLoss,
    formula=formulas.tversky,
    positional=f"{_LONG} alpha beta reduction smooth_nr smooth_dr batch soft_label ignore_index",
):
    """1 - (Σsg + nr) / (Σsg + α Σs(1-g) + β Σ(1-s)g + dr): MONAI's TverskyLoss.

    ``reduction`` "none" gives [N, C], as MONAI's does, and not [N, C, 1, ...].
    """

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        loss = super().forward(*arguments, **keywords)
        return loss.flatten(1) if self.options.reduction == "none" else loss


class GeneralizedDiceLoss(
    NamedLoss,
    formula=formulas.generalized_dice,
    positional=f"{_LONG} w_type reduction smooth_nr smooth_dr batch soft_label",
):
    """1 - (2 Σ_c w_c Σsg + nr) / (Σ_c w_c (Σs + Σg) + dr): MONAI's GeneralizedDiceLoss."""


class GEOLoss(NamedLoss, formula=formulas.geo, positional="theta psi phi gamma"):
    """(Σ_v Θ(s, g) Ψ(s, g, φ) + nr) / (Σ_v Γ(s, g) + dr): Eq. 1 with functions of your own, in one pass.

    GEOLoss(lambda s, g: 1.0, lambda s, g, phi: gk.norm(phi(s) - phi(g)), gk.phi.sobel(), sigmoid=True)
    """


class FOGLoss(NamedLoss, formula=formulas.fog, positional=f"{_SHORT} reduction"):
    """1/|Ω| Σ_v ‖∇s - ∇g‖: the first-order gradient loss, Eq. 2."""


class SOGLoss(NamedLoss, formula=formulas.sog, positional=f"{_SHORT} reduction"):
    """1/|Ω| Σ_v |s - g| |Δg|: the second-order gradient loss, Eq. 3 with |Δ|."""


class BoundaryLoss(NamedLoss, formula=formulas.boundary, positional=f"{_LONG} reduction batch"):
    """1/|Ω| Σ s D(g): MONAI's BoundaryLoss, with [N, C, 1, ...] for ``reduction="none"``."""


class HausdorffDTLoss(
    NamedLoss,
    formula=formulas.hausdorff,
    positional=f"alpha {_LONG} reduction batch",
    defaults={"include_background": False},
):
    """1/|Ω| Σ (s - g)² (D(s)^α + D(g)^α): MONAI's HausdorffDTLoss, without the background by default."""


class LogHausdorffDTLoss(
    HausdorffDTLoss,
    formula=formulas.hausdorff,
    positional=f"alpha {_LONG} reduction batch",
    defaults={"include_background": False},
):
    """log(1 + `HausdorffDTLoss`) after its reduction: MONAI's LogHausdorffDTLoss."""

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        return torch.log1p(super().forward(*arguments, **keywords))

    def _summand(self) -> Formula:
        raise TypeError(
            "LogHausdorffDTLoss is the logarithm of a loss, not a sum of ratios: add up the results"
        )


def _dice_and(
    lambda_name: str, other: type[formulas.Part], dice: type[formulas.dice] = formulas.dice
) -> Callable[..., Formula]:
    """λ_dice Dice + λ ``other``, with the parameters of both; one that both have is the same for both."""

    def combined(*, lambda_dice: float, **given: Any) -> Formula:
        lambda_other = given.pop(lambda_name)
        for name, value in (("lambda_dice", lambda_dice), (lambda_name, lambda_other)):
            if value < 0:
                raise ValueError(f"{name}: expected a number >= 0, got {value}")
        given["weight"] = formulas.checked_weight(given["weight"])
        return lambda_dice * _part(dice, given) + lambda_other * _part(other, given)

    own = {
        name: parameter.default
        for part in (other, dice)
        for name, parameter in inspect.signature(part).parameters.items()
    }
    combined.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in {"lambda_dice": 1.0, lambda_name: 1.0, **own}.items()
        ]
    )
    return combined


def _part(part: type[formulas.Part], given: dict[str, Any]) -> formulas.Part:
    """The part, of those parameters that it has."""
    return part(**{name: given[name] for name in inspect.signature(part).parameters if name in given})


class FocalLoss(
    NamedLoss,
    formula=formulas.focal,
    positional="include_background to_onehot_y gamma alpha weight reduction use_softmax ignore_index",
    defaults={"use_softmax": False},
    fixed="sigmoid softmax other_act pooled",
):
    """1/|Ω| Σ -(α g (1 - s)^γ log s + (1 - α) (1 - g) s^γ log(1 - s)): MONAI's FocalLoss, of logits.

    ``use_softmax`` has the probabilities of a softmax and the first half alone; without the background the
    softmax is of the other channels, and one α is not used, as in MONAI. ``reduction`` "none" gives the loss
    of each voxel, in plain PyTorch. Takes [N, C] without spatial axes, too.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        given = self.bind(*arguments, **keywords)
        use_softmax, ignore_index = given.pop("use_softmax"), given["ignore_index"]
        # A softmax of the other channels alone: they are all that the loss gets to see.
        self.drops_background = use_softmax and not given["include_background"]
        if self.drops_background:
            given["include_background"] = True
            if isinstance(given["alpha"], (int, float)):
                warnings.warn(
                    "`include_background=False`, one `alpha` ignored when using softmax.", stacklevel=2
                )
                given["alpha"] = None
            given["ignore_index"] = None if ignore_index is None else ignore_index - 1
        options = {name: given.pop(name) for name in OPTION_NAMES if name in given}
        formula = formulas.focal(**given, pooled=ignore_index is not None)
        FormulaLoss.__init__(self, formula, softmax=use_softmax, sigmoid=not use_softmax, **options)

    def forward(
        self, input: Tensor, target: Tensor, mask: Tensor | None = None, *arguments: Any, **keywords: Any
    ) -> Tensor:
        if input.ndim == 2:
            mask = None if mask is None else mask.unsqueeze(-1)
            loss = self(input.unsqueeze(-1), target.unsqueeze(-1), mask, *arguments, **keywords)
            return loss.squeeze(-1) if self.options.reduction == "none" else loss
        if self.drops_background:
            target = target.long() - 1 if self.options.to_onehot_y else target[:, 1:]
            input = input[:, 1:]
            mask = mask if mask is None or mask.shape[1] == 1 else mask[:, 1:]
        if self.options.softmax and input.shape[1] < 2:
            raise ValueError(
                "use_softmax: expected at least 2 channels in the loss, whose softmax is not 1 everywhere, "
                f"got {input.shape[1]}"
            )
        return super().forward(input, target, mask, *arguments, **keywords)


class DiceFocalLoss(
    NamedLoss,
    formula=_dice_and("lambda_focal", formulas.focal_with_logits),
    positional=(
        f"{_LONG} squared_pred jaccard reduction smooth_nr smooth_dr batch gamma weight lambda_dice "
        "lambda_focal alpha"
    ),
    fixed="pooled",
):
    """λ_dice Dice + λ_focal focal loss: MONAI's DiceFocalLoss.

    ``weight`` counts in both. The focal loss takes the input for logits of a sigmoid, whatever the activation
    of Dice: under a softmax these are two passes.
    """


class DiceFOGLoss(NamedLoss, formula=_dice_and("lambda_fog", formulas.fog), positional=f"{_SHORT} reduction"):
    """λ_dice Dice + λ_fog FOG in one pass; with both λ = 1, the paper's best."""


class DiceSOGLoss(NamedLoss, formula=_dice_and("lambda_sog", formulas.sog), positional=f"{_SHORT} reduction"):
    """λ_dice Dice + λ_sog SOG in one pass."""


class DiceBoundaryLoss(NamedLoss, formula=_dice_and("lambda_boundary", formulas.boundary)):
    """λ_dice Dice + λ_boundary BD in one pass."""


class DiceHausdorffDTLoss(NamedLoss, formula=_dice_and("lambda_hausdorff", formulas.hausdorff)):
    """λ_dice Dice + λ_hausdorff HD in one pass, over the channels that Dice counts."""


class DiceCELoss(
    NamedLoss,
    formula=_dice_and(
        "lambda_ce", formulas.cross_entropy_with_logits, formulas.dice_with_weights_of_all_channels
    ),
    positional=(
        f"{_LONG} squared_pred jaccard reduction smooth_nr smooth_dr batch weight lambda_dice lambda_ce "
        "label_smoothing"
    ),
):
    """λ_dice Dice + λ_ce cross-entropy: MONAI's DiceCELoss, one pass.

    ``weight``, one number or one per channel, counts in both. Cross-entropy takes the input for logits, of a
    softmax or with a single channel of a sigmoid, whatever the activation of Dice.
    """
