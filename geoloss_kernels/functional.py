"""The losses as functions, one for every module of `geoloss_kernels.losses`, and the sums that make them.

``dice_loss(input, target, mask=None, spacing=None, distance_map=None, **arguments)`` is
``DiceLoss(**arguments)(input, target, mask, spacing, distance_map)``; the arguments are by keyword. What they
mean, which shapes and dtypes are taken and what is raised is said once, in `geoloss_kernels.losses`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from geoloss_kernels import backends, losses
from geoloss_kernels.call import ACTIVATIONS, LossCall, Options
from geoloss_kernels.evaluation import DistanceMaps
from geoloss_kernels.losses import FormulaLoss, NamedLoss
from geoloss_kernels.tensor_checks import companion_in_plane
from geoloss_kernels.terms import Term, encode

LossFunction = Callable[..., Tensor]


def _function_of(loss: type[NamedLoss], name: str, **defaults: Any) -> LossFunction:
    """The function of a module, with ``defaults`` in place of the module's own."""

    def function(
        input: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        distance_map: DistanceMaps = None,
        **arguments: Any,
    ) -> Tensor:
        return _module(loss, {**defaults, **arguments})(input, target, mask, spacing, distance_map)

    tensors = list(inspect.signature(function).parameters.values())[:-1]
    own = [
        parameter.replace(kind=parameter.KEYWORD_ONLY, default=defaults.get(key, parameter.default))
        for key, parameter in loss.signature.parameters.items()
        if key != "spacing"  # a tensor's, above
    ]
    function.__name__ = function.__qualname__ = name
    function.__doc__ = loss.__doc__
    function.__signature__ = inspect.Signature([*tensors, *own])  # type: ignore[attr-defined]
    return function


def _module(loss: type[NamedLoss], arguments: dict[str, Any]) -> FormulaLoss:
    """The module with these arguments, kept where they can be told apart by value."""
    try:
        return _kept_module(loss.__name__, tuple(arguments.items()))
    except TypeError:  # a list or an array among them
        return loss(**arguments)


@functools.lru_cache(maxsize=128)
def _kept_module(loss: str, arguments: tuple[tuple[str, Any], ...]) -> FormulaLoss:
    module: FormulaLoss = getattr(losses, loss)(**dict(arguments))
    return module


bce_loss = _function_of(losses.BCELoss, "bce_loss")
cross_entropy_loss = _function_of(losses.CrossEntropyLoss, "cross_entropy_loss")
dice_loss = _function_of(losses.DiceLoss, "dice_loss")
tversky_loss = _function_of(losses.TverskyLoss, "tversky_loss")
generalized_dice_loss = _function_of(losses.GeneralizedDiceLoss, "generalized_dice_loss")
fog_loss = _function_of(losses.FOGLoss, "fog_loss")
sog_loss = _function_of(losses.SOGLoss, "sog_loss")
boundary_loss = _function_of(losses.BoundaryLoss, "boundary_loss")
hausdorff_dt_loss = _function_of(losses.HausdorffDTLoss, "hausdorff_dt_loss", include_background=True)
log_hausdorff_dt_loss = _function_of(
    losses.LogHausdorffDTLoss, "log_hausdorff_dt_loss", include_background=True
)
dice_fog_loss = _function_of(losses.DiceFOGLoss, "dice_fog_loss")
dice_sog_loss = _function_of(losses.DiceSOGLoss, "dice_sog_loss")
dice_boundary_loss = _function_of(losses.DiceBoundaryLoss, "dice_boundary_loss")
dice_hausdorff_dt_loss = _function_of(losses.DiceHausdorffDTLoss, "dice_hausdorff_dt_loss")
dice_ce_loss = _function_of(losses.DiceCELoss, "dice_ce_loss")
focal_loss = _function_of(losses.FocalLoss, "focal_loss")
dice_focal_loss = _function_of(losses.DiceFocalLoss, "dice_focal_loss")


def geo_sums(
    input: Tensor,
    target: Tensor,
    terms: Sequence[str | Term],
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    map: Tensor | None = None,
    include_background: bool = True,
    to_onehot_y: bool = False,
    sigmoid: bool = False,
    softmax: bool = False,
    ignore_index: int | None = None,
) -> Tensor:
    """Sums over the valid voxels, [N, C', K], for a loss that is any function of them; one pass.

        s = geo_sums(logits, labels, ["intersection", "prediction", "target"], softmax=True, to_onehot_y=True)
        loss = -torch.log((2 * s[..., 0] + 1) / (s[..., 1] + s[..., 2] + 1)).mean()

    Args:
        terms: names of `geoloss_kernels.terms.TERM_KINDS`, or `Term` s with axes and spacing of their own.
        map: [N, 1 or C, *spatial], the constant D of the terms map_*.
        mask, spacing and the options are those of the losses.

    float32, or float64 for float64 input. Differentiable once in ``input``; deterministic. C' is C, or C - 1
    with ``include_background=False``. Raises ValueError or TypeError that names the argument.
    """
    options = Options(include_background, to_onehot_y, sigmoid, softmax, ignore_index=ignore_index)
    call = LossCall.of(input, target, mask, spacing, options)
    wanted = _terms(terms)
    if any(term.kind.reads_map for term in wanted) and map is None:
        raise ValueError("map: expected a tensor for the terms map_*, got None")
    maps = [] if map is None else [companion_in_plane("map", map, call.input)]
    encoded = encode(wanted, dict.fromkeys((term.map for term in wanted), 0), call.dimensions, call.spacing)
    return backends.operators(call.input).geo_sums(
        call.input,
        call.target,
        call.mask,
        maps,
        encoded.terms,
        encoded.parameters,
        ACTIVATIONS.index(call.activation),
        call.ignore_index,
        call.include_background,
    )


def _terms(terms: Sequence[str | Term]) -> list[Term]:
    if isinstance(terms, str) or not terms:
        raise ValueError(f"terms: expected at least one name in a sequence, got {terms!r}")
    return [term if isinstance(term, Term) else Term(term) for term in terms]
