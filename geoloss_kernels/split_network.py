"""A network that ends before its head; its weights, checkpoints and outputs stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from geoloss_kernels.heads import check_head


def split_head(network: nn.Module, *example: Any) -> tuple[HeadlessNetwork, nn.Module | list[nn.Module]]:
    """A network that ends with its features, and the head that it leaves to a `HeadLoss`.

        body, head = gk.split_head(network, torch.zeros(1, 4, 32, 32, 32))
        loss = gk.HeadLoss(gk.DiceCELoss(softmax=True, to_onehot_y=True), head)
        loss(body(image), labels).backward()

    The network itself is as before, ``network(image)`` gives logits, and shares its weights with both.

    Args:
        network: its last layer is a convolution with kernel 1, or it returns a list of the outputs of
            several, as with deep supervision.
        example: an input of the network, as small as it takes; it runs once, in evaluation mode.

    Returns the head, or the heads in the order of the network's outputs. ValueError where something follows
    the convolution, or the last layer is another one.
    """
    several, heads = _heads_of(network, example)
    return HeadlessNetwork(network, heads), heads if several else heads[0]


class HeadlessNetwork(nn.Module):
    """``network`` with heads that give back their input, so that it ends with its features.

        body = gk.HeadlessNetwork(network, network.decoder.seg_layers)

    Args:
        network: it is as it was outside of a call of this module.
        heads: modules of it, one or several.

    In data-parallel training wrap this module; the heads' gradients, which come from a `HeadLoss` before the
    backward pass of the network, are averaged with the others.
    """

    def __init__(self, network: nn.Module, heads: nn.Module | Sequence[nn.Module]) -> None:
        super().__init__()
        self.network = network
        of_network = set(network.modules())
        self._heads: tuple[Any, ...] = tuple(heads) if _is_sequence(heads) else (heads,)
        for head in self._heads:
            check_head(head)
            if head not in of_network:
                raise ValueError(f"heads: expected modules of the network, got another {head}")
            _make_skippable(head)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        for head in self._heads:
            head.gives_features = True
        try:
            return self.network(*inputs, **keywords)
        finally:
            for head in self._heads:
                head.gives_features = False


def _is_sequence(heads: Any) -> TypeGuard[Sequence[nn.Module]]:
    return isinstance(heads, Sequence | nn.ModuleList)


class _Skippable(nn.Module):
    """A layer that can give back its input; a plain one in every other respect."""

    gives_features = False

    def forward(self, input: Tensor) -> Tensor:
        if self.gives_features:
            return input
        output: Tensor = super().forward(input)
        return output

    def _get_name(self) -> str:
        return str(type(self).__mro__[2].__name__)


class _SkippableConv1d(_Skippable, nn.Conv1d):
    pass


class _SkippableConv2d(_Skippable, nn.Conv2d):
    pass


class _SkippableConv3d(_Skippable, nn.Conv3d):
    pass


_SKIPPABLE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: _SkippableConv1d,
    nn.Conv2d: _SkippableConv2d,
    nn.Conv3d: _SkippableConv3d,
}


def _make_skippable(head: nn.Module) -> None:
    if isinstance(head, _Skippable):
        return
    if type(head) not in _SKIPPABLE:
        raise TypeError(f"heads: expected plain convolutions of torch.nn, got a {type(head).__name__}")
    head.__class__ = _SKIPPABLE[type(head)]


def _heads_of(network: nn.Module, example: Sequence[Any]) -> tuple[bool, list[nn.Module]]:
    """Whether the network has several outputs, and the layers that give them."""
    outputs: list[tuple[Any, nn.Module]] = []

    def record(layer: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append((output, layer))

    with torch.no_grad(), _in_evaluation_mode(network), _hooked(network, record):
        result = network(*example)
    several = isinstance(result, list | tuple)
    heads: list[nn.Module] = []
    for number, tensor in enumerate(result if several else [result]):
        layer = next((layer for output, layer in outputs if output is tensor and _is_leaf(layer)), None)
        if not _is_pointwise(layer):
            which = f"output {number}" if several else "the output"
            last = "no layer's own" if layer is None else f"that of {layer}"
            raise ValueError(
                f"network: expected a last layer that is a convolution with kernel 1, but {which} of "
                f"{type(network).__name__} is {last}"
            )
        heads.append(layer)
    return several, heads


def _is_pointwise(layer: nn.Module | None) -> TypeGuard[nn.Module]:
    try:
        check_head(layer)
    except (TypeError, ValueError):
        return False
    return not isinstance(layer, nn.Linear)


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


@contextmanager
def _hooked(network: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in network.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
