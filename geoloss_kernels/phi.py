"""φ of Eq. 1: linear operators on a volume u, and distance maps; for `GEOLoss`, and to call on tensors.

Each is a frozen object. Called on u [N, C, *spatial] it gives the stack of its components,
[K, N, C, *spatial]:

    forward()          (u[v + 1_i] - u[v]) / h_i for each spatial axis i
    central()          (u[v + 1_i] - u[v - 1_i]) / (2 h_i) for each spatial axis i
    sobel()            the central difference, smoothed by (1, 2, 1) / 4 along the other axes
    laplacian()        Σ_i (u[v + 1_i] - 2 u[v] + u[v - 1_i]) / h_i²
    stencil(kernel)    Σ_o kernel[k, o] u[v + o], correlation with kernels of 3 voxels along each axis
    signed_distance()  the signed distance of the mask u > 0.5, a constant: see `distance.signed_distance_map`
    distance()         likewise `distance.distance_map`

``spacing`` is one voxel size h_i per spatial axis (None = 1), ``valid`` a bool volume (None = everywhere).
Indices are clamped at the border. A neighbour that is not valid counts as the centre's value, so that it
makes no difference; a central difference counts only where both of its neighbours are valid. φ is 0 at voxels
that are not valid themselves.

A component is computed as Σ_o w_o (u[v + o] - u[v]) + (Σ_o w_o) u[v], the differences of equal weight added
up first: it is exactly 0 where u is constant, and a Laplacian's where u is linear.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Offset = tuple[int, ...]
"""-1, 0 or 1 along each spatial axis"""
Weights = dict[Offset, float]
"""of one component; the centre's left out"""


@dataclass(frozen=True)
class Component:
    """One linear stencil: Σ_o w_o (u[v + o] - u[v]) + centre · u[v]."""

    taps: tuple[tuple[Offset, float], ...]
    """w_o for o ≠ 0, ordered by magnitude"""
    centre: float
    """Σ_o w_o, exactly 0 where it is but for rounding"""

    @staticmethod
    def of(kernel: Weights) -> Component:
        total = math.fsum(kernel.values())
        if abs(total) <= 1e-12 * math.fsum(map(abs, kernel.values())):
            total = 0.0
        taps = [(offset, weight) for offset, weight in kernel.items() if weight != 0 and any(offset)]
        return Component(tuple(sorted(taps, key=lambda tap: (abs(tap[1]), tap[0]))), total)


class Stencil:
    """A linear φ of radius 1."""

    needs_all_neighbours = False
    """a component is 0 where a neighbour is not valid; else that neighbour counts as the centre's value"""

    def kernels(self, dimensions: int, spacing: Sequence[float]) -> list[Component]:
        """Its K components in volumes of so many axes."""
        raise NotImplementedError(f"{type(self).__name__} has no kernels")

    def components(self, dimensions: int) -> int:
        return len(self.kernels(dimensions, (1.0,) * dimensions))

    def sums(self, dimensions: int) -> list[float]:
        """What each component makes of a volume of ones."""
        return [component.centre for component in self.kernels(dimensions, (1.0,) * dimensions)]

    def __call__(
        self, u: Tensor, spacing: Sequence[float] | None = None, valid: Tensor | None = None
    ) -> Tensor:
        kernels = self.kernels(u.ndim - 2, _voxel_size(u, spacing))
        return torch.stack([self._apply(component, u, valid) for component in kernels])

    def _apply(self, component: Component, u: Tensor, valid: Tensor | None) -> Tensor:
        result = torch.zeros_like(u)
        for weight, group in itertools.groupby(component.taps, lambda tap: abs(tap[1])):
            differences = [_difference(u, tap, valid) for tap in group]
            result = result + weight * sum(differences[1:], differences[0])
        if component.centre != 0:
            result = result + component.centre * u
        return result if valid is None else torch.where(self._kept(component, valid), result, 0)

    def _kept(self, component: Component, valid: Tensor) -> Tensor:
        if not self.needs_all_neighbours:
            return valid
        for offset, _ in component.taps:
            valid = valid & _neighbour(valid, offset)
        return valid


def _difference(u: Tensor, tap: tuple[Offset, float], valid: Tensor | None) -> Tensor:
    """±(u[v + o] - u[v]) with the sign of the weight; 0 where the neighbour is not valid."""
    offset, weight = tap
    difference = _neighbour(u, offset) - u
    if valid is not None:
        difference = torch.where(_neighbour(valid, offset), difference, 0)
    return difference if weight > 0 else -difference


def _neighbour(u: Tensor, offset: Offset) -> Tensor:
    """u[v + offset], indices clamped."""
    for axis, step in enumerate(offset):
        if step == 0:
            continue
        dim, last = axis + 2, u.shape[axis + 2] - 1
        border = u.narrow(dim, last if step > 0 else 0, 1)
        inner = u.narrow(dim, max(step, 0), last)
        u = torch.cat([inner, border] if step > 0 else [border, inner], dim)
    return u


def _voxel_size(u: Tensor, spacing: Sequence[float] | None) -> Sequence[float]:
    return (1.0,) * (u.ndim - 2) if spacing is None else spacing


def _along(axis: int, dimensions: int, step: int) -> Offset:
    return tuple(step if each == axis else 0 for each in range(dimensions))


@dataclass(frozen=True)
class _Forward(Stencil):
    def kernels(self, dimensions: int, spacing: Sequence[float]) -> list[Component]:
        return [
            Component(((_along(axis, dimensions, 1), 1 / spacing[axis]),), 0.0) for axis in range(dimensions)
        ]

    def __repr__(self) -> str:
        return "phi.forward()"


@dataclass(frozen=True)
class _Central(Stencil):
    needs_all_neighbours = True

    def kernels(self, dimensions: int, spacing: Sequence[float]) -> list[Component]:
        return [
            Component.of({_along(axis, dimensions, step): step / (2 * spacing[axis]) for step in (-1, 1)})
            for axis in range(dimensions)
        ]

    def __repr__(self) -> str:
        return "phi.central()"


@dataclass(frozen=True)
class _Sobel(Stencil):
    def kernels(self, dimensions: int, spacing: Sequence[float]) -> list[Component]:
        return [self._component(axis, dimensions, 1 / spacing[axis]) for axis in range(dimensions)]

    @staticmethod
    def _component(axis: int, dimensions: int, scale: float) -> Component:
        smooth = {-1: 0.25, 0: 0.5, 1: 0.25}
        return Component.of(
            {
                offset: offset[axis]
                * scale
                * 0.5
                * math.prod(smooth[step] for other, step in enumerate(offset) if other != axis)
                for offset in itertools.product((-1, 0, 1), repeat=dimensions)
            }
        )

    def __repr__(self) -> str:
        return "phi.sobel()"


@dataclass(frozen=True)
class _Laplacian(Stencil):
    def kernels(self, dimensions: int, spacing: Sequence[float]) -> list[Component]:
        taps = {
            _along(axis, dimensions, step): 1 / spacing[axis] ** 2
            for axis in range(dimensions)
            for step in (-1, 1)
        }
        return [Component(Component.of(taps).taps, 0.0)]

    def __repr__(self) -> str:
        return "phi.laplacian()"


@dataclass(frozen=True)
class _Custom(Stencil):
    axes: int
    weights: tuple[tuple[tuple[Offset, float], ...], ...]
    """of each component"""

    def kernels(self, dimensions: int, spacing: Sequence[float]) -> list[Component]:
        if dimensions != self.axes:
            raise ValueError(
                f"phi: a stencil [K{', 3' * self.axes}] fits volumes with {self.axes} spatial axes, "
                f"got {dimensions}"
            )
        return [Component.of(dict(weights)) for weights in self.weights]

    def __repr__(self) -> str:
        return f"phi.stencil(kernel of shape {[len(self.weights), *(3,) * self.axes]})"


@dataclass(frozen=True)
class DistanceMap:
    """A φ that is the distance of a mask; a constant for derivatives."""

    signed: bool
    empty: str

    def __call__(
        self, u: Tensor, spacing: Sequence[float] | None = None, valid: Tensor | None = None
    ) -> Tensor:
        from geoloss_kernels import distance

        of_mask = distance.signed_distance_map if self.signed else distance.distance_map
        inside = u if valid is None else torch.where(valid, u, 0)
        return of_mask(inside, spacing, self.empty, u.dtype).unsqueeze(0)

    def __repr__(self) -> str:
        return f"phi.{'signed_distance' if self.signed else 'distance'}(empty={self.empty!r})"


def forward() -> Stencil:
    """Forward differences, one component per axis; 0 at the last voxel."""
    return _Forward()


def central() -> Stencil:
    """Central differences, one component per axis."""
    return _Central()


def sobel() -> Stencil:
    """Sobel's operator, one component per axis, normalised so that a ramp of slope 1 gives 1."""
    return _Sobel()


def laplacian() -> Stencil:
    """The Laplacian, one component."""
    return _Laplacian()


def stencil(kernel: Tensor | Sequence[object]) -> Stencil:
    """Correlation with K kernels of your own: [K, 3, 3, 3] in 3-D, [K, 3, 3] in 2-D, [K, 3] in 1-D.

    It knows no spacing: a kernel in mm has it in its numbers. ValueError for another shape.
    """
    weights = torch.as_tensor(kernel, dtype=torch.float64)
    axes = weights.ndim - 1
    if axes not in (1, 2, 3) or tuple(weights.shape[1:]) != (3,) * axes or len(weights) == 0:
        raise ValueError(f"kernel: expected shape [K, 3, 3, 3] or [K, 3, 3], got {tuple(weights.shape)}")
    offsets = list(itertools.product((-1, 0, 1), repeat=axes))
    rows = weights.flatten(1).tolist()
    return _Custom(axes, tuple(tuple(zip(offsets, row, strict=True)) for row in rows))


def signed_distance(empty: str = "zero") -> DistanceMap:
    """Kervadec's signed distance; ``empty`` as in `distance.signed_distance_map`."""
    return DistanceMap(True, empty)


def distance(empty: str = "zero") -> DistanceMap:
    """The distance to the other side, on both sides; ``empty`` as in `distance.distance_map`."""
    return DistanceMap(False, empty)


def norm(components: Tensor | Sequence[Tensor]) -> Tensor:
    """The Euclidean norm over the first axis, √Σ_k u_k², with the slope 0 where it is 0.

    Of φ's components, in a loss as in plain PyTorch: ``gk.norm(phi(s) - phi(g))``.
    """
    from geoloss_kernels.expressions.trace import Stack, Traced, norm_of

    if isinstance(components, Stack) or isinstance(components[0], Traced):
        return norm_of(list(components))  # type: ignore[arg-type,return-value]
    stacked = components if isinstance(components, Tensor) else torch.stack(list(components))
    squared = stacked.square().sum(0)
    zero = squared == 0
    # the inner `where` keeps the root away from 0: its infinite slope there times 0 would be NaN
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())
