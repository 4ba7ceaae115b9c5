"""Activation: from the network's output to probabilities and their logarithms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

ACTIVATIONS = ("none", "sigmoid", "softmax")
LOG_MINIMUM = -100.0
SLOPE_MINIMUM = 1e-12


def activate(input: Tensor, activation: str) -> Tensor:
    """Probabilities s of ``input`` [N, C, *spatial].

    ``activation`` is "none" (``input`` holds probabilities), "sigmoid" (every channel on its own) or
    "softmax" (over the channels). Differentiable; raises ValueError for any other name.
    """
    if activation == "none":
        return input
    if activation == "sigmoid":
        return torch.sigmoid(input)
    if activation == "softmax":
        return torch.softmax(input, dim=1)
    raise ValueError(f"activation: expected one of {ACTIVATIONS}, got {activation!r}")


def log_predictions(input: Tensor, activation: str) -> Tensor:
    """log s; of probabilities see `clamped_log`."""
    if activation == "sigmoid":
        return logsigmoid(input)
    return torch.log_softmax(input, dim=1) if activation == "softmax" else clamped_log(input)


def log_complements(input: Tensor, activation: str) -> Tensor:
    """log(1 - s): under a softmax, the logarithm of the other channels' share."""
    if activation == "sigmoid":
        return logsigmoid(-input)
    if activation == "none":
        return clamped_log(1 - input)
    channels = range(input.shape[1])
    others = [torch.cat([input[:, :c], input[:, c + 1 :]], dim=1).logsumexp(1) for c in channels]
    return torch.stack(others, dim=1) - input.logsumexp(1, keepdim=True)


def clamped_log(s: Tensor) -> Tensor:
    """max(log s, -100) with slope 1 / max(s, 1e-12), finite at s = 0 as torch's binary_cross_entropy is."""
    return _ClampedLog.apply(s)


class _ClampedLog(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(s: Tensor) -> Tensor:
        return torch.log(s).clamp_min(LOG_MINIMUM)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        return grad / s.clamp_min(SLOPE_MINIMUM)
