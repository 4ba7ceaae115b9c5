"""The terms that are programs: value, slopes and flux at the voxels of a tile.

Of a program with stencils φ_k of the prediction, the gradient gathers the flux, its slopes with respect to
φ_k(s), from the voxels whose stencils read a voxel. Other than FOG's, a stencil may have 26 neighbours,
around each of which a program would have to be run again. So the flux of all voxels is written to memory
first, one volume for each component, by a kernel of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from geoloss_kernels.triton.programs import ANY_PLANE as ANY_PLANE_NUMBER
from geoloss_kernels.triton.programs import Code, Component, OpenTerm
from geoloss_kernels.triton.stencil_terms import HERE
from geoloss_kernels.triton.voxels import field_at, load, pointers, real

ANY_PLANE = tl.constexpr(ANY_PLANE_NUMBER)


@triton.constexpr_function
def is_component(CODE: Code, i: int) -> bool:
    return CODE.is_component(i)


@triton.constexpr_function
def field_name(CODE: Code, i: int) -> str:
    return CODE.field_name(i)


@triton.constexpr_function
def number_of_kind(CODE: Code, i: int) -> int:
    return CODE.fields[i].number


@triton.constexpr_function
def slope_output(TERM: OpenTerm, variable: str) -> int:
    return TERM.slope_output(variable)


@triton.constexpr_function
def flux_outputs(TERM: OpenTerm) -> tuple:
    return TERM.flux_outputs


@triton.constexpr_function
def component_of_flux(TERM: OpenTerm, i: int) -> Component:
    return TERM.component_of_flux(i)


@triton.constexpr_function
def step_along_z(COMPONENT: Component, t: int) -> int:
    return COMPONENT.offsets[t][0]


@triton.constexpr_function
def taps_from(COMPONENT: Component, plane: int, y: int, x: int) -> tuple:
    return COMPONENT.taps_from(plane, y, x)


@triton.constexpr_function
def reads_row(COMPONENT: Component, plane: int, y: int, x: int) -> bool:
    return COMPONENT.reads_row(plane, y, x)


@triton.jit
def component_at(P: tl.constexpr, COMPONENT: tl.constexpr, FIELD: tl.constexpr, volume, samples):
    """φ_k of a field, exactly 0 where that is constant: differences are added up, then weighted."""
    here = field_at(P, FIELD, HERE, samples)
    total = volume.constants[COMPONENT.centre] * here
    group = tl.zeros_like(here)
    for t in tl.static_range(len(COMPONENT.offsets)):
        difference = field_at(P, FIELD, COMPONENT.offsets[t], samples) - here
        if P.masked:
            difference = tl.where(field_at(P, "valid", COMPONENT.offsets[t], samples), difference, 0)
        if COMPONENT.negative[t]:
            group -= difference
        else:
            group += difference
        if COMPONENT.closes[t]:
            total += magnitude_of(COMPONENT, t, volume) * group
            group = tl.zeros_like(here)
    if P.masked:
        total = tl.where(counts(P, COMPONENT, samples), total, 0)
    return total


@triton.jit
def counts(P: tl.constexpr, COMPONENT: tl.constexpr, samples):
    """Whether the voxel is valid, and its neighbours are where the component needs them."""
    valid = field_at(P, "valid", HERE, samples)
    if COMPONENT.needs_all:
        for t in tl.static_range(len(COMPONENT.offsets)):
            valid = valid & field_at(P, "valid", COMPONENT.offsets[t], samples)
    return valid


@triton.jit
def field_of(
    P: tl.constexpr,
    TERM: tl.constexpr,
    CODE: tl.constexpr,
    NUMBER: tl.constexpr,
    volume,
    place,
    samples,
    logarithms,
):
    """What a program reads as its field of that number."""
    NAME: tl.constexpr = field_name(CODE, NUMBER)
    OF_KIND: tl.constexpr = number_of_kind(CODE, NUMBER)
    if is_component(CODE, NUMBER):
        return component_at(P, TERM.components[OF_KIND], NAME, volume, samples)
    elif NAME == "map":
        return real(P, load(volume.maps[OF_KIND], volume, place))
    elif NAME == "log_prediction":
        return logarithms.prediction
    elif NAME == "log_complement":
        return logarithms.complement
    else:
        return field_at(P, NAME, HERE, samples)


@triton.jit
def run_program(P: tl.constexpr, TERM: tl.constexpr, CODE: tl.constexpr, volume, place, samples, logarithms):
    """The outputs of a program, each a tile or a number."""
    fields = ()
    for i in tl.static_range(len(CODE.fields)):
        fields = fields + (field_of(P, TERM, CODE, i, volume, place, samples, logarithms),)
    constants = ()
    for i in tl.static_range(len(CODE.constants)):
        constants = constants + (volume.constants[CODE.constants[i]],)
    return CODE.function(fields, constants)


@triton.jit
def open_value(P: tl.constexpr, TERM: tl.constexpr, volume, place, samples, logarithms):
    return run_program(P, TERM, TERM.density, volume, place, samples, logarithms)[0]


@triton.jit
def open_slope(
    P: tl.constexpr, TERM: tl.constexpr, VARIABLE: tl.constexpr, volume, place, samples, logarithms
):
    """The slope with respect to a variable of the voxel; for the prediction, also by way of stencils."""
    total = tl.zeros_like(place.y + place.x).to(P.real)
    if slope_output(TERM, VARIABLE) >= 0:
        slopes = run_program(P, TERM, TERM.slopes, volume, place, samples, logarithms)
        total += slopes[slope_output(TERM, VARIABLE)]
    if VARIABLE == "prediction":
        for i in tl.static_range(len(flux_outputs(TERM))):
            flux = volume.fluxes[TERM.first_flux + i]
            total += gathered(P, component_of_flux(TERM, i), flux, volume, place, samples)
    return total


@triton.jit
def gathered(P: tl.constexpr, COMPONENT: tl.constexpr, flux, volume, place, samples):
    """The adjoint of the component: Σ_o w_o times the flux of the voxels that read this one by the step o."""
    total = kept_weight(P, COMPONENT, volume, place, samples) * flux_at(flux, 0, 0, 0, volume, place)
    if COMPONENT.loops_over_planes:
        for plane in range(-1, 2):
            total += gathered_from(P, COMPONENT, ANY_PLANE, plane, flux, volume, place)
    else:
        for i in tl.static_range(3):
            plane = tl.full((), i - 1, tl.int32)
            total += gathered_from(P, COMPONENT, i - 1, plane, flux, volume, place)
    return total


@triton.jit
def kept_weight(P: tl.constexpr, COMPONENT: tl.constexpr, volume, place, samples):
    """Of the voxel's own value in its component: of the centre, each difference takes its weight away."""
    total = tl.zeros_like(place.y + place.x).to(P.real) + volume.constants[COMPONENT.centre]
    for t in tl.static_range(len(COMPONENT.offsets)):
        weight = volume.constants[COMPONENT.weights[t]]
        if P.masked and not COMPONENT.needs_all:
            weight = tl.where(field_at(P, "valid", COMPONENT.offsets[t], samples), weight, 0)
        total -= weight
    return total


@triton.jit
def gathered_from(P: tl.constexpr, COMPONENT: tl.constexpr, PLANE: tl.constexpr, plane, flux, volume, place):
    """From the plane beside, which is PLANE: along x, then along y, then weighted by what is left along z."""
    total = tl.zeros_like(place.y + place.x).to(P.real)
    rows = ()  # [y, x step]
    for i in tl.static_range(9):
        if reads_row(COMPONENT, PLANE, i // 3 - 1, i % 3 - 1):
            rows = rows + (gathered_along_x(i // 3 - 1, i % 3 - 1, plane, flux, volume, place),)
        else:
            rows = rows + ((),)
    for i in tl.static_range(9):
        if len(taps_from(COMPONENT, PLANE, i // 3 - 1, i % 3 - 1)) > 0:
            weight = weight_from(P, COMPONENT, PLANE, i // 3 - 1, i % 3 - 1, plane, volume, place)
            if i // 3 == 1:
                total += weight * rows[i]
            else:
                clamped = tl.where(is_clamped(i // 3 - 1, place.y, volume.H), rows[3 + i % 3], 0)
                total += weight * (rows[(2 - i // 3) * 3 + i % 3] + clamped)
    return total


@triton.jit
def gathered_along_x(Y: tl.constexpr, STEP: tl.constexpr, plane, flux, volume, place):
    """The flux of a row's voxels that read this column by a step along x."""
    if STEP == 0:
        return flux_at(flux, plane, Y, 0, volume, place)
    else:
        clamped = tl.where(is_clamped(STEP, place.x, volume.W), flux_at(flux, plane, Y, 0, volume, place), 0)
        return flux_at(flux, plane, Y, -STEP, volume, place) + clamped


@triton.jit
def weight_from(
    P: tl.constexpr,
    COMPONENT: tl.constexpr,
    PLANE: tl.constexpr,
    Y: tl.constexpr,
    X: tl.constexpr,
    plane,
    volume,
    place,
):
    """Of the taps with these steps along y and x, by which the plane reads this one."""
    total = tl.cast(0, P.real)
    for i in tl.static_range(len(taps_from(COMPONENT, PLANE, Y, X))):
        step = step_along_z(COMPONENT, taps_from(COMPONENT, PLANE, Y, X)[i])
        reads = (plane == -step) | ((plane == 0) & is_clamped(step, place.z, volume.D))
        weight = volume.constants[COMPONENT.weights[taps_from(COMPONENT, PLANE, Y, X)[i]]]
        total += tl.where(reads, weight, 0)
    return total


@triton.jit
def is_clamped(STEP: tl.constexpr, position, size):
    """Whether a step from a position is clamped to it; no step always is."""
    if STEP == 0:
        return position >= 0
    elif STEP > 0:
        return position == size - 1
    else:
        return position == 0


@triton.jit
def flux_at(flux, plane, Y: tl.constexpr, X: tl.constexpr, volume, place):
    """In the plane beside, at an offset there; 0 outside of the volume."""
    z = place.z + plane
    y = place.y + Y
    x = place.x + X
    inside = place.inside & (z >= 0) & (z < volume.D) & (y >= 0) & (y < volume.H) & (x >= 0) & (x < volume.W)
    moved = plane * flux.stride_z + Y * flux.stride_y + X * flux.stride_x
    return tl.load(pointers(flux, volume, place) + moved, mask=inside, other=0)


@triton.jit
def magnitude_of(COMPONENT: tl.constexpr, T: tl.constexpr, volume):
    """|weight| of a tap."""
    if COMPONENT.negative[T]:
        return -volume.constants[COMPONENT.weights[T]]
    else:
        return volume.constants[COMPONENT.weights[T]]


@triton.jit
def store_fluxes(P: tl.constexpr, TERM: tl.constexpr, volume, place, samples, logarithms):
    """The flux of a term's components, 0 where they do not count."""
    slopes = run_program(P, TERM, TERM.slopes, volume, place, samples, logarithms)
    for i in tl.static_range(len(flux_outputs(TERM))):
        value = tl.zeros_like(place.y + place.x).to(P.real) + slopes[flux_outputs(TERM)[i]]
        if P.masked:
            value = tl.where(counts(P, component_of_flux(TERM, i), samples), value, 0)
        to = volume.fluxes[TERM.first_flux + i]
        tl.store(pointers(to, volume, place), value, mask=place.inside)
