"""The gradient of a tile of voxels: the slopes of all columns, through the activation.

Of a voxel's channel, p, h and b are the slopes with respect to s, log s and log(1 - s). Through
    no activation   p + h / s - b / (1 - s), the divisors clamped
    a sigmoid       p s (1 - s) + h (1 - s) - b s
    a softmax       q_j - s_j Σ_c q_c with q_c = s_c p_c + h_c - b_c s_c / (1 - s_c)
The last quotient is left out for the channel a of the largest logit, whose 1 - s may vanish: d log(1 - s_a)
is s_a (t_j - δ_aj) dz_j with t_j the share of channel j among the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from geoloss_kernels.triton.logarithms import other_channels, share_of_others
from geoloss_kernels.triton.plan import Column
from geoloss_kernels.triton.stencil_terms import HERE
from geoloss_kernels.triton.terms import clamped_logarithm_slope
from geoloss_kernels.triton.values import slope_of
from geoloss_kernels.triton.voxels import (
    all_samples,
    field_at,
    in_channel,
    index_of,
    offsets_of,
    pointers,
    prediction_at,
    softmax_normalisers,
    valid_at,
)


class Weights(NamedTuple):
    """∂L/∂S of channel 0 of a batch element, if it were summed; and the first channel that is."""

    data: Any
    first_channel: Any


@triton.constexpr_function
def is_variable(COLUMN: Column, variable: str) -> bool:
    return variable in COLUMN.variables


@triton.jit
def weighted_slopes(
    P: tl.constexpr, VARIABLE: tl.constexpr, volume, place, samples, normalisers, weights, K: tl.constexpr
):
    """Σ_k weight_k · slope_k over the columns whose slope is with respect to the variable."""
    summed = place.c >= weights.first_channel
    total = tl.zeros_like(place.y + place.x).to(P.real)
    for k in tl.static_range(len(P.columns)):
        if is_variable(P.columns[k], VARIABLE):
            weight = tl.load(weights.data + place.c * K + P.columns[k].place, mask=summed, other=0)
            total += weight * slope_of(P, P.columns[k], VARIABLE, volume, place, samples, normalisers)
    if P.masked:
        total = tl.where(field_at(P, "valid", HERE, samples), total, 0)
    return tl.where(summed, total, 0)


@triton.jit
def log_prediction_slope(P: tl.constexpr, s):
    """∂ log s / ∂ input, without a softmax."""
    if P.activation == "none":
        return clamped_logarithm_slope(s)
    else:
        return 1 - s


@triton.jit
def log_complement_slope(P: tl.constexpr, s):
    """∂ log(1 - s) / ∂ input, without a softmax."""
    if P.activation == "none":
        return -clamped_logarithm_slope(1 - s)
    else:
        return -s


@triton.jit
def gradient_at(P: tl.constexpr, volume, place, samples, weights, K: tl.constexpr):
    """Without a softmax."""
    gradient = weighted_slopes(P, "prediction", volume, place, samples, (), weights, K)
    if P.activation == "none" and not (P.log_prediction or P.log_complement):
        return gradient
    else:
        s = field_at(P, "prediction", HERE, samples)
        if P.activation == "sigmoid":
            gradient *= s * (1 - s)
        if P.log_prediction:
            slope = weighted_slopes(P, "log_prediction", volume, place, samples, (), weights, K)
            gradient += slope * log_prediction_slope(P, s)
        if P.log_complement:
            slope = weighted_slopes(P, "log_complement", volume, place, samples, (), weights, K)
            gradient += slope * log_complement_slope(P, s)
        return gradient


class SoftmaxSlope(NamedTuple):
    """Of a channel: s, q, and b s where it is the one of the largest logit."""

    prediction: Any
    q: Any
    of_largest: Any


@triton.jit
def softmax_slope(P: tl.constexpr, volume, place, normalisers, others, weights, K: tl.constexpr):
    samples = all_samples(P, volume, place, normalisers)
    s = prediction_at(P, volume, place, normalisers[index_of(P.normalised, HERE)])
    q = s * weighted_slopes(P, "prediction", volume, place, samples, normalisers, weights, K)
    of_largest = tl.zeros_like(s)
    if P.log_prediction:
        q += weighted_slopes(P, "log_prediction", volume, place, samples, normalisers, weights, K)
    if P.log_complement:
        slope = weighted_slopes(P, "log_complement", volume, place, samples, normalisers, weights, K)
        slope *= s
        is_largest = others.left_out == place.c
        q -= tl.where(is_largest, 0, slope / (1 - s))
        of_largest = tl.where(is_largest, slope, 0)
    return SoftmaxSlope(prediction=s, q=q, of_largest=of_largest)


@triton.jit
def write_softmax_gradient(P: tl.constexpr, volume, plane, weights, K: tl.constexpr, grad_input):
    """Of all channels."""
    normalisers = softmax_normalisers(P, offsets_of(P, "normalised"), volume, plane)
    others = ()
    if P.log_complement:
        others = other_channels(P, volume, plane, normalisers[index_of(P.normalised, HERE)])
    total = tl.zeros_like(plane.y + plane.x).to(P.real)
    of_largest = total
    readable = plane.inside
    if P.masked:
        readable = plane.inside & False  # in no channel, so far
    for c in range(0, volume.C):
        place = in_channel(plane, c)
        slope = softmax_slope(P, volume, place, normalisers, others, weights, K)
        total += slope.q
        of_largest += slope.of_largest
        if P.masked:
            readable = readable | valid_at(volume, place)
    for c in range(0, volume.C):
        place = in_channel(plane, c)
        slope = softmax_slope(P, volume, place, normalisers, others, weights, K)
        gradient = slope.q - slope.prediction * total
        if P.log_complement:
            gradient += of_largest * share_of_others(P, volume, place, others) - slope.of_largest
        store(grad_input, volume, place, tl.where(readable, gradient, 0))


@triton.jit
def store(view, volume, place, value):
    tl.store(pointers(view, volume, place), value.to(view.data.dtype.element_ty), mask=place.inside)
