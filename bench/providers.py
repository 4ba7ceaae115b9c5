"""What is timed: a provider makes the forward and the backward step of one implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels import backends, use_backend
from geoloss_kernels.call import ACTIVATIONS
from geoloss_kernels.formulas import CallTraits, Formula
from geoloss_kernels.passes import Geometry, passes

Loss = Callable[[Tensor, Tensor], Tensor]
Arrays = tuple[int, int]


@dataclass(frozen=True)
class Steps:
    """One implementation on one input. ``backward`` takes what ``forward`` returned.

    Attributes:
        release: called before each forward step, outside of the timing; drops the last call's gradient.
    """

    forward: Callable[[], Any]
    backward: Callable[[Any], Any] | None
    release: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Provider:
    """One implementation.

    Attributes:
        prepare: makes the steps for (input, target).
        loss: the function that ``prepare`` times, for the correctness gate; None if it is not a loss.
        arrays: how many arrays of the input's size (forward, backward) have to move through memory: read
            input and target; read both again and write the gradient.
        on_host: it leaves the GPU for the CPU, so that it is slow and cannot be in a CUDA graph.
    """

    name: str
    prepare: Callable[[Tensor, Tensor], Steps]
    loss: Loss | None = None
    arrays: Arrays = (2, 3)
    on_host: bool = False


@dataclass(frozen=True)
class Missing:
    """A provider that cannot be measured here, and why."""

    name: str
    reason: str


def of_loss(name: str, loss: Loss, on_host: bool = False) -> Provider:
    """Timed as in training: ``loss(input, target).backward()`` with ``input.grad`` None before."""

    def prepare(input: Tensor, target: Tensor) -> Steps:
        leaf = input.detach().requires_grad_()

        def release() -> None:
            leaf.grad = None

        return Steps(lambda: loss(leaf, target), Tensor.backward, release)

    return Provider(name, prepare, loss, on_host=on_host)


def with_backend(backend: str, loss: Loss) -> Loss:
    def forced(input: Tensor, target: Tensor) -> Tensor:
        with use_backend(backend):
            return loss(input, target)

    return forced


def in_float32(loss: Loss) -> Loss:
    """``loss`` of single-precision copies, which it makes itself."""

    def widened(input: Tensor, target: Tensor) -> Tensor:
        return loss(input.float(), target.float() if target.is_floating_point() else target)

    return widened


def compiled(name: str, loss: Loss) -> Provider:
    """`of_loss` of ``loss`` through torch.compile, as one graph for fixed shapes."""
    return of_loss(name, torch.compile(loss, fullgraph=True, dynamic=False))


def of_operators(
    name: str, formula: Formula, activation: str, backend: str | None = None, library: str = "geoloss"
) -> Provider:
    """`geo_sums` and `geo_sums_backward` alone: the kernels without autograd, checks or the ratio."""

    def prepare(input: Tensor, target: Tensor) -> Steps:
        with use_backend(backend):
            backends.operators(input)  # loads the library
        operators = getattr(torch.ops, library)
        traits = CallTraits(activation, input.shape[1], target.shape != input.shape, "mean")
        (one_pass,) = passes(formula, traits, True, False, Geometry(input.ndim - 2, None))
        encoded = one_pass.encoded
        arguments = (input, target, None, [], encoded.terms, encoded.parameters)
        options = (ACTIVATIONS.index(activation), None, True)
        sums = operators.geo_sums(*arguments, *options)
        ratio = (None, one_pass.fractions, one_pass.weights, one_pass.reduction)
        grad_sums = operators.geo_ratio_backward(sums.new_ones(()), sums, *ratio)
        return Steps(
            lambda: operators.geo_sums(*arguments, *options),
            lambda _: operators.geo_sums_backward(grad_sums, *arguments, *options),
        )

    return Provider(name, prepare)


def _prepare_sum(input: Tensor, target: Tensor) -> Steps:
    return Steps(lambda: input + target, None)


def _prepare_copy(input: Tensor, target: Tensor) -> Steps:
    destination = torch.empty_like(input)
    return Steps(lambda: destination.copy_(input), None)


SUM = Provider("input + target", _prepare_sum, arrays=(3, 0))
COPY = Provider("copy", _prepare_copy, arrays=(2, 0))
