"""The voxel-wise terms of the formula ΣΘΨ/ΣΓ: what each sum adds up at one voxel, and its slope.

The twins of csrc/terms.h. A term is a pair of functions of a `Voxel`: its name, the value that one voxel adds
to the sum; with the suffix _slope, d value / d prediction, or d value / d logit for the terms in FROM_LOGIT.
A term in CONSTANT does not depend on the prediction and has no slope. To add a term, write its functions and
name them in `term_value` and `term_slope`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

CONSTANT = ("count", "target", "target_squared")
FROM_LOGIT = ("cross_entropy_foreground_logit", "cross_entropy_background_logit")


class Voxel(NamedTuple):
    """A tile of voxels; what no term asks for is None."""

    prediction: Any
    target: Any
    logit: Any
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
    """log(1 + x) to relative precision for x >= 0: what 1 + x rounds away is divided out again."""
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


# -g log s, the logarithm clamped at -100 and its slope at 1e12, as torch's binary_cross_entropy does.


@triton.jit
def cross_entropy_foreground(v):
    return -v.target * maximum(tl.log(v.prediction), -100)


@triton.jit
def cross_entropy_foreground_slope(v):
    return -v.target / maximum(v.prediction, 1e-12)


@triton.jit
def cross_entropy_background(v):
    return (v.target - 1) * maximum(tl.log(1 - v.prediction), -100)


@triton.jit
def cross_entropy_background_slope(v):
    return (1 - v.target) / maximum(1 - v.prediction, 1e-12)


# The same two under a sigmoid, from the logit: -log sigmoid(z) = softplus(-z). The choice keeps 0 · ∞ out.


@triton.jit
def cross_entropy_foreground_logit(v):
    weight = v.target
    return tl.where(weight == 0, weight, weight * softplus(-v.logit))


@triton.jit
def cross_entropy_foreground_logit_slope(v):
    return v.target * (v.prediction - 1)


@triton.jit
def cross_entropy_background_logit(v):
    weight = 1 - v.target
    return tl.where(weight == 0, weight, weight * softplus(v.logit))


@triton.jit
def cross_entropy_background_logit_slope(v):
    return (1 - v.target) * v.prediction


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
    elif NAME == "cross_entropy_foreground_logit":
        return cross_entropy_foreground_logit(v)
    elif NAME == "cross_entropy_background_logit":
        return cross_entropy_background_logit(v)
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
    elif NAME == "cross_entropy_foreground_logit":
        return cross_entropy_foreground_logit_slope(v)
    elif NAME == "cross_entropy_background_logit":
        return cross_entropy_background_logit_slope(v)
    elif NAME == "map_prediction":
        return map_prediction_slope(v)
    elif NAME == "map_squared_error":
        return map_squared_error_slope(v)
