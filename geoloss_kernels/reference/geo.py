"""Eq. 1 itself: the GEO loss of user-supplied Θ, Ψ, φ and Γ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from geoloss_kernels.reference.options import VoxelOptions, voxels_from_options
from geoloss_kernels.reference.ratio import divide
from geoloss_kernels.reference.reduction import reduce_loss, sum_batch
from geoloss_kernels.reference.voxels import Voxels, prepare

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from geoloss_kernels.call import LossCall

Pointwise = Callable[[Tensor, Tensor], Tensor]
Operator = Callable[..., Any]
Correlation = Callable[[Tensor, Tensor, Any], Tensor]


def geo_loss(
    input: Tensor,
    target: Tensor,
    theta: Pointwise,
    psi: Correlation | None = None,
    phi: Operator | None = None,
    gamma: Pointwise | None = None,
    *,
    smooth_nr: float = 0.0,
    smooth_dr: float = 0.0,
    reduction: str = "mean",
    batch: bool = False,
    **options: Unpack[VoxelOptions],
) -> Tensor:
    """(Σ_v Θ(s_v, g_v) Ψ(s, g, v, φ) + nr) / (Σ_v Γ(s_v, g_v) + dr), Eq. 1, per volume and channel.

    Args:
        input, target, options: as for every loss, see `voxels_from_options`.
        theta: Θ, called as theta(s, g) on volumes [N, C, *spatial]; s are probabilities.
        psi: Ψ at every v, called as psi(s, g, phi). None = 1.
        phi: φ, a spatially invariant operator; whatever it returns (a volume, a list of volumes) is for
            ``psi``, which calls it as phi(u). When the loss has a ``spacing`` or a mask (``mask`` or
            ``ignore_index``), phi gets them as the keywords ``spacing`` and ``valid`` and has to accept them.
        gamma: Γ, called as gamma(s, g). None = 1, so that ΣΓ = |Ω|.
        smooth_nr, smooth_dr: added to numerator and denominator; a fraction 0 / 0 counts as 0.
        reduction: "mean", "sum", or "none" for [N, C, 1, ...].
        batch: sum over the batch before dividing.

    The losses of the paper, with the functions of `theta`, `psi`, `phi` and `gamma`:

        BCE        theta.cross_entropy; as printed (ΣΓ = 1) with gamma.zero and smooth_dr=1
        Dice       theta.overlap_error, gamma=gamma.total
        Tversky    theta.tversky_error, gamma=gamma.tversky_total
        BD         theta.prediction, psi=lambda s, g, phi: phi(g), phi=phi.signed_distance
        HD         theta.squared_error, psi=lambda s, g, phi: phi(g)**2 + phi(s)**2, phi=phi.distance
        FOG        theta.one, psi=psi.first_order, phi=phi.gradient
        FOG S/C/A  the same, phi=partial(phi.gradient, axes=(i,))
        SOG        theta.absolute_error, psi=psi.second_order, phi=phi.laplacian; Eq. 3 letter for letter with
                   psi=partial(psi.second_order, signed=True), two-sided with two_sided=True

    Differentiable as far as the callables are. ValueError if a callable returns another shape than s has.
    """
    voxels = voxels_from_options(input, target, **options)
    spacing = None if options.get("spacing") is None else voxels.spacing
    pieces = (theta, psi, phi, gamma)
    return _geo_loss_of_voxels(voxels, spacing, *pieces, smooth_nr, smooth_dr, reduction, batch)


def geo_loss_of_call(call: LossCall, spacing: Sequence[float] | None, **pieces: Any) -> Tensor:
    """`geo_loss` of a checked call; a reduction "none" is left without the spatial axes."""
    voxels = prepare(
        call.input,
        call.target,
        call.mask,
        activation=call.activation,
        ignore_index=call.ignore_index,
        include_background=call.include_background,
    )
    if call.dimensions == 1:
        valid = None if voxels.valid is None else voxels.valid.squeeze(2)
        voxels = replace(voxels, s=voxels.s.squeeze(2), g=voxels.g.squeeze(2), valid=valid)
    loss = _geo_loss_of_voxels(voxels, spacing, **pieces)
    return loss if pieces["reduction"] != "none" else loss.flatten(1)


def _geo_loss_of_voxels(
    voxels: Voxels,
    spacing: Sequence[float] | None,
    theta: Pointwise,
    psi: Correlation | None,
    phi: Operator | Sequence[Operator] | None,
    gamma: Pointwise | None,
    smooth_nr: float,
    smooth_dr: float,
    reduction: str,
    batch: bool,
) -> Tensor:
    density = _volume("theta", theta(voxels.s, voxels.g), voxels)
    if psi is not None:
        density = density * _volume("psi", psi(voxels.s, voxels.g, _bind(phi, voxels, spacing)), voxels)
    weight = (
        torch.ones_like(voxels.s) if gamma is None else _volume("gamma", gamma(voxels.s, voxels.g), voxels)
    )
    numerator, denominator = (sum_batch(voxels.sum(volume), batch) for volume in (density, weight))
    return reduce_loss(divide(numerator + smooth_nr, denominator + smooth_dr), reduction, voxels.s.ndim - 2)


class GEOLoss(torch.nn.Module):
    """Eq. 1 as a module: `geo_loss` with everything but the tensors fixed.

    ``forward(input, target, mask=None, spacing=None)``. Arguments, result and errors are those of `geo_loss`.
    """

    def __init__(
        self,
        theta: Pointwise,
        psi: Correlation | None = None,
        phi: Operator | None = None,
        gamma: Pointwise | None = None,
        *,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        smooth_nr: float = 0.0,
        smooth_dr: float = 0.0,
        reduction: str = "mean",
        batch: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.loss = partial(
            geo_loss,
            theta=theta,
            psi=psi,
            phi=phi,
            gamma=gamma,
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            reduction=reduction,
            batch=batch,
            ignore_index=ignore_index,
        )

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Tensor:
        return self.loss(input, target, mask=mask, spacing=spacing)


def _bind(phi: Operator | Sequence[Operator] | None, voxels: Voxels, spacing: Sequence[float] | None) -> Any:
    """φ with the spacing and validity that it has to respect; of several, a tuple."""
    if isinstance(phi, Sequence):
        return tuple(_bind(each, voxels, spacing) for each in phi)
    context: dict[str, Any] = {}
    if spacing is not None:
        context["spacing"] = spacing
    if voxels.valid is not None:
        context["valid"] = voxels.valid
    return partial(phi, **context) if phi is not None and context else phi


def _volume(name: str, value: Any, voxels: Voxels) -> Tensor:
    if isinstance(value, (int, float)):
        return torch.full_like(voxels.s, value)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected it to return a tensor, got {type(value).__name__}")
    if value.shape == (1, *voxels.s.shape):
        return value[0]  # the stack of a φ with one component
    if value.shape != voxels.s.shape:
        raise ValueError(
            f"{name}: expected it to return shape {tuple(voxels.s.shape)}, got {tuple(value.shape)}"
        )
    return value
