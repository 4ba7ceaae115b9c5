"""The focal losses: MONAI's values and gradients, over every option."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from monai import losses as monai
from torch import Tensor

import geoloss_kernels as gk

CLASSES = 3


def volumes() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and the same as volumes per class."""
    logits = 2 * torch.randn(2, CLASSES, 4, 5, 6, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (2, 1, 4, 5, 6))
    return logits, labels, torch.nn.functional.one_hot(labels[:, 0], CLASSES).movedim(-1, 1).double()


def assert_same(ours: torch.nn.Module, theirs: torch.nn.Module, logits: Tensor, target: Tensor) -> None:
    """MONAI computes its focal loss in float32."""
    results = []
    for loss in (ours, theirs):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, target)
        results.append((value.double(), *torch.autograd.grad(value.sum(), leaf)))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-7)
    assert results[0][1].count_nonzero() > 0


def class_numbers(kind: str | None, numbers: list[float], include_background: bool) -> Any:
    if kind == "per class":
        return numbers if include_background else numbers[1:]
    return None if kind is None else numbers[0]


@pytest.mark.parametrize("use_softmax", [False, True])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("ignore_index", [None, 1])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_focal(use_softmax: bool, include_background: bool, ignore_index: int | None) -> None:
    logits, labels, target = volumes()
    kinds = (None, "one", "per class")
    for to_onehot_y, gamma, alpha, weight, reduction in itertools.product(
        (True, False), (0.0, 2.0, 1.5), kinds, kinds, ("mean", "sum", "none")
    ):
        options = {
            "include_background": include_background,
            "to_onehot_y": to_onehot_y,
            "gamma": gamma,
            "alpha": class_numbers(alpha, [0.3, 0.5, 0.7], include_background),
            "weight": class_numbers(weight, [2.0, 1.0, 3.0], include_background),
            "reduction": reduction,
            "use_softmax": use_softmax,
            "ignore_index": ignore_index,
        }
        given = labels if to_onehot_y else target
        assert_same(gk.FocalLoss(**options), monai.FocalLoss(**options), logits, given)


@pytest.mark.parametrize("activation", [{"sigmoid": True}, {"softmax": True}, {}], ids=str)
@pytest.mark.parametrize("include_background", [True, False])
def test_dice_focal(activation: dict[str, bool], include_background: bool) -> None:
    logits, labels, target = volumes()
    for to_onehot_y, alpha, weight, reduction, batch in itertools.product(
        (True, False), (None, 0.3), (None, "per class"), ("mean", "sum", "none"), (False, True)
    ):
        weights = class_numbers(weight, [2.0, 1.0, 3.0], include_background)
        options = {
            "include_background": include_background,
            "to_onehot_y": to_onehot_y,
            "alpha": alpha,
            "weight": None if weights is None else torch.tensor(weights),
            "reduction": reduction,
            "batch": batch,
            "lambda_focal": 0.7,
            **activation,
        }
        given = labels if to_onehot_y else target
        assert_same(gk.DiceFocalLoss(**options), monai.DiceFocalLoss(**options), logits, given)


@pytest.mark.parametrize("use_softmax", [False, True])
def test_the_reference_computes_it_too(use_softmax: bool) -> None:
    logits, labels, _ = volumes()
    loss = gk.FocalLoss(to_onehot_y=True, use_softmax=use_softmax, alpha=0.3, weight=[1.0, 2.0, 3.0])
    fused = loss(logits, labels)
    with gk.use_backend("reference"):
        torch.testing.assert_close(fused, loss(logits, labels), rtol=1e-10, atol=0)


def test_points_without_spatial_axes() -> None:
    logits, target = torch.randn(7, CLASSES, dtype=torch.float64), torch.eye(CLASSES)[torch.arange(7) % 3]
    for reduction in ("mean", "none"):
        options = {"gamma": 1.5, "reduction": reduction}
        assert_same(gk.FocalLoss(**options), monai.FocalLoss(**options), logits, target)


def test_saturated_logits() -> None:
    logits = torch.tensor([[[-200.0, 200.0, -200.0, 200.0]]], requires_grad=True)
    value = gk.FocalLoss(gamma=2.0)(logits, torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]))
    assert value.item() == pytest.approx(100.0)
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_a_softmax_of_one_channel_is_refused() -> None:
    logits, labels, _ = volumes()
    loss = gk.FocalLoss(to_onehot_y=True, use_softmax=True, include_background=False)
    with pytest.raises(ValueError, match="use_softmax: expected at least 2 channels in the loss"):
        loss(logits[:, :2], labels)


@pytest.mark.parametrize("softmax", [False, True])
def test_a_compiler_takes_it_whole(softmax: bool) -> None:
    logits, labels, _ = volumes()
    loss = gk.DiceFocalLoss(
        softmax=softmax, sigmoid=not softmax, to_onehot_y=True, weight=torch.ones(CLASSES)
    )
    assert_same(torch.compile(loss, fullgraph=True, backend="aot_eager"), loss, logits, labels)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_class_weights_are_those_that_the_module_has_now(reduction: str) -> None:
    logits, labels, _ = volumes()
    options = {"to_onehot_y": True, "reduction": reduction}
    loss = gk.DiceFocalLoss(weight=[1.0, 1.0, 1.0], sigmoid=True, **options).float()  # buffers of its own
    other = gk.DiceFocalLoss(weight=[1.0, 2.0, 3.0], sigmoid=True, **options)
    loss.load_state_dict(other.state_dict())
    assert torch.equal(loss(logits, labels), other(logits, labels))


def test_other_act_runs_once_beside_the_loss_of_voxels() -> None:
    logits, labels, _ = volumes()
    calls = []

    def activation(given: Tensor) -> Tensor:
        calls.append(given)
        return given.sigmoid()

    loss = gk.DiceFocalLoss(other_act=activation, to_onehot_y=True, reduction="none")
    expected = gk.DiceFocalLoss(sigmoid=True, to_onehot_y=True, reduction="none")(logits, labels)
    torch.testing.assert_close(loss(logits, labels), expected)
    assert len(calls) == 1


def test_a_mask_of_channels_goes_without_the_background_too() -> None:
    logits, labels, _ = volumes()
    mask = torch.rand(logits.shape) > 0.3
    options = {"use_softmax": True, "include_background": False}
    labelled = gk.FocalLoss(to_onehot_y=True, **options)(logits, labels, mask=mask)
    rest = gk.FocalLoss(use_softmax=True, to_onehot_y=True)(logits[:, 1:], labels - 1, mask=mask[:, 1:])
    assert torch.equal(labelled, rest)
