"""From a loss per volume and channel to the value returned."""

from __future__ import annotations

from torch import Tensor

REDUCTIONS = ("mean", "sum", "none")


def reduce_loss(loss: Tensor, reduction: str, dimensions: int) -> Tensor:
    """``loss`` [N, C]: its "mean", its "sum", or with "none" itself, as [N, C, 1, ...] to broadcast."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {REDUCTIONS}, got {reduction!r}")
    if reduction == "none":
        return loss.view(*loss.shape, *[1] * dimensions)
    if loss.numel() == 1:  # nothing to add up
        return loss.view(())
    return loss.mean() if reduction == "mean" else loss.sum()


def sum_batch(sums: Tensor, batch: bool) -> Tensor:
    """Sums [N, C] of each volume, or with ``batch`` [1, C] of all volumes together."""
    return sums.sum(0, keepdim=True) if batch else sums
