"""The operators inside PyTorch: opcheck, torch.compile, autocast, torch.func and fake tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numerics import ACTIVATIONS, DEVICES, DTYPES, Arguments, Case, Ratio, encoded, library, ratio_arguments
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import geoloss_kernels as gk
from geoloss_kernels import backends, reference

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
