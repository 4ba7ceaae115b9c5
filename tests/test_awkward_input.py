"""Inputs at the edge of what has a meaning, and the messages for those beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from numerics import DEVICES, DTYPES, TOLERANCES, encoded, library
from torch import Tensor

import geoloss_kernels as gk

Module = Callable[..., torch.nn.Module]
LOSSES: dict[str, Module] = {
    "bce": gk.BCELoss,
    "dice": gk.DiceLoss,
    "tversky": gk.TverskyLoss,
    "fog": gk.FOGLoss,
    "fog l1": partial(gk.FOGLoss, norm="l1"),
    "fog central": partial(gk.FOGLoss, operator="central"),
    "sog": gk.SOGLoss,
    "sog two-sided": partial(gk.SOGLoss, two_sided=True),
    "dice + fog": gk.DiceFOGLoss,
    "boundary": gk.BoundaryLoss,
    "hausdorff": partial(gk.HausdorffDTLoss, include_background=True),
}
POOLED: dict[str, Module] = {
    "cross-entropy": gk.CrossEntropyLoss,
    "dice + cross-entropy": lambda **options: gk.DiceLoss(**options) + gk.CrossEntropyLoss(**options),
    "generalized dice": gk.GeneralizedDiceLoss,
}
"""Losses without a value for each volume and channel."""
EVERY = {**LOSSES, **POOLED}
UNBOUNDED = ("bce", "cross-entropy", "dice + cross-entropy")
SHAPES = [(1, 1, 3, 4, 5), (2, 2, 7, 3)]


def every(values: float | list[float], shape: tuple[int, ...], backend: str, dtype: torch.dtype) -> Tensor:
    """A volume that repeats ``values``."""
    given = torch.tensor(values, dtype=dtype).flatten()
    repeated = given.repeat(math.prod(shape) // len(given) + 1)[: math.prod(shape)]
    return repeated.view(shape).to(DEVICES[backend])


def value_and_slope(
    loss: torch.nn.Module, input: Tensor, *rest: Any, **context: Any
) -> tuple[Tensor, Tensor]:
    leaf = input.detach().requires_grad_()
    value = loss(leaf, *rest, **context)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


def assert_as_the_reference(
    loss: torch.nn.Module, input: Tensor, *rest: Any, **context: Any
) -> tuple[Tensor, Tensor]:
    """Value and slope equal those in float64, infinities included; gives them back."""
    ours = value_and_slope(loss, input, *rest, **context)
    with gk.use_backend("reference"):
        exact = value_and_slope(loss, input.double(), *rest, **context)
    tolerance = TOLERANCES[input.dtype]
    for mine, right in zip(ours, exact, strict=True):
        rounding = torch.finfo(mine.dtype).eps / 2 if mine.dtype.itemsize == 2 else 0.0
        relative = tolerance.sums + rounding
        torch.testing.assert_close(mine.double(), right, rtol=relative, atol=tolerance.floor, equal_nan=True)
    return ours


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", EVERY)
class TestSaturation:
    """A saturated logit has no slope; a cross-entropy of it may be infinite, nothing else."""

    @pytest.mark.parametrize("size", [50.0, 100.0, 60000.0, math.inf])
    def test_logits_that_are_right(self, backend, name, dtype, shape, size):
        target = every([0.0, 1.0, 1.0], shape, backend, dtype)
        logits = (2 * target - 1) * size
        value, slope = assert_as_the_reference(EVERY[name](sigmoid=True), logits, target)
        assert value.isfinite().all()
        assert slope.isfinite().all()

    @pytest.mark.parametrize("size", [50.0, math.inf])
    def test_logits_that_are_wrong(self, backend, name, dtype, shape, size):
        target = every([0.0, 1.0, 1.0], shape, backend, dtype)
        logits = (1 - 2 * target) * size
        value, slope = assert_as_the_reference(EVERY[name](sigmoid=True), logits, target)
        assert value.isfinite().all() == (name not in UNBOUNDED or size < math.inf)
        assert slope.isfinite().all()

    @pytest.mark.parametrize("lowest", [-1000.0, -math.inf])
    def test_logits_of_softmax(self, backend, name, dtype, shape, lowest):
        shape = (shape[0], 3, *shape[2:])
        # 11 values, so that no voxel has the same, perhaps infinite, logit in all of its channels
        sizes = [50.0, -50.0, 0.0, 100.0, lowest, 1.0, -100.0, 3.0, -3.0, 0.5, -1.0]
        logits = every(sizes, shape, backend, dtype)
        labels = torch.arange(math.prod(shape) // 3).remainder(3).view(shape[0], 1, *shape[2:])
        value, slope = value_and_slope(
            EVERY[name](softmax=True, to_onehot_y=True), logits, labels.to(logits.device)
        )
        assert value.isfinite().all() == (name not in UNBOUNDED or lowest > -math.inf)
        assert slope.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
class TestNothingToSee:
    @pytest.mark.parametrize("prediction", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("truth", [0.0, 1.0])
    def test_constant_volumes(self, backend, name, dtype, shape, prediction, truth):
        """No foreground, nothing but foreground, no edge anywhere."""
        loss = LOSSES[name]()
        volumes = (every(value, shape, backend, dtype) for value in (prediction, truth))
        value, slope = assert_as_the_reference(loss, *volumes)
        assert value.isfinite().all()
        assert slope.isfinite().all()
        if name.startswith("fog"):
            assert value == 0
            assert slope.count_nonzero() == 0

    def test_perfect_match(self, backend, name, dtype, shape):
        target = every([0.0, 1.0, 1.0], shape, backend, dtype)
        value, slope = assert_as_the_reference(LOSSES[name](), target, target)
        assert slope.isfinite().all()
        if name != "boundary":
            assert value.abs() < 1e-6

    def test_no_foreground(self, backend, name, dtype, shape):
        """A patch without lesions, the normal case in training."""
        logits = every([-3.0, -2.0, 0.5, -1.0], shape, backend, dtype)
        target = torch.zeros_like(logits)
        _, slope = assert_as_the_reference(LOSSES[name](sigmoid=True), logits, target)
        assert slope.isfinite().all()

    def test_fully_masked_volumes(self, backend, name, dtype, shape):
        """They have a loss of 0 and no gradient, and leave the other volumes alone."""
        shape = (3, *shape[1:])
        logits = every([-3.0, 2.0, 0.5, math.nan], shape, backend, dtype)
        target = every([0.0, 1.0, 1.0], shape, backend, dtype)
        mask = logits.isfinite()
        mask[1] = False
        loss = LOSSES[name](sigmoid=True, reduction="none")
        value, slope = value_and_slope(loss, logits, target, mask=mask)
        assert value[1].count_nonzero() == 0
        assert slope[1].count_nonzero() == 0
        others = [0, 2]
        expected = value_and_slope(loss, logits[others], target[others], mask=mask[others])
        assert torch.equal(value[others], expected[0])
        assert torch.equal(slope[others], expected[1])
        assert expected[1].count_nonzero() > 0

    def test_empty_batch(self, backend, name, dtype, shape):
        logits = torch.empty((0, *shape[1:]), dtype=dtype, device=DEVICES[backend])
        value, slope = value_and_slope(LOSSES[name](sigmoid=True, reduction="none"), logits, logits.clone())
        kept = 0 if name == "tversky" else len(shape) - 2
        assert value.shape == (0, shape[1], *[1] * kept)
        assert slope.shape == logits.shape


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", EVERY)
class TestSmallVolumes:
    def test_single_voxel(self, backend, name, dtype, dimensions):
        shape = (1, 1, *[1] * dimensions)
        logits, target = every(0.7, shape, backend, dtype), every(1.0, shape, backend, dtype)
        assert_as_the_reference(EVERY[name](sigmoid=True), logits, target)

    def test_single_row(self, backend, name, dtype, dimensions):
        for axis in range(dimensions):
            shape = [1, 2, *[1] * dimensions]
            shape[2 + axis] = 6
            logits = every([0.5, -2.0, 1.0, 1.0], tuple(shape), backend, dtype)
            target = every([1.0, 0.0, 1.0], tuple(shape), backend, dtype)
            assert_as_the_reference(EVERY[name](sigmoid=True), logits, target)

    def test_single_valid_voxel(self, backend, name, dtype, dimensions):
        """Its differences do not count, as their other ends are not valid."""
        shape = (1, 1, *[3] * dimensions)
        logits = every([0.5, -2.0, 1.0, 4.0], shape, backend, dtype)
        target = every([1.0, 0.0, 1.0], shape, backend, dtype)
        mask = torch.zeros(shape, dtype=torch.bool, device=logits.device)
        mask[(0, 0, *[1] * dimensions)] = True
        value, slope = assert_as_the_reference(EVERY[name](sigmoid=True), logits, target, mask=mask)
        assert slope[~mask].count_nonzero() == 0
        if name.startswith(("fog", "sog")):
            assert value == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("name", LOSSES)
class TestNotANumber:
    """A NaN is handed on, so that a broken training shows, but never out of a voxel that is masked."""

    SHAPE = (2, 2, 4, 5, 17)

    def loss(self, name: str, activation: str) -> torch.nn.Module:
        options = {} if activation == "none" else {activation: True}
        return LOSSES[name](reduction="none", **options)

    @pytest.mark.parametrize("place", ["input", "target"])
    def test_reaches_the_loss_of_its_volume_alone(self, backend, name, activation, dtype, place):
        logits = every([0.3, 0.6, 0.2, 0.9], self.SHAPE, backend, dtype)
        target = every([0.0, 1.0, 1.0], self.SHAPE, backend, dtype)
        (logits if place == "input" else target)[0, 0, 2, 3, 5] = math.nan
        value, slope = value_and_slope(self.loss(name, activation), logits, target)
        touched = value.isnan().flatten(1)
        if place == "input" or name != "boundary":  # A distance map takes NaN for background.
            assert touched[0, 0]
            constant_slope = name == "boundary" and activation == "none"
            assert place == "target" or constant_slope or slope[0].isnan().any()
        assert touched[0, 1] == (place == "input" and activation == "softmax")
        assert not touched[1].any()
        assert not slope[1].isnan().any()

    @pytest.mark.parametrize("mask", ["mask", "ignore_index", "both"])
    def test_under_a_mask_is_not_seen(self, backend, name, activation, dtype, mask):
        logits = every([0.3, 0.6, 0.2, 0.9], self.SHAPE, backend, dtype)
        target = every([0.0, 1.0, 1.0], self.SHAPE, backend, dtype)
        valid = torch.rand(2, 1, *self.SHAPE[2:]).to(logits.device) > 0.3
        hidden = ~valid.expand_as(logits)
        context: dict[str, Any] = {} if mask == "ignore_index" else {"mask": valid}
        loss = self.loss(name, activation)
        expected = value_and_slope(loss, logits, target, mask=valid)
        if mask != "mask":
            loss = LOSSES[name](
                reduction="none", ignore_index=255, **({} if activation == "none" else {activation: True})
            )
        logits[hidden] = math.nan
        target[hidden] = math.nan if mask == "mask" else 255.0
        value, slope = value_and_slope(loss, logits, target, **context)
        assert torch.equal(value, expected[0])
        assert torch.equal(slope, expected[1])
        assert slope[hidden].count_nonzero() == 0


def test_not_a_number_in_a_map_under_a_mask_is_not_seen(backend):
    s = torch.rand(1, 1, 3, 4, 5, device=DEVICES[backend])
    valid = torch.rand(s.shape).to(s.device) > 0.5
    distance = torch.randn(s.shape).to(s.device)
    expected = value_and_slope(gk.BoundaryLoss(), s, s.round(), mask=valid, distance_map=distance)
    hidden = distance.masked_fill(~valid, math.nan)
    ours = value_and_slope(gk.BoundaryLoss(), s, s.round(), mask=valid, distance_map=hidden)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_wide_unsigned_labels(backend, dtype):
    logits = torch.randn(2, 3, 4, 5, device=DEVICES[backend])
    labels = torch.randint(0, 3, (2, 1, 4, 5)).to(dtype).to(logits.device)
    loss = gk.DiceFOGLoss(softmax=True, to_onehot_y=True, ignore_index=2)
    assert_as_the_reference(loss, logits, labels)


def volume(*shape: int, **options: Any) -> Tensor:
    return torch.ones(shape, **options)


PLAIN, CHANNELS = (2, 1, 4, 5), (2, 3, 4, 5)
SHAPE_TEXT = r"shape \[N, C, L\], \[N, C, H, W\] or \[N, C, D, H, W\] without empty axes, got "


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "message", "arguments"),
        [
            (TypeError, "input: expected a tensor, got list", {"input": [1.0]}),
            (TypeError, "input: expected a floating-point tensor, got torch.int64",
             {"input": volume(*PLAIN, dtype=torch.int64)}),
            (TypeError, "input: expected a floating-point tensor, got torch.bool",
             {"input": volume(*PLAIN, dtype=torch.bool)}),
            (TypeError, "input: expected real numbers, .* got torch.complex64",
             {"input": volume(*PLAIN, dtype=torch.complex64)}),
            (ValueError, rf"input: expected {SHAPE_TEXT}\(4, 5\)", {"input": volume(4, 5)}),
            (ValueError, rf"input: expected {SHAPE_TEXT}\(1, 1, 1, 1, 1, 1\)", {"input": volume(*[1] * 6)}),
            (ValueError, rf"input: expected {SHAPE_TEXT}\(2, 1, 0, 5\)", {"input": volume(2, 1, 0, 5)}),
            (TypeError, "target: expected a tensor, got NoneType", {"target": None}),
            (TypeError, "target: expected real numbers", {"target": volume(*PLAIN, dtype=torch.complex64)}),
            (ValueError, r"target: expected shape \(2, 1, 4, 5\) .* got \(2, 1, 4, 6\)",
             {"target": volume(2, 1, 4, 6)}),
            (ValueError, r"target: expected shape \(2, 1, 4, 5\) .* got \(1, 1, 4, 5\)",
             {"target": volume(1, 1, 4, 5)}),
            (ValueError, rf"target: expected {SHAPE_TEXT}\(4, 5\)", {"target": volume(4, 5)}),
            (ValueError, "target: expected device cpu as the input, got meta",
             {"target": volume(*PLAIN, device="meta")}),
            (TypeError, "mask: expected a tensor, got list", {"mask": [True]}),
            (ValueError, r"mask: expected shape .* got \(2, 2, 4, 5\)", {"mask": volume(2, 2, 4, 5)}),
            (ValueError, "mask: expected device cpu as the input, got meta",
             {"mask": volume(*PLAIN, device="meta")}),
            (ValueError, r"spacing: expected 2 positive finite numbers, got \(1.0,\)", {"spacing": [1]}),
            (ValueError, "spacing: expected 2 positive", {"spacing": (1, 1, 1)}),
            (ValueError, r"spacing: .* got \(0.0, 1.0\)", {"spacing": (0, 1)}),
            (ValueError, r"spacing: .* got \(1.0, -2.0\)", {"spacing": (1, -2)}),
            (ValueError, r"spacing: .* got \(nan, 1.0\)", {"spacing": (math.nan, 1)}),
            (ValueError, r"spacing: .* got \(inf, 1.0\)", {"spacing": (math.inf, 1)}),
        ],
    )  # fmt: skip
    def test_tensors_and_spacing(self, backend, error, message, arguments):
        given = {"input": volume(*PLAIN), "target": volume(*PLAIN), **arguments}
        if given["input"] is not arguments.get("input"):
            given = {
                name: value.to(DEVICES[backend])
                if isinstance(value, Tensor) and value.device.type == "cpu"
                else value
                for name, value in given.items()
            }
        message = message.replace("device cpu", f"device {DEVICES[backend]}")
        with pytest.raises(error, match=message):
            gk.DiceFOGLoss()(**given)

    @pytest.mark.parametrize(
        ("message", "options"),
        [
            (r"axes: expected distinct numbers from 0 to 1, got \(2,\)", {"axes": 2}),
            (r"axes: .* got \(-1,\)", {"axes": (-1,)}),
            (r"axes: .* got \(0, 0\)", {"axes": (0, 0)}),
            (r"axes: .* got \(\)", {"axes": ()}),
            ("axes: expected numbers, or in 3-D names of .*, got 'axial' in 2-D", {"axes": "axial"}),
            ("axes: expected numbers, or in 3-D names of .*, got 'up'", {"axes": (0, "up")}),
            ("axis_order: expected one of .*'xyz', 'zyx'.*, got 'yxz'", {"axis_order": "yxz"}),
        ],
    )
    def test_axes(self, backend, message, options):
        with pytest.raises(ValueError, match=message):
            gk.FOGLoss(**options)(volume(*PLAIN).to(DEVICES[backend]), volume(*PLAIN).to(DEVICES[backend]))

    @pytest.mark.parametrize(
        ("error", "message", "make"),
        [
            (ValueError, "norm: expected one of .*'l2'.*, got 'l3'", lambda: gk.FOGLoss(norm="l3")),
            (ValueError, "norm: expected one of", lambda: gk.DiceFOGLoss(norm="l3")),
            (ValueError, "operator: expected one of .*'forward'.*, got 'sobel'",
             lambda: gk.FOGLoss(operator="sobel")),
            (ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'max'",
             lambda: gk.SOGLoss(reduction="max")),
            (ValueError, "sigmoid, softmax, other_act: expected at most one",
             lambda: gk.BCELoss(sigmoid=True, softmax=True)),
            (ValueError, "sigmoid, softmax, other_act: expected at most one",
             lambda: gk.DiceLoss(sigmoid=True, other_act=torch.tanh)),
            (TypeError, "other_act: expected None or a function, got int",
             lambda: gk.TverskyLoss(other_act=1)),
            (ValueError, "weight: expected numbers >= 0, got -1.0", lambda: gk.DiceLoss(weight=-1.0)),
        ],
    )  # fmt: skip
    def test_options(self, error, message, make):
        with pytest.raises(error, match=message):
            make()

    @pytest.mark.parametrize(
        ("message", "loss", "target"),
        [
            (r"target: expected shape \(2, 3, 4, 5\) with to_onehot_y=False, got \(2, 1, 4, 5\)",
             gk.DiceLoss(softmax=True), PLAIN),
            (r"target: expected a label map \[N, 1, \*spatial\] with to_onehot_y=True, got \(2, 3, 4, 5\)",
             gk.DiceLoss(softmax=True, to_onehot_y=True), CHANNELS),
            (r"target: expected shape .* got \(2, 2, 4, 5\)", gk.DiceLoss(), (2, 2, 4, 5)),
            (r"weight: expected one number or 3, one per channel in the loss, got shape \(2,\)",
             gk.DiceLoss(weight=[1.0, 2.0]), CHANNELS),
            (r"weight: expected one number or 2, .* got shape \(3,\)",
             gk.DiceLoss(weight=[1.0, 2.0, 3.0], include_background=False), CHANNELS),
            ("empty: expected one of .*'zero', 'far'.*, got 'none'", gk.BoundaryLoss(empty="none"), CHANNELS),
        ],
    )  # fmt: skip
    def test_channels(self, backend, message, loss, target):
        with pytest.raises(ValueError, match=message):
            loss(volume(*CHANNELS).to(DEVICES[backend]), volume(*target).to(DEVICES[backend]))

    def test_distance_map(self, backend):
        given = volume(*PLAIN).to(DEVICES[backend])
        with pytest.raises(ValueError, match=r"distance_map: expected shape .* got \(2, 1, 4, 1\)"):
            gk.BoundaryLoss()(given, given, distance_map=given[..., :1])

    @pytest.mark.parametrize(
        ("message", "options", "arguments"),
        [
            ("spacing: expected", {}, {"spacing": 2.0}),
            ("spacing: expected", {}, {"spacing": "ab"}),
            ("spacing: expected", {"spacing": 2.0}, {}),
            ("axes: expected", {"axes": 1.5}, {}),
            ("axes: expected", {"axes": (1.0,)}, {}),
            ("axes: expected", {"axes": (0.5,)}, {}),
            ("ignore_index: expected", {"ignore_index": 1.5}, {}),
            ("ignore_index: expected", {"ignore_index": "a"}, {}),
            ("input: expected", {}, {"input": volume(*PLAIN, dtype=torch.float8_e4m3fn)}),
            ("target: expected", {}, {"target": volume(*PLAIN, dtype=torch.float8_e4m3fn)}),
            ("mask: expected", {}, {"mask": volume(*PLAIN, dtype=torch.float8_e4m3fn)}),
        ],
    )
    def test_wrong_types(self, message, options, arguments):
        given = {"input": volume(*PLAIN), "target": volume(*PLAIN), **arguments}
        with pytest.raises((TypeError, ValueError), match=message):
            gk.FOGLoss(**options)(**given)


def on_device(backend: str, value: Any) -> Any:
    if isinstance(value, list):
        return [on_device(backend, each) for each in value]
    return value.to(DEVICES[backend]) if isinstance(value, Tensor) else value


SUMS: dict[str, Any] = {
    "input": volume(*PLAIN),
    "target": volume(*PLAIN),
    "mask": None,
    "maps": [],
    "terms": [0, 0, 0],
    "parameters": [],
    "activation": 0,
    "ignore_index": None,
    "include_background": True,
}
RATIO: dict[str, Any] = {
    "channel_weights": None,
    "fractions": [0, 0, -1, -1],
    "weights": [1.0, 0.0, 0.0, 1.0],
    "reduction": 0,
}
FOG = [13, 1, 3, 0b110]
SPACING = [1.0, 1.0, 1.0]


class TestErrorsOfTheOperators:
    """Whoever calls an operator directly gets a RuntimeError that names the argument."""

    @pytest.mark.parametrize(
        ("message", "changed"),
        [
            ("terms: expected kinds from 0 to 23, got 24", {"terms": [24, 0, 0]}),
            ("terms: expected kinds from 0 to 23, got -1", {"terms": [-1, 0, 0]}),
            ("terms: expected kind, counts and integers of each term, got a stream of 4 integers that ends "
             "within term 1", {"terms": [0, 0, 0, 1]}),
            ("terms: expected kind, counts and integers of each term, got a stream of 3 integers that ends "
             "within term 0", {"terms": FOG[:3]}),
            ("terms: expected 1 integers and 3 parameters of kind 13, got 0 and 3", {"terms": [13, 0, 3]}),
            ("terms: expected 0 integers and 0 parameters of kind 1, got 0 and 1", {"terms": [1, 0, 1]}),
            ("terms: expected 1 to 32, got none", {"terms": []}),
            ("terms: expected 1 to 32, got more", {"terms": [0, 0, 0] * 33}),
            ("terms: expected at most 8 first- and second-order terms, got 9",
             {"terms": FOG * 9, "parameters": SPACING * 9}),
            ("parameters: expected more than 2 numbers", {"terms": FOG, "parameters": [1.0] * 2}),
            ("parameters: expected 3 numbers for the terms, got 4", {"terms": FOG, "parameters": [1.0] * 4}),
            ("parameters: expected 0 numbers for the terms, got 1", {"parameters": [1.0]}),
            ("spacing: expected positive numbers, got 0", {"terms": FOG, "parameters": [1.0, 0.0, 1.0]}),
            ("activation: expected 0 .none., 1 .sigmoid. or 2 .softmax., got 3", {"activation": 3}),
            (r"input: expected \[N, C, H, W\] or \[N, C, D, H, W\], got \[4, 5\]", {"input": volume(4, 5)}),
            (r"input: expected \[N, C, H, W\] or .*, got \[4, 5, 6\]", {"input": volume(4, 5, 6)}),
            ("input: expected a floating dtype", {"input": volume(*PLAIN, dtype=torch.int32)}),
            (r"target: expected input's device and shape \[2, 1, 4, 5\] .* got shape \[2, 1, 4\]",
             {"target": volume(2, 1, 4)}),
            ("mask: expected input's device and shape", {"mask": volume(1, 1, 4, 5)}),
            ("maps: expected input's device and shape", {"maps": [volume(*PLAIN), volume(2, 2, 4, 5)]}),
            ("maps: expected at most 4, got 5", {"maps": [volume(*PLAIN)] * 5}),
            ("maps: a term needs map number 0, got 0 maps", {"terms": [11, 1, 0, 0]}),
            ("maps: a term needs map number 1, got 1 maps",
             {"terms": [12, 1, 0, 1], "maps": [volume(*PLAIN)]}),
            ("maps: a term needs map number -1, got 1 maps",
             {"terms": [12, 1, 0, -1], "maps": [volume(*PLAIN)]}),
            ("include_background: without it, input needs two channels", {"include_background": False}),
        ],
    )  # fmt: skip
    def test_sums(self, backend, message, changed):
        given = {name: on_device(backend, value) for name, value in {**SUMS, **changed}.items()}
        grad_loss, grad_sums = (on_device(backend, volume(*shape)) for shape in ((2, 1), (2, 1, 1)))
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_sums(**given)
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_sums_backward(grad_sums, **given)
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_loss(**given, **RATIO)
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_loss_backward(grad_loss, grad_sums, **given, **RATIO)

    @pytest.mark.parametrize(
        "grad_sums", [volume(2, 1), volume(2, 1, 2), volume(1, 1, 1), volume(2, 1, 1, dtype=torch.float64)]
    )
    def test_gradient_of_the_sums(self, backend, grad_sums):
        given = {name: on_device(backend, value) for name, value in SUMS.items()}
        with pytest.raises(RuntimeError, match="grad_sums: expected the shape and dtype of the sums"):
            library(backend).geo_sums_backward(on_device(backend, grad_sums), **given)

    @pytest.mark.parametrize(
        ("message", "sums", "changed"),
        [
            (r"sums: expected \[N, C, K\], got \[2, 1\]", volume(2, 1), {}),
            ("sums: expected float32 or float64", volume(2, 1, 1).half(), {}),
            ("fractions: expected 4 integers for each of 1 to 16 fractions, got 0", volume(2, 1, 1),
             {"fractions": [], "weights": []}),
            ("fractions: expected 4 integers for each .*, got 5", volume(2, 1, 1),
             {"fractions": [0, 0, -1, -1, 0]}),
            ("fractions: expected 4 integers for each of 1 to 16 fractions, got 68", volume(2, 1, 1),
             {"fractions": [0, 0, -1, -1] * 17, "weights": [1.0] * 4 * 17}),
            ("fractions: expected pooling from 0 to 2 .*, got 3 and 0", volume(2, 1, 1),
             {"fractions": [3, 0, -1, -1]}),
            ("fractions: .* fewer channels skipped than there are, got 0 and 1", volume(2, 1, 1),
             {"fractions": [0, 1, -1, -1]}),
            ("weights: expected 4 numbers, 2 .K . 1. for each fraction, got 3", volume(2, 1, 1),
             {"weights": [1.0] * 3}),
            ("weights: expected 6 numbers, .* got 4", volume(2, 1, 2), {}),
            ("reduction: expected 0 .none., 1 .mean. or 2 .sum., got 3", volume(2, 1, 1), {"reduction": 3}),
            ("reduction: expected fractions of one pooling and skip with reduction none", volume(2, 1, 1),
             {"fractions": [0, 0, -1, -1, 1, 0, -1, -1], "weights": [1.0] * 8}),
            ("channel_weights: expected at least 1 rows of 1 numbers .*, got none", volume(2, 1, 1),
             {"fractions": [0, 0, 0, -1]}),
            (r"channel_weights: expected at least 2 rows of 1 .*, got shape \[1, 1\]", volume(2, 1, 1),
             {"fractions": [2, 0, 0, 1], "channel_weights": volume(1, 1)}),
            (r"channel_weights: expected .* rows of 1 numbers .*, got shape \[1, 2\]", volume(2, 1, 1),
             {"fractions": [2, 0, 0, -1], "channel_weights": volume(1, 2)}),
            ("channel_weights: expected .* in sums' dtype", volume(2, 1, 1),
             {"fractions": [2, 0, 0, -1], "channel_weights": volume(1, 1).double()}),
        ],
    )  # fmt: skip
    def test_ratio(self, backend, message, sums, changed):
        given = {name: on_device(backend, value) for name, value in {**RATIO, **changed}.items()}
        sums, grad_ratio = on_device(backend, sums), on_device(backend, volume(2, 1))
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_ratio(sums, **given)
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_ratio_backward(grad_ratio, sums, **given)

    @pytest.mark.parametrize(
        ("message", "grad_loss", "sums", "changed"),
        [
            ("weights: expected 4 numbers, .* got 5", volume(2, 1), volume(2, 1, 1), {"weights": [1.0] * 5}),
            ("grad_ratio: expected the shape of the ratio in sums' dtype", volume(2), volume(2, 1, 1), {}),
            ("grad_ratio: expected the shape of the ratio", volume(2, 1), volume(2, 1, 1), {"reduction": 1}),
            ("grad_sums: expected the shape and dtype of the sums", volume(1, 1), volume(1, 1, 1), {}),
        ],
    )  # fmt: skip
    def test_gradient_of_the_loss(self, backend, message, grad_loss, sums, changed):
        given = {name: on_device(backend, value) for name, value in {**SUMS, **RATIO, **changed}.items()}
        grad_loss, sums = on_device(backend, grad_loss), on_device(backend, sums)
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_loss_backward(grad_loss, sums, **given)

    def test_gradient_of_the_ratio(self, backend):
        sums = on_device(backend, volume(2, 1, 1))
        for wrong in (volume(2), volume(2, 2), volume(2, 1, dtype=torch.float64), volume()):
            grad_ratio = on_device(backend, wrong)
            with pytest.raises(
                RuntimeError, match="grad_ratio: expected the shape of the ratio in sums' dtype"
            ):
                library(backend).geo_ratio_backward(grad_ratio, sums, **RATIO)


def test_a_term_asked_for_twice_fills_both_columns(backend):
    ones = torch.ones(1, 1, 2, 3, device=DEVICES[backend])
    terms, parameters = encoded(["count", "prediction", "count"], dimensions=2)
    sums = library(backend).geo_sums(ones, ones, None, [], terms, parameters, 0, None, True)
    assert sums.flatten().tolist() == [6.0, 6.0, 6.0]
