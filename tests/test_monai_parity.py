"""The fused losses give MONAI's and torch's values and gradients, and take MONAI's arguments in its order."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import monai.losses
import pytest
import torch
from monai.utils import LossReduction
from numerics import DEVICES
from torch import Tensor
from torch.nn import BCELoss, BCEWithLogitsLoss

import geoloss_kernels as gk

Options = dict[str, Any]
SPATIAL = [(6, 5), (4, 5, 3)]
REDUCTIONS = ["mean", "sum", "none"]

# name: (channels, target, options)
CASES: dict[str, tuple[int, str, Options]] = {
    "sigmoid": (1, "binary", {"sigmoid": True}),
    "sigmoid multi-label": (3, "binary", {"sigmoid": True}),
    "softmax": (3, "binary", {"softmax": True}),
    "softmax labels": (3, "labels", {"softmax": True, "to_onehot_y": True}),
    "without background": (
        3,
        "labels",
        {"softmax": True, "to_onehot_y": True, "include_background": False},
    ),
    "one-hot without background": (3, "binary", {"sigmoid": True, "include_background": False}),
    "other activation": (2, "binary", {"other_act": torch.sigmoid}),
    "batch": (3, "binary", {"sigmoid": True, "batch": True}),
}
OVERLAP_CASES = {
    **CASES,
    "smooth": (2, "binary", {"sigmoid": True, "smooth_nr": 1.0, "smooth_dr": 2.0}),
    "soft label": (2, "soft", {"sigmoid": True, "soft_label": True}),
    "fractional target": (2, "soft", {"sigmoid": True}),
    "ignored label": (3, "labels", {"softmax": True, "to_onehot_y": True, "ignore_index": 1}),
    "ignored label outside": (
        4,
        "marked labels",
        {"softmax": True, "to_onehot_y": True, "ignore_index": 255},
    ),
    "ignored class of a one-hot target": (3, "one-hot", {"softmax": True, "ignore_index": 1}),
    "ignored voxels of a one-hot target": (3, "marked one-hot", {"softmax": True, "ignore_index": 255}),
    "ignored label of one channel": (1, "marked", {"sigmoid": True, "ignore_index": 255}),
}


def logits_of(backend: str, spatial: tuple[int, ...], channels: int, dtype: torch.dtype) -> Tensor:
    logits = 2 * torch.randn((2, channels, *spatial), dtype=torch.float64)
    return logits.to(dtype).to(DEVICES[backend]).requires_grad_()


def target_of(kind: str, logits: Tensor) -> Tensor:
    shape, channels = logits.shape, logits.shape[1]
    labels = torch.randint(0, channels, (shape[0], 1, *shape[2:]))
    one_hot = (labels == torch.arange(channels).view(1, -1, *[1] * (logits.ndim - 2))).to(logits.dtype)
    ignored = torch.rand(labels.shape) < 0.2
    targets = {
        "binary": (torch.rand(shape) < 0.3).to(logits.dtype),
        "soft": torch.rand(shape).to(logits.dtype),
        "labels": labels,
        "marked labels": torch.where(ignored, 255, labels),
        "marked": torch.where(ignored, 255.0, (torch.rand(shape) < 0.3).to(logits.dtype)),
        "one-hot": one_hot,
        "marked one-hot": torch.where(ignored, 0.0, one_hot),
    }
    return targets[kind].to(logits.device)


def assert_same(ours: Tensor, theirs: Tensor, logits: Tensor) -> None:
    """Same values, whatever size-1 axes "none" keeps, and same gradients: to the rounding of the dtype."""
    assert ours.squeeze().shape == theirs.squeeze().shape
    ours, theirs = ours.flatten(), theirs.flatten().to(ours.dtype)
    torch.testing.assert_close(ours, theirs)
    weights = torch.linspace(1, 2, ours.numel(), dtype=ours.dtype, device=ours.device)
    slopes = [torch.autograd.grad(loss, logits, weights)[0] for loss in (ours, theirs)]
    assert slopes[0].count_nonzero() > 0
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", OVERLAP_CASES)
class TestOverlapLosses:
    @pytest.mark.parametrize(("squared_pred", "jaccard"), list(itertools.product([False, True], repeat=2)))
    def test_dice(self, backend, case, reduction, spatial, dtype, squared_pred, jaccard):
        channels, kind, options = OVERLAP_CASES[case]
        options = {**options, "squared_pred": squared_pred, "jaccard": jaccard, "reduction": reduction}
        logits = logits_of(backend, spatial, channels, dtype)
        target = target_of(kind, logits)
        theirs = monai.losses.DiceLoss(**options)(logits, target)
        assert_same(gk.DiceLoss(**options)(logits, target), theirs, logits)

    @pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7), (1.0, 1.0)])
    def test_tversky(self, backend, case, reduction, spatial, dtype, alpha, beta):
        channels, kind, options = OVERLAP_CASES[case]
        options = {**options, "alpha": alpha, "beta": beta, "reduction": reduction}
        logits = logits_of(backend, spatial, channels, dtype)
        target = target_of(kind, logits)
        theirs = monai.losses.TverskyLoss(**options)(logits, target)
        assert_same(gk.TverskyLoss(**options)(logits, target), theirs, logits)


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [2.0, [0.5, 1.0, 3.0], torch.tensor([0.5, 1.0, 3.0])], ids=str)
def test_dice_class_weights(backend, weight, reduction, include_background):
    if not include_background and not isinstance(weight, float):
        weight = weight[1:]
    options = {
        "sigmoid": True,
        "reduction": reduction,
        "weight": weight,
        "include_background": include_background,
    }
    logits = logits_of(backend, (5, 4), 3, torch.float64)
    target = target_of("binary", logits)
    assert_same(
        gk.DiceLoss(**options)(logits, target), monai.losses.DiceLoss(**options)(logits, target), logits
    )


@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss"])
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_empty_and_full_target(backend, name, fill):
    probabilities = logits_of(backend, (4, 4), 1, torch.float64).detach().sigmoid().requires_grad_()
    target = torch.full_like(probabilities, fill).detach()
    theirs = getattr(monai.losses, name)()(probabilities, target)
    assert_same(getattr(gk, name)()(probabilities, target), theirs, probabilities)


@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES)
class TestDistanceLosses:
    """MONAI keeps distances in float32, so the inputs are float32, too."""

    def test_boundary(self, backend, case, reduction, spatial):
        channels, kind, options = CASES[case]
        options = {**options, "reduction": reduction}
        logits = logits_of(backend, spatial, channels, torch.float32)
        target = target_of(kind, logits)
        theirs = monai.losses.BoundaryLoss(**options)(logits, target)
        assert_same(gk.BoundaryLoss(**options)(logits, target), theirs, logits)

    @pytest.mark.parametrize("name", ["HausdorffDTLoss", "LogHausdorffDTLoss"])
    @pytest.mark.parametrize("alpha", [2.0, 1.0])
    def test_hausdorff(self, backend, case, reduction, spatial, alpha, name):
        channels, kind, options = CASES[case]
        options = {**options, "reduction": reduction, "alpha": alpha}
        options.setdefault("include_background", True)
        logits = logits_of(backend, spatial, channels, torch.float32)
        target = target_of(kind, logits)
        their_target, their_options = target, dict(options)
        if their_options.pop("to_onehot_y", False):  # MONAI rounds the distances of an integer target down.
            classes = torch.arange(channels, device=target.device).view(1, -1, *[1] * len(spatial))
            their_target = (target == classes).float()
        theirs = getattr(monai.losses, name)(**their_options)(logits, their_target)
        assert_same(getattr(gk, name)(**options)(logits, target), theirs, logits)


class TestCrossEntropy:
    @pytest.mark.parametrize("spatial", SPATIAL, ids=str)
    @pytest.mark.parametrize("pos_weight", [1.0, 4.0])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_with_logits(self, backend, spatial, pos_weight, reduction):
        """torch reduces over voxels at once, so its mean over those of each channel is reduced here."""
        logits = logits_of(backend, spatial, 2, torch.float64)
        target = target_of("soft", logits)
        weight = torch.tensor(pos_weight, device=logits.device)
        voxels = BCEWithLogitsLoss(pos_weight=weight, reduction="none")(logits, target)
        channels = voxels.flatten(2).mean(2)
        theirs = {"mean": channels.mean(), "sum": channels.sum(), "none": channels}[reduction]
        ours = gk.BCELoss(sigmoid=True, pos_weight=pos_weight, reduction=reduction)(logits, target)
        assert_same(ours, theirs, logits)

    @pytest.mark.parametrize("spatial", SPATIAL, ids=str)
    def test_with_probabilities(self, backend, spatial):
        s = logits_of(backend, spatial, 2, torch.float64).detach().sigmoid().requires_grad_()
        target = target_of("binary", s)
        assert_same(gk.BCELoss()(s, target), BCELoss()(s, target), s)

    def test_saturated_probabilities(self, backend):
        """Where s is exactly right, torch's guard 1 / max(s (1 - s), 1e-12) makes the slope 0, not ±1."""
        s = torch.tensor([0.0, 1.0, 0.5, 1e-20, 1e-14, 1 - 1e-14], dtype=torch.float64).view(1, 1, 2, 3)
        wrong = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64).view(1, 1, 2, 3)
        s, wrong = s.to(DEVICES[backend]).requires_grad_(), wrong.to(DEVICES[backend])
        assert_same(gk.BCELoss()(s, wrong), BCELoss()(s, wrong), s)
        right = s.detach().round()
        torch.testing.assert_close(gk.BCELoss()(s, right), BCELoss()(s, right))

    def test_with_softmax(self, backend):
        logits = logits_of(backend, (4, 5), 3, torch.float64)
        labels = target_of("labels", logits)
        one_hot = torch.cat([labels == c for c in range(3)], 1).double()
        ours = gk.BCELoss(softmax=True, to_onehot_y=True)(logits, labels)
        assert_same(ours, BCELoss()(logits.softmax(1), one_hot), logits)


class TestConstructors:
    @pytest.mark.parametrize(
        "name", ["DiceLoss", "TverskyLoss", "BoundaryLoss", "HausdorffDTLoss", "LogHausdorffDTLoss"]
    )
    def test_positional_order_and_defaults(self, name):
        theirs = inspect.signature(getattr(monai.losses, name)).parameters
        ours = inspect.signature(getattr(gk, name)).parameters
        assert list(ours)[: len(theirs)] == list(theirs)
        for parameter, other in zip(ours.values(), theirs.values(), strict=False):
            assert parameter.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD
            assert parameter.default == other.default

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("DiceLoss", (False, True, False, True, None, True, True, "sum", 0.1, 0.2, True, [1.0, 2.0])),
            ("TverskyLoss", (False, True, False, True, None, 0.3, 0.7, "sum", 0.1, 0.2, True)),
            ("BoundaryLoss", (False, True, False, True, None, "sum", True)),
            ("HausdorffDTLoss", (1.5, False, True, False, True, None, "sum", True)),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_the_same_positional_arguments(self, backend, name, arguments):
        logits = logits_of(backend, (5, 4), 3, torch.float32)
        labels = target_of("labels", logits).float()
        theirs = getattr(monai.losses, name)(*arguments)(logits, labels)
        assert_same(getattr(gk, name)(*arguments)(logits, labels), theirs, logits)

    @pytest.mark.parametrize("reduction", LossReduction)
    def test_monai_names_of_reductions(self, backend, reduction):
        logits = logits_of(backend, (5, 4), 2, torch.float64)
        target = target_of("binary", logits)
        options = {"sigmoid": True, "reduction": reduction}
        theirs = monai.losses.DiceLoss(**options)(logits, target)
        assert_same(gk.DiceLoss(**options)(logits, target), theirs, logits)

    def test_hausdorff_leaves_the_background_out_by_default(self, backend):
        logits = logits_of(backend, (5, 4), 3, torch.float32)
        target = target_of("binary", logits)
        ours = gk.HausdorffDTLoss(sigmoid=True, reduction="none")(logits, target)
        assert ours.shape == (2, 2, 1, 1)
        theirs = monai.losses.HausdorffDTLoss(sigmoid=True, reduction="none")(logits, target)
        assert_same(ours, theirs, logits)
