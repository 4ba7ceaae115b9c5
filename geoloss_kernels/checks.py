"""Checks of targets that a loss does not make, because they read the whole target once more."""

from __future__ import annotations

import torch
from torch import Tensor

SHOWN = 6
"""Values that a message lists."""


def check_target(
    target: Tensor, channels: int, *, to_onehot_y: bool = False, ignore_index: int | None = None
) -> None:
    """Raise unless every value of ``target`` means something to a loss.

    A loss with ``to_onehot_y`` counts a voxel of a label map in the channel of its label; a label that has no
    channel, such as 255 or 0.9999, is in no channel and not in the loss. Without ``to_onehot_y`` a target of
    probabilities has values from 0 to 1. The check costs a pass over the target and, on a GPU, waits for it:
    call it on the first batches, or on the files, rather than in every step.

    Args:
        target: labels [N, 1, *spatial] or [N, *spatial], or probabilities [N, C, *spatial]; any real type.
        channels: C, of the input that the loss gets beside ``target``.
        to_onehot_y: whether ``target`` holds labels, as in the losses. Where ``channels`` is 1 they have no
            effect on it, and the values are those of a mask, 0 to 1.
        ignore_index: label that marks voxels to leave out.

    Raises:
        ValueError: names the values that are no label, no probability or not finite.
    """
    if channels < 1:
        raise ValueError(f"channels: expected at least 1, got {channels}")
    if target.is_complex():
        raise ValueError(f"target: expected real values, got {target.dtype}")
    if not target.is_floating_point():
        target = target.long()  # int8 and channels beyond 127 do not compare
    labels = to_onehot_y and channels > 1
    wrong = _without_label(target, channels) if labels else ~((target >= 0) & (target <= 1))
    if ignore_index is not None:
        wrong &= target != ignore_index
    if not bool(wrong.any()):
        return
    values = torch.unique(target[wrong])
    expected = f"labels 0 to {channels - 1}, one for each channel" if labels else "values from 0 to 1"
    ignored = "" if ignore_index is None else f", or {ignore_index} to ignore"
    shown = ", ".join(str(value) for value in values[:SHOWN].tolist())
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    share = f"{int(wrong.sum())} of {wrong.numel()} voxels"
    raise ValueError(f"target: expected {expected}{ignored}, got {shown}{more} in {share}")


def _without_label(target: Tensor, channels: int) -> Tensor:
    """Where the value is not one of 0, 1, ..., channels - 1."""
    return ~((target >= 0) & (target < channels) & (target == target.trunc()))
