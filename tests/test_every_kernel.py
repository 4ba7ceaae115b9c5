"""Each kernel of the GPU backends, on volumes as small as it takes: few launches, for tools that are slow.

Thorough tests are in test_parity.py.
"""

from __future__ import annotations

import pytest
import torch
from numerics import DEVICES, DTYPES, STENCIL_TERMS, Case, assert_backend_matches_reference

import geoloss_kernels as gk
from geoloss_kernels import reference

FOG = "first_order_forward_l2"
DICE = ("prediction", "target", "intersection")
BCE = ("cross_entropy_foreground", "cross_entropy_background")
SINGLE_AND_HALF = (torch.float32, torch.float16, torch.bfloat16)
# Several tiles along y and z, and along x; a row that ends within a vector; an image.
SHAPES = ((1, 2, 17, 20, 92), (1, 1, 5, 40, 132), (1, 1, 5, 9, 37), (2, 1, 35, 36))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", SINGLE_AND_HALF, ids=str)
@pytest.mark.parametrize("terms", [(FOG,), (FOG, *DICE), (FOG, *BCE), DICE, BCE], ids="+".join)
def test_volumes_without_masks(backend, terms, dtype, shape):
    assert_backend_matches_reference(backend, Case(shape, terms, dtype, "sigmoid", target_dtype=dtype))


@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.int16, torch.float32], ids=str)
@pytest.mark.parametrize("terms", [(FOG, *DICE), DICE], ids="+".join)
def test_target_of_another_dtype(backend, terms, target_dtype):
    case = Case(SHAPES[0], terms, torch.bfloat16, "sigmoid", target_dtype=target_dtype)
    assert_backend_matches_reference(backend, case)


@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.int64], ids=str)
@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("dtype", SINGLE_AND_HALF, ids=str)
@pytest.mark.parametrize("terms", [(FOG, *DICE), DICE], ids="+".join)
def test_softmax_of_a_label_map(backend, terms, dtype, channels, target_dtype):
    shape = (1, channels, 17, 6, 36)
    case = Case(shape, terms, dtype, "softmax", target="labels", target_dtype=target_dtype)
    assert_backend_matches_reference(backend, case)


@pytest.mark.parametrize("stencils", [STENCIL_TERMS[::2], STENCIL_TERMS[1::2]], ids=["", "others"])
@pytest.mark.parametrize("activation", ["none", "softmax"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_option_at_once(backend, dtype, activation, stencils):
    case = Case(
        (1, 3, 6, 11, 35),
        (*stencils, *DICE, "map_prediction", "count"),
        dtype,
        activation,
        target="labels",
        target_dtype=torch.uint8,
        mask="channels",
        ignore_index=127,
        spacing=(3.0, 0.7, 1.0),
        include_background=False,
    )
    assert_backend_matches_reference(backend, case)


@pytest.mark.parametrize("batch", [False, True])
def test_loss(backend, batch):
    logits = 2 * torch.randn((2, 1, 6, 10, 16))
    target = (torch.rand_like(logits) > 0.6).float()
    leaf = logits.to(DEVICES[backend], copy=True).requires_grad_()
    loss = gk.DiceFOGLoss(sigmoid=True, batch=batch)(leaf, target.to(DEVICES[backend]))
    loss.backward()
    exact = logits.double().requires_grad_()
    expected = reference.dice_fog_loss(exact, target.double(), sigmoid=True, batch=batch)
    expected.backward()
    torch.testing.assert_close(loss.cpu().double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(leaf.grad.cpu().double(), exact.grad, rtol=1e-4, atol=1e-8)
