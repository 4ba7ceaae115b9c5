"""The terms that look at neighbours, FOG and SOG: value and slope at the voxels of a tile."""

from __future__ import annotations

import triton
import triton.language as tl

from geoloss_kernels.triton.stencil import (
    Neighbourhood,
    PerAxis,
    adjoint,
    difference,
    laplacian,
    norm,
    norm_slope,
)
from geoloss_kernels.triton.terms import absolute, sign
from geoloss_kernels.triton.voxels import field_at, neighbourhood, validity

HERE = tl.constexpr((0, 0, 0))
X_PREVIOUS = tl.constexpr((0, 0, -1))
X_NEXT = tl.constexpr((0, 0, 1))
Y_PREVIOUS = tl.constexpr((0, -1, 0))
Y_NEXT = tl.constexpr((0, 1, 0))
Z_PREVIOUS = tl.constexpr((-1, 0, 0))
Z_NEXT = tl.constexpr((1, 0, 0))


# FOG: Ψ(D e) with e = s - g.


@triton.jit
def error_difference(P: tl.constexpr, COLUMN: tl.constexpr, AT: tl.constexpr, volume, samples):
    """D e at the offset AT."""
    error = neighbourhood(P, "error", AT, samples)
    valid = validity(P, AT, samples, error)
    return difference(P, COLUMN, error, valid, volume.scales[COLUMN.scale])


@triton.jit
def first_order(P: tl.constexpr, COLUMN: tl.constexpr, volume, samples):
    return norm(COLUMN.norm, error_difference(P, COLUMN, HERE, volume, samples))


@triton.jit
def flux_at(P: tl.constexpr, COLUMN: tl.constexpr, AT: tl.constexpr, volume, samples):
    """∂Ψ/∂(D e) at the offset AT, times the scale in D."""
    scale = volume.scales[COLUMN.scale]
    slope = norm_slope(COLUMN.norm, error_difference(P, COLUMN, AT, volume, samples))
    return PerAxis(x=scale.x * slope.x, y=scale.y * slope.y, z=scale.z * slope.z)


@triton.jit
def first_order_slope(P: tl.constexpr, COLUMN: tl.constexpr, volume, place, samples):
    """The flux of the voxel and of its neighbours, gathered by the adjoint of D."""
    OPERATOR: tl.constexpr = COLUMN.operator
    here = flux_at(P, COLUMN, HERE, volume, samples)
    total = tl.zeros_like(here.x)
    if COLUMN.axes[2]:
        previous = flux_at(P, COLUMN, X_PREVIOUS, volume, samples).x
        next = here.x
        if OPERATOR == "central":
            next = flux_at(P, COLUMN, X_NEXT, volume, samples).x
        total += gathered(OPERATOR, previous, here.x, next, place.x == 0, place.x == volume.W - 1)
    if COLUMN.axes[1]:
        previous = flux_at(P, COLUMN, Y_PREVIOUS, volume, samples).y
        next = here.y
        if OPERATOR == "central":
            next = flux_at(P, COLUMN, Y_NEXT, volume, samples).y
        total += gathered(OPERATOR, previous, here.y, next, place.y == 0, place.y == volume.H - 1)
    if COLUMN.axes[0]:
        previous = flux_at(P, COLUMN, Z_PREVIOUS, volume, samples).z
        next = here.z
        if OPERATOR == "central":
            next = flux_at(P, COLUMN, Z_NEXT, volume, samples).z
        total += gathered(OPERATOR, previous, here.z, next, place.z == 0, place.z == volume.D - 1)
    return total


@triton.jit
def gathered(OPERATOR: tl.constexpr, previous, here, next, first, last):
    """The adjoint along one axis. Forward differences of clamped samples are 0 outside the volume anyway."""
    if OPERATOR == "forward":
        return adjoint(OPERATOR, previous, here, next)
    else:
        return adjoint(OPERATOR, tl.where(first, -here, previous), here, tl.where(last, -here, next))


# SOG: |e| ψ with ψ = |Δg|, and + |Δs| where two-sided; signed leaves the absolute values away.


@triton.jit
def transform(P: tl.constexpr, COLUMN: tl.constexpr, FIELD: tl.constexpr, AT: tl.constexpr, volume, samples):
    """Δ of a field at the offset AT."""
    u = neighbourhood(P, FIELD, AT, samples)
    return laplacian(P, u, validity(P, AT, samples, u), volume.scales[COLUMN.scale])


@triton.jit
def magnitude(COLUMN: tl.constexpr, transformed):
    if COLUMN.signed:
        return transformed
    else:
        return absolute(transformed)


@triton.jit
def second_order_psi(P: tl.constexpr, COLUMN: tl.constexpr, volume, samples):
    psi = magnitude(COLUMN, transform(P, COLUMN, "target", HERE, volume, samples))
    if COLUMN.two_sided:
        psi += magnitude(COLUMN, transform(P, COLUMN, "prediction", HERE, volume, samples))
    return psi


@triton.jit
def second_order(P: tl.constexpr, COLUMN: tl.constexpr, volume, samples):
    return absolute(field_at(P, "error", HERE, samples)) * second_order_psi(P, COLUMN, volume, samples)


@triton.jit
def second_order_slope(P: tl.constexpr, COLUMN: tl.constexpr, volume, place, samples):
    """The slope of |e|, and for ψ of the prediction Δ, which is its own adjoint, of the flux."""
    slope = sign(field_at(P, "error", HERE, samples)) * second_order_psi(P, COLUMN, volume, samples)
    if COLUMN.two_sided:
        flux = transform_fluxes(P, COLUMN, volume, place, samples)
        slope += laplacian(P, flux, validity(P, HERE, samples, flux), volume.scales[COLUMN.scale])
    return slope


@triton.jit
def transform_flux(P: tl.constexpr, COLUMN: tl.constexpr, AT: tl.constexpr, volume, samples):
    """|e| ∂ψ/∂Δs at the offset AT."""
    size = absolute(field_at(P, "error", AT, samples))
    if COLUMN.signed:
        return size
    else:
        return size * sign(transform(P, COLUMN, "prediction", AT, volume, samples))


@triton.jit
def transform_fluxes(P: tl.constexpr, COLUMN: tl.constexpr, volume, place, samples):
    """`transform_flux` around the voxel, clamped at the border."""
    here = transform_flux(P, COLUMN, HERE, volume, samples)
    z_previous = here
    z_next = here
    if P.dimensions[0]:
        z_previous = transform_flux(P, COLUMN, Z_PREVIOUS, volume, samples)
        z_next = transform_flux(P, COLUMN, Z_NEXT, volume, samples)
    return Neighbourhood(
        centre=here,
        x_previous=tl.where(place.x == 0, here, transform_flux(P, COLUMN, X_PREVIOUS, volume, samples)),
        x_next=tl.where(place.x == volume.W - 1, here, transform_flux(P, COLUMN, X_NEXT, volume, samples)),
        y_previous=tl.where(place.y == 0, here, transform_flux(P, COLUMN, Y_PREVIOUS, volume, samples)),
        y_next=tl.where(place.y == volume.H - 1, here, transform_flux(P, COLUMN, Y_NEXT, volume, samples)),
        z_previous=tl.where(place.z == 0, here, z_previous),
        z_next=tl.where(place.z == volume.D - 1, here, z_next),
    )
