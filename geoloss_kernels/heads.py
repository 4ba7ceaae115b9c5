"""The head of a network: a convolution with kernel 1, or a linear map of channels, in strips of a volume.

Logits of many classes are the largest tensor of a training step: 105 classes of a head with 32 features take
3.3 times the memory of the features. Here they are there for a strip of a volume at a time: some rows or
slices, as many as fit `STRIP_BYTES`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geoloss_kernels.tensor_checks import check_volumes, in_plane, plain

STRIP_BYTES = {"cpu": 2 * 2**20, "cuda": 64 * 2**20}
"""What a strip's logits may take, by type of device: on the CPU what stays in a core's second-level cache."""
OVERLAPPING_BYTES = {"cpu": 24 * 2**20, "cuda": 256 * 2**20}
"""The same of strips that overlap: the slices at their rims are computed twice, so that thick ones pay."""

Box = tuple[slice, slice, slice]
"""A strip: ranges of batch elements and of the two outermost spatial axes."""


def part(tensor: Tensor, box: Box) -> Tensor:
    """[n, C, a, b, ...], the box of a tensor [N, C, A, B, ...]."""
    n, a, b = box
    return tensor[n, :, a, b]


def size_of(box: Box) -> tuple[int, int, int]:
    n, a, b = (each.stop - each.start for each in box)
    return n, a, b


# ---- heads ----


def check_head(head: Any) -> None:
    """TypeError or ValueError unless it is a convolution with kernel 1, or a linear map."""
    if isinstance(head, nn.Linear):
        return
    if not isinstance(head, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise TypeError(f"head: expected a Conv1d, Conv2d, Conv3d or Linear, got {type(head).__name__}")
    axes = len(head.kernel_size)
    for name, expected in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
        if getattr(head, name) not in ((expected,) * axes, "valid", "same"):
            raise ValueError(
                f"head: expected a convolution with {name} {expected}, got {getattr(head, name)}"
            )
    if head.groups != 1:
        raise ValueError(f"head: expected a convolution with 1 group, got {head.groups}")


@dataclass(frozen=True)
class HeadLogits:
    """The logits of a head that nobody has computed yet: what a loss gets in place of its input.

    Attributes:
        features: [N, F, *spatial]
        weight: [C, F]
        bias: [C]
    """

    features: Tensor
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, features: Any, head: nn.Module) -> HeadLogits:
        """As autocast has them, where it is on; ValueError or TypeError names what does not fit."""
        features = plain(features)
        check_volumes("features", features)
        weight: Any = head.weight
        bias: Any = head.bias
        if isinstance(head, nn.Conv1d | nn.Conv2d | nn.Conv3d) and features.ndim != weight.ndim:
            raise ValueError(
                f"features: expected {weight.ndim} axes for a {type(head).__name__}, "
                f"got shape {tuple(features.shape)}"
            )
        weight = weight.flatten(1)
        if features.shape[1] != weight.shape[1]:
            raise ValueError(
                f"features: expected {weight.shape[1]} channels for the head, got {features.shape[1]}"
            )
        if features.device != weight.device:
            raise ValueError(f"features: expected device {weight.device} as the head, got {features.device}")
        return cls(features, *_as_autocast_does(features, weight, bias))

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.features.shape[0], self.weight.shape[0], *self.features.shape[2:]))

    @property
    def ndim(self) -> int:
        return self.features.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.features.device

    def __getitem__(self, key: tuple[slice, slice]) -> HeadLogits:
        """``logits[:, channels]``."""
        _, channels = key
        return HeadLogits(
            self.features, self.weight[channels], None if self.bias is None else self.bias[channels]
        )

    @property
    def in_plane(self) -> HeadLogits:
        return HeadLogits(in_plane(self.features), self.weight, self.bias)

    @property
    def placeholder(self) -> Tensor:
        """A tensor of the shape, dtype and device of the logits that takes no memory and holds nothing."""
        return self.weight.detach().new_empty(()).expand(self.shape)

    def computed(self) -> Tensor:
        """The logits, all of them, with their derivative."""
        features = self.features.to(self.weight.dtype).flatten(2)
        weight, bias = _batched(self.weight, self.bias, len(features))
        if bias is None:
            return torch.bmm(weight, features).view(self.shape)
        return torch.baddbmm(bias, weight, features).view(self.shape)

    def are_few(self) -> bool:
        """Whether all of them take no more than a strip with its slopes does."""
        return bool(math.prod(self.shape) <= 2 * strip_elements(self.weight))

    def strips(self) -> Iterator[Strip]:
        """The logits of one strip after the other, without derivatives; each takes the place of the last."""
        with torch.no_grad():
            product = StripProduct(self.features, self.weight, self.bias)
            for box in itertools.product(*pieces(self.shape, strip_elements(self.weight))):
                yield Strip(box, product.logits(box))


class Strip(NamedTuple):
    box: Box
    logits: Tensor
    """[n, C, a, b, ...]"""


def _as_autocast_does(features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in the dtype that a convolution would compute in."""
    device = features.device.type
    if torch.is_autocast_enabled(device) and torch.float64 not in (features.dtype, weight.dtype):
        dtype = torch.get_autocast_dtype(device)
        return weight.to(dtype), None if bias is None else bias.to(dtype)
    if features.dtype != weight.dtype:
        raise TypeError(f"features: expected {weight.dtype} as the head, got {features.dtype}")
    return weight, bias


# ---- strips ----


def strip_elements(like: Tensor, overlapping: bool = False) -> int:
    """The most elements of a strip's logits."""
    most = OVERLAPPING_BYTES if overlapping else STRIP_BYTES
    return most.get(like.device.type, most["cuda"]) // like.element_size()


def pieces(
    shape: Sequence[int], elements: int, halo: int = 0
) -> tuple[list[slice], list[slice], list[slice]]:
    """How the three outer axes of logits [N, C, A, B, ...] are cut into strips of so many elements.

    Strips are some whole volumes, slices of one, or rows of a slice. They have so many elements with a
    ``halo`` on either side; then a piece is at least 4 halos thick, where the axis is, so that no box is
    mostly halo.
    """
    volumes, channels, first, second, *inner = shape
    voxels = max(1, elements // channels)
    row = math.prod(inner)
    thinnest = max(1, 4 * halo)
    if first * second * row <= voxels:
        return _cut(volumes, voxels // (first * second * row)), _cut(first, first), _cut(second, second)
    thickness = min(first, max(thinnest, voxels // (second * row) - 2 * halo))
    length = second
    if second * row * min(first, thickness + 2 * halo) > voxels:
        length = min(second, max(thinnest, voxels // (row * min(first, thickness + 2 * halo)) - 2 * halo))
    return _cut(volumes, 1), _cut(first, thickness), _cut(second, length)


def _cut(size: int, thickness: int) -> list[slice]:
    """An axis in pieces of at most ``thickness``, as even as can be."""
    count = max(1, math.ceil(size / thickness))
    ends = [size * i // count for i in range(count + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(ends)]


class StripProduct:
    """W·features + b of boxes, in a buffer that is kept from box to box."""

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.features, self.weight, self.bias = features, weight, bias
        self.buffer = weight.new_empty(0)

    def features_of(self, box: Box) -> Tensor:
        """[n, F, V] in the dtype of the product; a view where it can be one."""
        return part(self.features, box).to(self.weight.dtype).flatten(2)

    def logits(self, box: Box) -> Tensor:
        features = self.features_of(box)
        n, _, voxels = features.shape
        channels = self.weight.shape[0]
        if self.buffer.numel() < n * channels * voxels:
            self.buffer = self.weight.new_empty(n * channels * voxels)
        logits = self.buffer[: n * channels * voxels].view(n, channels, voxels)
        weight, bias = _batched(self.weight, self.bias, n)
        if bias is None:
            torch.bmm(weight, features, out=logits)
        elif n > 1:
            torch.baddbmm(bias, weight, features, out=logits)
        else:
            torch.addmm(bias[0], self.weight, features[0], out=logits[0])
        return logits.view(n, channels, *size_of(box)[1:], *self.features.shape[4:])


def _batched(weight: Tensor, bias: Tensor | None, volumes: int) -> tuple[Tensor, Tensor | None]:
    """[N, C, F] and [N, C, 1], the same for each volume."""
    of_volumes = None if bias is None else bias[:, None].expand(volumes, len(bias), 1)
    return weight.expand(volumes, *weight.shape), of_volumes


# ---- inference ----


def head_argmax(features: Tensor, head: nn.Module, dtype: torch.dtype = torch.int64) -> Tensor:
    """``head(features).argmax(1)``, [N, *spatial], with the logits of a strip at a time in memory.

        labels = gk.head_argmax(features, network.head, dtype=torch.uint8)

    Args:
        features: [N, F, *spatial] of 1 to 3 spatial axes.
        head: a convolution with kernel 1, or a `torch.nn.Linear` of channels, with C outputs.
        dtype: of the result; ValueError where it has no number for each of the C classes.

    No gradient. Under autocast as the convolution. TypeError or ValueError names the argument that does not
    fit.
    """
    check_head(head)
    logits = HeadLogits.of(features, head).in_plane
    if torch.iinfo(dtype).max < logits.shape[1] - 1:
        raise ValueError(f"dtype: expected room for {logits.shape[1]} classes, got {dtype}")
    shape = logits.shape
    labels = torch.empty((shape[0], 1, *shape[2:]), dtype=dtype, device=features.device)
    for box, strip in logits.strips():
        part(labels, box).copy_(strip.argmax(1, keepdim=True))
    return labels.view(shape[0], *features.shape[2:])


def head_probabilities(
    features: Tensor,
    head: nn.Module,
    channels: Sequence[int] | None = None,
    *,
    sigmoid: bool = False,
    softmax: bool = False,
) -> Tensor:
    """``head(features).softmax(1)[:, channels]``, with the logits of a strip at a time in memory.

        lesion = gk.head_probabilities(features, network.head, [3], softmax=True)      # [N, 1, *spatial]

    Args:
        features, head: as for `head_argmax`.
        channels: the classes that are wanted, in the order of the result; None = all of them.
        sigmoid, softmax: the activation, exactly one.

    No gradient. In the dtype of the logits; the activation is computed in float32 or better.
    """
    check_head(head)
    if sigmoid == softmax:
        raise ValueError(f"sigmoid, softmax: expected exactly one of them, got {sigmoid} and {softmax}")
    logits = HeadLogits.of(features, head).in_plane
    shape = logits.shape
    wanted = _checked_channels(channels, shape[1])
    probabilities = logits.weight.new_empty((shape[0], len(wanted), *shape[2:]))
    for box, strip in logits.strips():
        wide = strip if strip.dtype == torch.float64 else strip.float()
        activated = wide.softmax(1) if softmax else wide.sigmoid()
        part(probabilities, box).copy_(activated[:, wanted])
    return probabilities.view(shape[0], len(wanted), *features.shape[2:])


def _checked_channels(channels: Sequence[int] | None, count: int) -> list[int]:
    wanted = list(range(count) if channels is None else channels)
    if any(not isinstance(channel, int) or not 0 <= channel < count for channel in wanted):
        raise ValueError(f"channels: expected numbers from 0 to {count - 1}, got {wanted}")
    return wanted


Activation = Callable[[Tensor], Tensor]
