"""One call of a loss, checked: its tensors and how they are to be read.

`Options` are the keyword arguments that all losses share; with the tensors of a call they become a
`LossCall`, which losses, distance maps and operators take what they need from.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels.heads import HeadLogits, part
from geoloss_kernels.tensor_checks import check_companion, check_volumes, in_plane, plain
from geoloss_kernels.terms import check_spacing

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS = ("none", "sigmoid", "softmax")
REDUCTIONS = ("none", "mean", "sum")


@dataclass(frozen=True)
class Options:
    """The keyword arguments that all losses share, named and meant as in MONAI.

    Args:
        include_background: False leaves channel 0 out of the loss.
        to_onehot_y: ``target`` is a label map [N, 1, *spatial]; g_c = (label == c), never materialised.
        sigmoid, softmax: the activation to apply to ``input``; without one it holds probabilities.
        other_act: another activation, a function of a tensor; applied before, and outside of, the one pass.
        reduction: "mean" or "sum" over volumes and channels, or "none" for [N, C, 1, ...].
        batch: sum over the batch before dividing.
        ignore_index: voxels with this label are in no sum. For a target of a volume per channel it is the
            class whose voxels are left out of every channel or, outside 0..C-1, a mark of voxels that belong
            to no class.
        ddp: with ``batch``, sum over the processes of torch.distributed's default group, too (nnU-Net's
            ``ddp``). Averaged over the processes, as DistributedDataParallel does, the gradients are those
            of one process with the whole batch. A RuntimeError without ``init_process_group``.
    """

    include_background: bool = True
    to_onehot_y: bool = False
    sigmoid: bool = False
    softmax: bool = False
    other_act: Activation | None = None
    reduction: str = "mean"
    batch: bool = False
    ignore_index: int | None = None
    ddp: bool = False

    def __post_init__(self) -> None:
        reduction = getattr(self.reduction, "value", self.reduction)  # MONAI's LossReduction
        object.__setattr__(self, "reduction", str(reduction))
        if self.other_act is not None and not callable(self.other_act):
            raise TypeError(f"other_act: expected None or a function, got {type(self.other_act).__name__}")
        if self.sigmoid + self.softmax + (self.other_act is not None) > 1:
            raise ValueError("sigmoid, softmax, other_act: expected at most one of them")
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {self.reduction!r}")
        if self.ignore_index is not None and not isinstance(self.ignore_index, int):
            raise TypeError(f"ignore_index: expected an integer or None, got {self.ignore_index!r}")
        if self.ddp and not self.batch:
            raise ValueError("ddp: expected batch=True with it, got batch=False")

    def changed(self) -> dict[str, Any]:
        """Those that are not the default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(Options, name)}


OPTION_NAMES = tuple(field.name for field in fields(Options))


def shared_options(a: Options, b: Options) -> Options:
    """The options of two losses that are to be one; ValueError where they differ."""
    for name in OPTION_NAMES:
        own, other = getattr(a, name), getattr(b, name)
        if own is not other and own != other:
            raise ValueError(
                f"{name}: expected the same in losses that are added up, got {own!r} and {other!r}"
            )
    return a


@dataclass(frozen=True)
class LossCall:
    """The tensors of a call of a loss, and how to read them; of one spatial axis, with a second of size 1.

    Attributes:
        input: [N, C, *spatial], before ``activation`` and after ``other_act``.
        logits: the input before ``other_act``.
        target: the same shape, or labels [N, 1, *spatial].
        mask: [N, 1 or C, *spatial], nonzero where a voxel is valid; None = everywhere.
        activation: "none", "sigmoid" or "softmax".
        ignore_index: the label of voxels that are not valid.
        include_background: whether channel 0 is in the loss.
        spacing: voxel size per spatial axis as it was given in the call; None = that of each term, or 1.
        dimensions: spatial axes as they were given, 1 to 3.
        head: in place of ``input`` and ``logits``, which then hold nothing: logits that nobody has computed,
            and that ``other_act`` is to be applied to.
        other_act: of ``head``.
    """

    input: Tensor
    logits: Tensor
    target: Tensor
    mask: Tensor | None
    activation: str
    ignore_index: int | None
    include_background: bool
    spacing: tuple[float, ...] | None
    dimensions: int
    head: HeadLogits | None = None
    other_act: Activation | None = None

    @classmethod
    def of(
        cls,
        given: Tensor | HeadLogits,
        target: Tensor,
        mask: Tensor | None,
        spacing: Sequence[float] | None,
        options: Options,
    ) -> LossCall:
        """Check everything and resolve what depends on the shapes; an error names the argument."""
        head = given if isinstance(given, HeadLogits) else None
        logits = plain(given) if head is None else head.placeholder
        target, mask = plain(target), plain(mask)
        check_volumes("input", logits)
        input = logits
        if options.other_act is not None and head is None:
            input = plain(options.other_act(logits))
            check_volumes("other_act", input)
        if not input.is_floating_point():
            raise TypeError(f"input: expected a floating-point tensor, got {input.dtype}")
        check_companion("target", target, input)
        if mask is not None:
            check_companion("mask", mask, input)
        activation, include_background = _resolve_channels(input, target, options)
        mask, ignore_index = _resolve_ignore_index(target, mask, options.ignore_index)
        dimensions = input.ndim - 2
        return cls(
            in_plane(input),
            in_plane(logits),
            in_plane(target),
            None if mask is None else in_plane(mask),
            activation,
            ignore_index,
            include_background,
            None if spacing is None else check_spacing(spacing, dimensions),
            dimensions,
            None if head is None else head.in_plane,
            options.other_act,
        )

    @property
    def channels(self) -> int:
        return self.input.shape[1]

    @property
    def label_map(self) -> bool:
        """Whether the target is a map of class numbers for several channels."""
        return is_true(self.channels > 1 and self.target.shape[1] == 1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return torch.float64 if self.input.dtype == torch.float64 else torch.float32

    @property
    def valid(self) -> Tensor | None:
        """The voxels that mask and ignore_index leave, [N, C, *spatial]; None if neither is given."""
        valid = None if self.mask is None else self.mask != 0
        if self.ignore_index is not None:
            kept = self.target != self.ignore_index
            valid = kept if valid is None else valid & kept
        return None if valid is None else valid.expand_as(self.input)

    @property
    def predicted_mask(self) -> Tensor:
        """s > 0.5, and False where a voxel is not valid."""
        if self.head is None:
            return self._within_valid(self._probabilities(self.input.detach()) > 0.5)
        predicted = torch.empty(self.input.shape, dtype=torch.bool, device=self.input.device)
        for box, logits in self.head.strips():
            input = logits if self.other_act is None else self.other_act(logits)
            part(predicted, box).copy_(self._probabilities(input) > 0.5)
        return self._within_valid(predicted)

    def _probabilities(self, input: Tensor) -> Tensor:
        s = input.to(self.dtype)
        if self.activation == "sigmoid":
            return s.sigmoid()
        return s.softmax(1) if self.activation == "softmax" else s

    @property
    def target_mask(self) -> Tensor:
        """g > 0.5, and False where a voxel is not valid."""
        if self.label_map:
            return self._within_valid(one_hot(self.target, self.channels))
        g = self.target.to(self.dtype) if self.target.is_floating_point() else self.target
        return self._within_valid(g > 0.5)

    def _within_valid(self, mask: Tensor) -> Tensor:
        return mask if self.valid is None else mask & self.valid


def is_true(condition: Any) -> bool:
    """The condition as a number: of the symbolic sizes of a compiler, by a branch on it."""
    if condition:  # noqa: SIM103 - bool() of a symbol stays a symbol
        return True
    return False


def one_hot(labels: Tensor, channels: int) -> Tensor:
    """g_c = (label == c) for labels [N, 1, *spatial]; a label outside 0..C-1 matches no channel."""
    classes = torch.arange(channels, device=labels.device).view(1, -1, *[1] * (labels.ndim - 2))
    # torch promotes no unsigned type wider than 8 bits
    return (labels if labels.is_floating_point() else labels.to(torch.int64)) == classes


def _resolve_channels(input: Tensor, target: Tensor, options: Options) -> tuple[str, bool]:
    """The activation, and whether channel 0 is in the loss, as in MONAI.

    With a single channel ``to_onehot_y``, ``softmax`` and ``include_background=False`` have no effect, and a
    warning says so.
    """
    if input.shape[1] == 1:
        for name, ignored in (("to_onehot_y", True), ("softmax", True), ("include_background", False)):
            if getattr(options, name) is ignored:
                warnings.warn(f"single channel prediction, `{name}={ignored}` ignored.", stacklevel=6)
        return "sigmoid" if options.sigmoid else "none", True
    if is_true(target.shape[1] == 1) != options.to_onehot_y:
        expected = "a label map [N, 1, *spatial]" if options.to_onehot_y else f"shape {tuple(input.shape)}"
        raise ValueError(
            f"target: expected {expected} with to_onehot_y={options.to_onehot_y}, got {tuple(target.shape)}"
        )
    activation = "sigmoid" if options.sigmoid else "softmax" if options.softmax else "none"
    return activation, options.include_background


def _resolve_ignore_index(
    target: Tensor, mask: Tensor | None, ignore_index: int | None
) -> tuple[Tensor | None, int | None]:
    """``mask`` and ``ignore_index`` as the operators take them: the latter is compared with labels alone."""
    if ignore_index is None or target.shape[1] == 1:
        return mask, ignore_index
    if 0 <= ignore_index < target.shape[1]:
        valid = target[:, ignore_index : ignore_index + 1] != 1
    else:
        valid = ((target != 0) & (target != ignore_index)).any(dim=1, keepdim=True)
    return valid if mask is None else valid & (mask != 0), None
