"""The derivatives of every loss: finite differences, how gradients arrive, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from numerics import ACTIVATIONS, DEVICES, DTYPES, INTERPRETED, encoded
from torch import Tensor
from torch.autograd import forward_ad

import geoloss_kernels as gk
from geoloss_kernels import backends
from geoloss_kernels.call import REDUCTIONS

# In Triton's interpreter along random directions, not along each axis.
gradcheck = partial(torch.autograd.gradcheck, fast_mode=INTERPRETED)

LOSSES: dict[str, Callable[..., torch.nn.Module]] = {
    "bce": gk.BCELoss,
    "dice": gk.DiceLoss,
    "dice squared": lambda **options: gk.DiceLoss(squared_pred=True, **options),
    "dice jaccard": lambda **options: gk.DiceLoss(jaccard=True, **options),
    "dice soft label": lambda **options: gk.DiceLoss(soft_label=True, **options),
    "tversky": lambda **options: gk.TverskyLoss(alpha=0.3, beta=0.7, **options),
    "generalized dice": gk.GeneralizedDiceLoss,
    "cross-entropy": lambda **options: gk.CrossEntropyLoss(weight=0.5, **options),
    "cross-entropy smoothed": lambda **options: gk.CrossEntropyLoss(label_smoothing=0.2, **options),
    "dice + cross-entropy": lambda **options: gk.DiceCELoss(**{**options, "reduction": "mean"}),
    "fog": gk.FOGLoss,
    "fog l1": lambda **options: gk.FOGLoss(norm="l1", **options),
    "fog l2 squared": lambda **options: gk.FOGLoss(norm="l2_squared", **options),
    "fog central": lambda **options: gk.FOGLoss(operator="central", **options),
    "sog": gk.SOGLoss,
    "sog signed": lambda **options: gk.SOGLoss(signed=True, **options),
    "sog two-sided": lambda **options: gk.SOGLoss(two_sided=True, **options),
    "dice + fog": gk.DiceFOGLoss,
    "dice + sog": gk.DiceSOGLoss,
    "boundary": gk.BoundaryLoss,
    "hausdorff": lambda **options: gk.HausdorffDTLoss(include_background=True, **options),
    "dice + boundary": gk.DiceBoundaryLoss,
    "dice + hausdorff": gk.DiceHausdorffDTLoss,
}
NO_SECOND_DERIVATIVE = r"no second derivative; use .*use_backend\(\"reference\"\)"
NO_FORWARD_DERIVATIVE = r"the fused losses have no forward derivative; .*use_backend\(\"reference\"\)"
SHAPES = [(1, 1, 1, 1, 1), (2, 1, 2, 3, 5), (1, 2, 3, 1, 4), (1, 3, 1, 5), (2, 1, 5, 1)]


def logits_and_target(backend: str, *shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits that keep off 0, where a distance map would jump, and a binary target."""
    size = 0.1 + 2 * torch.rand(shape, dtype=torch.float64)
    logits = torch.where(torch.rand(shape) < 0.5, -size, size).to(dtype)
    target = (torch.rand(shape) < 0.4).to(dtype)
    return logits.to(DEVICES[backend]).requires_grad_(), target.to(DEVICES[backend])


class TestFiniteDifferences:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("name", LOSSES)
    def test_every_loss(self, backend, name, shape):
        logits, target = logits_and_target(backend, *shape)
        loss = LOSSES[name](sigmoid=True, reduction="none")
        assert gradcheck(lambda x: loss(x, target), logits)

    @pytest.mark.parametrize("name", LOSSES)
    def test_with_softmax_labels_mask_and_spacing(self, backend, name):
        logits, _ = logits_and_target(backend, 2, 3, 3, 4, 2)
        labels = torch.randint(0, 3, (2, 1, 3, 4, 2)).to(logits.device)
        labels[0, 0, 0, 0, 0] = 255
        mask = (torch.rand(2, 1, 3, 4, 2) < 0.8).to(logits.device)
        loss = LOSSES[name](softmax=True, to_onehot_y=True, ignore_index=255)
        assert gradcheck(lambda x: loss(x, labels, mask=mask, spacing=(0.5, 1.0, 3.0)), logits)

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_probabilities(self, backend, shape):
        logits, target = logits_and_target(backend, *shape)
        loss = gk.DiceFOGLoss(axes=0)
        assert gradcheck(lambda s: loss(s, target), logits.detach().sigmoid().requires_grad_())


class TestArrivingGradients:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_expanded_gradient_equals_a_dense_one(self, backend, dtype):
        """``loss.sum().backward()`` hands a stride-0 gradient to the loss."""
        logits, target = logits_and_target(backend, 2, 3, 4, 5, 6, dtype=dtype)
        loss = gk.DiceFOGLoss(sigmoid=True, reduction="none")(logits, target)
        (expanded,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        (dense,) = torch.autograd.grad(loss, logits, torch.ones_like(loss).clone())
        assert torch.equal(expanded, dense)
        assert expanded.count_nonzero() == expanded.numel()

    @pytest.mark.parametrize("layout", ["expanded", "transposed", "strided"])
    def test_gradient_of_the_sums_in_any_layout(self, backend, layout):
        logits, target = logits_and_target(backend, 2, 3, 4, 5)
        terms = encoded(["intersection", "first_order_forward_l2", "prediction"], dimensions=2)
        geo_sums = backends.operators(logits).geo_sums
        sums = geo_sums(logits, target, None, [], *terms, ACTIVATIONS.index("sigmoid"), None, True)
        given = {
            "expanded": torch.randn(2, 1, 1).to(sums).expand_as(sums),
            "transposed": torch.randn(3, 3, 2).to(sums).permute(2, 0, 1),
            "strided": torch.randn(2, 3, 6).to(sums)[..., ::2],
        }[layout]
        assert not given.is_contiguous()
        (ours,) = torch.autograd.grad(sums, logits, given, retain_graph=True)
        (dense,) = torch.autograd.grad(sums, logits, given.contiguous())
        assert torch.equal(ours, dense)

    def test_gradient_of_the_ratio_in_any_layout(self, backend):
        sums = torch.rand(3, 2, 2, dtype=torch.float64, device=DEVICES[backend]).requires_grad_()
        geo_ratio = backends.operators(sums).geo_ratio
        ratio = geo_ratio(
            sums, None, [0, 0, -1, -1], [1.0, 0.0, 0.5, 0.0, 1.0, 0.5], REDUCTIONS.index("none")
        )
        given = torch.randn(2, 3).to(sums).t()
        (ours,) = torch.autograd.grad(ratio, sums, given, retain_graph=True)
        (dense,) = torch.autograd.grad(ratio, sums, given.contiguous())
        assert torch.equal(ours, dense)

    def test_no_gradient(self, backend):
        """A gradient that autograd leaves undefined reaches the input as none."""

        class Undefined(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, loss: Tensor) -> Tensor:
                return loss.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> None:
                return None

        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        loss = gk.DiceFOGLoss(sigmoid=True, reduction="none")(logits, target)
        Undefined.apply(loss).sum().backward()
        assert logits.grad is None

    def test_scaled_and_accumulated(self, backend):
        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        loss = gk.DiceLoss(sigmoid=True)(logits, target)
        loss.backward(retain_graph=True)
        first = logits.grad.clone()
        (2 * loss).backward()
        torch.testing.assert_close(logits.grad, 3 * first, rtol=1e-14, atol=0)

    def test_only_input_is_saved(self, backend):
        """The graph keeps its inputs alive and nothing else of their size."""
        logits, target = logits_and_target(backend, 2, 1, 4, 5, 6)
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
            gk.DiceFOGLoss(sigmoid=True)(logits, target)
        large = {tensor.data_ptr() for tensor in saved if tensor.numel() >= logits.numel()}
        assert large == {logits.data_ptr(), target.data_ptr()}

    def test_without_gradient(self, backend):
        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        with torch.no_grad():
            value = gk.DiceFOGLoss(sigmoid=True)(logits, target)
        assert not value.requires_grad
        assert torch.equal(value, gk.DiceFOGLoss(sigmoid=True)(logits, target).detach())
        assert not gk.DiceLoss(sigmoid=True)(logits.detach(), target).requires_grad

    def test_backward_twice_needs_retain_graph(self, backend):
        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        loss = gk.DiceLoss(sigmoid=True)(logits, target)
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()

    def test_input_changed_in_place_is_noticed(self, backend):
        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        changed = logits * 1
        loss = gk.DiceLoss(sigmoid=True)(changed, target)
        changed.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


class TestRefusals:
    @pytest.mark.parametrize("name", ["fog", "dice"])
    def test_double_backward(self, backend, name):
        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        loss = LOSSES[name](sigmoid=True)(logits, target)
        (slope,) = torch.autograd.grad(loss, logits, create_graph=True)
        with pytest.raises(RuntimeError, match=NO_SECOND_DERIVATIVE):
            slope.square().sum().backward()

    @pytest.mark.parametrize("name", ["geo_sums", "geo_ratio", "geo_loss"])
    def test_double_backward_of_each_operator(self, backend, name):
        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        operators = backends.operators(logits)
        terms = (*encoded(["squared_error"], dimensions=2), 0, None, True)
        ratio = ([0, 0, -1, -1], [1.0, 0.0, 1.0, 1.0], REDUCTIONS.index("none"))
        leaf = logits.detach()[..., :1, 0] if name == "geo_ratio" else logits.detach()
        leaf.requires_grad_()
        arguments = {
            "geo_sums": (target, None, [], *terms),
            "geo_ratio": (None, *ratio),
            "geo_loss": (target, None, None, [], *terms, *ratio),
        }[name]
        result = getattr(operators, name)(leaf, *arguments)
        result = result[0] if name == "geo_loss" else result
        (slope,) = torch.autograd.grad(result.sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=NO_SECOND_DERIVATIVE):
            slope.sum().backward()

    @pytest.mark.parametrize("with_gradient", [True, False])
    @pytest.mark.parametrize("argument", ["input", "target"])
    def test_dual_numbers(self, backend, argument, with_gradient):
        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        tensors = {"input": logits if with_gradient else logits.detach(), "target": target}
        with forward_ad.dual_level():
            tensors[argument] = forward_ad.make_dual(tensors[argument], torch.ones_like(target))
            with pytest.raises(RuntimeError, match=NO_FORWARD_DERIVATIVE):
                gk.DiceFOGLoss(sigmoid=True)(**tensors)

    @pytest.mark.parametrize("batch", [True, False])
    def test_jvp(self, backend, batch):
        logits, target = logits_and_target(backend, 2, 1, 3, 4)
        loss = gk.DiceFOGLoss(sigmoid=True, batch=batch)
        with pytest.raises(RuntimeError, match=NO_FORWARD_DERIVATIVE):
            torch.func.jvp(lambda x: loss(x, target), (logits.detach(),), (torch.ones_like(target),))

    def test_primal_in_a_dual_level(self, backend):
        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        loss = gk.DiceFOGLoss(sigmoid=True)
        with forward_ad.dual_level():
            assert loss(logits, target) == loss(logits.detach(), target)

    def test_the_reference_has_a_forward_derivative(self):
        logits, target = logits_and_target("cpu", 1, 1, 2, 3)
        loss = gk.DiceFOGLoss(sigmoid=True)
        direction = torch.rand_like(target)
        with gk.use_backend("reference"):
            _, tangent = torch.func.jvp(lambda x: loss(x, target), (logits.detach(),), (direction,))
        (slope,) = torch.autograd.grad(loss(logits, target), logits)
        torch.testing.assert_close(tangent, (slope * direction).sum())

    def test_the_reference_has_a_second_derivative(self):
        logits, target = logits_and_target("cpu", 1, 1, 2, 3)
        with gk.use_backend("reference"):
            loss = gk.DiceFOGLoss(sigmoid=True)
            assert torch.autograd.gradgradcheck(lambda x: loss(x, target), logits)

    @pytest.mark.parametrize("with_input", [True, False])
    @pytest.mark.parametrize("name", ["target", "mask", "distance_map"])
    def test_gradient_of_a_constant(self, backend, name, with_input):
        logits, target = logits_and_target(backend, 1, 1, 3, 4)
        constants: dict[str, Any] = {"target": target, "mask": target + 1, "distance_map": target - 0.5}
        constants[name].requires_grad_()
        loss = gk.BoundaryLoss(sigmoid=True)(logits if with_input else logits.detach(), **constants)
        reported = {"distance_map": "maps"}.get(name, name)
        with pytest.raises(RuntimeError, match=f"{reported}: expected a tensor without gradient"):
            loss.backward()
