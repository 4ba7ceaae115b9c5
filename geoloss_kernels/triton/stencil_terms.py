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
def error_difference(P: tl.constexpr, OPERATOR: tl.constexpr, AT: tl.constexpr, volume, samples):
    """D e at the offset AT."""
    error = neighbourhood(P, "error", AT, samples)
    return difference(P, OPERATOR, error, validity(P, AT, samples, error), volume.inverse_spacing)


@triton.jit
def first_order(P: tl.constexpr, OPERATOR: tl.constexpr, NORM: tl.constexpr, volume, samples):
    return norm(NORM, error_difference(P, OPERATOR, HERE, volume, samples))


@triton.jit
def flux_at(P: tl.constexpr, OPERATOR: tl.constexpr, NORM: tl.constexpr, AT: tl.constexpr, volume, samples):
    """∂Ψ/∂(D e) at the offset AT, times the scale in D."""
    scale = volume.inverse_spacing
    slope = norm_slope(NORM, error_difference(P, OPERATOR, AT, volume, samples))
    return PerAxis(x=scale.x * slope.x, y=scale.y * slope.y, z=scale.z * slope.z)


@triton.jit
def first_order_slope(P: tl.constexpr, OPERATOR: tl.constexpr, NORM: tl.constexpr, volume, place, samples):
    """The flux of the voxel and of its neighbours, gathered by the adjoint of D."""
    here = flux_at(P, OPERATOR, NORM, HERE, volume, samples)
    total = tl.zeros_like(here.x)
    if P.axes[2]:
        previous = flux_at(P, OPERATOR, NORM, X_PREVIOUS, volume, samples).x
        next = here.x
        if OPERATOR == "central":
            next = flux_at(P, OPERATOR, NORM, X_NEXT, volume, samples).x
        total += gathered(OPERATOR, previous, here.x, next, place.x == 0, place.x == volume.W - 1)
    if P.axes[1]:
        previous = flux_at(P, OPERATOR, NORM, Y_PREVIOUS, volume, samples).y
        next = here.y
        if OPERATOR == "central":
            next = flux_at(P, OPERATOR, NORM, Y_NEXT, volume, samples).y
        total += gathered(OPERATOR, previous, here.y, next, place.y == 0, place.y == volume.H - 1)
    if P.axes[0]:
        previous = flux_at(P, OPERATOR, NORM, Z_PREVIOUS, volume, samples).z
        next = here.z
        if OPERATOR == "central":
            next = flux_at(P, OPERATOR, NORM, Z_NEXT, volume, samples).z
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
def transform(P: tl.constexpr, FIELD: tl.constexpr, AT: tl.constexpr, volume, samples):
    """Δ of a field at the offset AT."""
    u = neighbourhood(P, FIELD, AT, samples)
    return laplacian(P, u, validity(P, AT, samples, u), volume.inverse_spacing_squared)


@triton.jit
def magnitude(SIGN: tl.constexpr, transformed):
    if SIGN == "signed":
        return transformed
    else:
        return absolute(transformed)


@triton.jit
def second_order_psi(P: tl.constexpr, SIDES: tl.constexpr, SIGN: tl.constexpr, volume, samples):
    psi = magnitude(SIGN, transform(P, "target", HERE, volume, samples))
    if SIDES == "two_sided":
        psi += magnitude(SIGN, transform(P, "prediction", HERE, volume, samples))
    return psi


@triton.jit
def second_order(P: tl.constexpr, SIDES: tl.constexpr, SIGN: tl.constexpr, volume, samples):
    return absolute(field_at(P, "error", HERE, samples)) * second_order_psi(P, SIDES, SIGN, volume, samples)


@triton.jit
def second_order_slope(P: tl.constexpr, SIDES: tl.constexpr, SIGN: tl.constexpr, volume, place, samples):
    """The slope of |e|, and for ψ of the prediction Δ, which is its own adjoint, of the flux."""
    slope = sign(field_at(P, "error", HERE, samples)) * second_order_psi(P, SIDES, SIGN, volume, samples)
    if SIDES == "two_sided":
        flux = transform_fluxes(P, SIGN, volume, place, samples)
        slope += laplacian(P, flux, validity(P, HERE, samples, flux), volume.inverse_spacing_squared)
    return slope


@triton.jit
def transform_flux(P: tl.constexpr, SIGN: tl.constexpr, AT: tl.constexpr, volume, samples):
    """|e| ∂ψ/∂Δs at the offset AT."""
    size = absolute(field_at(P, "error", AT, samples))
    if SIGN == "signed":
        return size
    else:
        return size * sign(transform(P, "prediction", AT, volume, samples))


@triton.jit
def transform_fluxes(P: tl.constexpr, SIGN: tl.constexpr, volume, place, samples):
    """`transform_flux` around the voxel, clamped at the border."""
    here = transform_flux(P, SIGN, HERE, volume, samples)
    z_previous = here
    z_next = here
    if P.dimensions[0]:
        z_previous = transform_flux(P, SIGN, Z_PREVIOUS, volume, samples)
        z_next = transform_flux(P, SIGN, Z_NEXT, volume, samples)
    return Neighbourhood(
        centre=here,
        x_previous=tl.where(place.x == 0, here, transform_flux(P, SIGN, X_PREVIOUS, volume, samples)),
        x_next=tl.where(place.x == volume.W - 1, here, transform_flux(P, SIGN, X_NEXT, volume, samples)),
        y_previous=tl.where(place.y == 0, here, transform_flux(P, SIGN, Y_PREVIOUS, volume, samples)),
        y_next=tl.where(place.y == volume.H - 1, here, transform_flux(P, SIGN, Y_NEXT, volume, samples)),
        z_previous=tl.where(place.z == 0, here, z_previous),
        z_next=tl.where(place.z == volume.D - 1, here, z_next),
    )
