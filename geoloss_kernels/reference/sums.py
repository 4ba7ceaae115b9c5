"""`geo_sums`: the sums over voxels that Eq. 1 is a ratio of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geoloss_kernels.reference.terms import TERMS
from geoloss_kernels.reference.voxels import prepare


def geo_sums(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    map: Tensor | None,
    terms: Sequence[str],
    activation: str = "none",
    spacing: Sequence[float] | None = None,
    axes: Sequence[int] | None = None,
    ignore_index: int | None = None,
    include_background: bool = True,
) -> Tensor:
    """Sums [N, C', K]: entry k is Σ over the valid voxels of ``terms[k]``, a name of `TERMS`.

    Args:
        input: [N, C, D, H, W] or [N, C, H, W]; float64, float32, float16 or bfloat16.
        target: shape of ``input`` (any real type or bool), or a label map [N, 1, *spatial] if C > 1:
            g_c = (label == c), labels outside 0..C-1 match no channel.
        mask: [N, 1 or C, *spatial], nonzero = valid. None = all voxels.
        map: [N, 1 or C, *spatial], a constant for the terms map_*.
        terms: names of `TERMS`, at least one.
        activation: "none", "sigmoid" or "softmax".
        spacing: voxel size per spatial axis in mm; None = 1.
        axes: spatial axes (0 = first) of the terms first_order_*; None = all.
        ignore_index: voxels whose target equals it are invalid: in every channel for a label map, in that
            channel for a target of the shape of ``input``.
        include_background: False leaves channel 0 out of the result (C' = C - 1).

    float64 for float64 input, else float32. Differentiable in ``input``, also twice. Raises ValueError or
    TypeError that names the argument.
    """
    unknown = [term for term in terms if term not in TERMS]
    if unknown or not terms:
        raise ValueError(f"terms: expected at least one name of {tuple(TERMS)}, got {tuple(terms)}")
    voxels = prepare(input, target, mask, map, activation, spacing, axes, ignore_index, include_background)
    return torch.stack([voxels.sum(TERMS[term](voxels)) for term in terms], dim=-1)
