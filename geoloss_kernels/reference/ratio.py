"""`geo_ratio`: Eq. 1 on K numbers, and `geo_loss`: on those that `geo_sums` makes of volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from geoloss_kernels.reference.sums import geo_sums


def geo_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    map: Tensor | None,
    terms: Sequence[str],
    activation: str,
    spacing: Sequence[float] | None,
    axes: Sequence[int] | None,
    ignore_index: int | None,
    include_background: bool,
    numerator: Sequence[float],
    denominator: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Loss [N, C'] = `geo_ratio` of `geo_sums`, differentiable in ``input``, and the sums, as constants."""
    sums = geo_sums(
        input, target, mask, map, terms, activation, spacing, axes, ignore_index, include_background
    )
    return geo_ratio(sums, numerator, denominator), sums.detach()


def geo_ratio(sums: Tensor, numerator: Sequence[float], denominator: Sequence[float]) -> Tensor:
    """Loss [N, C] = Σ_j (n_j · [S, 1]) / (d_j · [S, 1]) for the sums S of `geo_sums`, [N, C, K].

    ``numerator`` and ``denominator`` hold J rows of K + 1 floats, flattened; the last of a row is its
    constant term. A sum of weight 0 is left out, also if it is infinite. A fraction 0 / 0 counts as 0: a
    volume without valid voxels adds nothing. Differentiable, also twice. Raises ValueError if the rows do not
    fit K.
    """
    columns = sums.shape[-1] + 1
    if not numerator or len(numerator) % columns or len(numerator) != len(denominator):
        raise ValueError(
            f"numerator and denominator: expected the same number of rows of {columns} floats, "
            f"got {len(numerator)} and {len(denominator)} floats"
        )
    values = pad(sums, (0, 1), value=1.0).unsqueeze(-2)
    return divide(_weighted(values, numerator), _weighted(values, denominator)).sum(-1)


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 with a gradient of 0 where both are 0."""
    empty = (numerator == 0) & (denominator == 0)
    quotient = numerator / torch.where(empty, torch.ones_like(denominator), denominator)
    return torch.where(empty, torch.zeros_like(quotient), quotient)


def _weighted(values: Tensor, weights: Sequence[float]) -> Tensor:
    """w_j · values for J rows of weights: [N, C, 1, K + 1] -> [N, C, J]."""
    rows = values.new_tensor(weights).view(-1, values.shape[-1])
    return (torch.where(rows == 0, torch.zeros_like(values), values) * rows).sum(-1)
