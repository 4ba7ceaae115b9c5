"""The voxel-wise terms of the formula ΣΘΨ/ΣΓ: what each sum adds up at one voxel, and its slope.

The twins of csrc/terms.h. A term is a pair of functions of a `Voxel`: its name, the value that one voxel adds
to the sum; with the suffix _slope, d value / d variable, the variable being log s or log(1 - s) for a term
that starts from that, else s. A term that does not depend on the prediction has no slope. To add a term,
write its functions and name them in `term_value` and `term_slope`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Voxel(NamedTuple):
    """A tile of voxels; in place of what the term does not ask for, the prediction."""

    prediction: Any
    target: Any
    log_prediction: Any
    log_complement: Any
    map: Any


# Each comparison with NaN is false, so the functions below hand a NaN on.


@triton.jit
def maximum(x, bound):
    return tl.where(x < bound, bound, x)


@triton.jit
def absolute(x):
    return tl.where(x < 0, -x, x)


@triton.jit
def sign(x):
    return tl.where(x > 0, 1, tl.where(x < 0, -1, x))


@triton.jit
def logarithm_1p(x):
    """log(1 + x) to relative precision for x > -1: what 1 + x rounds away is divided out again."""
    rounded = 1 + x
    lost = rounded == 1
    return tl.where(lost, x, tl.log(rounded) * (x / tl.where(lost, 1, rounded - 1)))


@triton.jit
def softplus(x):
    """log(1 + exp(x)) without overflow."""
    return maximum(x, 0) + logarithm_1p(tl.exp(-absolute(x)))


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))


# The logarithms of a probability that comes without a logit, and their slopes: clamped as in torch's
# binary_cross_entropy.


@triton.jit
def clamped_logarithm(probability):
    return maximum(tl.log(probability), -100)


@triton.jit
def clamped_logarithm_slope(probability):
    return 1 / maximum(probability, 1e-12)


@triton.jit
def count(v):
    return 1 + tl.zeros_like(v.prediction)


@triton.jit
def prediction(v):
    return v.prediction


@triton.jit
def prediction_slope(v):
    return 1 + tl.zeros_like(v.prediction)


@triton.jit
def target(v):
    return v.target


@triton.jit
def intersection(v):
    return v.prediction * v.target


@triton.jit
def intersection_slope(v):
    return v.target


@triton.jit
def prediction_squared(v):
    return v.prediction * v.prediction


@triton.jit
def prediction_squared_slope(v):
    return v.prediction + v.prediction


@triton.jit
def target_squared(v):
    return v.target * v.target


@triton.jit
def absolute_error(v):
    return absolute(v.prediction - v.target)


@triton.jit
def absolute_error_slope(v):
    return sign(v.prediction - v.target)


@triton.jit
def squared_error(v):
    error = v.prediction - v.target
    return error * error


@triton.jit
def squared_error_slope(v):
    error = v.prediction - v.target
    return error + error


@triton.jit
def weighted_surprise(weight, logarithm):
    """-weight · logarithm. The choice keeps 0 · ∞ out."""
    return tl.where(weight == 0, weight, -weight * logarithm)


@triton.jit
def cross_entropy_foreground(v):
    return weighted_surprise(v.target, v.log_prediction)


@triton.jit
def cross_entropy_foreground_slope(v):
    return -v.target


@triton.jit
def cross_entropy_background(v):
    return weighted_surprise(1 - v.target, v.log_complement)


@triton.jit
def cross_entropy_background_slope(v):
    return v.target - 1


@triton.jit
def cross_entropy_uniform(v):
    """The target of smoothed labels."""
    return -v.log_prediction


@triton.jit
def cross_entropy_uniform_slope(v):
    return tl.zeros_like(v.prediction) - 1


@triton.jit
def map_prediction(v):
    return v.prediction * v.map


@triton.jit
def map_prediction_slope(v):
    return v.map


@triton.jit
def map_squared_error(v):
    return squared_error(v) * v.map


@triton.jit
def map_squared_error_slope(v):
    return squared_error_slope(v) * v.map


@triton.jit
def term_value(NAME: tl.constexpr, v):
    """What the term NAME adds at the voxels ``v``."""
    if NAME == "count":
        return count(v)
    elif NAME == "prediction":
        return prediction(v)
    elif NAME == "target":
        return target(v)
    elif NAME == "intersection":
        return intersection(v)
    elif NAME == "prediction_squared":
        return prediction_squared(v)
    elif NAME == "target_squared":
        return target_squared(v)
    elif NAME == "absolute_error":
        return absolute_error(v)
    elif NAME == "squared_error":
        return squared_error(v)
    elif NAME == "cross_entropy_foreground":
        return cross_entropy_foreground(v)
    elif NAME == "cross_entropy_background":
        return cross_entropy_background(v)
    elif NAME == "cross_entropy_uniform":
        return cross_entropy_uniform(v)
    elif NAME == "map_prediction":
        return map_prediction(v)
    elif NAME == "map_squared_error":
        return map_squared_error(v)


@triton.jit
def term_slope(NAME: tl.constexpr, v):
    """The slope of the term NAME at the voxels ``v``."""
    if NAME == "prediction":
        return prediction_slope(v)
    elif NAME == "intersection":
        return intersection_slope(v)
    elif NAME == "prediction_squared":
        return prediction_squared_slope(v)
    elif NAME == "absolute_error":
        return absolute_error_slope(v)
    elif NAME == "squared_error":
        return squared_error_slope(v)
    elif NAME == "cross_entropy_foreground":
        return cross_entropy_foreground_slope(v)
    elif NAME == "cross_entropy_background":
        return cross_entropy_background_slope(v)
    elif NAME == "cross_entropy_uniform":
        return cross_entropy_uniform_slope(v)
    elif NAME == "map_prediction":
        return map_prediction_slope(v)
    elif NAME == "map_squared_error":
        return map_squared_error_slope(v)
