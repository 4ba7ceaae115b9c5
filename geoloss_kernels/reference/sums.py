"""`geo_sums`: the sums over voxels that Eq. 1 is a ratio of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels.reference.activation import ACTIVATIONS
from geoloss_kernels.reference.terms import TERMS, columns_of
from geoloss_kernels.reference.voxels import Voxels, prepare


def geo_sums(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    maps: Sequence[Tensor],
    terms: Sequence[int],
    parameters: Sequence[float],
    activation: int = 0,
    ignore_index: int | None = None,
    include_background: bool = True,
    *,
    programs: Sequence[Callable[[Voxels], Tensor]] = (),
) -> Tensor:
    """Sums [N, C', K] over the valid voxels, the operator of that name (csrc/library.cpp).

    Args:
        input: [N, C, *spatial]; float64, float32, float16 or bfloat16.
        target: shape of ``input`` (any real type or bool), or a label map [N, 1, *spatial] if C > 1:
            g_c = (label == c), labels outside 0..C-1 match no channel.
        mask: [N, 1 or C, *spatial], nonzero = valid. None = all voxels.
        maps: each [N, 1 or C, *spatial], constants for the terms map_*.
        terms, parameters: see `columns_of`.
        activation: 0 none, 1 sigmoid, 2 softmax.
        ignore_index: voxels whose target equals it are invalid: in every channel for a label map, in that
            channel for a target of the shape of ``input``.
        include_background: False leaves channel 0 out of the result (C' = C - 1).
        programs: what the programs among the terms add up at every voxel, in turn, in plain PyTorch.

    float64 for float64 input, else float32. Differentiable in ``input``, also twice. Raises ValueError or
    TypeError that names the argument.
    """
    columns = columns_of(terms, parameters, input.ndim - 2)
    voxels = prepare(
        input,
        target,
        mask,
        maps,
        ACTIVATIONS[activation],
        ignore_index=ignore_index,
        include_background=include_background,
    )
    unknown = [column.program for column in columns if column.name == "program"][len(programs) :]
    if unknown:
        raise ValueError("terms: expected no programs, which these operators do not compute, got one")
    densities = [
        programs[column.program](voxels) if column.name == "program" else TERMS[column.name](voxels, column)
        for column in columns
    ]
    return torch.stack([voxels.sum(density) for density in densities], dim=-1)


def geo_sums_backward(
    gradient: Tensor,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    maps: Sequence[Tensor],
    *options: Any,
    programs: Sequence[Callable[[Voxels], Tensor]] = (),
) -> Tensor:
    """The derivative of Σ ``gradient`` · sums in the input, the operator of that name."""
    with torch.enable_grad():
        leaf = input.detach().requires_grad_()
        sums = geo_sums(leaf, target, mask, maps, *options, programs=programs)
    if not sums.requires_grad:  # of the target alone
        return torch.zeros_like(input)
    return torch.autograd.grad(sums, leaf, gradient)[0]
