"""Activation: from the network's output to probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVATIONS = ("none", "sigmoid", "softmax")


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
