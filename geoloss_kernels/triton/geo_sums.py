"""geo_sums in Triton: activation, stencils and reduction in one pass over input and target.

A volume is cut into blocks: a tile [BLOCK_Y, BLOCK_X] of rows and a few planes, through which a program
marches along z. For the tile of a plane it samples prediction and target, or their difference, at the
offsets that the terms read (`plan.py`): forward differences read a voxel and the next along each axis, their
adjoint 13 voxels. The samples that the next plane reads again stay in registers. The others come from memory
or, nearly always, from cache, as another sample of the same or of a neighbouring program has read them
before. Neighbours are clamped to the volume by their index, so that they need no masks of their own.

    forward    samples ──▶ terms ──▶ partial sums [N, C', K, blocks]
               partial sums ──▶ sums [N, C', K]; one program per volume
    backward   samples ──▶ flux Ψ'(D e) of the voxel and of the neighbours whose flux reaches it ──▶ gradient

    of programs with stencils, before it:   samples ──▶ flux, one volume per component (`open_terms.py`)

Each element of the gradient is written once, and sums are added in a fixed order: the same bits in every
run. Under a softmax, a program of the backward pass has all channels. It normalises each sampled voxel once,
goes through the channels for Σ_c q_c of `gradient.py`, and once more to write the gradient.

Forward moves input + target, backward input + target + gradient; the planes next to a block are read twice,
the second time mostly from cache. Rows that are aligned and contiguous are read and written 16 bytes at a
time, except for neighbours along x. Half precision is widened on loading and rounded on storing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from geoloss_kernels.triton import launch
from geoloss_kernels.triton.arguments import Arguments, view_of
from geoloss_kernels.triton.gradient import Weights, gradient_at, store, write_softmax_gradient
from geoloss_kernels.triton.numbers import number, real_of
from geoloss_kernels.triton.open_terms import store_fluxes
from geoloss_kernels.triton.stencil import PerAxis
from geoloss_kernels.triton.stencil_terms import HERE
from geoloss_kernels.triton.values import logarithms_at, offsets_of_logarithms, value_of
from geoloss_kernels.triton.voxels import (
    Place,
    View,
    Volume,
    field_at,
    first_samples,
    kept_samples,
    next_samples,
    softmax_normalisers,
)

# What differs from call to call makes no kernel of its own. W does: it tells whether rows are whole vectors.
SIZES = ("ignore_index", "C", "D", "H", "first_channel", "planes", "tiles_y", "tiles_x", "blocks")


@triton.jit
def per_axis(scales, REAL: tl.constexpr):
    """The `PerAxis` of each scale's numbers for z, y, x."""
    each = ()
    for i in tl.static_range(len(scales)):
        scale = scales[i]
        axes = PerAxis(x=number(scale[2], REAL), y=number(scale[1], REAL), z=number(scale[0], REAL))
        each = each + (axes,)
    return each


@triton.jit
def each_number(parts, REAL: tl.constexpr):
    """Of a tuple of what `exactly` took apart."""
    each = ()
    for i in tl.static_range(len(parts)):
        each = each + (number(parts[i], REAL),)
    return each


@triton.jit
def volume_of(P: tl.constexpr, n, sizes, given, fluxes):
    """Batch element ``n`` of what a kernel is given."""
    return Volume(
        n=n,
        C=sizes[0],
        D=sizes[1],
        H=sizes[2],
        W=sizes[3],
        input=given[0],
        target=given[1],
        mask=given[2],
        maps=given[3],
        ignore_index=given[4],
        scales=per_axis(given[5], P.real),
        constants=each_number(given[6], P.real),
        fluxes=fluxes,
    )


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


@triton.jit(do_not_specialize=SIZES)
def geo_sums_fwd_kernel(
    input,  # `View` s of [N, C, D, H, W]
    target,
    mask,
    maps,  # as in `Volume`
    ignore_index,
    scales,
    constants,
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
    sizes = (C, D, H, W)
    given = (input, target, mask, maps, ignore_index, scales, constants)
    volume = volume_of(P, program // summed // blocks, sizes, given, ())
    first = tile_of(
        P, block, program % summed + first_channel, H, W, planes, tiles_y, tiles_x, BLOCK_Y, BLOCK_X
    )
    sums = ()
    for _ in tl.static_range(len(P.columns)):
        sums = sums + (tl.zeros((BLOCK_Y, BLOCK_X), P.real),)
    kept = first_samples(P, volume, first)
    for z in range(first.z, tl.minimum(first.z + planes, D)):
        place = in_plane(first, z)
        normalisers = softmax_normalisers(P, offsets_of_logarithms(P), volume, place)
        samples = next_samples(P, volume, place, kept, normalisers)
        kept = kept_samples(P, samples)
        sums = with_plane_added(P, volume, place, samples, normalisers, sums)

    row = (volume.n * summed + program % summed) * len(P.columns)
    for k in tl.static_range(len(P.columns)):
        tl.store(partial + (row + k) * blocks + block, tl.sum(tl.sum(sums[k], 1), 0))


@triton.jit
def with_plane_added(P: tl.constexpr, volume, place, samples, normalisers, sums):
    counted = place.inside
    if P.masked:
        counted = field_at(P, "valid", HERE, samples)
    totals = ()
    for k in tl.static_range(len(P.columns)):
        value = value_of(P, P.columns[k], volume, place, samples, normalisers)
        totals = totals + (sums[k] + tl.where(counted, value, 0),)
    return totals


@triton.jit(do_not_specialize=["blocks"])
def add_partial_kernel(
    partial,  # [N·C', K, blocks]
    sums,  # [N·C', K]
    blocks,
    K: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds the partial sums of a volume, in a fixed order and in float64."""
    volume = tl.program_id(0).to(tl.int64)
    for k in tl.static_range(K):
        total = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, blocks, BLOCK):
            place = first + tl.arange(0, BLOCK)
            addends = tl.load(partial + (volume * K + k) * blocks + place, mask=place < blocks, other=0)
            total += addends.to(tl.float64)
        tl.store(sums + volume * K + k, tl.sum(total, 0).to(REAL))


@triton.jit(do_not_specialize=SIZES)
def geo_sums_flux_kernel(
    input,  # `View` s of [N, C, D, H, W]
    target,
    mask,
    maps,  # as in `Volume`
    ignore_index,
    scales,
    constants,
    fluxes,
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
    """Of the programs' stencils, in all channels."""
    program = tl.program_id(0).to(tl.int64)
    sizes = (C, D, H, W)
    given = (input, target, mask, maps, ignore_index, scales, constants)
    volume = volume_of(P, program // C // blocks, sizes, given, fluxes)
    first = tile_of(P, program // C % blocks, program % C, H, W, planes, tiles_y, tiles_x, BLOCK_Y, BLOCK_X)
    kept = first_samples(P, volume, first)
    for z in range(first.z, tl.minimum(first.z + planes, D)):
        place = in_plane(first, z)
        normalisers = softmax_normalisers(P, offsets_of_logarithms(P), volume, place)
        samples = next_samples(P, volume, place, kept, normalisers)
        kept = kept_samples(P, samples)
        s = field_at(P, "prediction", HERE, samples)
        for k in tl.static_range(len(P.columns)):
            logarithms = logarithms_at(P, P.columns[k], True, volume, place, s, normalisers)
            store_fluxes(P, P.columns[k].program, volume, place, samples, logarithms)


@triton.jit(do_not_specialize=SIZES)
def geo_sums_bwd_kernel(
    input,  # `View` s of [N, C, D, H, W]
    target,
    mask,
    maps,  # as in `Volume`
    ignore_index,
    scales,
    constants,
    fluxes,
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
    sizes = (C, D, H, W)
    given = (input, target, mask, maps, ignore_index, scales, constants)
    volume = volume_of(P, program // channels // blocks, sizes, given, fluxes)
    weights = Weights(
        data=grad_sums + (volume.n * (C - first_channel) - first_channel) * K, first_channel=first_channel
    )
    block = program // channels % blocks
    first = tile_of(P, block, program % channels, H, W, planes, tiles_y, tiles_x, BLOCK_Y, BLOCK_X)
    end = tl.minimum(first.z + planes, D)
    if P.activation == "softmax":
        for z in range(first.z, end):
            write_softmax_gradient(P, volume, in_plane(first, z), weights, K, grad_input)
    else:
        kept = first_samples(P, volume, first)
        for z in range(first.z, end):
            place = in_plane(first, z)
            samples = next_samples(P, volume, place, kept, ())
            kept = kept_samples(P, samples)
            gradient = gradient_at(P, volume, place, samples, weights, K)
            store(grad_input, volume, place, gradient)


def geo_sums(a: Arguments) -> Tensor:
    """Sums [N, C', K]."""
    sums = a.input.new_empty((a.N, a.summed, a.K), dtype=a.dtype)
    if a.input.numel() == 0:
        return sums
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
        tiling.blocks,
        K=a.K,
        REAL=real_of(a.dtype),
        BLOCK=launch.REDUCE_BLOCK,
    )
    return sums


def fluxes_of(a: Arguments) -> tuple[View, ...]:
    """The slopes of programs with respect to their stencils, a volume of all channels for each."""
    if a.columns.fluxes == 0:
        return ()
    made = a.input.new_empty((a.columns.fluxes, *a.input.shape), dtype=a.dtype)
    fluxes = tuple(map(view_of, made))
    plan = a.flux_plan(fluxes)
    tiling = launch.tiling(a, plan)
    launch.run(
        geo_sums_flux_kernel,
        a.N * a.C * tiling.blocks,
        a.input,
        *a.kernel_arguments(),
        fluxes,
        *a.sizes(),
        *tiling.sizes(),
        P=plan,
        BLOCK_Y=tiling.block_y,
        BLOCK_X=tiling.block_x,
        num_warps=tiling.warps,
    )
    return fluxes


def geo_sums_backward(grad_sums: Tensor, a: Arguments) -> Tensor:
    """The gradient of the sums in ``input``, in the layout of `torch.empty_like`."""
    a.check_grad_sums(grad_sums)
    grad_input = torch.empty_like(a.input)
    if a.input.numel() == 0:
        return grad_input
    grad_view = view_of(grad_input)
    fluxes = fluxes_of(a)
    plan = a.backward_plan(grad_view)
    tiling = launch.tiling(a, plan)
    channels = 1 if a.activation == "softmax" else a.C
    launch.run(
        geo_sums_bwd_kernel,
        a.N * channels * tiling.blocks,
        a.input,
        *a.kernel_arguments(),
        fluxes,
        grad_sums.detach().contiguous(),
        grad_view,
        *a.sizes(),
        *tiling.sizes(),
        K=a.K,
        P=plan,
        BLOCK_Y=tiling.block_y,
        BLOCK_X=tiling.block_x,
        num_warps=tiling.warps,
    )
    return grad_input
