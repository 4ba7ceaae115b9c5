"""From a loss per volume and channel to the value returned."""

from __future__ import annotations

from torch import Tensor

REDUCTIONS = ("mean", "sum", "none")


def reduce_loss(loss: Tensor, reduction: str, dimensions: int) -> Tensor:
    """``loss`` [N, C]: its "mean", its "sum", or with "none" itself, as [N, C, 1, ...] to broadcast."""
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss.view(*loss.shape, *[1] * dimensions)
    raise ValueError(f"reduction: expected one of {REDUCTIONS}, got {reduction!r}")


def sum_batch(sums: Tensor, batch: bool) -> Tensor:
    """Sums [N, C] of each volume, or with ``batch`` [1, C] of all volumes together."""
    return sums.sum(0, keepdim=True) if batch else sums
