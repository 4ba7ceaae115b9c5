"""The reference gives MONAI's and torch's values and gradients, option by option."""

from __future__ import annotations

import warnings

import pytest
import torch
from monai.losses import BoundaryLoss, DiceLoss, HausdorffDTLoss, TverskyLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from geoloss_kernels import reference

SPATIAL = [(6, 5), (4, 5, 3)]
REDUCTIONS = ["mean", "sum", "none"]


def logits_of(spatial: tuple[int, ...], channels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((2, channels, *spatial), generator=generator, dtype=torch.float64)
    return logits.requires_grad_()


def binary_of(spatial: tuple[int, ...], channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand((2, channels, *spatial), generator=generator) < 0.3).double()


def soft_of(spatial: tuple[int, ...], channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand((2, channels, *spatial), generator=generator, dtype=torch.float64)


def labels_of(spatial: tuple[int, ...], channels: int) -> Tensor:
    return torch.randint(0, channels, (2, 1, *spatial), generator=torch.Generator().manual_seed(1))


def assert_same(ours: Tensor, theirs: Tensor, input: Tensor) -> None:
    """Same values (whatever size-1 axes "none" keeps) and same gradients."""
    assert ours.squeeze().shape == theirs.squeeze().shape
    ours, theirs = ours.flatten(), theirs.flatten().to(ours.dtype)
    torch.testing.assert_close(ours, theirs)
    weights = torch.linspace(1, 2, ours.numel(), dtype=ours.dtype)
    slopes = [torch.autograd.grad(loss, input, weights)[0] for loss in (ours, theirs)]
    assert slopes[0].count_nonzero() > 0
    torch.testing.assert_close(*slopes)


# name: (channels, target, options common to both)
OVERLAP_CASES = {
    "sigmoid": (1, binary_of, {"sigmoid": True}),
    "sigmoid multi-label": (3, binary_of, {"sigmoid": True}),
    "softmax": (3, binary_of, {"softmax": True}),
    "softmax labels": (3, labels_of, {"softmax": True, "to_onehot_y": True}),
    "without background": (
        3,
        labels_of,
        {"softmax": True, "to_onehot_y": True, "include_background": False},
    ),
    "batch": (3, binary_of, {"sigmoid": True, "batch": True}),
    "smooth": (2, binary_of, {"sigmoid": True, "smooth_nr": 1.0, "smooth_dr": 2.0}),
    "soft label": (2, soft_of, {"sigmoid": True, "soft_label": True}),
    "fractional target": (2, soft_of, {"sigmoid": True}),
}


@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", OVERLAP_CASES)
class TestOverlapLosses:
    @pytest.mark.parametrize(
        "variant", [{}, {"squared_pred": True}, {"jaccard": True}, {"squared_pred": True, "jaccard": True}],
        ids=lambda variant: "+".join(variant) or "plain",
    )  # fmt: skip
    def test_dice(self, case, reduction, spatial, variant):
        channels, target_of, options = OVERLAP_CASES[case]
        options = {**options, **variant, "reduction": reduction}
        logits, target = logits_of(spatial, channels), target_of(spatial, channels)
        assert_same(
            reference.dice_loss(logits, target, **options), DiceLoss(**options)(logits, target), logits
        )

    @pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7)])
    def test_tversky(self, case, reduction, spatial, alpha, beta):
        channels, target_of, options = OVERLAP_CASES[case]
        options = {**options, "alpha": alpha, "beta": beta, "reduction": reduction}
        logits, target = logits_of(spatial, channels), target_of(spatial, channels)
        assert_same(
            reference.tversky_loss(logits, target, **options), TverskyLoss(**options)(logits, target), logits
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dice_channel_weights(reduction):
    options = {"sigmoid": True, "reduction": reduction, "weight": [0.5, 1.0, 3.0]}
    logits, target = logits_of((5, 4), 3), binary_of((5, 4), 3)
    assert_same(reference.dice_loss(logits, target, **options), DiceLoss(**options)(logits, target), logits)


@pytest.mark.parametrize("loss", ["dice", "tversky"])
def test_probabilities_and_empty_target(loss):
    probabilities = torch.rand(2, 1, 4, 4, dtype=torch.float64).requires_grad_()
    target = torch.zeros(2, 1, 4, 4)
    ours, theirs = {
        "dice": (reference.dice_loss, DiceLoss()),
        "tversky": (reference.tversky_loss, TverskyLoss()),
    }[loss]
    assert_same(ours(probabilities, target), theirs(probabilities, target), probabilities)


def test_ignored_label():
    logits, labels = logits_of((5, 4), 3), labels_of((5, 4), 3)
    labels[0, 0, :2] = 255
    options = {"softmax": True, "to_onehot_y": True, "ignore_index": 255}
    assert_same(reference.dice_loss(logits, labels, **options), DiceLoss(**options)(logits, labels), logits)


DISTANCE_CASES = {
    name: case
    for name, case in OVERLAP_CASES.items()
    if name not in ("smooth", "soft label", "fractional target")
}


@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", DISTANCE_CASES)
class TestDistanceLosses:
    """MONAI keeps distances in float32, hence its tolerance: the inputs are float32, too."""

    def prepare(self, case: str, spatial: tuple[int, ...]) -> tuple[Tensor, Tensor, dict[str, object]]:
        channels, target_of, options = DISTANCE_CASES[case]
        logits = logits_of(spatial, channels).detach().float().requires_grad_()
        target = target_of(spatial, channels)
        return logits, target if target_of is labels_of else target.float(), options

    def test_boundary(self, case, reduction, spatial):
        logits, target, options = self.prepare(case, spatial)
        options = {**options, "reduction": reduction}
        ours, theirs = reference.boundary_loss(logits, target, **options), BoundaryLoss(**options)
        assert_same(ours, theirs(logits, target), logits)

    @pytest.mark.parametrize("alpha", [2.0, 1.0])
    def test_hausdorff(self, case, reduction, spatial, alpha):
        logits, target, options = self.prepare(case, spatial)
        options = {"include_background": True, **options, "reduction": reduction, "alpha": alpha}
        theirs = HausdorffDTLoss(**options)
        # MONAI truncates the distances of integer targets, so it gets the one-hot volumes as floats.
        if options.get("to_onehot_y"):
            classes = torch.arange(logits.shape[1]).view(1, -1, *[1] * len(spatial))
            theirs.to_onehot_y = False
            their_target = (target == classes).float()
        else:
            their_target = target
        assert_same(
            reference.hausdorff_dt_loss(logits, target, **options), theirs(logits, their_target), logits
        )


class TestCrossEntropy:
    @pytest.mark.parametrize("spatial", SPATIAL, ids=str)
    @pytest.mark.parametrize("pos_weight", [1.0, 4.0])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_with_logits(self, spatial, pos_weight, reduction):
        """torch reduces over all voxels, so its mean over the voxels of each channel is reduced here."""
        logits, target = logits_of(spatial, 2), soft_of(spatial, 2)
        theirs = binary_cross_entropy_with_logits(
            logits, target, pos_weight=torch.tensor(pos_weight), reduction="none"
        )
        per_channel = theirs.flatten(2).mean(2)
        expected = {"mean": per_channel.mean(), "sum": per_channel.sum(), "none": per_channel}[reduction]
        ours = reference.bce_loss(logits, target, sigmoid=True, pos_weight=pos_weight, reduction=reduction)
        assert_same(ours, expected, logits)

    def test_with_probabilities(self):
        s = logits_of((4, 3, 5), 2).detach().sigmoid().requires_grad_()
        target = binary_of((4, 3, 5), 2)
        assert_same(reference.bce_loss(s, target), binary_cross_entropy(s, target), s)

    def test_with_softmax(self):
        logits, labels = logits_of((4, 5), 3), labels_of((4, 5), 3)
        one_hot = torch.cat([labels == c for c in range(3)], 1).double()
        ours = reference.bce_loss(logits, labels, softmax=True, to_onehot_y=True)
        assert_same(ours, binary_cross_entropy(logits.softmax(1), one_hot), logits)


@pytest.mark.parametrize("option", ["softmax", "to_onehot_y"])
def test_single_channel_options_warn_and_do_nothing_as_in_monai(option):
    s, target = torch.rand(1, 1, 4, 4), binary_of((4, 4), 1)[:1].float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = (
            reference.dice_loss(s, target, **{option: True}), DiceLoss(**{option: True})(s, target)
        )  # fmt: skip
    torch.testing.assert_close(ours, theirs)
