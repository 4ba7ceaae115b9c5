"""Tiles of voxels: where they lie, how they are read, and what of them is kept along the march.

A program works on a tile [BLOCK_Y, BLOCK_X] of one plane after the other. A stencil reads the tile at offsets
(dz, dy, dx), clamped to the volume: the samples. Of the samples of one plane, those that the next plane reads
again, one offset in z further down, stay in registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from geoloss_kernels.triton.plan import Plan
from geoloss_kernels.triton.stencil import Neighbourhood, keep
from geoloss_kernels.triton.terms import maximum, sigmoid


class View(NamedTuple):
    """A strided volume per batch element and channel; a stride of 0 repeats. Strides in elements."""

    data: Any
    stride_n: Any
    stride_c: Any
    stride_z: Any
    stride_y: Any
    stride_x: Any


class Volume(NamedTuple):
    """What geo_sums works on, of batch element ``n``; mask and ignore_index are None where not given.

    ``maps`` are `View` s, None those that no column reads; ``scales`` one `PerAxis` for each that differs:
    1/h of first-order columns, 1/h² of second-order ones. ``constants`` are the programs' numbers, ``fluxes``
    `View` s of their slopes with respect to stencils, for the passes that write or gather them.
    """

    n: Any
    C: Any
    D: Any
    H: Any
    W: Any
    input: Any
    target: Any
    mask: Any
    maps: Any
    ignore_index: Any
    scales: Any
    constants: Any
    fluxes: Any


class Place(NamedTuple):
    """A tile: channel c, plane z, y [BLOCK_Y, 1], x [1, BLOCK_X], and which voxels lie inside the volume."""

    c: Any
    z: Any
    y: Any
    x: Any
    inside: Any


class Samples(NamedTuple):
    """Tuples of tiles, one per offset. Prediction, target and error are 0 where they are not valid."""

    valid: Any
    prediction: Any
    target: Any
    error: Any


@triton.constexpr_function
def offsets_of(P: Plan, field: str) -> tuple:
    """Where a field is sampled."""
    return getattr(P, field)


@triton.constexpr_function
def carried(P: Plan, field: str) -> tuple:
    """The offsets that the previous plane has sampled, too."""
    offsets = getattr(P, field)
    return tuple(offset for offset in offsets if (offset[0] + 1, *offset[1:]) in offsets)


@triton.constexpr_function
def wanted_offsets(P: Plan, field: str, wanted: str) -> tuple:
    """What `sample_field` gives."""
    return carried(P, field) if wanted == "carried" else getattr(P, field)


@triton.constexpr_function
def kept_offsets(P: Plan, field: str, wanted: str) -> tuple:
    """What of this it does not have to sample."""
    return carried(P, field) if wanted == "rest" else ()


@triton.constexpr_function
def carried_ahead(P: Plan, field: str) -> tuple:
    """The same samples, seen from the plane before."""
    offsets = getattr(P, field)
    ahead = tuple((offset[0] + 1, *offset[1:]) for offset in offsets)
    return tuple(offset for offset in ahead if offset in offsets)


@triton.constexpr_function
def index_of(offsets: tuple, offset: tuple) -> int:
    """The place of ``offset`` among ``offsets``, -1 if it is not there."""
    return offsets.index(offset) if offset in offsets else -1


@triton.constexpr_function
def beside(offset: tuple, dz: int, dy: int, dx: int) -> tuple:
    return (offset[0] + dz, offset[1] + dy, offset[2] + dx)


@triton.jit
def moved(volume, place, OFFSET: tl.constexpr):
    """The tile at an offset, clamped to the volume."""
    return Place(
        c=place.c,
        z=clamped(place.z, volume.D, tl.constexpr(OFFSET[0])),
        y=clamped(place.y, volume.H, tl.constexpr(OFFSET[1])),
        x=clamped(place.x, volume.W, tl.constexpr(OFFSET[2])),
        inside=place.inside,
    )


@triton.jit
def clamped(position, size, STEP: tl.constexpr):
    if STEP == 0:
        return position
    elif STEP > 0:
        return tl.minimum(position + STEP, size - 1)
    else:
        return tl.maximum(position + STEP, 0)


@triton.jit
def pointers(view, volume, place):
    plane = volume.n * view.stride_n + place.c * view.stride_c + place.z * view.stride_z
    return view.data + plane + (place.y * view.stride_y + place.x * view.stride_x)


@triton.jit
def load(view, volume, place):
    """A tile of ``view``, as it is in memory."""
    return tl.load(pointers(view, volume, place), mask=place.inside, other=0)


@triton.jit
def real(P: tl.constexpr, value):
    """In the arithmetic type. Half precision goes by way of float32, which is exact."""
    if value.dtype.is_floating() and value.dtype.primitive_bitwidth == 16:
        return value.to(tl.float32).to(P.real)
    else:
        return value.to(P.real)


@triton.jit
def equals(value, number):
    """value == number, exactly."""
    if value.dtype.is_floating():
        return value.to(tl.float64) == tl.cast(number, tl.float64)
    else:
        return value.to(tl.int64) == number


@triton.jit
def valid_at(volume, place):
    valid = place.inside
    if volume.mask is not None:
        valid = valid & (load(volume.mask, volume, place) != 0)
    if volume.ignore_index is not None:
        valid = valid & (equals(load(volume.target, volume, place), volume.ignore_index) == 0)
    return valid


@triton.jit
def target_at(P: tl.constexpr, volume, place):
    value = load(volume.target, volume, place)
    if P.labels:
        return equals(value, place.c).to(P.real)
    else:
        return real(P, value)


@triton.jit
def logit_at(P: tl.constexpr, volume, place):
    return real(P, load(volume.input, volume, place))


@triton.jit
def in_channel(place, c):
    return Place(c=tl.cast(c, tl.int64), z=place.z, y=place.y, x=place.x, inside=place.inside)


class Normaliser(NamedTuple):
    """Of a voxel's softmax."""

    largest: Any
    """logit m"""
    total: Any
    """Σ_c exp(z_c - m)"""


@triton.jit
def softmax_normaliser(P: tl.constexpr, volume, place):
    largest = logit_at(P, volume, in_channel(place, 0))
    for c in range(1, volume.C):
        largest = maximum(largest, logit_at(P, volume, in_channel(place, c)))
    total = tl.zeros_like(largest)
    for c in range(0, volume.C):
        total += tl.exp(logit_at(P, volume, in_channel(place, c)) - largest)
    return Normaliser(largest=largest, total=total)


@triton.jit
def softmax(logit, normaliser):
    return tl.exp(logit - normaliser.largest) / normaliser.total


@triton.jit
def softmax_normalisers(P: tl.constexpr, WANTED: tl.constexpr, volume, place):
    """For each offset of P.normalised `softmax_normaliser`, or () if it is not wanted."""
    normalisers = ()
    for i in tl.static_range(len(P.normalised)):
        if index_of(WANTED, P.normalised[i]) >= 0:
            there = moved(volume, place, tl.constexpr(P.normalised[i]))
            normalisers = normalisers + (softmax_normaliser(P, volume, there),)
        else:
            normalisers = normalisers + ((),)
    return normalisers


@triton.jit
def prediction_at(P: tl.constexpr, volume, place, normaliser):
    """s; ``normaliser`` is that of the softmax, () where it is not known yet."""
    logit = logit_at(P, volume, place)
    if P.activation == "none":
        return logit
    elif P.activation == "sigmoid":
        return sigmoid(logit)
    elif len(normaliser) == 0:
        return softmax(logit, softmax_normaliser(P, volume, place))
    else:
        return softmax(logit, normaliser)


@triton.jit
def sample(P: tl.constexpr, FIELD: tl.constexpr, volume, place, valid, normaliser):
    """One tile of a field of `Samples`."""
    if FIELD == "valid":
        return valid_at(volume, place)
    elif FIELD == "prediction":
        return keep(P, valid, prediction_at(P, volume, place, normaliser))
    elif FIELD == "target":
        return keep(P, valid, target_at(P, volume, place))
    else:
        prediction = prediction_at(P, volume, place, normaliser)
        return keep(P, valid, prediction - target_at(P, volume, place))


@triton.jit
def sample_field(
    P: tl.constexpr, FIELD: tl.constexpr, WANTED: tl.constexpr, volume, place, kept, valid, normalisers
):
    """A field at "all" of its offsets, at those "carried", or at all with the carried ones kept: "rest".

    ``valid`` is sampled at P.valid, ``normalisers`` as `softmax_normalisers` gives them, or nowhere.
    """
    OFFSETS: tl.constexpr = wanted_offsets(P, FIELD, WANTED)
    KEPT: tl.constexpr = kept_offsets(P, FIELD, WANTED)
    samples = ()
    for i in tl.static_range(len(OFFSETS)):
        if index_of(KEPT, OFFSETS[i]) >= 0:
            samples = samples + (kept[index_of(KEPT, OFFSETS[i])],)
        else:
            there = moved(volume, place, tl.constexpr(OFFSETS[i]))
            ok = place.inside
            if P.masked and FIELD != "valid":
                ok = valid[index_of(P.valid, OFFSETS[i])]
            normaliser = ()
            if len(normalisers) > 0 and FIELD != "valid" and FIELD != "target":
                normaliser = normalisers[index_of(P.normalised, OFFSETS[i])]
            samples = samples + (sample(P, FIELD, volume, there, ok, normaliser),)
    return samples


@triton.jit
def first_samples(P: tl.constexpr, volume, place):
    """What `next_samples` finds kept at a program's first plane."""
    valid = sample_field(P, "valid", "all", volume, place, (), (), ())
    return Samples(
        valid=sample_field(P, "valid", "carried", volume, place, (), (), ()),
        prediction=sample_field(P, "prediction", "carried", volume, place, (), valid, ()),
        target=sample_field(P, "target", "carried", volume, place, (), valid, ()),
        error=sample_field(P, "error", "carried", volume, place, (), valid, ()),
    )


@triton.jit
def all_samples(P: tl.constexpr, volume, place, normalisers):
    """All samples of a plane, nothing kept."""
    valid = sample_field(P, "valid", "all", volume, place, (), (), ())
    return Samples(
        valid=valid,
        prediction=sample_field(P, "prediction", "all", volume, place, (), valid, normalisers),
        target=sample_field(P, "target", "all", volume, place, (), valid, normalisers),
        error=sample_field(P, "error", "all", volume, place, (), valid, normalisers),
    )


@triton.jit
def next_samples(P: tl.constexpr, volume, place, kept, normalisers):
    """All samples of a plane, given those that `kept_samples` kept of the plane before."""
    valid = sample_field(P, "valid", "rest", volume, place, kept.valid, (), ())
    return Samples(
        valid=valid,
        prediction=sample_field(P, "prediction", "rest", volume, place, kept.prediction, valid, normalisers),
        target=sample_field(P, "target", "rest", volume, place, kept.target, valid, normalisers),
        error=sample_field(P, "error", "rest", volume, place, kept.error, valid, normalisers),
    )


@triton.jit
def kept_samples(P: tl.constexpr, samples):
    """The samples that the next plane reads again."""
    return Samples(
        valid=kept_field(P, "valid", samples.valid),
        prediction=kept_field(P, "prediction", samples.prediction),
        target=kept_field(P, "target", samples.target),
        error=kept_field(P, "error", samples.error),
    )


@triton.jit
def kept_field(P: tl.constexpr, FIELD: tl.constexpr, samples):
    AHEAD: tl.constexpr = carried_ahead(P, FIELD)
    kept = ()
    for i in tl.static_range(len(AHEAD)):
        kept = kept + (samples[index_of(offsets_of(P, FIELD), AHEAD[i])],)
    return kept


@triton.constexpr_function
def is_sampled(P: Plan, field: str, offset: tuple) -> bool:
    if field == "error":
        return offset in P.error or (offset in P.prediction and offset in P.target)
    return offset in getattr(P, field)


@triton.jit
def field_at(P: tl.constexpr, FIELD: tl.constexpr, OFFSET: tl.constexpr, samples):
    if FIELD == "valid":
        return samples.valid[index_of(P.valid, OFFSET)]
    elif FIELD == "prediction":
        return samples.prediction[index_of(P.prediction, OFFSET)]
    elif FIELD == "target":
        return samples.target[index_of(P.target, OFFSET)]
    elif index_of(P.error, OFFSET) >= 0:
        return samples.error[index_of(P.error, OFFSET)]
    else:
        return samples.prediction[index_of(P.prediction, OFFSET)] - samples.target[index_of(P.target, OFFSET)]


@triton.jit
def neighbour(P: tl.constexpr, FIELD: tl.constexpr, OFFSET: tl.constexpr, samples, centre):
    """The field at the offset; the centre in place of one that no stencil reads."""
    if is_sampled(P, FIELD, OFFSET):
        return field_at(P, FIELD, OFFSET, samples)
    else:
        return centre


@triton.jit
def neighbourhood(P: tl.constexpr, FIELD: tl.constexpr, AT: tl.constexpr, samples):
    """The field at the offset AT and around it."""
    centre = field_at(P, FIELD, AT, samples)
    return Neighbourhood(
        centre=centre,
        x_previous=neighbour(P, FIELD, beside(AT, 0, 0, -1), samples, centre),
        x_next=neighbour(P, FIELD, beside(AT, 0, 0, 1), samples, centre),
        y_previous=neighbour(P, FIELD, beside(AT, 0, -1, 0), samples, centre),
        y_next=neighbour(P, FIELD, beside(AT, 0, 1, 0), samples, centre),
        z_previous=neighbour(P, FIELD, beside(AT, -1, 0, 0), samples, centre),
        z_next=neighbour(P, FIELD, beside(AT, 1, 0, 0), samples, centre),
    )


@triton.jit
def validity(P: tl.constexpr, AT: tl.constexpr, samples, unmasked):
    """The neighbourhood of `valid`, or what is given where there is no mask: nobody reads it."""
    if P.masked:
        return neighbourhood(P, "valid", AT, samples)
    else:
        return unmasked
