"""The geometric part Θ·Ψ(φs, φg) of the formula: difference operators φ, norms Ψ, and their adjoints.

The twins of csrc/stencil.h. A `Neighbourhood` holds a field at a voxel and at its six face neighbours,
clamped at the border. Differences are 0 along the axes that a column of the sums leaves out. Where P.masked,
a `Neighbourhood` of truth values tells which voxels are valid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from geoloss_kernels.triton.terms import absolute, sign


class Neighbourhood(NamedTuple):
    centre: Any
    x_previous: Any
    x_next: Any
    y_previous: Any
    y_next: Any
    z_previous: Any
    z_next: Any


class PerAxis(NamedTuple):
    """One number per spatial axis: a difference, its slope, or a scale."""

    x: Any
    y: Any
    z: Any


@triton.jit
def keep(P: tl.constexpr, valid, value):
    """``value`` where valid, else 0: replaced, not multiplied, so that a NaN does not get on."""
    if P.masked:
        return tl.where(valid, value, 0)
    else:
        return value


# φ of FOG. A difference operator D is linear, so the gradient of a loss Σ_v Ψ((D e)_v) is D* c with the flux
# c = ∂Ψ/∂(D e), gathered from the voxel's neighbours. The flux just outside the volume counts as 0 for
# forward differences and as minus that at the border for central ones (kBorder in csrc/stencil.h).


@triton.jit
def difference(P: tl.constexpr, COLUMN: tl.constexpr, u, valid, scale):
    """D u where the voxels that it reads are valid, else 0; ``scale`` is 1/h along each axis."""
    OPERATOR: tl.constexpr = COLUMN.operator
    x = tl.zeros_like(u.centre)
    y = tl.zeros_like(u.centre)
    z = tl.zeros_like(u.centre)
    if COLUMN.axes[2]:
        x = scale.x * along_axis(OPERATOR, u.x_previous, u.centre, u.x_next)
        x = keep_counting(P, OPERATOR, valid.x_previous, valid.centre, valid.x_next, x)
    if COLUMN.axes[1]:
        y = scale.y * along_axis(OPERATOR, u.y_previous, u.centre, u.y_next)
        y = keep_counting(P, OPERATOR, valid.y_previous, valid.centre, valid.y_next, y)
    if COLUMN.axes[0]:
        z = scale.z * along_axis(OPERATOR, u.z_previous, u.centre, u.z_next)
        z = keep_counting(P, OPERATOR, valid.z_previous, valid.centre, valid.z_next, z)
    return PerAxis(x=x, y=y, z=z)


@triton.jit
def along_axis(OPERATOR: tl.constexpr, previous, centre, next):
    if OPERATOR == "forward":
        return next - centre
    else:
        return 0.5 * (next - previous)


@triton.jit
def keep_counting(P: tl.constexpr, OPERATOR: tl.constexpr, previous, centre, next, value):
    """``value`` where the voxels that a difference reads are valid, else 0."""
    kept = keep(P, centre, keep(P, next, value))
    if OPERATOR == "forward":
        return kept
    else:
        return keep(P, previous, kept)


@triton.jit
def adjoint(OPERATOR: tl.constexpr, previous, centre, next):
    if OPERATOR == "forward":
        return previous - centre
    else:
        return 0.5 * (previous - next)


# Ψ of FOG. The slope is 0 where the norm is 0, never NaN: equal neighbours are the normal case.


@triton.jit
def sum_of_squares(d):
    return d.x * d.x + d.y * d.y + d.z * d.z


@triton.jit
def inverse_root(square):
    """1 / √square, and 0 for 0."""
    smallest_normal: tl.constexpr = 1.17549435e-38
    return tl.where(square < smallest_normal, 0, tl.rsqrt(square))


@triton.jit
def norm(NORM: tl.constexpr, d):
    if NORM == "l2":
        square = sum_of_squares(d)
        return square * inverse_root(square)
    elif NORM == "l2_squared":
        return sum_of_squares(d)
    else:
        return absolute(d.x) + absolute(d.y) + absolute(d.z)


@triton.jit
def norm_slope(NORM: tl.constexpr, d):
    if NORM == "l2":
        inverse = inverse_root(sum_of_squares(d))
        return PerAxis(x=d.x * inverse, y=d.y * inverse, z=d.z * inverse)
    elif NORM == "l2_squared":
        return PerAxis(x=d.x + d.x, y=d.y + d.y, z=d.z + d.z)
    else:
        return PerAxis(x=sign(d.x), y=sign(d.y), z=sign(d.z))


# φ of SOG. Self-adjoint, with clamped indices as with masked links.


@triton.jit
def laplacian(P: tl.constexpr, u, valid, scale):
    """Δ u; ``scale`` is 1/h² along each axis."""
    along_x = second_difference(P, u.centre, u.x_previous, u.x_next, valid.x_previous, valid.x_next)
    along_y = second_difference(P, u.centre, u.y_previous, u.y_next, valid.y_previous, valid.y_next)
    total = scale.x * along_x + scale.y * along_y
    if P.dimensions[0]:
        along_z = second_difference(P, u.centre, u.z_previous, u.z_next, valid.z_previous, valid.z_next)
        total += scale.z * along_z
    return keep(P, valid.centre, total)


@triton.jit
def second_difference(P: tl.constexpr, centre, previous, next, valid_previous, valid_next):
    return keep(P, valid_next, next - centre) + keep(P, valid_previous, previous - centre)
