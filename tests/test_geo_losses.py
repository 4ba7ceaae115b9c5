"""Eq. 1 with functions of the user's: fused against plain PyTorch, composed, compiled, changed in use."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import geoloss_kernels as gk
from geoloss_kernels import formulas
from geoloss_kernels.expressions.trace import ExpressionError


def volumes(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return logits, (torch.rand(shape, generator=generator) > 0.6).to(dtype)


def mask_of(logits: Tensor) -> Tensor:
    return torch.rand(logits[:, :1].shape, generator=torch.Generator().manual_seed(9)) > 0.3


def one(s: Any, g: Any) -> float:
    return 1.0


def absolute_error(s: Any, g: Any) -> Any:
    return (s - g).abs()


def norm_of_gradients(s: Any, g: Any, phi: Any) -> Any:
    return gk.norm(phi(s) - phi(g))


LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fog": ({"theta": one, "psi": norm_of_gradients, "phi": gk.phi.forward()}, {"sigmoid": True}),
    "sobel with a weight": (
        {
            "theta": absolute_error,
            "psi": norm_of_gradients,
            "phi": gk.phi.sobel(),
            "gamma": lambda s, g: s + g,
            "smooth_dr": 1.0,
        },
        {"softmax": True},
    ),
    "laplacian, apart": (
        {
            "theta": absolute_error,
            "psi": lambda s, g, phi: phi(g).abs() + phi(s).abs(),
            "phi": gk.phi.laplacian(),
            "spacing": (1.0, 2.0, 0.5),
        },
        {"sigmoid": True, "reduction": "none"},
    ),
    "boundary": (
        {"theta": lambda s, g: s, "psi": lambda s, g, phi: phi(g), "phi": gk.phi.signed_distance()},
        {"sigmoid": True},
    ),
    "several phi": (
        {
            "theta": lambda s, g: s,
            "psi": lambda s, g, phi: phi[0](g) * phi[1](s - g).abs() + phi[2](s)[0] ** 2,
            "phi": [gk.phi.distance(), gk.phi.laplacian(), gk.phi.central()],
        },
        {"softmax": True, "include_background": False, "batch": True},
    ),
    "focal": (
        {"theta": lambda s, g: -((1 - s) ** 2.5) * g * s.log() - s**2.5 * (1 - g) * torch.log1p(-s)},
        {"sigmoid": True},
    ),
}


def compare(functions: dict[str, Any], options: dict[str, Any], shape: tuple[int, ...], masked: bool) -> None:
    logits, target = volumes(*shape)
    mask = mask_of(logits) if masked else None
    fused, plain = (gk.GEOLoss(**functions, **options, fused=fused) for fused in (True, False))
    ours, theirs = fused(logits, target, mask), plain(logits, target, mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for mine, right in zip(
        torch.autograd.grad(ours.sum(), logits), torch.autograd.grad(theirs.sum(), logits), strict=True
    ):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_the_fused_loss_is_plain_pytorch_s(name: str, masked: bool) -> None:
    compare(*LOSSES[name], (2, 2, 6, 9, 8), masked)


@pytest.mark.parametrize("shape", [(2, 2, 11), (2, 2, 7, 12)])
@pytest.mark.parametrize("name", ["fog", "sobel with a weight", "boundary", "several phi", "focal"])
def test_volumes_of_one_and_two_axes(name: str, shape: tuple[int, ...]) -> None:
    compare(*LOSSES[name], shape, False)


def test_equation_2_in_three_lines_is_the_built_in_loss() -> None:
    logits, target = volumes(2, 1, 20, 17, 33, dtype=torch.float32)
    ours = gk.GEOLoss(one, norm_of_gradients, gk.phi.forward(), sigmoid=True)(logits, target)
    built_in = gk.FOGLoss(sigmoid=True)(logits, target)
    torch.testing.assert_close(ours, built_in, rtol=1e-6, atol=0)
    (mine,), (theirs,) = (torch.autograd.grad(loss, logits) for loss in (ours, built_in))
    assert (mine - theirs).norm() <= 1e-6 * theirs.norm()


def test_known_sums_have_their_own_kernels() -> None:
    """Dice as Eq. 1: no program, and the sums of both are taken once."""
    dice = gk.GEOLoss(lambda s, g: s + g - 2 * s * g, gamma=lambda s, g: s + g, sigmoid=True)
    assert "instructions" not in gk.explain(dice + gk.DiceLoss(sigmoid=True))
    assert gk.explain(dice + gk.DiceLoss(sigmoid=True)).count("Σ") == 3
    logits, target = volumes(2, 1, 5, 6)
    expected = gk.DiceLoss(sigmoid=True, smooth_nr=0.0, smooth_dr=0.0)(logits, target)
    torch.testing.assert_close(dice(logits, target), expected)


def test_losses_compose_in_one_pass() -> None:
    logits, target = volumes(2, 3, 5, 6, 7)
    options = {"softmax": True, "batch": True}
    own = gk.GEOLoss(one, norm_of_gradients, gk.phi.central(), **options)
    composed = gk.DiceLoss(**options) + 0.5 * own
    expected = gk.DiceLoss(**options)(logits, target) + 0.5 * own(logits, target)
    torch.testing.assert_close(composed(logits, target), expected)
    torch.testing.assert_close(
        gk.FormulaLoss(
            formulas.dice() + 0.5 * formulas.geo(one, norm_of_gradients, gk.phi.central()), **options
        )(logits, target),
        expected,
    )
    with gk.use_backend("reference"):
        torch.testing.assert_close(composed(logits, target), expected)
    assert repr(composed).startswith("FormulaLoss(dice() + 0.5 * geo(theta=one, psi=norm_of_gradients")


def test_numbers_and_tensors_that_the_functions_read_may_change() -> None:
    logits, target = volumes(1, 1, 4, 5)
    numbers, tensor = {"weight": 1.0}, torch.tensor(1.0)

    def theta(s: Any, g: Any) -> Any:
        return numbers["weight"] * tensor * torch.sin(s)

    loss = gk.GEOLoss(theta, sigmoid=True)
    once = loss(logits, target)
    numbers["weight"] = 3.0
    torch.testing.assert_close(loss(logits, target), 3 * once)
    tensor.fill_(0.5)
    torch.testing.assert_close(loss(logits, target), 1.5 * once)


def test_gradcheck() -> None:
    logits, target = volumes(1, 2, 3, 4, 5)
    loss = gk.GEOLoss(absolute_error, norm_of_gradients, gk.phi.sobel(), lambda s, g: s + g, softmax=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, mask_of(logits)), (logits,))


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    logits, target = volumes(2, 1, 70, 40, 33, dtype=torch.float32)
    loss = gk.GEOLoss(absolute_error, norm_of_gradients, gk.phi.sobel(), sigmoid=True)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            value = loss(logits, target)
            results.append((value.detach(), *torch.autograd.grad(value, logits)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_saturated_logits_have_finite_losses_and_gradients() -> None:
    functions, options = LOSSES["focal"]
    logits = torch.tensor([[[-200.0, 200.0, -200.0, 200.0]]], requires_grad=True)
    loss = gk.GEOLoss(**functions, **options, reduction="sum")
    value = loss(logits, torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]))
    assert value.item() == pytest.approx(100.0)
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_autocast(dtype: torch.dtype) -> None:
    logits, target = volumes(1, 1, 6, 7, 8, dtype=dtype)
    loss = gk.GEOLoss(absolute_error, norm_of_gradients, gk.phi.sobel(), sigmoid=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, target)
    assert value.dtype == torch.float32
    exact = loss(logits.double(), target.double())
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert torch.autograd.grad(value, logits)[0].dtype == dtype


def test_a_compiler_takes_it_whole() -> None:
    logits, target = volumes(1, 2, 5, 6, 7)
    loss = gk.DiceLoss(softmax=True) + gk.GEOLoss(
        absolute_error, norm_of_gradients, gk.phi.sobel(), softmax=True
    )
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, expected = compiled(logits, target), loss(logits, target)
    torch.testing.assert_close(ours, expected)
    (mine,), (theirs,) = (torch.autograd.grad(each, logits) for each in (ours, expected))
    torch.testing.assert_close(mine, theirs)


def test_vmap_folds_its_dimension_into_the_batch() -> None:
    logits, target = volumes(3, 2, 1, 5, 6)
    loss = gk.GEOLoss(absolute_error, norm_of_gradients, gk.phi.sobel(), sigmoid=True)
    mapped = torch.func.vmap(lambda x, y: loss(x, y))(logits, target)
    torch.testing.assert_close(mapped, torch.stack([loss(x, y) for x, y in zip(logits, target, strict=True)]))


def test_a_loss_of_named_functions_can_be_pickled_and_copied() -> None:
    logits, target = volumes(1, 1, 4, 5, 6)
    loss = gk.GEOLoss(absolute_error, norm_of_gradients, gk.phi.sobel(), sigmoid=True)
    expected = loss(logits, target)
    for other in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert torch.equal(other(logits, target), expected)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_focal_is_monai_s(gamma: float, alpha: float | None) -> None:
    monai = pytest.importorskip("monai.losses")
    logits, target = volumes(2, 2, 5, 6, 7)
    ours = gk.FormulaLoss(formulas.focal(gamma, alpha), sigmoid=True)(logits, target)
    theirs = monai.FocalLoss(gamma=gamma, alpha=alpha)(logits, target)
    torch.testing.assert_close(ours, theirs.to(ours))
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def branching(s: Any, g: Any) -> Any:
    return s if s.mean() > 0.5 else g


def test_what_cannot_be_fused_says_so_and_plain_pytorch_computes_it() -> None:
    logits, target = volumes(1, 1, 4, 5)
    with pytest.raises(ExpressionError, match=re.escape("fused=False computes it with plain PyTorch")):
        gk.GEOLoss(branching, sigmoid=True)(logits, target)
    plain = gk.GEOLoss(branching, sigmoid=True, fused=False)(logits, target)
    torch.testing.assert_close(plain, torch.sigmoid(logits).mean() if plain > 0.5 else target.mean())
    with pytest.raises(ExpressionError, match=r"phi: expected an operator of gk.phi"):
        gk.GEOLoss(one, norm_of_gradients, lambda u: u, sigmoid=True)(logits, target)


OPEN_LOSSES = (
    gk.GEOLoss(one, norm_of_gradients, gk.phi.sobel(), sigmoid=True),
    gk.FocalLoss(),
)


@pytest.mark.parametrize("loss", OPEN_LOSSES, ids=lambda loss: type(loss).__name__)
class TestBesideTheCudaLibrary:
    @pytest.fixture(autouse=True)
    def cuda_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gk.backends, "choose", lambda _: "cuda")

    def test_triton_computes_it(self, loss: gk.FormulaLoss, monkeypatch: pytest.MonkeyPatch) -> None:
        logits, target = volumes(1, 1, 4, 5)
        asked = []
        stand_in = gk.backends._operators["cpu"]
        monkeypatch.setitem(gk.backends._REASONS, "triton", None)
        monkeypatch.setattr(gk.backends, "_operators_of", lambda name: (asked.append(name), stand_in)[1])
        loss(logits, target)
        assert asked == ["triton"]

    def test_without_triton_it_is_an_error(
        self, loss: gk.FormulaLoss, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(gk.backends._REASONS, "triton", "triton is not installed")
        with pytest.raises(RuntimeError, match="cannot be used here: triton is not installed; fused=False"):
            loss(*volumes(1, 1, 4, 5))

    def test_in_force_it_refuses(self, loss: gk.FormulaLoss, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gk.backends, "_forced", "cuda")
        with pytest.raises(RuntimeError, match="'cuda' is in force and does not compute open formulas"):
            loss(*volumes(1, 1, 4, 5))


def test_a_compiler_has_no_place_for_a_tensor_that_the_functions_read() -> None:
    logits, target = volumes(1, 1, 4, 5)
    weight = torch.tensor(2.0)
    compiled = torch.compile(
        gk.GEOLoss(lambda s, g: weight * torch.sin(s), sigmoid=True), backend="aot_eager"
    )
    with pytest.raises(Exception, match="expected open formulas that read numbers alone"):
        compiled(logits, target)


def test_explain_prints_sums_expressions_derivatives_and_stencils() -> None:
    loss = gk.GEOLoss(absolute_error, norm_of_gradients, gk.phi.sobel(), sigmoid=True)
    printed = gk.explain(0.5 * loss + gk.BoundaryLoss(sigmoid=True))
    assert "Σ |s - g|·√(φ₀(s - g)² + φ₁(s - g)² + φ₂(s - g)²)" in printed
    assert "∂/∂s = sign(s - g)·√(φ₀(s - g)² + φ₁(s - g)² + φ₂(s - g)²)" in printed
    assert "φ0 to φ2: phi.sobel(), 54 neighbours" in printed
    assert "bytes a voxel in float32: forward 12" in printed
