"""Ψ of Eq. 1: voxel-wise geometric correlation Ψ(s, g, v, φ) of prediction and target.

`first_order` and `second_order` have the signature psi(s, g, phi) that `geo_loss` calls; ``phi`` maps a
volume to a tensor or to a list of tensors. The result holds Ψ at every v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def l2(components: Sequence[Tensor]) -> Tensor:
    """Euclidean norm sqrt(Σ_i d_i²) per voxel; its gradient is 0 where the norm is 0."""
    squared = l2_squared(components)
    zero = squared == 0
    # The inner `where` keeps sqrt away from 0: its infinite slope there times 0 would be NaN.
    root = torch.sqrt(torch.where(zero, torch.ones_like(squared), squared))
    return torch.where(zero, torch.zeros_like(squared), root)


def l2_squared(components: Sequence[Tensor]) -> Tensor:
    """Squared Euclidean norm Σ_i d_i² per voxel."""
    return _add([d * d for d in components])


def l1(components: Sequence[Tensor]) -> Tensor:
    """Σ_i |d_i| per voxel; the gradient of |d| is 0 at d = 0."""
    return _add([torch.abs(d) for d in components])


NORMS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {"l2": l2, "l2_squared": l2_squared, "l1": l1}


def first_order(s: Tensor, g: Tensor, phi: Callable[[Tensor], Sequence[Tensor]], norm: str = "l2") -> Tensor:
    """Ψ of FOG, Eq. 2: ‖φ(s, v) - φ(g, v)‖ in the norm "l2", "l2_squared" or "l1"."""
    if norm not in NORMS:
        raise ValueError(f"norm: expected one of {tuple(NORMS)}, got {norm!r}")
    return NORMS[norm]([ds - dg for ds, dg in zip(phi(s), phi(g), strict=True)])


def second_order(
    s: Tensor,
    g: Tensor,
    phi: Callable[[Tensor], Tensor],
    two_sided: bool = False,
    signed: bool = False,
) -> Tensor:
    """Ψ of SOG, Eq. 3: |φ(g, v)|, plus |φ(s, v)| if ``two_sided``; without the bars if ``signed``."""
    sides = [phi(g), phi(s)] if two_sided else [phi(g)]
    return _add(sides if signed else [torch.abs(side) for side in sides])


def _add(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
