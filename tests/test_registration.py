"""The operators inside PyTorch: opcheck, torch.compile, autocast, torch.func and fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from numerics import ACTIVATIONS, DEVICES, DTYPES, Arguments, Case, Ratio, encoded, library, ratio_arguments
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import geoloss_kernels as gk
from geoloss_kernels import backends, formulas, reference

VOLUMES = [(2, 1, 4, 5, 6), (2, 3, 5, 7)]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def sums_cases() -> dict[str, Case]:
    terms = ("intersection", "map_prediction", "first_order_forward_l2", "cross_entropy_foreground")
    shape = (2, 3, 3, 4, 5)
    labels = {"target": "labels", "target_dtype": torch.uint8, "ignore_index": 127}
    return {
        "3-D sigmoid": Case(shape, terms, activation="sigmoid"),
        "2-D masked softmax": Case((2, 3, 4, 5), terms, torch.float32, "softmax", mask="shared"),
        "labels without background": Case(
            shape, terms, activation="softmax", include_background=False, **labels
        ),
        "bfloat16 channels last": Case(shape, terms, torch.bfloat16, "sigmoid", layout="channels_last"),
        "float16 sliced": Case(shape, terms, torch.float16, "none", layout="sliced"),
        "constants only": Case(shape, ("count", "target")),
    }


def loss_arguments(arguments: Arguments, ratio: Ratio) -> tuple[Any, ...]:
    """Those of `geo_loss`."""
    return (*arguments[:3], ratio.channel_weights, *arguments[3:], *ratio[1:])


class TestOpcheck:
    """Of the operators themselves; their derivatives are functions around them."""

    @pytest.mark.parametrize("name", sums_cases())
    def test_sums(self, backend, name):
        opcheck(library(backend).geo_sums.default, sums_cases()[name].arguments(DEVICES[backend]))

    @pytest.mark.parametrize("name", sums_cases())
    def test_sums_backward(self, backend, name):
        arguments = sums_cases()[name].arguments(DEVICES[backend])
        sums = library(backend).geo_sums(*arguments)
        opcheck(library(backend).geo_sums_backward.default, (torch.rand_like(sums), *arguments))

    @pytest.mark.parametrize("name", ["3-D sigmoid", "2-D masked softmax", "labels without background"])
    def test_ratio_and_its_backward(self, backend, name):
        arguments = sums_cases()[name].arguments(DEVICES[backend])
        sums = library(backend).geo_sums(*arguments)
        for ratio in ratio_arguments(arguments):
            opcheck(library(backend).geo_ratio.default, (sums, *ratio))
            loss = library(backend).geo_ratio(sums, *ratio)
            opcheck(library(backend).geo_ratio_backward.default, (torch.rand_like(loss), sums, *ratio))

    @pytest.mark.parametrize("name", sums_cases())
    def test_loss_and_its_backward(self, backend, name):
        arguments = sums_cases()[name].arguments(DEVICES[backend])
        for ratio in ratio_arguments(arguments)[1:3]:
            given = loss_arguments(arguments, ratio)
            opcheck(library(backend).geo_loss.default, given)
            loss, sums = library(backend).geo_loss(*given)
            opcheck(library(backend).geo_loss_backward.default, (torch.rand_like(loss), sums, *given))


def volumes(backend: str, *shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    logits = torch.randn(shape, dtype=dtype).to(DEVICES[backend]).requires_grad_()
    return logits, (torch.rand(shape) > 0.6).to(dtype).to(logits.device)


def value_and_slope(loss: Any, logits: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(logits, *rest)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), slope


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-8)
    assert ours[1].count_nonzero() > 0


class TestCompile:
    """Fullgraph, so that a graph break is an error. The fused pass itself is opaque to the compiler."""

    @pytest.mark.parametrize("shape", VOLUMES, ids=str)
    @pytest.mark.parametrize(
        "loss", [gk.DiceFOGLoss(sigmoid=True), gk.DiceLoss(sigmoid=True)], ids=["fog", "dice"]
    )
    def test_inductor(self, backend, loss, shape):
        logits, target = volumes(backend, *shape)
        compiled = torch.compile(loss, fullgraph=True)
        assert_same(value_and_slope(compiled, logits, target), value_and_slope(loss, logits, target))

    def test_without_a_gradient(self, backend):
        logits, target = volumes(backend, 2, 1, 4, 5)
        loss = gk.DiceFOGLoss(sigmoid=True)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        value = compiled(logits.detach(), target)
        torch.testing.assert_close(value, loss(logits.detach(), target), rtol=1e-6, atol=0)
        with torch.no_grad():
            assert torch.equal(compiled(logits, target), value)

    def test_inside_a_compiled_model(self, backend):
        network = torch.nn.Conv3d(1, 1, 3, padding=1).to(DEVICES[backend])
        image, target = volumes(backend, 1, 1, 4, 6, 5)
        loss = gk.DiceFOGLoss(sigmoid=True)

        def step(image: Tensor, target: Tensor) -> Tensor:
            return loss(network(image), target)

        compiled = torch.compile(step, fullgraph=True)
        assert_same(value_and_slope(compiled, image, target), value_and_slope(step, image, target))

    @pytest.mark.parametrize(
        "loss",
        [
            gk.DiceFOGLoss(softmax=True, to_onehot_y=True, ignore_index=9, axes="axial"),
            gk.DiceSOGLoss(softmax=True, to_onehot_y=True, batch=True, reduction="none"),
            gk.BCELoss(softmax=True, to_onehot_y=True, include_background=False),
        ],
        ids=["fog", "sog", "bce"],
    )
    def test_labels_mask_and_options(self, backend, loss):
        logits, _ = volumes(backend, 2, 3, 4, 5, 6)
        labels = torch.randint(0, 4, (2, 1, 4, 5, 6), device=logits.device)
        mask = torch.rand(2, 1, 4, 5, 6).to(logits.device) > 0.3
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        given = (logits, labels, mask)
        assert_same(value_and_slope(compiled, *given), value_and_slope(loss, *given))

    @pytest.mark.parametrize(
        "compose",
        [
            lambda **options: gk.FormulaLoss(formulas.dice() + 0.5 * formulas.fog(norm="l1"), **options),
            lambda **options: gk.DiceCELoss(weight=[0.5, 1.0, 2.0], **options),
            lambda **options: gk.GeneralizedDiceLoss(**options) + gk.CrossEntropyLoss(**options),
            lambda **options: gk.BoundaryLoss(**options) + gk.DiceLoss(**options),
            lambda **options: gk.HausdorffDTLoss(**{"include_background": True, **options}),
        ],
        ids=["formula", "class weights", "function of sums", "boundary", "hausdorff"],
    )
    @pytest.mark.parametrize(
        "options", [{"batch": True}, {"include_background": False, "reduction": "sum"}], ids=str
    )
    def test_compositions(self, backend, compose, options):
        logits, _ = volumes(backend, 2, 3, 4, 5, 6)
        labels = torch.randint(0, 3, (2, 1, 4, 5, 6), device=logits.device)
        mask = torch.rand(2, 1, 4, 5, 6).to(logits.device) > 0.3
        loss = compose(softmax=True, to_onehot_y=True, **options)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        given = (logits, labels, mask)
        assert_same(value_and_slope(compiled, *given), value_and_slope(loss, *given))

    def test_compositions_of_inductor(self, backend):
        logits, _ = volumes(backend, 2, 3, 4, 5)
        labels = torch.randint(0, 3, (2, 1, 4, 5), device=logits.device)
        loss = gk.DiceCELoss(softmax=True, to_onehot_y=True, weight=[0.5, 1.0, 2.0], ignore_index=1)
        loss = loss + 0.1 * gk.BoundaryLoss(softmax=True, to_onehot_y=True, ignore_index=1)
        compiled = torch.compile(loss, fullgraph=True)
        assert_same(value_and_slope(compiled, logits, labels), value_and_slope(loss, logits, labels))

    @pytest.mark.parametrize(
        "loss", [gk.DiceFOGLoss(sigmoid=True), gk.DiceLoss(sigmoid=True)], ids=["fog", "dice"]
    )
    def test_dynamic_shapes_compile_once(self, backend, loss):
        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
        compiled(*volumes(backend, 2, 1, 4, 5, 6))
        frames = counter.frame_count
        for shape in ((3, 1, 7, 5, 9), (2, 1, 11, 12, 3)):
            logits, target = volumes(backend, *shape)
            assert_same(value_and_slope(compiled, logits, target), value_and_slope(loss, logits, target))
        assert counter.frame_count == frames


class TestAutocast:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_logits_of_a_convolution(self, backend, dtype):
        network = torch.nn.Conv3d(1, 1, 3, padding=1).to(DEVICES[backend])
        image, target = volumes(backend, 2, 1, 5, 6, 7)
        with torch.autocast(DEVICES[backend], dtype=dtype):
            logits = network(image)
            loss = gk.DiceFOGLoss(sigmoid=True)(logits, target)
        assert logits.dtype == dtype
        assert loss.dtype == torch.float32
        loss.backward()
        assert network.weight.grad is not None
        assert network.weight.grad.dtype == torch.float32
        assert bool(network.weight.grad.isfinite().all())
        with gk.use_backend("reference"):
            expected = gk.DiceFOGLoss(sigmoid=True)(logits.detach().double(), target)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)

    def test_the_operators_compute_in_float32(self, backend):
        """Autocast must cast neither the sums nor the ratio down."""
        logits, target = volumes(backend, 1, 1, 4, 5)
        loss = gk.DiceFOGLoss(sigmoid=True)
        expected = value_and_slope(loss, logits, target)
        with torch.autocast(DEVICES[backend], dtype=torch.bfloat16):
            ours = value_and_slope(loss, logits, target)
        assert ours[0].dtype == ours[1].dtype == torch.float32
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, expected, strict=True))


class TestFunctionTransforms:
    LOSS = gk.DiceFOGLoss(sigmoid=True)

    def batch(self, backend: str) -> tuple[Tensor, Tensor]:
        return volumes(backend, 4, 2, 1, 3, 5, 6, dtype=torch.float64)

    def test_vmap_equals_a_loop(self, backend):
        logits, target = self.batch(backend)
        together = torch.vmap(self.LOSS)(logits, target)
        alone = torch.stack([self.LOSS(x, g) for x, g in zip(logits, target, strict=True)])
        assert torch.equal(together, alone)

    def test_vmap_of_a_loss_over_the_batch(self, backend):
        """Which calls `geo_sums` and `geo_ratio` one by one."""
        logits, target = self.batch(backend)
        loss = gk.DiceFOGLoss(sigmoid=True, batch=True)
        alone = torch.stack([loss(x, g) for x, g in zip(logits, target, strict=True)])
        assert torch.equal(torch.vmap(loss)(logits, target), alone)

    @pytest.mark.parametrize("batch", [False, True])
    def test_gradients_of_every_value_at_once(self, backend, batch):
        """The backward operators are called under vmap."""
        logits, target = volumes(backend, 2, 3, 4, 5, dtype=torch.float64)
        loss = gk.DiceFOGLoss(sigmoid=True, reduction="none", batch=batch)
        one_by_one = torch.autograd.functional.jacobian(lambda x: loss(x, target), logits)
        assert torch.equal(torch.func.jacrev(loss)(logits.detach(), target), one_by_one)
        assert one_by_one.count_nonzero() > 0

    def test_batched_gradients_of_the_old_kind_are_refused(self, backend):
        logits, target = volumes(backend, 2, 3, 4, 5)
        loss = gk.DiceFOGLoss(sigmoid=True, reduction="none")
        with pytest.raises(
            RuntimeError, match=r"no derivative for is_grads_batched .* use torch\.func\.jacrev"
        ):
            torch.autograd.functional.jacobian(lambda x: loss(x, target), logits, vectorize=True)

    @pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (2, 2), (1, 0)], ids=str)
    def test_vmap_over_other_dimensions(self, backend, in_dims):
        logits, target = self.batch(backend)
        given = [
            tensor[0] if dim is None else tensor.movedim(0, dim)
            for tensor, dim in zip((logits, target), in_dims, strict=True)
        ]
        together = torch.vmap(self.LOSS, in_dims=in_dims)(*given)
        alone = [
            self.LOSS(logits[i if in_dims[0] is not None else 0], target[i if in_dims[1] is not None else 0])
            for i in range(4)
        ]
        assert torch.equal(together, torch.stack(alone))

    def test_vmap_with_mask_and_map(self, backend):
        logits, target = self.batch(backend)
        mask = torch.rand(target.shape).to(logits.device) > 0.3
        distance = torch.randn(target.shape, dtype=torch.float64).to(logits.device)
        loss = gk.BoundaryLoss(sigmoid=True)

        def masked(x: Tensor, g: Tensor, m: Tensor, d: Tensor) -> Tensor:
            return loss(x, g, mask=m, distance_map=d)

        together = torch.vmap(masked)(logits, target, mask, distance)
        alone = [masked(*each) for each in zip(logits, target, mask, distance, strict=True)]
        assert torch.equal(together, torch.stack(alone))


def gradient(loss: Callable[..., Tensor], logits: Tensor, *rest: Tensor) -> Tensor:
    """By autograd."""
    leaf = logits.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf, *rest), leaf)
    return slope


@pytest.mark.parametrize(
    "loss",
    [
        gk.DiceFOGLoss(sigmoid=True),
        gk.DiceLoss(softmax=True, batch=True, weight=[0.5, 2.0]),
        gk.DiceCELoss(softmax=True, weight=[0.5, 2.0], label_smoothing=0.1),
        gk.DiceCELoss(sigmoid=True),
        gk.GeneralizedDiceLoss(softmax=True, include_background=False),
        gk.BoundaryLoss(sigmoid=True) + gk.HausdorffDTLoss(sigmoid=True, include_background=True),
        gk.LogHausdorffDTLoss(softmax=True, include_background=True),
    ],
    ids=["dice + fog", "batch dice", "dice + ce", "two passes", "generalized", "two maps", "logarithm"],
)
class TestDerivativesByTransforms:
    def batch(self, backend: str) -> tuple[Tensor, Tensor]:
        """[4 samples, N, C, *spatial]"""
        logits, target = volumes(backend, 4, 2, 2, 3, 5, 6, dtype=torch.float64)
        return logits.detach(), target

    def test_grad(self, backend, loss):
        logits, target = (samples[0] for samples in self.batch(backend))
        slope, value = torch.func.grad_and_value(loss)(logits, target)
        assert torch.equal(value, loss(logits, target))
        assert torch.equal(slope, gradient(loss, logits, target))
        assert slope.count_nonzero() > 0

    def test_grad_in_a_function_of_it(self, backend, loss):
        logits, target = (samples[0] for samples in self.batch(backend))

        def scaled(x: Tensor, g: Tensor) -> Tensor:
            return 3 * loss(2 * x, g).square()

        torch.testing.assert_close(
            torch.func.grad(scaled)(logits, target), gradient(scaled, logits, target), rtol=1e-12, atol=0
        )

    def test_vjp(self, backend, loss):
        logits, target = (samples[0] for samples in self.batch(backend))
        value, pull_back = torch.func.vjp(lambda x: loss(x, target), logits)
        (slope,) = pull_back(torch.full_like(value, 2.0))
        torch.testing.assert_close(slope, 2 * gradient(loss, logits, target), rtol=1e-14, atol=0)

    def test_vmap_equals_a_loop(self, backend, loss):
        logits, target = self.batch(backend)
        together = torch.vmap(loss)(logits, target)
        alone = torch.stack([loss(x, g) for x, g in zip(logits, target, strict=True)])
        torch.testing.assert_close(together, alone, rtol=1e-14, atol=0)

    @pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (2, 1)], ids=str)
    def test_gradients_per_sample_equal_a_loop(self, backend, loss, in_dims):
        logits, target = self.batch(backend)
        given = [
            tensor[0] if dim is None else tensor.movedim(0, dim)
            for tensor, dim in zip((logits, target), in_dims, strict=True)
        ]
        together = torch.vmap(torch.func.grad(loss), in_dims=in_dims)(*given)
        targets = target[:1].expand_as(target) if in_dims[1] is None else target
        alone = torch.stack([gradient(loss, x, g) for x, g in zip(logits, targets, strict=True)])
        assert alone.count_nonzero() > 0
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-16)

    def test_gradient_of_a_vmap(self, backend, loss):
        logits, target = self.batch(backend)
        slope = torch.func.grad(lambda x: torch.vmap(loss)(x, target).sum())(logits)
        alone = torch.stack([gradient(loss, x, g) for x, g in zip(logits, target, strict=True)])
        torch.testing.assert_close(slope, alone, rtol=1e-12, atol=1e-16)

    def test_weights_of_a_network(self, backend, loss):
        """Per-sample gradients of the parameters, as differential privacy needs them."""
        network = torch.nn.Conv3d(2, 2, 3, padding=1, dtype=torch.float64).to(DEVICES[backend])
        parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
        images, target = self.batch(backend)

        def of_parameters(given: dict[str, Tensor], image: Tensor, g: Tensor) -> Tensor:
            return loss(torch.func.functional_call(network, given, (image,)), g)

        together = torch.vmap(torch.func.grad(of_parameters), in_dims=(None, 0, 0))(
            parameters, images, target
        )
        for index, (image, g) in enumerate(zip(images, target, strict=True)):
            network.zero_grad()
            loss(network(image), g).backward()
            for name, parameter in network.named_parameters():
                torch.testing.assert_close(together[name][index], parameter.grad, rtol=1e-9, atol=1e-13)

    def test_forward_mode_is_refused(self, backend, loss):
        logits, target = (samples[0] for samples in self.batch(backend))
        refused = pytest.raises(RuntimeError, match="the fused losses have no forward derivative")
        with refused:
            torch.func.jvp(lambda x: loss(x, target), (logits,), (torch.ones_like(logits),))
        with refused:
            torch.func.jacfwd(loss)(logits[..., :1, :1, :2], target[..., :1, :1, :2])

    def test_second_derivatives_are_refused(self, backend, loss):
        logits, target = (samples[0] for samples in self.batch(backend))
        with pytest.raises(RuntimeError, match="the fused losses have no second derivative"):
            torch.func.grad(lambda x: torch.func.grad(loss)(x, target).square().sum())(logits)


class TestDerivativesByTheReference:
    def test_transforms_that_are_refused_are_left_to_it(self):
        logits, target = volumes("cpu", 1, 1, 2, 3, dtype=torch.float64)
        loss = gk.DiceCELoss(sigmoid=True)
        with gk.use_backend("reference"):
            hessian = torch.func.hessian(loss)(logits.detach(), target)
            _, tangent = torch.func.jvp(
                lambda x: loss(x, target), (logits.detach(),), (torch.ones_like(target),)
            )
        assert hessian.count_nonzero() == hessian.numel()
        torch.testing.assert_close(tangent, gradient(loss, logits, target).sum())


class TestFakeTensors:
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("include_background", [True, False])
    def test_shapes_and_dtypes(self, backend, dtype, include_background, device):
        options = (
            *encoded(["count", "intersection", "second_order", "map_prediction"], dimensions=2),
            ACTIVATIONS.index("softmax"),
            None,
            include_background,
        )
        operators = library(backend)
        x, g = torch.zeros(2, 3, 4, 5, dtype=dtype), torch.zeros(2, 1, 4, 5)
        real = Arguments(x, g, None, [g], *options)
        expected = reference.geo_sums(*real)
        ratios = [
            reference.geo_ratio(expected, *self.without_class_weights(ratio))
            for ratio in ratio_arguments(real)
        ]
        with FakeTensorMode():
            x, g = (torch.empty(each.shape, dtype=each.dtype, device=device) for each in (x, g))
            arguments = Arguments(x, g, None, [g], *options)
            sums = operators.geo_sums(*arguments)
            slope = operators.geo_sums_backward(sums, *arguments)
            for tensor, right in ((sums, expected), (slope, x)):
                assert (tensor.shape, tensor.dtype, tensor.device) == (right.shape, right.dtype, x.device)
            for ratio, right in zip(ratio_arguments(arguments), ratios, strict=True):
                given = loss_arguments(arguments, ratio)
                loss, loss_sums = operators.geo_loss(*given)
                of_sums = operators.geo_ratio(sums, *ratio)
                slope = operators.geo_loss_backward(loss, sums, *given)
                sums_slope = operators.geo_ratio_backward(loss, sums, *ratio)
                for tensor in (loss, of_sums):
                    assert (tensor.shape, tensor.dtype, tensor.device) == (right.shape, right.dtype, x.device)
                for tensor in (loss_sums, sums_slope):
                    assert (tensor.shape, tensor.dtype, tensor.device) == (sums.shape, sums.dtype, x.device)
                assert (slope.shape, slope.dtype, slope.stride()) == (x.shape, x.dtype, x.stride())

    @staticmethod
    def without_class_weights(ratio: Ratio) -> Ratio:
        """Which leave the shapes as they are."""
        fractions = [-1 if index % 4 > 1 else integer for index, integer in enumerate(ratio.fractions)]
        return ratio._replace(channel_weights=None, fractions=fractions)

    def test_a_loss_on_meta_tensors(self, backend):
        x = torch.empty(2, 1, 4, 5, device="meta", requires_grad=True)
        operators = backends.operators(torch.empty(0, device=DEVICES[backend]))
        terms = encoded(["prediction"], dimensions=2)
        sums = operators.geo_sums(x, torch.empty_like(x).detach(), None, [], *terms, 0, None, True)
        operators.geo_ratio(sums, None, [0, 0, -1, -1], [1.0, 0.0, 0.0, 1.0], 1).backward()
        assert x.grad is not None
        assert (x.grad.shape, x.grad.device.type) == (x.shape, "meta")
