"""Cross-entropy against torch, DiceCELoss and GeneralizedDiceLoss against MONAI: values and gradients.

Theirs are computed in float64 on the same inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import monai.losses
import monai.networks
import pytest
import torch
from numerics import DEVICES
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

import geoloss_kernels as gk

RELATIVE = {torch.float64: 1e-10, torch.float32: 1e-6}
SHAPES = [(2, 3, 4, 5, 6), (3, 4, 7, 5), (2, 2, 9)]
IGNORED = -100
WEIGHTS = [0.5, 2.0, 0.0, 1.5]
LABELS = {"softmax": True, "to_onehot_y": True}

dtypes = pytest.mark.parametrize("dtype", RELATIVE, ids=str)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def logits_of(backend: str, shape: tuple[int, ...], dtype: torch.dtype, largest: float = 10.0) -> Tensor:
    """Of every size up to ``largest``."""
    sizes = largest ** torch.linspace(-3, 1, 2 * 3 * 5 * 7)[torch.randperm(2 * 3 * 5 * 7)]
    values = torch.randn(shape).sign().flatten() * sizes.repeat(99)[: torch.Size(shape).numel()]
    return values.view(shape).clamp(-largest, largest).to(dtype).to(DEVICES[backend]).requires_grad_()


def labels_of(logits: Tensor, ignored: bool = False) -> Tensor:
    labels = torch.randint(0, logits.shape[1], (logits.shape[0], 1, *logits.shape[2:]))
    if ignored:
        labels[torch.rand(labels.shape) > 0.7] = IGNORED
    return labels.to(logits.device)


def probabilities_of(logits: Tensor) -> Tensor:
    shares = torch.rand(logits.shape, dtype=torch.float64).exp()
    return (shares / shares.sum(1, keepdim=True)).to(logits)


def weight_of(logits: Tensor) -> Tensor:
    return torch.tensor(WEIGHTS[: logits.shape[1]], dtype=torch.float64, device=logits.device)


def assert_same(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    """Values relative to the value; gradients to their largest element, beyond which torch rounds, too."""
    relative = RELATIVE[logits.dtype]
    exact = logits.detach().double().requires_grad_()
    value, expected = ours(logits), theirs(exact)
    assert value.numel() == expected.numel()
    assert expected.isfinite().all()
    torch.testing.assert_close(value.double().flatten(), expected.flatten(), rtol=relative, atol=0)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    (right,) = torch.autograd.grad(expected.sum(), exact)
    assert slope.count_nonzero() > 0
    torch.testing.assert_close(slope.double(), right, rtol=relative, atol=relative * float(right.abs().max()))


@dtypes
@shapes
@pytest.mark.parametrize("largest", [3.0, 200.0])
class TestAgainstTorch:
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
    @pytest.mark.parametrize("ignore_index", [None, IGNORED, 1])
    def test_labels(self, backend, dtype, shape, largest, ignore_index, label_smoothing, weighted, reduction):
        logits = logits_of(backend, shape, dtype, largest)
        labels = labels_of(logits, ignored=ignore_index == IGNORED)
        weight = weight_of(logits) if weighted else None
        options = {"reduction": reduction, "label_smoothing": label_smoothing}
        loss = gk.CrossEntropyLoss(weight=weight, ignore_index=ignore_index, **options, **LABELS)
        ignored = IGNORED if ignore_index is None else ignore_index
        theirs = partial(cross_entropy, target=labels[:, 0], weight=weight, ignore_index=ignored, **options)
        assert_same(lambda x: loss(x, labels), theirs, logits)

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
    def test_probabilities(self, backend, dtype, shape, largest, label_smoothing, weighted, reduction):
        logits = logits_of(backend, shape, dtype, largest)
        target = probabilities_of(logits)
        weight = weight_of(logits) if weighted else None
        options = {"reduction": reduction, "label_smoothing": label_smoothing}
        loss = gk.CrossEntropyLoss(softmax=True, weight=weight, **options)
        theirs = partial(cross_entropy, target=target.double(), weight=weight, **options)
        assert_same(lambda x: loss(x, target), theirs, logits)

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_binary(self, backend, dtype, shape, largest, channels, weighted, reduction):
        """Under a sigmoid, or of a single channel."""
        logits = logits_of(backend, (shape[0], channels, *shape[2:]), dtype, largest)
        target = torch.rand_like(logits).detach()
        weight = weight_of(logits) if weighted else None
        of_voxels = None if weight is None else weight.view(-1, *[1] * (len(shape) - 2))
        loss = gk.CrossEntropyLoss(sigmoid=True, weight=weight, reduction=reduction)
        theirs = partial(
            binary_cross_entropy_with_logits,
            target=target.double(),
            pos_weight=of_voxels,
            reduction=reduction,
        )
        assert_same(lambda x: loss(x, target), theirs, logits)

    @pytest.mark.parametrize("pos_weight", [1.0, 4.0])
    def test_bce(self, backend, dtype, shape, largest, pos_weight):
        logits = logits_of(backend, shape, dtype, largest)
        target = torch.rand_like(logits).detach()
        loss = gk.BCELoss(sigmoid=True, pos_weight=pos_weight)
        weight = torch.tensor(pos_weight, device=logits.device, dtype=torch.float64)
        theirs = partial(binary_cross_entropy_with_logits, target=target.double(), pos_weight=weight)
        assert_same(lambda x: loss(x, target), theirs, logits)


class TestRange:
    @pytest.mark.parametrize("size", [60.0, 200.0])
    @pytest.mark.parametrize("channels", [2, 3])
    @pytest.mark.parametrize("right", [True, False])
    def test_bce_under_a_softmax_is_not_lost_to_rounding(self, backend, right, channels, size):
        """1 - s rounds to 0 or 1 in either precision; its logarithm comes from the logits."""
        labels = torch.randint(0, channels, (2, 1, 4, 5)).to(DEVICES[backend])
        wanted = torch.cat([labels == c for c in range(channels)], 1).float()
        others = torch.randn(wanted.shape).to(wanted.device)
        logits = (size * (wanted if right else 1 - wanted) + others).requires_grad_()
        loss = gk.BCELoss(**LABELS, reduction="sum")

        def exact(x: Tensor) -> Tensor:
            log_s = x.log_softmax(1)
            without = [torch.cat([x[:, :c], x[:, c + 1 :]], 1).logsumexp(1) for c in range(channels)]
            log_complement = torch.stack(without, 1) - x.logsumexp(1, keepdim=True)
            surprise = -torch.where(wanted == 1, log_s, log_complement)
            return surprise.mean((2, 3)).sum()

        value, expected = loss(logits, labels), exact(logits.double())
        assert (expected < 1e-15) == right
        if right:
            assert value < 1e-6
        else:
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
        slopes = [torch.autograd.grad(each, logits)[0] for each in (value, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("options", [LABELS, {"softmax": True}], ids=["labels", "volumes"])
    def test_no_valid_voxel_is_a_loss_of_zero(self, backend, options):
        logits = torch.randn(2, 3, 4, 5, device=DEVICES[backend], requires_grad=True)
        target = labels_of(logits) if "to_onehot_y" in options else probabilities_of(logits)
        value = gk.CrossEntropyLoss(**options)(logits, target, mask=torch.zeros_like(target[:, :1]))
        value.backward()
        assert value == 0
        assert logits.grad.count_nonzero() == 0

    def test_a_mask_leaves_voxels_out(self, backend):
        logits = torch.randn(2, 3, 4, 5, device=DEVICES[backend], dtype=torch.float64, requires_grad=True)
        labels, mask = labels_of(logits), torch.rand(2, 1, 4, 5).to(logits.device) > 0.4
        loss = gk.CrossEntropyLoss(**LABELS, weight=weight_of(logits), label_smoothing=0.1)
        marked = labels.masked_fill(~mask, IGNORED)[:, 0]
        theirs = partial(cross_entropy, target=marked, weight=weight_of(logits), label_smoothing=0.1)
        assert_same(lambda x: loss(x, labels, mask=mask), theirs, logits)

    def test_without_background_it_counts_all_channels(self, backend):
        logits = torch.randn(2, 3, 4, 5, device=DEVICES[backend])
        labels = labels_of(logits)
        values = [
            gk.CrossEntropyLoss(include_background=each, **LABELS)(logits, labels) for each in (True, False)
        ]
        assert torch.equal(*values)

    def test_without_reduction_it_is_the_one_ratio(self, backend):
        logits = torch.randn(2, 3, 4, 5, device=DEVICES[backend])
        labels = labels_of(logits)
        value = gk.CrossEntropyLoss(reduction="none", **LABELS)(logits, labels)
        assert value.shape == (1, 1, 1, 1)
        assert torch.equal(value.squeeze(), gk.CrossEntropyLoss(**LABELS)(logits, labels))

    @pytest.mark.parametrize("label_smoothing", [-0.1, 1.5])
    def test_smoothing_is_a_share(self, label_smoothing):
        with pytest.raises(ValueError, match="label_smoothing: expected a number from 0 to 1, got"):
            gk.CrossEntropyLoss(label_smoothing=label_smoothing)


DICE_CE: dict[str, dict[str, Any]] = {
    "plain": {},
    "squared": {"squared_pred": True},
    "jaccard": {"jaccard": True},
    "smooth": {"smooth_nr": 0.3, "smooth_dr": 2.0},
    "batch": {"batch": True},
    "weighted": {"weight": True},
    "lambdas": {"lambda_dice": 0.25, "lambda_ce": 3.0},
    "smoothed labels": {"label_smoothing": 0.2},
    "everything": {
        **{"squared_pred": True, "jaccard": True, "smooth_nr": 0.0, "smooth_dr": 0.1, "batch": True},
        **{"weight": True, "lambda_dice": 2.0, "lambda_ce": 0.5, "label_smoothing": 0.1},
    },
}
# (channels, options)
ACTIVATIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "softmax labels": (3, LABELS),
    "softmax volumes": (3, {"softmax": True}),
    "sigmoid of one channel": (1, {"sigmoid": True}),
    "sigmoid of labels": (3, {"sigmoid": True, "to_onehot_y": True}),
    "sigmoid of several": (3, {"sigmoid": True}),
    "other activation": (3, {"other_act": torch.tanh, "to_onehot_y": True}),
    "no activation": (2, {}),
}


@pytest.fixture
def exact_one_hot(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI keeps one-hot volumes, and what it sums up of them, in float32."""
    exact = partial(monai.networks.one_hot, dtype=torch.float64)
    monkeypatch.setattr(monai.losses.dice, "one_hot", exact)


@pytest.mark.usefixtures("exact_one_hot")
@dtypes
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2]], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("include_background", [True, False])
class TestDiceCEAgainstMONAI:
    @pytest.mark.parametrize("variant", DICE_CE)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.filterwarnings("ignore:single channel prediction")
    def test_every_option(self, backend, dtype, shape, include_background, reduction, activation, variant):
        """Under a sigmoid of several channels Dice is under it, and cross-entropy under a softmax."""
        channels, options = ACTIVATIONS[activation]
        options = {
            **options,
            **DICE_CE[variant],
            "reduction": reduction,
            "include_background": include_background,
        }
        logits = logits_of(backend, (shape[0], channels, *shape[2:]), dtype, largest=3.0)
        target = self.target(logits, options)
        if options.pop("weight", False):
            weight = torch.tensor([0.5, 2.0, 1.5][:channels], dtype=torch.float64, device=logits.device)
            options["weight"] = weight
        loss, theirs = gk.DiceCELoss(**options), monai.losses.DiceCELoss(**options)
        their_target = target.double() if target.is_floating_point() else target
        assert_same(lambda x: loss(x, target), lambda x: theirs(x, their_target), logits)

    @staticmethod
    def target(logits: Tensor, options: dict[str, Any]) -> Tensor:
        if options.get("to_onehot_y"):
            return labels_of(logits)
        if logits.shape[1] == 1:
            return (torch.rand_like(logits) > 0.6).to(logits.dtype)
        return torch.cat([labels_of(logits) == c for c in range(logits.shape[1])], 1).to(logits.dtype)


GENERALIZED = list(itertools.product(("square", "simple", "uniform"), (False, True), ("mean", "sum", "none")))


@pytest.mark.usefixtures("exact_one_hot")
@pytest.mark.parametrize(("w_type", "batch", "reduction"), GENERALIZED, ids=str)
class TestGeneralizedDiceAgainstMONAI:
    """MONAI weighs in float32; the labels are as many as makes its weights exact."""

    @staticmethod
    def labels(backend: str, counts: tuple[int, ...]) -> Tensor:
        """[2, 1, 4, 4, 4] with so many of each label."""
        ordered = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
        return torch.stack([ordered[torch.randperm(64)].view(1, 4, 4, 4) for _ in range(2)]).to(
            DEVICES[backend]
        )

    def assert_as_monai(self, backend: str, dtype: torch.dtype, target: Tensor, **options: Any) -> None:
        logits = logits_of(backend, (2, 3, 4, 4, 4), dtype, largest=3.0)
        loss, theirs = gk.GeneralizedDiceLoss(**options), monai.losses.GeneralizedDiceLoss(**options)
        their_target = target.double() if target.is_floating_point() else target
        assert_same(lambda x: loss(x, target), lambda x: theirs(x, their_target), logits)

    @dtypes
    @pytest.mark.parametrize("counts", [(32, 16, 16), (0, 32, 32), (32, 32, 0)], ids=str)
    @pytest.mark.parametrize("include_background", [True, False])
    @pytest.mark.parametrize(
        "activation", [{"softmax": True}, {"sigmoid": True}, {"other_act": torch.tanh}], ids=str
    )
    def test_labels(self, backend, dtype, w_type, batch, reduction, activation, include_background, counts):
        options = {
            "w_type": w_type,
            "batch": batch,
            "reduction": reduction,
            "to_onehot_y": True,
            **activation,
        }
        options["include_background"] = include_background
        target = self.labels(backend, counts)
        self.assert_as_monai(backend, dtype, target, **options, smooth_nr=0.1, smooth_dr=0.2)

    @pytest.mark.parametrize("soft_label", [False, True])
    def test_volumes(self, backend, w_type, batch, reduction, soft_label):
        target = torch.rand(2, 3, 4, 4, 4, device=DEVICES[backend])
        options = {"w_type": w_type, "batch": batch, "reduction": reduction, "soft_label": soft_label}
        self.assert_as_monai(backend, torch.float32, target, **options, sigmoid=True)


def test_kinds_of_generalised_weights_are_named():
    with pytest.raises(ValueError, match=r"w_type: expected one of .*'square'.*, got 'cube'"):
        gk.GeneralizedDiceLoss(w_type="cube")
