"""HeadLoss, strip by strip, is loss(head(features), target); and the heads of networks apart."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks import nets
from numerics import DEVICES, INTERPRETED, channels_last, sliced, transposed
from torch import Tensor, nn

import geoloss_kernels as gk
from geoloss_kernels import backends, heads
from geoloss_kernels.head_loss import deep_supervision_weights

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
LABELS = {"softmax": True, "to_onehot_y": True}
WEIGHT = [1.0, 0.5, 2.0, 3.0]


def sobel_loss(**options: Any) -> gk.GEOLoss:
    return gk.GEOLoss(
        lambda s, g: (s - g).abs(),
        lambda s, g, phi: gk.norm(phi(s) - phi(g)),
        gk.phi.sobel(),
        lambda s, g: s + g,
        **options,
    )


OF_LABELS: dict[str, gk.FormulaLoss] = {
    "dice": gk.DiceLoss(**LABELS),
    "dice, batch": gk.DiceLoss(**LABELS, batch=True, include_background=False),
    "dice + ce": gk.DiceCELoss(**LABELS, weight=WEIGHT),
    "dice + ce, a sigmoid and a softmax": gk.DiceCELoss(sigmoid=True, to_onehot_y=True),
    "dice + ce, own activation": gk.DiceCELoss(other_act=lambda z: (2 * z).softmax(1), to_onehot_y=True),
    "ce, ignored label": gk.CrossEntropyLoss(**LABELS, weight=WEIGHT, ignore_index=2, label_smoothing=0.1),
    "tversky, none": gk.TverskyLoss(**LABELS, reduction="none"),
    "generalized dice": gk.GeneralizedDiceLoss(**LABELS),
    "focal, without the background": gk.FocalLoss(
        include_background=False, to_onehot_y=True, use_softmax=True
    ),
    "dice + focal": gk.DiceFocalLoss(**LABELS, reduction="sum"),
    "dice + fog": gk.DiceFOGLoss(**LABELS),
    "fog, none": gk.FOGLoss(**LABELS, reduction="none", operator="central", norm="l1"),
    "sog": gk.SOGLoss(**LABELS, two_sided=True),
    "boundary": gk.DiceBoundaryLoss(**LABELS),
    "hausdorff": gk.LogHausdorffDTLoss(**LABELS),
    "sobel": sobel_loss(**LABELS),
    "everything": gk.DiceCELoss(**LABELS) + 0.5 * gk.FOGLoss(**LABELS) + gk.BoundaryLoss(**LABELS),
}
OF_VOLUMES: dict[str, gk.FormulaLoss] = {
    "bce": gk.BCELoss(sigmoid=True),
    "dice + sog": gk.DiceSOGLoss(sigmoid=True),
    "dice, squared": gk.DiceLoss(softmax=True, squared_pred=True, soft_label=True),
    "hausdorff": gk.HausdorffDTLoss(sigmoid=True, include_background=True),
    "probabilities": gk.DiceFOGLoss(),
}
LOSSES = {**{f"{name} of labels": loss for name, loss in OF_LABELS.items()}, **OF_VOLUMES}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
CHANNELS = len(WEIGHT)


@pytest.fixture
def strips(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the bytes of a strip's logits; far fewer than in use, so that small volumes are cut."""

    def cut(size: int) -> None:
        monkeypatch.setitem(heads.STRIP_BYTES, "cpu", size)
        monkeypatch.setitem(heads.OVERLAPPING_BYTES, "cpu", 2 * size)

    cut(600)
    return cut


def make_head(
    features: int, axes: int, bias: bool = True, channels: int = CHANNELS, **kind: Any
) -> nn.Module:
    return CONVOLUTIONS[axes](features, channels, 1, bias=bias, **kind)


def make_target(loss: gk.FormulaLoss, features: Tensor, channels: int = CHANNELS) -> Tensor:
    shape = (len(features), 1, *features.shape[2:])
    if loss.options.to_onehot_y:
        return torch.randint(0, channels, shape)
    return (torch.rand(shape[0], channels, *shape[2:]) > 0.6).to(features.dtype)


def results(loss: Callable[..., Tensor], head: nn.Module, features: Tensor, *rest: Any) -> list[Tensor]:
    """The loss of the features, and its derivatives in them and in the head."""
    value = loss(features, *rest)
    leaves = [features, *head.parameters()]
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)
    return [value.detach(), *torch.autograd.grad(value, leaves, weights.to(value.device))]


def fused_and_unfused(
    loss: gk.FormulaLoss, head: nn.Module, features: Tensor, *rest: Any
) -> tuple[list[Tensor], list[Tensor]]:
    def unfused(features: Tensor, *rest: Any) -> Tensor:
        return loss(head(features), *rest)

    return results(gk.HeadLoss(loss, head), head, features, *rest), results(unfused, head, features, *rest)


def assert_agree(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert mine.shape == other.shape
        assert float((mine - other).abs().max()) <= tolerance * float(other.abs().max())
    assert ours[1].count_nonzero() > 0


class TestAgainstTheUnfusedLoss:
    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    @pytest.mark.parametrize("name", LOSSES)
    def test_value_and_gradients(self, strips, name, dtype):
        """Over random shapes, strips that do not divide, and masks."""
        chance = random.Random(name)
        for axes in (1, 2, 3):
            strips(chance.choice([200, 1000, 5000]))
            shape = [
                chance.randint(1, 3),
                5,
                *(chance.randint(3, (60, 21, 11)[axes - 1]) for _ in range(axes)),
            ]
            features = torch.randn(shape, dtype=dtype, requires_grad=True)
            head = make_head(5, axes, bias=chance.random() < 0.7, dtype=dtype)
            loss = LOSSES[name]
            target = make_target(loss, features)
            mask = None
            if chance.random() < 0.6:
                channels = CHANNELS if chance.random() < 0.5 else 1
                mask = torch.rand(shape[0], channels, *shape[2:]) > 0.2
            spacing = [chance.uniform(0.5, 3) for _ in range(axes)]
            ours, theirs = fused_and_unfused(loss, head, features, target, mask, spacing)
            assert_agree(ours, theirs, TOLERANCE[dtype])

    @pytest.mark.parametrize(
        "layout", [sliced, transposed, channels_last], ids=lambda layout: layout.__name__
    )
    @pytest.mark.parametrize("name", ["dice + ce", "everything"])
    def test_layouts_of_features(self, strips, poisoned, name, layout):
        loss, head = OF_LABELS[name], make_head(3, 3, dtype=torch.float64)
        features = layout(torch.randn(2, 3, 7, 9, 10, dtype=torch.float64)).requires_grad_()
        target = layout(make_target(loss, features))
        ours, theirs = fused_and_unfused(loss, head, features, target)
        assert_agree(ours, theirs, 1e-10)

    @pytest.mark.parametrize("bytes", [300, 10**9], ids=["strips", "at once"])
    def test_linear_head_and_single_channel(self, strips, bytes):
        strips(bytes)
        head = nn.Linear(6, 1)
        convolution = nn.Conv3d(6, 1, 1)
        convolution.load_state_dict({"weight": head.weight.view(1, 6, 1, 1, 1), "bias": head.bias})
        features = torch.randn(2, 6, 8, 9, 5, requires_grad=True)
        loss = gk.DiceFOGLoss(sigmoid=True)
        target = make_target(loss, features, 1)
        ours = results(gk.HeadLoss(loss, head), head, features, target)
        _, theirs = fused_and_unfused(loss, convolution, features, target)
        assert_agree(ours, [*theirs[:2], theirs[2].flatten(1), theirs[3]], 1e-5)

    @pytest.mark.parametrize("name", ["dice + ce", "dice + fog"])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("by_autocast", [True, False])
    def test_half_precision(self, strips, by_autocast, dtype, name):
        """Of float64's value and gradients, as near as the unfused loss in half precision."""
        loss, head = OF_LABELS[name], make_head(8, 3)
        features = torch.randn(2, 8, 9, 8, 7, requires_grad=True)
        target = make_target(loss, features)
        exact_head = make_head(8, 3, dtype=torch.float64)
        exact_head.load_state_dict(head.state_dict())
        exact_features = features.detach().double().requires_grad_()
        _, exact = fused_and_unfused(loss, exact_head, exact_features, target)
        if not by_autocast:
            head, features = head.to(dtype), features.detach().to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype, enabled=by_autocast):
            ours, theirs = fused_and_unfused(loss, head, features, target)
        for mine, other, right in zip(ours, theirs, exact, strict=True):
            assert mine.dtype == other.dtype
            fault, theirs_fault = ((each.double() - right).abs().max() for each in (mine, other))
            assert fault <= 1.5 * theirs_fault + 1e-3 * right.abs().max()

    def test_given_distance_map(self, strips):
        loss, head = OF_LABELS["boundary"], make_head(3, 2)
        features = torch.randn(1, 3, 20, 21, requires_grad=True)
        target = make_target(loss, features)
        map = torch.randn(1, CHANNELS, 20, 21)
        ours, theirs = fused_and_unfused(loss, head, features, target, None, None, map)
        assert_agree(ours, theirs, 1e-5)

    def test_frozen_head_and_features_without_gradient(self, strips):
        loss, head = OF_LABELS["dice + ce"], make_head(3, 3)
        features = torch.randn(1, 3, 9, 9, 9)
        target = make_target(loss, features)
        fused = gk.HeadLoss(loss, head)
        fused(features, target).backward()
        loss(head(features), target).backward()
        assert head.weight.grad is not None
        expected = head.weight.grad / 2
        head.zero_grad()
        fused(features, target).backward()
        torch.testing.assert_close(head.weight.grad, expected, rtol=1e-5, atol=1e-8)
        assert not fused.requires_grad_(False)(features, target).requires_grad

    def test_reference(self, strips):
        loss, head = OF_LABELS["dice + fog"], make_head(3, 3)
        features = torch.randn(2, 3, 9, 8, 7, requires_grad=True)
        target = make_target(loss, features)
        _, theirs = fused_and_unfused(loss, head, features, target)
        with gk.use_backend("reference"):
            ours, _ = fused_and_unfused(loss, head, features, target)
        assert_agree(ours, theirs, 1e-5)

    def test_empty_batch(self, strips):
        head = make_head(3, 2)
        features = torch.randn(0, 3, 8, 8, requires_grad=True)
        loss = gk.DiceLoss(**LABELS, reduction="sum")
        value = gk.HeadLoss(loss, head)(features, torch.zeros(0, 1, 8, 8))
        value.backward()
        assert float(value.detach()) == float(loss(head(features), torch.zeros(0, 1, 8, 8)).detach())


class TestStrips:
    def test_every_backend_by_the_strip(self, backend, strips):
        strips(4000)
        device = DEVICES[backend]
        loss, head = OF_LABELS["dice + fog"], make_head(3, 3, device=device)
        features = torch.randn(1, 3, 2, 20, 12, device=device, requires_grad=True)
        target = make_target(loss, features).to(device)
        ours = results(gk.HeadLoss(loss, head), head, features, target)
        with gk.use_backend("reference"):
            _, theirs = fused_and_unfused(loss, head, features, target)
        assert_agree(ours, theirs, 1e-5)

    @pytest.mark.parametrize("halo", [0, 2])
    def test_pieces_make_up_the_volume(self, halo):
        chance = random.Random(0)
        for _ in range(300):
            shape = [chance.randint(1, 40) for _ in range(5)]
            elements = chance.randint(1, 20000)
            cut = heads.pieces(shape, elements, halo)
            for axis, size in zip(cut, (shape[0], *shape[2:4]), strict=True):
                assert [number for piece in axis for number in range(piece.start, piece.stop)] == [
                    *range(size)
                ]
            if halo == 0:
                largest = [max(piece.stop - piece.start for piece in axis) for axis in cut]
                voxels = largest[0] * largest[1] * largest[2] * shape[4]
                assert voxels * shape[1] <= max(elements, shape[1] * shape[4])

    def test_small_volumes_are_one_strip(self, monkeypatch):
        """No second product, and no strips: what is small is computed at once."""
        monkeypatch.setattr("geoloss_kernels.evaluation.head_sums", None)
        head, features = make_head(3, 3), torch.randn(2, 3, 8, 8, 8, requires_grad=True)
        loss = OF_LABELS["dice + ce"]
        target = make_target(loss, features)
        assert_agree(*fused_and_unfused(loss, head, features, target), 1e-5)

    def test_bit_equal_from_run_to_run(self, strips):
        loss, head = OF_LABELS["everything"], make_head(5, 3)
        features = torch.randn(2, 5, 13, 14, 15, requires_grad=True)
        target = make_target(loss, features)
        fused = gk.HeadLoss(loss, head)
        first, again = (results(fused, head, features, target) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))

    def test_strips_are_what_is_computed(self, strips, monkeypatch):
        """The losses above are cut, and no strip is larger than it may be."""
        sizes = []

        def spied(self: heads.StripProduct, box: heads.Box) -> Tensor:
            logits = computed(self, box)
            sizes.append(logits.nbytes)
            return logits

        computed = heads.StripProduct.logits
        monkeypatch.setattr(heads.StripProduct, "logits", spied)
        strips(4000)
        head, features = make_head(5, 3), torch.randn(2, 5, 13, 14, 15, requires_grad=True)
        loss = OF_LABELS["dice + ce"]
        gk.HeadLoss(loss, head)(features, make_target(loss, features)).backward()
        assert len(sizes) > 20
        assert max(sizes) <= 4000


class TestDerivatives:
    def test_no_second_derivative(self, strips):
        head, features = make_head(3, 2), torch.randn(1, 3, 20, 20, requires_grad=True)
        loss = gk.HeadLoss(gk.DiceLoss(**LABELS), head)
        value = loss(features, torch.zeros(1, 1, 20, 20))
        (slope,) = torch.autograd.grad(value, features, create_graph=True)
        with pytest.raises(RuntimeError, match=r"a HeadLoss has no second derivative.*use_backend"):
            slope.sum().backward()

    def test_none_in_the_target(self, strips):
        head, features = make_head(3, 2), torch.randn(1, 3, 20, 20, requires_grad=True)
        target = torch.rand(1, CHANNELS, 20, 20, requires_grad=True)
        value = gk.HeadLoss(gk.DiceLoss(sigmoid=True), head)(features, target)
        with pytest.raises(RuntimeError, match="target: expected a tensor without gradient"):
            value.backward()


@pytest.mark.skipif(INTERPRETED, reason="compilers and Triton's interpreter do not go together")
class TestCompilers:
    def test_one_graph_of_network_and_loss(self, strips):
        torch.compiler.reset()
        network = nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.PReLU(), nn.Conv3d(6, CHANNELS, 1))
        body, head = gk.split_head(network, torch.zeros(1, 2, 4, 4, 4))
        loss = gk.HeadLoss(OF_LABELS["everything"], head)

        def step(image: Tensor, target: Tensor) -> Tensor:
            return loss(body(image), target)

        compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
        for size in (9, 12):
            image, target = torch.randn(1, 2, size, 10, 8), torch.randint(0, 3, (1, 1, size, 10, 8))
            ours, plain = ([s(image, target), *network.parameters()] for s in (compiled, step))
            ours, plain = (torch.autograd.grad(value, of) for value, *of in (ours, plain))
            for mine, other in zip(ours, plain, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)

    def test_programs_go_to_the_operators_that_compute_them(self, strips, monkeypatch):
        torch.compiler.reset()
        loss = gk.HeadLoss(gk.FocalLoss(to_onehot_y=True), make_head(4, 3))
        features = torch.randn(1, 4, 9, 10, 8, requires_grad=True)
        target = torch.randint(0, CHANNELS, (1, 1, 9, 10, 8))
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        compiled(features, target).backward()
        asked, theirs = [], backends.operators_for_programs

        def noted(tensor: Tensor) -> Any:
            asked.append(tensor.shape)
            return theirs(tensor)

        monkeypatch.setattr(backends, "operators_for_programs", noted)
        compiled(features, target).backward()
        assert asked == [features.shape] * 2


class TestDeepSupervision:
    def setting(self) -> tuple[gk.FormulaLoss, list[nn.Module], list[Tensor], list[Tensor]]:
        features = [
            torch.randn(2, channels, size, 16, size, requires_grad=True)
            for channels, size in ((3, 16), (4, 8), (5, 4))
        ]
        heads_ = [make_head(each.shape[1], 3) for each in features]
        loss = OF_LABELS["dice + ce"]
        return loss, heads_, features, [make_target(loss, each) for each in features]

    def test_weighted_sum_of_the_scales(self, strips):
        strips(10000)  # the first scale is cut, the last is not
        loss, heads_, features, targets = self.setting()
        deep = gk.HeadLoss(loss, heads_, weights=(0.5, 0.3, 0.2))
        ours = torch.autograd.grad(deep(features, targets), [*features, *deep.parameters()])
        single = [loss(h(x), g) for h, x, g in zip(heads_, features, targets, strict=True)]
        theirs = torch.autograd.grad(
            0.5 * single[0] + 0.3 * single[1] + 0.2 * single[2], [*features, *deep.parameters()]
        )
        assert_agree(list(ours), list(theirs), 1e-5)

    def test_nnunets_weights(self):
        assert deep_supervision_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
        assert deep_supervision_weights(1) == (1.0,)
        loss, heads_, features, targets = self.setting()
        deep = gk.HeadLoss(loss, nn.ModuleList(heads_))
        assert deep.weights == pytest.approx([2 / 3, 1 / 3, 0])
        deep(features, targets).backward()
        assert features[2].grad is None

    def test_target_of_the_first_scale_for_all(self):
        loss, heads_, features, targets = self.setting()
        mask = torch.rand(2, 1, 16, 16, 16) > 0.3
        small = [
            torch.nn.functional.interpolate(targets[0].double(), each.shape[2:], mode="nearest-exact")
            for each in features
        ]
        masks = [
            torch.nn.functional.interpolate(mask.double(), each.shape[2:], mode="nearest-exact")
            for each in features
        ]
        deep = gk.HeadLoss(loss + gk.FOGLoss(**LABELS), heads_)
        ours = deep(features, targets[0], mask, spacing=(1.0, 2.0, 3.0))
        alone = [
            gk.HeadLoss(deep.loss, head)(*rest, spacing)
            for head, *rest, spacing in zip(
                heads_, features, small, masks, ((1, 2, 3), (2, 2, 6), (4, 2, 12)), strict=True
            )
        ]
        torch.testing.assert_close(ours, 2 / 3 * alone[0] + 1 / 3 * alone[1])


class TestErrors:
    @pytest.mark.parametrize(
        ("head", "error", "message"),
        [
            (nn.Conv3d(3, 4, 3), ValueError, r"head: expected .* kernel_size 1, got \(3, 3, 3\)"),
            (nn.Conv2d(3, 4, 1, stride=2), ValueError, r"head: expected .* stride 1, got \(2, 2\)"),
            (nn.Conv2d(3, 4, 1, padding=1), ValueError, r"head: expected .* padding 0, got \(1, 1\)"),
            (nn.Conv3d(4, 4, 1, groups=2), ValueError, "head: expected a convolution with 1 group, got 2"),
            (nn.ConvTranspose3d(3, 4, 1), TypeError, "head: expected a Conv1d.*, got ConvTranspose3d"),
        ],
        ids=str,
    )
    def test_heads(self, head, error, message):
        for call in (lambda: gk.HeadLoss(gk.DiceLoss(), head), lambda: gk.head_argmax(torch.ones(1), head)):
            with pytest.raises(error, match=message):
                call()

    @pytest.mark.parametrize(
        ("features", "error", "message"),
        [
            (torch.ones(1, 2, 5, 5, 5), ValueError, "features: expected 3 channels for the head, got 2"),
            (torch.ones(1, 3, 5, 5), ValueError, r"features: expected 5 axes for a Conv3d, got shape"),
            (torch.ones(1, 3, 5, 5, 5).half(), TypeError, "features: expected torch.float32 as the head"),
            (None, TypeError, "features: expected a tensor, got NoneType"),
            (torch.ones(1, 3, 4, 5, 5), ValueError, r"target: expected shape"),
        ],
        ids=str,
    )
    def test_features(self, strips, features, error, message):
        loss = gk.HeadLoss(gk.DiceLoss(**LABELS), make_head(3, 3))
        with pytest.raises(error, match=message):
            loss(features, torch.zeros(1, 1, 5, 5, 5))

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (
                gk.FormulaLoss(gk.formulas.geo(lambda s, g: s * g, fused=False), sigmoid=True),
                "open part for plain PyTorch",
            ),
            (gk.FocalLoss(reduction="none"), "reduction: expected 'mean' or 'sum' in a HeadLoss"),
            (gk.DiceLoss(other_act=lambda z: z[..., :2]), "other_act: expected a function of voxels"),
        ],
    )
    def test_losses_that_cannot_be_split(self, strips, loss, message):
        fused, target = gk.HeadLoss(loss, make_head(3, 3)), torch.zeros(1, CHANNELS, 9, 9, 9)
        with pytest.raises(ValueError, match=message):
            fused(torch.ones(1, 3, 9, 9, 9), target)

    def test_other_losses(self):
        with pytest.raises(TypeError, match=r"loss: expected one of geoloss_kernels, .* got Cross"):
            gk.HeadLoss(nn.CrossEntropyLoss(), make_head(3, 3))

    def test_scales(self):
        loss, heads_ = gk.DiceLoss(**LABELS), [make_head(3, 2), make_head(3, 2)]
        with pytest.raises(ValueError, match="weights: expected 2 numbers, one per head"):
            gk.HeadLoss(loss, heads_, weights=(1,))
        with pytest.raises(ValueError, match="weights: expected None with one head"):
            gk.HeadLoss(loss, heads_[0], weights=(1,))
        deep = gk.HeadLoss(loss, heads_)
        with pytest.raises(ValueError, match=r"features: expected a sequence of 2 tensors, .* got 1"):
            deep([torch.ones(1, 3, 4, 4)], torch.zeros(1, 1, 4, 4))


class TestInference:
    @pytest.mark.parametrize("shape", [(2, 3, 41), (2, 3, 9, 11), (2, 3, 7, 6, 9)], ids=str)
    def test_labels_and_probabilities(self, strips, shape):
        head, features = make_head(3, len(shape) - 2), torch.randn(shape)
        with torch.no_grad():
            logits = head(features)
        assert torch.equal(gk.head_argmax(features, head), logits.argmax(1))
        labels = gk.head_argmax(features, head, torch.uint8)
        assert labels.dtype == torch.uint8
        assert torch.equal(labels.long(), logits.argmax(1))
        for options, activated in (
            ({"softmax": True}, logits.softmax(1)),
            ({"sigmoid": True}, logits.sigmoid()),
        ):
            chosen = gk.head_probabilities(features, head, [2, 0], **options)
            torch.testing.assert_close(chosen, activated[:, [2, 0]])
            torch.testing.assert_close(gk.head_probabilities(features, head, **options), activated)

    def test_errors(self):
        head, features = make_head(3, 2, channels=300), torch.randn(1, 3, 4, 4)
        with pytest.raises(ValueError, match=r"dtype: expected room for 300 classes, got torch\.uint8"):
            gk.head_argmax(features, head, torch.uint8)
        with pytest.raises(ValueError, match=r"channels: expected numbers from 0 to 299, got \[300\]"):
            gk.head_probabilities(features, head, [300], softmax=True)
        with pytest.raises(ValueError, match="sigmoid, softmax: expected exactly one of them"):
            gk.head_probabilities(features, head)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "BasicUNet": lambda: nets.BasicUNet(2, 1, 3, features=(4, 4, 4, 4, 4, 6)),
    "DynUNet": lambda: nets.DynUNet(2, 1, 3, [3] * 3, [1, 2, 2], [2, 2], filters=(6, 8, 8)),
    "SegResNet": lambda: nets.SegResNet(2, 8, 1, 3),
    "AttentionUnet": lambda: nets.AttentionUnet(2, 1, 3, (6, 8), (2,)),
    "BasicUNet++": lambda: nets.BasicUNetPlusPlus(
        2, 1, 3, features=(4, 4, 4, 4, 4, 6), deep_supervision=True
    ),
}


class TestSplitHead:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_networks_of_monai(self, name):
        network, image = NETWORKS[name](), torch.randn(1, 1, 32, 32)
        network.train()
        weights = {key: value.clone() for key, value in network.state_dict().items()}
        body, head = gk.split_head(network, image)
        assert all(module.training for module in network.modules())
        assert all(torch.equal(weights[key], value) for key, value in network.state_dict().items())
        network.eval()
        with torch.no_grad():
            logits, features = network(image), body(image)
        outputs, inputs, heads_ = (
            (logits, features, head) if isinstance(logits, list) else ([logits], [features], [head])
        )
        for output, input, each in zip(outputs, inputs, heads_, strict=True):
            assert input.shape[1] != 3
            assert torch.equal(each(input), output)
            assert repr(each).startswith("Conv2d(")

    def test_other_last_layers_are_refused(self):
        image = torch.randn(1, 1, 16, 16)
        with pytest.raises(ValueError, match=r"network: expected a last layer that .* ConvTranspose2d"):
            gk.split_head(nets.UNet(2, 1, 3, (4, 8), (2,)), image)
        network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Upsample(scale_factor=2))
        with pytest.raises(ValueError, match=r"network: .* is that of Upsample"):
            gk.split_head(network, image)

        class Cut(nn.Sequential):
            def forward(self, input: Tensor) -> Tensor:
                return super().forward(input)[..., 1:]

        with pytest.raises(ValueError, match="the output of Cut is no layer's own"):
            gk.split_head(Cut(nn.Conv2d(1, 3, 1)), image)

    def test_known_heads(self):
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1))
        body = gk.HeadlessNetwork(network, network[1])
        image = torch.randn(1, 1, 9, 9)
        assert torch.equal(body(image), network[0](image))
        with pytest.raises(ValueError, match="heads: expected modules of the network, got another"):
            gk.HeadlessNetwork(network, nn.Conv2d(4, 3, 1))


MEASURE = """
import sys
import torch
import geoloss_kernels as gk

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

torch.set_num_threads(1)
head, loss = torch.nn.Conv3d(32, 105, 1), gk.DiceCELoss(softmax=True, to_onehot_y=True)
fused = gk.HeadLoss(loss, head)
step = fused if sys.argv[1] == "fused" else lambda features, labels: loss(head(features), labels)
for size in (20, 20, 64):  # threads and allocators come into being, code is loaded
    features = torch.randn(1, 32, size, size, size, requires_grad=True)
    labels = torch.randint(0, 105, (1, 1, size, size, size))
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the high-water mark
    step(features, labels).backward()
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(INTERPRETED, reason="measures the CPU's kernels")
def test_memory_of_105_classes():
    """The gradient of the features, and a few megabytes.

    The least of three processes: pages of code that the kernel took back count as growth when they return.
    """
    fused, unfused = (min(map(memory_taken, [which] * 3)) for which in ("fused", "unfused"))
    assert fused <= 0.3 * unfused
    assert fused <= 32 * 64**3 * 4 + 12 * 2**20


def memory_taken(which: str) -> int:
    """By a step with HeadLoss, or with head and loss apart, in bytes."""
    command = [sys.executable, "-c", MEASURE, which]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)
