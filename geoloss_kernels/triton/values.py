"""What a column of the sums adds up at the voxels of a tile, and its slope.

By its kind it is a term of `terms.py`, of `stencil_terms.py` or of `open_terms.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from geoloss_kernels.triton.logarithms import log_complement, log_prediction
from geoloss_kernels.triton.open_terms import open_slope, open_value
from geoloss_kernels.triton.plan import CENTRE, Column, Plan
from geoloss_kernels.triton.stencil_terms import (
    HERE,
    first_order,
    first_order_slope,
    second_order,
    second_order_slope,
)
from geoloss_kernels.triton.terms import Voxel, term_slope, term_value
from geoloss_kernels.triton.voxels import field_at, index_of, load, real


class Logarithms(NamedTuple):
    """log s and log(1 - s); the prediction in place of the one that the column does not take."""

    prediction: Any
    complement: Any


@triton.constexpr_function
def offsets_of_logarithms(P: Plan) -> tuple:
    """Where a logarithm is taken, with what the softmax there is normalised by."""
    return (CENTRE,) if P.log_prediction or P.log_complement else ()


@triton.constexpr_function
def takes_logarithm(COLUMN: Column, variable: str, of_slopes: bool) -> bool:
    return COLUMN.takes_logarithm(variable, of_slopes)


@triton.jit
def logarithms_at(
    P: tl.constexpr, COLUMN: tl.constexpr, OF_SLOPES: tl.constexpr, volume, place, s, normalisers
):
    """What a column takes."""
    of_prediction = s
    of_complement = s
    normaliser = ()
    if len(normalisers) > 0:
        normaliser = normalisers[index_of(P.normalised, HERE)]
    if takes_logarithm(COLUMN, "log_prediction", OF_SLOPES):
        of_prediction = log_prediction(P, volume, place, s, normaliser)
    if takes_logarithm(COLUMN, "log_complement", OF_SLOPES):
        of_complement = log_complement(P, volume, place, s, normaliser)
    return Logarithms(prediction=of_prediction, complement=of_complement)


@triton.jit
def voxel_at(P: tl.constexpr, COLUMN: tl.constexpr, volume, place, samples, logarithms):
    """What a column's voxel-wise term sees."""
    prediction = field_at(P, "prediction", HERE, samples)
    map = prediction
    if COLUMN.map is not None:
        map = real(P, load(volume.maps[COLUMN.map], volume, place))
    return Voxel(
        prediction=prediction,
        target=field_at(P, "target", HERE, samples),
        log_prediction=logarithms.prediction,
        log_complement=logarithms.complement,
        map=map,
    )


@triton.jit
def value_of(P: tl.constexpr, COLUMN: tl.constexpr, volume, place, samples, normalisers):
    """What a column adds up at each voxel of the tile."""
    if COLUMN.stencil == "first_order":
        return first_order(P, COLUMN, volume, samples)
    elif COLUMN.stencil == "second_order":
        return second_order(P, COLUMN, volume, samples)
    else:
        s = field_at(P, "prediction", HERE, samples)
        logarithms = logarithms_at(P, COLUMN, False, volume, place, s, normalisers)
        if COLUMN.program is not None:
            return open_value(P, COLUMN.program, volume, place, samples, logarithms)
        else:
            return term_value(COLUMN.name, voxel_at(P, COLUMN, volume, place, samples, logarithms))


@triton.jit
def slope_of(
    P: tl.constexpr, COLUMN: tl.constexpr, VARIABLE: tl.constexpr, volume, place, samples, normalisers
):
    """∂ sum / ∂ a variable of the column at each voxel of the tile."""
    if COLUMN.stencil == "first_order":
        return first_order_slope(P, COLUMN, volume, place, samples)
    elif COLUMN.stencil == "second_order":
        return second_order_slope(P, COLUMN, volume, place, samples)
    else:
        s = field_at(P, "prediction", HERE, samples)
        logarithms = logarithms_at(P, COLUMN, True, volume, place, s, normalisers)
        if COLUMN.program is not None:
            return open_slope(P, COLUMN.program, VARIABLE, volume, place, samples, logarithms)
        else:
            return term_slope(COLUMN.name, voxel_at(P, COLUMN, volume, place, samples, logarithms))
