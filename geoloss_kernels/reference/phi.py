"""φ of Eq. 1: spatially invariant operators on a volume u [N, C, *spatial].

Every operator takes ``spacing`` (one voxel size h_i per spatial axis, in mm; None = 1) and ``valid``
(bool, the shape of u; None = all voxels are valid). A difference counts only where the voxels it reads are
valid and is 0 elsewhere, so the edge of a mask is no edge of u. Indices are clamped at the border.
The distances are constants for autograd, everything else is differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geoloss_kernels.reference.distance import distance_map, signed_distance_map

OPERATORS = ("forward", "central")


def neighbour(u: Tensor, axis: int, step: int) -> Tensor:
    """u at the next (``step`` = +1) or previous (-1) voxel along spatial ``axis``, index clamped."""
    dim = axis + 2
    last = u.shape[dim] - 1
    if step > 0:
        return torch.cat([u.narrow(dim, 1, last), u.narrow(dim, last, 1)], dim)
    return torch.cat([u.narrow(dim, 0, 1), u.narrow(dim, 0, last)], dim)


def forward_difference(u: Tensor, axis: int, spacing: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """(u[v + 1_i] - u[v]) / h_i; 0 at the last voxel, and where v or v + 1_i is not valid."""
    difference = (neighbour(u, axis, +1) - u) / spacing
    return _keep(difference, valid, valid if valid is None else neighbour(valid, axis, +1))


def central_difference(u: Tensor, axis: int, spacing: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """(u[v + 1_i] - u[v - 1_i]) / (2 h_i), indices clamped; 0 where v or either neighbour is not valid."""
    difference = (neighbour(u, axis, +1) - neighbour(u, axis, -1)) / (2 * spacing)
    if valid is None:
        return difference
    return _keep(difference, valid, neighbour(valid, axis, +1) & neighbour(valid, axis, -1))


def gradient(
    u: Tensor,
    axes: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    operator: str = "forward",
    valid: Tensor | None = None,
) -> list[Tensor]:
    """(∂_i u) for each i of ``axes`` (spatial axis numbers; None = all), one tensor per axis.

    ``operator`` is "forward" or "central"; ValueError otherwise. This is φ of FOG (Eq. 2).
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator: expected one of {OPERATORS}, got {operator!r}")
    difference = forward_difference if operator == "forward" else central_difference
    sizes = _voxel_size(u, spacing)
    return [difference(u, axis, sizes[axis], valid) for axis in (range(len(sizes)) if axes is None else axes)]


def laplacian(u: Tensor, spacing: Sequence[float] | None = None, valid: Tensor | None = None) -> Tensor:
    """Σ_i (u[v + 1_i] - 2 u[v] + u[v - 1_i]) / h_i², indices clamped. This is φ of SOG (Eq. 3).

    Each of the two one-sided differences per axis counts only if both its ends are valid, which keeps the
    operator self-adjoint.
    """
    total = torch.zeros_like(u)
    for axis, size in enumerate(_voxel_size(u, spacing)):
        for step in (-1, +1):
            difference = (neighbour(u, axis, step) - u) / size**2
            total = total + _keep(difference, valid, valid if valid is None else neighbour(valid, axis, step))
    return total


def signed_distance(
    u: Tensor, spacing: Sequence[float] | None = None, valid: Tensor | None = None, empty: str = "zero"
) -> Tensor:
    """φ_D of the boundary loss: `distance.signed_distance_map` of u > 0.5, a constant (needs scipy).

    A voxel that is not valid is 0 in u, hence background.
    """
    return signed_distance_map(u, spacing, empty=empty, dtype=u.dtype)


def distance(
    u: Tensor, spacing: Sequence[float] | None = None, valid: Tensor | None = None, empty: str = "zero"
) -> Tensor:
    """φ_D of the Hausdorff loss: `distance.distance_map` of u > 0.5, a constant (needs scipy)."""
    return distance_map(u, spacing, empty=empty, dtype=u.dtype)


def _keep(difference: Tensor, valid: Tensor | None, valid_neighbour: Tensor | None) -> Tensor:
    """``difference`` where both ends are valid, else 0."""
    if valid is None or valid_neighbour is None:
        return difference
    return torch.where(valid & valid_neighbour, difference, torch.zeros_like(difference))


def _voxel_size(u: Tensor, spacing: Sequence[float] | None) -> Sequence[float]:
    return (1.0,) * (u.ndim - 2) if spacing is None else spacing
