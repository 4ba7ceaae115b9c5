"""Inputs at the edge of what has a meaning, and the messages for those beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from numerics import DEVICES, DTYPES, TOLERANCES, library
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
BOUNDED = [name for name in LOSSES if name != "bce"]
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
@pytest.mark.parametrize("name", LOSSES)
class TestSaturation:
    """A saturated logit has no slope; a cross-entropy of it may be infinite, nothing else."""

    @pytest.mark.parametrize("size", [50.0, 100.0, 60000.0, math.inf])
    def test_logits_that_are_right(self, backend, name, dtype, shape, size):
        target = every([0.0, 1.0, 1.0], shape, backend, dtype)
        logits = (2 * target - 1) * size
        value, slope = assert_as_the_reference(LOSSES[name](sigmoid=True), logits, target)
        assert value.isfinite().all()
        assert slope.isfinite().all()

    @pytest.mark.parametrize("size", [50.0, math.inf])
    def test_logits_that_are_wrong(self, backend, name, dtype, shape, size):
        target = every([0.0, 1.0, 1.0], shape, backend, dtype)
        logits = (1 - 2 * target) * size
        value, slope = assert_as_the_reference(LOSSES[name](sigmoid=True), logits, target)
        assert value.isfinite().all() == (name != "bce" or size < math.inf)
        assert slope.isfinite().all()

    def test_logits_of_softmax(self, backend, name, dtype, shape):
        shape = (shape[0], 3, *shape[2:])
        # 11 values, so that no voxel has the same, perhaps infinite, logit in all of its channels
        sizes = [50.0, -50.0, 0.0, 100.0, -math.inf, 1.0, -100.0, 3.0, -3.0, 0.5, -1.0]
        logits = every(sizes, shape, backend, dtype)
        labels = torch.arange(math.prod(shape) // 3).remainder(3).view(shape[0], 1, *shape[2:])
        value, slope = value_and_slope(
            LOSSES[name](softmax=True, to_onehot_y=True), logits, labels.to(logits.device)
        )
        assert value.isfinite().all()
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
        assert value.shape == (0, shape[1], *[1] * (len(shape) - 2))
        assert slope.shape == logits.shape


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
class TestSmallVolumes:
    def test_single_voxel(self, backend, name, dtype, dimensions):
        shape = (1, 1, *[1] * dimensions)
        logits, target = every(0.7, shape, backend, dtype), every(1.0, shape, backend, dtype)
        assert_as_the_reference(LOSSES[name](sigmoid=True), logits, target)

    def test_single_row(self, backend, name, dtype, dimensions):
        for axis in range(dimensions):
            shape = [1, 2, *[1] * dimensions]
            shape[2 + axis] = 6
            logits = every([0.5, -2.0, 1.0, 1.0], tuple(shape), backend, dtype)
            target = every([1.0, 0.0, 1.0], tuple(shape), backend, dtype)
            assert_as_the_reference(LOSSES[name](sigmoid=True), logits, target)

    def test_single_valid_voxel(self, backend, name, dtype, dimensions):
        """Its differences do not count, as their other ends are not valid."""
        shape = (1, 1, *[3] * dimensions)
        logits = every([0.5, -2.0, 1.0, 4.0], shape, backend, dtype)
        target = every([1.0, 0.0, 1.0], shape, backend, dtype)
        mask = torch.zeros(shape, dtype=torch.bool, device=logits.device)
        mask[(0, 0, *[1] * dimensions)] = True
        value, slope = assert_as_the_reference(LOSSES[name](sigmoid=True), logits, target, mask=mask)
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
SHAPE_TEXT = r"shape \[N, C, H, W\] or \[N, C, D, H, W\] without empty axes, got "


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
            (ValueError, rf"input: expected {SHAPE_TEXT}\(4, 5, 6\)", {"input": volume(4, 5, 6)}),
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
    return value.to(DEVICES[backend]) if isinstance(value, Tensor) else value


class TestErrorsOfTheOperators:
    """Whoever calls an operator directly gets a RuntimeError that names the argument."""

    @pytest.mark.parametrize(
        ("message", "changed"),
        [
            ("terms: expected names out of count, .*, got 'volume'", {"terms": ["volume"]}),
            ("terms: expected 1 to 16 names, got 0", {"terms": []}),
            ("terms: expected 1 to 16 names, got 17", {"terms": ["count"] * 17}),
            ("activation: expected 'none', 'sigmoid' or 'softmax', got 'relu'", {"activation": "relu"}),
            ("spacing: expected 2 numbers, got 3", {"spacing": [1.0] * 3}),
            ("spacing: expected positive numbers, got 0", {"spacing": [0.0, 1.0]}),
            ("axes: expected 0 to 1, got 2", {"axes": [2]}),
            ("axes: expected 0 to 1, got -1", {"axes": [-1]}),
            (r"input: expected \[N, C, H, W\] or \[N, C, D, H, W\], got \[4, 5\]", {"input": volume(4, 5)}),
            ("input: expected a floating dtype", {"input": volume(*PLAIN, dtype=torch.int32)}),
            (r"target: expected input's device and shape \[2, 1, 4, 5\] .* got shape \[2, 1, 4\]",
             {"target": volume(2, 1, 4)}),
            ("mask: expected input's device and shape", {"mask": volume(1, 1, 4, 5)}),
            ("map: expected input's device and shape", {"map": volume(2, 2, 4, 5)}),
            ("map: the term 'map_prediction' needs one, got none", {"terms": ["map_prediction"]}),
            ("include_background: without it, input needs two channels", {"include_background": False}),
        ],
    )  # fmt: skip
    def test_sums(self, backend, message, changed):
        arguments = {
            "input": volume(*PLAIN),
            "target": volume(*PLAIN),
            "mask": None,
            "map": None,
            "terms": ["count"],
            "activation": "none",
            "spacing": [1.0, 1.0],
            "axes": [0],
            "ignore_index": None,
            "include_background": True,
        }
        given = {name: on_device(backend, value) for name, value in {**arguments, **changed}.items()}
        grad_loss, grad_sums = (on_device(backend, volume(*shape)) for shape in ((2, 1), (2, 1, 1)))
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_sums(**given)
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_sums_backward(grad_sums, **given)
        given |= {"numerator": [1.0, 0.0], "denominator": [0.0, 1.0]}
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_loss(**given)
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_loss_backward(grad_loss, grad_sums, **given)

    @pytest.mark.parametrize(
        "grad_sums", [volume(2, 1), volume(2, 1, 2), volume(1, 1, 1), volume(2, 1, 1, dtype=torch.float64)]
    )
    def test_gradient_of_the_sums(self, backend, grad_sums):
        x = on_device(backend, volume(*PLAIN))
        options = (["count"], "none", [1.0, 1.0], [0], None, True)
        with pytest.raises(RuntimeError, match="grad_sums: expected the shape and dtype of the sums"):
            library(backend).geo_sums_backward(on_device(backend, grad_sums), x, x, None, None, *options)

    @pytest.mark.parametrize(
        ("message", "sums", "numerator", "denominator"),
        [
            (r"sums: expected \[N, C, K\], got \[2, 1\]", volume(2, 1), [1.0] * 3, [1.0] * 3),
            ("sums: expected float32 or float64", volume(2, 1, 2).half(), [1.0] * 3, [1.0] * 3),
            (r"numerator, denominator: .* K \+ 1 = 3 numbers, got 2 and 2", volume(2, 1, 2), [1.0] * 2,
             [1.0] * 2),
            ("numerator, denominator: .* got 3 and 6", volume(2, 1, 2), [1.0] * 3, [1.0] * 6),
            ("numerator, denominator: .* got 0 and 0", volume(2, 1, 2), [], []),
        ],
    )  # fmt: skip
    def test_ratio(self, backend, message, sums, numerator, denominator):
        sums, grad_ratio = on_device(backend, sums), on_device(backend, volume(2, 1))
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_ratio(sums, numerator, denominator)
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_ratio_backward(grad_ratio, sums, numerator, denominator)

    @pytest.mark.parametrize(
        ("message", "grad_loss", "sums", "numerator"),
        [
            ("expected .* K \\+ 1 = 2 numbers, got 3 and 2", volume(2, 1), volume(2, 1, 1), [1.0] * 3),
            (r"grad_ratio: expected \[N, C\] of sums' dtype", volume(2), volume(2, 1, 1), [1.0] * 2),
            ("grad_sums: expected the shape and dtype of the sums", volume(1, 1), volume(1, 1, 1), [1.0] * 2),
        ],
    )  # fmt: skip
    def test_gradient_of_the_loss(self, backend, message, grad_loss, sums, numerator):
        x = on_device(backend, volume(*PLAIN))
        options = (["count"], "none", [1.0, 1.0], [0], None, True, numerator, [1.0] * 2)
        grad_loss, sums = on_device(backend, grad_loss), on_device(backend, sums)
        with pytest.raises(RuntimeError, match=message):
            library(backend).geo_loss_backward(grad_loss, sums, x, x, None, None, *options)

    def test_gradient_of_the_ratio(self, backend):
        sums = on_device(backend, volume(2, 1, 1))
        for wrong in (volume(2), volume(2, 2), volume(2, 1, dtype=torch.float64)):
            grad_ratio = on_device(backend, wrong)
            with pytest.raises(RuntimeError, match=r"grad_ratio: expected \[N, C\] of sums' dtype"):
                library(backend).geo_ratio_backward(grad_ratio, sums, [1.0, 0.0], [1.0, 0.0])


def test_a_term_asked_for_twice_fills_both_columns(backend):
    volume_of_ones = torch.ones(1, 1, 2, 3, device=DEVICES[backend])
    terms = ["count", "prediction", "count"]
    sums = library(backend).geo_sums(
        volume_of_ones, volume_of_ones, None, None, terms, "none", [1.0, 1.0], [0, 1], None, True
    )
    assert sums.flatten().tolist() == [6.0, 6.0, 6.0]
