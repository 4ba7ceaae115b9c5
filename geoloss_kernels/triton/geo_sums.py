"""geo_sums in Triton: activation, stencils and reduction in one pass over input and target.

A volume is cut into blocks: a tile [BLOCK_Y, BLOCK_X] of rows and a few planes, through which a program
marches along z. For the tile of a plane it samples prediction and target, or their difference, at the
offsets that the terms read (`plan.py`): forward differences read a voxel and the next along each axis, their
adjoint 13 voxels. The samples that the next plane reads again stay in registers. The others come from memory
or, nearly always, from cache, as another sample of the same or of a neighbouring program has read them
before. Neighbours are clamped to the volume by their index, so that they need no masks of their own.

    forward    samples ──▶ terms ──▶ partial sums [N, C', K, blocks]
               partial sums ──▶ sums [N, C', K] and, for geo_loss, their ratio; one program per volume
    backward   samples ──▶ flux Ψ'(D e) of the voxel and of the neighbours whose flux reaches it ──▶ gradient

Each element of the gradient is written once, and sums are added in a fixed order: the same bits in every
run. Under a softmax, a program of the backward pass has all channels. It normalises each sampled voxel once,
goes through the channels for m = Σ_c s_c G_c, and once more to write s_c (G_c - m).

Forward moves input + target, backward input + target + gradient; the planes next to a block are read twice,
the second time mostly from cache. Rows that are aligned and contiguous are read and written 16 bytes at a
time, except for neighbours along x. Half precision is widened on loading and rounded on storing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from geoloss_kernels.triton import launch
from geoloss_kernels.triton.arguments import Arguments, view_of
from geoloss_kernels.triton.geo_ratio import Rows, check_ratio, ratio_of, rows_of
from geoloss_kernels.triton.numbers import number, real_of
from geoloss_kernels.triton.stencil import PerAxis
from geoloss_kernels.triton.stencil_terms import (
    HERE,
    first_order,
    first_order_slope,
    second_order,
    second_order_slope,
)
from geoloss_kernels.triton.terms import Voxel, term_slope, term_value
from geoloss_kernels.triton.voxels import (
    Place,
    Volume,
    all_samples,
    field_at,
    first_samples,
    in_channel,
    index_of,
    kept_samples,
    load,
    logit_at,
    next_samples,
    pointers,
    prediction_at,
    real,
    softmax_normalisers,
    valid_at,
)

# What differs from call to call makes no kernel of its own. W does: it tells whether rows are whole vectors.
SIZES = ("ignore_index", "C", "D", "H", "first_channel", "planes", "tiles_y", "tiles_x", "blocks")


@triton.jit
def per_axis(numbers, REAL: tl.constexpr):
    """Numbers for z, y, x."""
    return PerAxis(x=number(numbers[2], REAL), y=number(numbers[1], REAL), z=number(numbers[0], REAL))


@triton.jit
def tile_of(
    P: tl.constexpr, block, c, H, W, planes, tiles_y, tiles_x, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr
):
    """The block's first plane."""
    y = (block // tiles_x % tiles_y * BLOCK_Y).to(P.index) + tl.arange(0, BLOCK_Y)[:, None]
    x = (block % tiles_x * BLOCK_X).to(P.index) + tl.arange(0, BLOCK_X)[None, :]
    return Place(c=c, z=block // tiles_x // tiles_y * planes, y=y, x=x, inside=(y < H) & (x < W))


@triton.jit
def in_plane(place, z):
    return Place(c=place.c, z=z, y=place.y, x=place.x, inside=place.inside)


@triton.jit
def voxel_at(P: tl.constexpr, volume, place, samples):
    """What the voxel-wise terms see; the prediction in place of what none of them asks for."""
    prediction = field_at(P, "prediction", HERE, samples)
    logit = prediction
    map = prediction
    if P.logit:
        logit = logit_at(P, volume, place)
    if P.map:
        map = real(P, load(volume.map, volume, place))
    return Voxel(prediction=prediction, target=field_at(P, "target", HERE, samples), logit=logit, map=map)


@triton.jit
def value_of(P: tl.constexpr, TERM: tl.constexpr, volume, place, samples):
    """What a term adds at each voxel of the tile."""
    if TERM[0] == "voxel":
        return term_value(tl.constexpr(TERM[1]), voxel_at(P, volume, place, samples))
    elif TERM[0] == "first_order":
        return first_order(P, tl.constexpr(TERM[1]), tl.constexpr(TERM[2]), volume, samples)
    else:
        return second_order(P, tl.constexpr(TERM[1]), tl.constexpr(TERM[2]), volume, samples)


@triton.jit
def slope_of(P: tl.constexpr, TERM: tl.constexpr, volume, place, samples):
    """∂ sum / ∂ prediction, or ∂ logit, at each voxel of the tile."""
    if TERM[0] == "voxel":
        return term_slope(tl.constexpr(TERM[1]), voxel_at(P, volume, place, samples))
    elif TERM[0] == "first_order":
        return first_order_slope(P, tl.constexpr(TERM[1]), tl.constexpr(TERM[2]), volume, place, samples)
    else:
        return second_order_slope(P, tl.constexpr(TERM[1]), tl.constexpr(TERM[2]), volume, place, samples)


@triton.jit(do_not_specialize=SIZES)
def geo_sums_fwd_kernel(
    input,  # `View` s of [N, C, D, H, W]
    target,
    mask,
    map,
    ignore_index,
    inverse_spacing,
    inverse_spacing_squared,
    partial,  # [N, C', K, blocks]
    C,
    D,
    H,
    W,
    first_channel,
    planes,
    tiles_y,
    tiles_x,
    blocks,
    P: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    # The channels of a block are neighbours, as they read the same labels, mask and, for a softmax, logits.
    program = tl.program_id(0).to(tl.int64)
    summed = C - first_channel
    block = program // summed % blocks
    volume = Volume(
        n=program // summed // blocks,
        C=C,
        D=D,
        H=H,
        W=W,
        input=input,
        target=target,
        mask=mask,
        map=map,
        ignore_index=ignore_index,
        inverse_spacing=per_axis(inverse_spacing, P.real),
        inverse_spacing_squared=per_axis(inverse_spacing_squared, P.real),
    )
    first = tile_of(
        P, block, program % summed + first_channel, H, W, planes, tiles_y, tiles_x, BLOCK_Y, BLOCK_X
    )
    sums = ()
    for _ in tl.static_range(len(P.terms)):
        sums = sums + (tl.zeros((BLOCK_Y, BLOCK_X), P.real),)
    kept = first_samples(P, volume, first)
    for z in range(first.z, tl.minimum(first.z + planes, D)):
        place = in_plane(first, z)
        samples = next_samples(P, volume, place, kept)
        kept = kept_samples(P, samples)
        sums = with_plane_added(P, volume, place, samples, sums)

    row = (volume.n * summed + program % summed) * len(P.terms)
    for k in tl.static_range(len(P.terms)):
        tl.store(partial + (row + k) * blocks + block, tl.sum(tl.sum(sums[k], 1), 0))


@triton.jit
def with_plane_added(P: tl.constexpr, volume, place, samples, sums):
    counted = place.inside
    if P.masked:
        counted = field_at(P, "valid", HERE, samples)
    totals = ()
    for k in tl.static_range(len(P.terms)):
        value = value_of(P, tl.constexpr(P.terms[k]), volume, place, samples)
        totals = totals + (sums[k] + tl.where(counted, value, 0),)
    return totals


@triton.jit(do_not_specialize=["blocks"])
def add_partial_kernel(
    partial,  # [N·C', K, blocks]
    sums,  # [N·C', K]
    loss,  # [N·C'], or None
    numerator,
    denominator,
    blocks,
    K: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds the partial sums of a volume, in a fixed order and in float64, and makes the loss of them."""
    volume = tl.program_id(0).to(tl.int64)
    totals = ()
    for k in tl.static_range(K):
        total = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, blocks, BLOCK):
            place = first + tl.arange(0, BLOCK)
            addends = tl.load(partial + (volume * K + k) * blocks + place, mask=place < blocks, other=0)
            total += addends.to(tl.float64)
        totals = totals + (tl.sum(total, 0).to(REAL),)
    for k in tl.static_range(K):
        tl.store(sums + volume * K + k, totals[k])
    if loss is not None:
        tl.store(loss + volume, ratio_of(totals, numerator, denominator, REAL))


@triton.jit(do_not_specialize=SIZES)
def geo_sums_bwd_kernel(
    input,  # `View` s of [N, C, D, H, W]
    target,
    mask,
    map,
    ignore_index,
    inverse_spacing,
    inverse_spacing_squared,
    grad_sums,  # [N, C', K]
    grad_input,
    C,
    D,
    H,
    W,
    first_channel,
    planes,
    tiles_y,
    tiles_x,
    blocks,
    K: tl.constexpr,
    P: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    channels = C
    if P.activation == "softmax":
        channels = 1  # a program has all of them
    volume = Volume(
        n=program // channels // blocks,
        C=C,
        D=D,
        H=H,
        W=W,
        input=input,
        target=target,
        mask=mask,
        map=map,
        ignore_index=ignore_index,
        inverse_spacing=per_axis(inverse_spacing, P.real),
        inverse_spacing_squared=per_axis(inverse_spacing_squared, P.real),
    )
    weights = (
        grad_sums + (volume.n * (C - first_channel) - first_channel) * K
    )  # of channel 0, if it were summed
    block = program // channels % blocks
    first = tile_of(P, block, program % channels, H, W, planes, tiles_y, tiles_x, BLOCK_Y, BLOCK_X)
    end = tl.minimum(first.z + planes, D)
    if P.activation == "softmax":
        for z in range(first.z, end):
            write_softmax_gradient(P, volume, in_plane(first, z), weights, first_channel, K, grad_input)
    else:
        kept = first_samples(P, volume, first)
        for z in range(first.z, end):
            place = in_plane(first, z)
            samples = next_samples(P, volume, place, kept)
            kept = kept_samples(P, samples)
            gradient = gradient_at(P, volume, place, samples, weights, first_channel, K)
            store(grad_input, volume, place, gradient)


@triton.jit
def gradient_at(P: tl.constexpr, volume, place, samples, weights, first_channel, K: tl.constexpr):
    """Without a softmax."""
    of_prediction = weighted_slopes(P, False, volume, place, samples, weights, first_channel, K)
    if P.activation == "none":
        return of_prediction
    else:
        s = field_at(P, "prediction", HERE, samples)
        of_logit = weighted_slopes(P, True, volume, place, samples, weights, first_channel, K)
        return of_prediction * (s * (1 - s)) + of_logit


@triton.jit
def write_softmax_gradient(
    P: tl.constexpr, volume, plane, weights, first_channel, K: tl.constexpr, grad_input
):
    """∂s_i/∂z_j = s_i (δ_ij - s_j)."""
    normalisers = softmax_normalisers(P, volume, plane)
    normaliser = normalisers[index_of(P.normalised, HERE)]
    mean = tl.zeros_like(normaliser[0])
    readable = plane.inside
    if P.masked:
        readable = plane.inside & False  # in no channel, so far
    for c in range(0, volume.C):
        place = in_channel(plane, c)
        samples = all_samples(P, volume, place, normalisers)
        slope = weighted_slopes(P, False, volume, place, samples, weights, first_channel, K)
        mean += prediction_at(P, volume, place, normaliser) * slope
        if P.masked:
            readable = readable | valid_at(volume, place)
    for c in range(0, volume.C):
        place = in_channel(plane, c)
        samples = all_samples(P, volume, place, normalisers)
        slope = weighted_slopes(P, False, volume, place, samples, weights, first_channel, K)
        gradient = prediction_at(P, volume, place, normaliser) * (slope - mean)
        store(grad_input, volume, place, tl.where(readable, gradient, 0))


@triton.jit
def weighted_slopes(
    P: tl.constexpr,
    FROM_LOGIT: tl.constexpr,
    volume,
    place,
    samples,
    weights,
    first_channel,
    K: tl.constexpr,
):
    """Σ_k weight_k · slope_k over the terms that start from the logit, or over the others."""
    summed = place.c >= first_channel
    total = tl.zeros_like(place.y + place.x).to(P.real)
    for k in tl.static_range(len(P.terms)):
        if starts_from_logit(P.terms[k]) == FROM_LOGIT:
            weight = tl.load(weights + place.c * K + P.columns[k], mask=summed, other=0)
            total += weight * slope_of(P, tl.constexpr(P.terms[k]), volume, place, samples)
    if P.masked:
        total = tl.where(field_at(P, "valid", HERE, samples), total, 0)
    return tl.where(summed, total, 0)


@triton.constexpr_function
def starts_from_logit(term: tuple) -> bool:
    return term[-1].endswith("_logit")


@triton.jit
def store(view, volume, place, value):
    tl.store(pointers(view, volume, place), value.to(view.data.dtype.element_ty), mask=place.inside)


def geo_sums(a: Arguments) -> Tensor:
    """Sums [N, C', K]."""
    return _loss_and_sums(a, (), ())[1]


def geo_loss(a: Arguments, numerator: Sequence[float], denominator: Sequence[float]) -> tuple[Tensor, Tensor]:
    """`geo_ratio` of the sums, [N, C'], and the sums [N, C', K]: two launches."""
    check_ratio((a.N, a.summed, len(a.terms)), numerator, denominator)
    rows = (rows_of(weights, len(a.terms)) for weights in (numerator, denominator))
    return _loss_and_sums(a, *rows)


def _loss_and_sums(a: Arguments, numerator: Rows, denominator: Rows) -> tuple[Tensor, Tensor]:
    """Without rows the loss stays unwritten."""
    sums = a.input.new_empty((a.N, a.summed, len(a.terms)), dtype=a.dtype)
    loss = a.input.new_empty((a.N, a.summed), dtype=a.dtype)
    if a.input.numel() == 0:
        return loss, sums
    plan = a.forward_plan()
    tiling = launch.tiling(a, plan)
    partial = a.input.new_empty((*sums.shape, tiling.blocks), dtype=a.dtype)
    launch.run(
        geo_sums_fwd_kernel,
        a.N * a.summed * tiling.blocks,
        a.input,
        *a.kernel_arguments(),
        partial,
        *a.sizes(),
        *tiling.sizes(),
        P=plan,
        BLOCK_Y=tiling.block_y,
        BLOCK_X=tiling.block_x,
        num_warps=tiling.warps,
    )
    launch.run(
        add_partial_kernel,
        a.N * a.summed,
        a.input,
        partial,
        sums,
        loss if numerator else None,
        numerator,
        denominator,
        tiling.blocks,
        K=len(a.terms),
        REAL=real_of(a.dtype),
        BLOCK=launch.REDUCE_BLOCK,
    )
    return loss, sums


def geo_sums_backward(grad_sums: Tensor, a: Arguments) -> Tensor:
    """The gradient of the sums in ``input``, in the layout of `torch.empty_like`."""
    a.check_grad_sums(grad_sums)
    grad_input = torch.empty_like(a.input)
    if a.input.numel() == 0:
        return grad_input
    grad_view = view_of(grad_input)
    plan = a.backward_plan(grad_view)
    tiling = launch.tiling(a, plan)
    channels = 1 if a.activation == "softmax" else a.C
    launch.run(
        geo_sums_bwd_kernel,
        a.N * channels * tiling.blocks,
        a.input,
        *a.kernel_arguments(),
        grad_sums.detach().contiguous(),
        grad_view,
        *a.sizes(),
        *tiling.sizes(),
        K=len(a.terms),
        P=plan,
        BLOCK_Y=tiling.block_y,
        BLOCK_X=tiling.block_x,
        num_warps=tiling.warps,
    )
    return grad_input
