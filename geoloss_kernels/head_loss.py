"""A network's head and its loss in one: the logits are never in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geoloss_kernels.call import is_true
from geoloss_kernels.evaluation import DistanceMaps
from geoloss_kernels.heads import HeadLogits, check_head
from geoloss_kernels.losses import FormulaLoss
from geoloss_kernels.tensor_checks import plain
from geoloss_kernels.terms import check_spacing

PerScale = Tensor | Sequence[Tensor]


class HeadLoss(nn.Module):
    """``loss(head(features), target)``, with the logits of a strip of the volume at a time in memory.

        loss = gk.HeadLoss(gk.DiceCELoss(softmax=True, to_onehot_y=True), network.head)
        loss(features, labels).backward()      # features [N, F, *spatial], the gradients of features and head

    Forward computes each strip's logits and adds up its sums; backward computes them once more and makes of
    the strip's slopes the gradients of features, weight and bias. Beyond the features' gradient that takes
    the memory of a strip's logits and slopes, 4 MB on the CPU or, where strips overlap, 48 MB, whatever the
    volume and the number of classes. Logits that take no more than 4 MB are computed at once.

    Args:
        loss: any loss of this package, with its options; class weights, masks, distance maps and ``ddp`` are
            the loss's. A module that hands its input on to such losses will do, too.
        head: a `torch.nn.Conv1d`, ``Conv2d`` or ``Conv3d`` with kernel 1, or a `torch.nn.Linear` of channels,
            with a bias or without. Hooks of the head are not called. A sequence of heads is deep supervision:
            then ``features`` is a sequence, too, one for each head, the full resolution first.
        weights: of the scales of deep supervision; None is nnU-Net's, `deep_supervision_weights`. A scale of
            weight 0 is not computed.

    ``forward(features, target, mask=None, spacing=None, distance_map=None)`` takes features [N, F, *spatial]
    of 1 to 3 spatial axes, float64, float32, float16 or bfloat16 as the head; under autocast it computes in
    the dtype that a convolution would, and gradients have the dtypes of features and head. What else it takes
    is the loss's. With several heads ``target`` and ``mask`` are a sequence of one for each scale, or
    one for the first, of which the others take the nearest voxels (nearest-exact); ``spacing`` is the first
    scale's.

    Differentiable once in features, weight and bias. Bit-equal from run to run for a number of threads: the
    sums and slopes are for any, torch's matrix products for one. Works in torch.compile as one graph, but
    with the loss's ``other_act``, a function that has to work on voxels here. TypeError or ValueError names
    the argument that does not fit; a loss that cannot be computed by the strip, an open formula with
    ``fused=False`` or the loss of each voxel that ``reduction="none"`` makes a focal loss, is a ValueError.
    """

    def __init__(
        self,
        loss: nn.Module,
        head: nn.Module | Sequence[nn.Module],
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not any(isinstance(module, FormulaLoss) for module in loss.modules()):
            raise TypeError(
                "loss: expected one of geoloss_kernels, which are functions of sums over voxels, "
                f"got {type(loss).__name__}"
            )
        self.loss = loss
        self.is_deep = isinstance(head, Sequence | nn.ModuleList)
        heads: Any = head if self.is_deep else [head]
        for each in heads:
            check_head(each)
        self.heads = nn.ModuleList(heads)
        self.weights = _checked_weights(weights, len(heads), self.is_deep)

    def forward(
        self,
        features: PerScale,
        target: PerScale,
        mask: PerScale | None = None,
        spacing: Sequence[float] | None = None,
        distance_map: DistanceMaps = None,
    ) -> Tensor:
        if not self.is_deep:
            return self._of_scale(0, features, target, mask, spacing, distance_map)
        if distance_map is not None:
            raise ValueError("distance_map: expected None with several heads, whose targets differ in size")
        scales = _sequence("features", features, len(self.heads))
        targets = _at_scales("target", target, scales)
        masks = [None] * len(scales) if mask is None else _at_scales("mask", mask, scales)
        spacings = [_spacing_at(each, scales[0], spacing) for each in scales]
        losses = [
            weight * self._of_scale(number, scales[number], targets[number], masks[number], spacings[number])
            for number, weight in enumerate(self.weights)
            if weight != 0
        ]
        total: Tensor = sum(losses[1:], start=losses[0])
        return total

    def _of_scale(
        self,
        number: int,
        features: Any,
        target: Any,
        mask: Any,
        spacing: Sequence[float] | None,
        distance_map: DistanceMaps = None,
    ) -> Tensor:
        logits: Any = HeadLogits.of(features, self.heads[number])
        if is_true(logits.are_few()):
            logits = logits.computed()
        loss: Tensor = self.loss(logits, target, mask, spacing, distance_map)
        return loss

    def extra_repr(self) -> str:
        return f"weights={self.weights}" if self.is_deep else ""


def deep_supervision_weights(scales: int) -> tuple[float, ...]:
    """nnU-Net's weights: 1/2^i of scale i, 0 of the last, divided by their sum; of one scale 1."""
    if scales < 2:
        return (1.0,) * scales
    weights = [0.5**scale for scale in range(scales - 1)]
    return (*(weight / sum(weights) for weight in weights), 0.0)


def _checked_weights(weights: Sequence[float] | None, heads: int, is_deep: bool) -> tuple[float, ...]:
    if weights is None:
        weights = deep_supervision_weights(heads)
    elif not is_deep:
        raise ValueError("weights: expected None with one head, got numbers of several scales")
    numbers = tuple(float(weight) for weight in weights)
    if len(numbers) != heads or not any(numbers):
        raise ValueError(f"weights: expected {heads} numbers, one per head and not all 0, got {numbers}")
    return numbers


def _sequence(name: str, tensors: Any, count: int) -> list[Tensor]:
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence) or len(tensors) != count:
        got = len(tensors) if isinstance(tensors, Sequence) else type(tensors).__name__
        raise ValueError(f"{name}: expected a sequence of {count} tensors, one per head, got {got}")
    return [plain(tensor) for tensor in tensors]


def _at_scales(name: str, tensor: Any, scales: Sequence[Tensor]) -> list[Tensor]:
    """One tensor for each scale, as given, or of the nearest voxels of the one that is given."""
    if not isinstance(plain(tensor), Tensor):
        return _sequence(name, tensor, len(scales))
    return [_nearest(plain(tensor), each.shape[2:]) for each in scales]


def _nearest(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Resized as by torch's "nearest-exact", in any dtype."""
    for axis, size in enumerate(shape, start=2):
        given = tensor.shape[axis]
        if given != size:
            centres = (torch.arange(size, device=tensor.device, dtype=torch.float64) + 0.5) * (given / size)
            tensor = tensor.index_select(axis, centres.long().clamp_(max=given - 1))
    return tensor


def _spacing_at(scale: Tensor, first: Tensor, spacing: Sequence[float] | None) -> tuple[float, ...] | None:
    """The voxel size of a scale, that of the first being ``spacing``."""
    if spacing is None:
        return None
    sizes = check_spacing(spacing, first.ndim - 2)
    return tuple(
        size * whole / own for size, whole, own in zip(sizes, first.shape[2:], scale.shape[2:], strict=True)
    )
