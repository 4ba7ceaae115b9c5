"""log s and log(1 - s) of a voxel's channel.

They come from the logits z where there are any, so that they hold where s is 0 or 1 to rounding. Under a
softmax, with m the largest logit, log s = z - m - log Σ exp(z - m). The complement of the channel a of the
largest logit, 1 - s, may vanish to rounding while its logarithm is finite: it is the share of the other
channels, Σ exp(z - m2) exp(m2 - m) / Σ exp(z - m), m2 the largest of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from geoloss_kernels.triton.terms import clamped_logarithm, logarithm_1p, maximum, softplus
from geoloss_kernels.triton.voxels import in_channel, logit_at

MINUS_INFINITY = tl.constexpr(float("-inf"))


class Others(NamedTuple):
    """The channels of a voxel but for the first with the largest logit."""

    left_out: Any
    """that channel"""
    largest: Any
    """logit of the others, m2; 0 where it is -∞"""
    total: Any
    """Σ exp(z - m2) over the others"""


@triton.jit
def other_channels(P: tl.constexpr, volume, place, normaliser):
    left_out = tl.full(normaliser.largest.shape, -1, tl.int64)
    largest = tl.full(normaliser.largest.shape, MINUS_INFINITY, P.real)
    for c in range(0, volume.C):
        logit = logit_at(P, volume, in_channel(place, c))
        leads = (logit == normaliser.largest) & (left_out < 0)
        left_out = tl.where(leads, c, left_out)
        largest = tl.where(leads, largest, maximum(largest, logit))
    largest = tl.where(largest == MINUS_INFINITY, 0, largest)
    total = tl.zeros_like(largest)
    for c in range(0, volume.C):
        power = tl.exp(logit_at(P, volume, in_channel(place, c)) - largest)
        total += tl.where(left_out == c, 0, power)
    return Others(left_out=left_out, largest=largest, total=total)


@triton.jit
def share_of_others(P: tl.constexpr, volume, place, others):
    """Of channel place.c among the others; 0 for the one that is left out."""
    power = tl.exp(logit_at(P, volume, place) - others.largest)
    share = power / tl.where(others.total == 0, 1, others.total)
    return tl.where(others.left_out == place.c, 0, share)


@triton.jit
def log_prediction(P: tl.constexpr, volume, place, s, normaliser):
    """log s at the voxels of ``place``."""
    if P.activation == "none":
        return clamped_logarithm(s)
    elif P.activation == "sigmoid":
        return -softplus(-logit_at(P, volume, place))
    else:
        return logit_at(P, volume, place) - normaliser.largest - tl.log(normaliser.total)


@triton.jit
def log_complement(P: tl.constexpr, volume, place, s, normaliser):
    """log(1 - s) at the voxels of ``place``."""
    if P.activation == "none":
        return clamped_logarithm(1 - s)
    elif P.activation == "sigmoid":
        return -softplus(logit_at(P, volume, place))
    else:
        others = other_channels(P, volume, place, normaliser)
        distance = others.largest - normaliser.largest
        of_others = tl.log(others.total) + distance - tl.log(normaliser.total)
        return tl.where(others.left_out == place.c, of_others, logarithm_1p(-s))
