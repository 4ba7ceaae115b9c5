"""Losses and formulas add up and scale: one pass, the same numbers, the same options."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from numerics import DEVICES, DTYPES
from torch import Tensor

import geoloss_kernels as gk
from geoloss_kernels import backends, formulas
from geoloss_kernels.distance import distance_map, signed_distance_map
from geoloss_kernels.formulas import Formula

# Every named loss with parameters that are not the defaults, and the formula that it is.
PARTS: dict[str, tuple[type[gk.FormulaLoss], Callable[..., Formula], dict[str, Any]]] = {
    "bce": (gk.BCELoss, formulas.bce, {"pos_weight": 3.0}),
    "cross-entropy": (gk.CrossEntropyLoss, formulas.cross_entropy, {"label_smoothing": 0.1}),
    "dice": (gk.DiceLoss, formulas.dice, {"jaccard": True, "smooth_dr": 0.1}),
    "tversky": (gk.TverskyLoss, formulas.tversky, {"alpha": 0.3, "beta": 0.7}),
    "generalized dice": (gk.GeneralizedDiceLoss, formulas.generalized_dice, {"w_type": "simple"}),
    "fog": (gk.FOGLoss, formulas.fog, {"norm": "l1", "axes": (0, 2)}),
    "sog": (gk.SOGLoss, formulas.sog, {"two_sided": True}),
    "boundary": (gk.BoundaryLoss, formulas.boundary, {"empty": "far"}),
    "hausdorff": (gk.HausdorffDTLoss, formulas.hausdorff, {"alpha": 1.5}),
}
COMBINATIONS: dict[str, tuple[type[gk.FormulaLoss], Callable[..., Formula], dict[str, Any]]] = {
    "dice + fog": (gk.DiceFOGLoss, lambda: formulas.dice() + formulas.fog(), {}),
    "dice + sog": (gk.DiceSOGLoss, lambda: formulas.dice() + formulas.sog(), {}),
    "dice + boundary": (gk.DiceBoundaryLoss, lambda: formulas.dice() + formulas.boundary(), {}),
    "dice + hausdorff": (gk.DiceHausdorffDTLoss, lambda: formulas.dice() + formulas.hausdorff(), {}),
    "dice + cross-entropy": (
        gk.DiceCELoss,
        lambda: formulas.dice_with_weights_of_all_channels() + formulas.cross_entropy_with_logits(),
        {},
    ),
}
NAMED = {**PARTS, **COMBINATIONS}
PAIRS = [
    pytest.param(*pair, id=" + ".join(pair)) for pair in itertools.combinations_with_replacement(NAMED, 2)
]
POOLED = ("cross-entropy", "generalized dice", "dice + cross-entropy")
"""Without a value for each volume and channel."""

SPACING = (0.5, 1.0, 3.0)
LABELS = {"softmax": True, "to_onehot_y": True}
# (channels, whether the target is a label map, options, arguments of the call)
SETTINGS: dict[str, tuple[int, bool, dict[str, Any], dict[str, Any]]] = {
    "softmax labels": (3, True, LABELS, {}),
    "sigmoid mask": (2, False, {"sigmoid": True, "reduction": "sum"}, {"mask": True}),
    "without background": (3, True, {**LABELS, "include_background": False}, {"spacing": SPACING}),
    "batch ignored label": (3, True, {**LABELS, "batch": True, "ignore_index": 1}, {"mask": True}),
    "single channel": (1, False, {"sigmoid": True}, {"spacing": SPACING, "mask": True}),
    "probabilities": (2, False, {}, {}),
}


def volumes(
    backend: str, channels: int, labels: bool, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    shape = (2, channels, 3, 4, 5)
    input = (0.05 + 0.9 * torch.rand(shape, dtype=torch.float64)).to(dtype)
    target = torch.randint(0, channels, (2, 1, *shape[2:])) if labels else (torch.rand(shape) > 0.6).to(dtype)
    return input.to(DEVICES[backend]).requires_grad_(), target.to(DEVICES[backend])


def context_of(call: dict[str, Any], input: Tensor) -> dict[str, Any]:
    mask = torch.rand(2, 1, *input.shape[2:]).to(input.device) > 0.3
    return {**call, "mask": mask} if call.get("mask") else call


def value_and_slope(loss: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    (slope,) = torch.autograd.grad(loss.sum(), input, retain_graph=True)
    return loss.detach(), slope


def assert_close(ours: Tensor, theirs: Tensor, input: Tensor) -> None:
    for mine, right in zip(value_and_slope(ours, input), value_and_slope(theirs, input), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-13)
    assert value_and_slope(theirs, input)[1].count_nonzero() > 0


def assert_equal(ours: Tensor, theirs: Tensor, input: Tensor) -> None:
    for mine, right in zip(value_and_slope(ours, input), value_and_slope(theirs, input), strict=True):
        assert torch.equal(mine, right)


@pytest.fixture
def passes_counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators that compute sums on the CPU, by each of their calls."""
    calls: list[str] = []

    def counted(name: str, operator: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return operator(*arguments)

        return call

    operators = backends._operators["cpu"]
    counting = {name: counted(name, getattr(operators, name)) for name in ("geo_loss", "geo_sums")}
    monkeypatch.setitem(backends._operators, "cpu", operators._replace(**counting))
    return calls


class TestSums:
    @pytest.mark.parametrize("setting", SETTINGS)
    @pytest.mark.parametrize(("first", "second"), PAIRS)
    def test_every_pair(self, backend, first, second, setting):
        """As losses, and as formulas under the same options."""
        channels, labels, options, call = SETTINGS[setting]
        input, target = volumes(backend, channels, labels)
        context = context_of(call, input)
        shared = {"include_background": True, **options}
        losses, parts = [], []
        for name in (first, second):
            loss, formula, parameters = NAMED[name]
            losses.append(loss(**shared, **parameters))
            parts.append(formula(**parameters))
        of_losses = 0.5 * losses[0] + losses[1] * 2
        of_formulas = gk.FormulaLoss(0.5 * parts[0] + parts[1] * 2, **shared)
        alone = [loss(input, target, **context) for loss in losses]
        expected = 0.5 * alone[0] + 2 * alone[1]
        assert_close(of_losses(input, target, **context), expected, input)
        assert_equal(of_formulas(input, target, **context), of_losses(input, target, **context), input)

    @pytest.mark.parametrize(
        ("first", "second"), [pair for pair in PAIRS if not set(pair.values) & set(POOLED)]
    )
    def test_every_pair_without_reduction(self, backend, first, second):
        input, target = volumes(backend, 2, labels=False)
        shared = {"include_background": True, "sigmoid": True, "reduction": "none"}
        losses = [NAMED[name][0](**shared, **NAMED[name][2]) for name in (first, second)]
        together = (losses[0] + losses[1])(input, target)
        alone = [loss(input, target).view(together.shape) for loss in losses]  # MONAI's Tversky is [N, C]
        assert together.shape == (2, 2, 1, 1, 1)
        assert_close(together, alone[0] + alone[1], input)

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_everything_at_once(self, backend, setting):
        channels, labels, options, call = SETTINGS[setting]
        input, target = volumes(backend, channels, labels)
        context = context_of(call, input)
        losses = [
            loss(**{"include_background": True, **options}, **given) for loss, _, given in PARTS.values()
        ]
        together = sum(losses)(input, target, **context)
        assert_close(together, sum(loss(input, target, **context) for loss in losses), input)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("options", [{"sigmoid": True}, LABELS], ids=["sigmoid", "labels"])
    def test_a_sum_is_the_combination_bit_for_bit(self, backend, options, dtype):
        labels = "to_onehot_y" in options
        input, target = volumes(backend, 2, labels, dtype)
        together = gk.DiceLoss(**options) + 0.5 * gk.FOGLoss(**options)
        named = gk.DiceFOGLoss(**options, lambda_fog=0.5)
        assert_equal(together(input, target), named(input, target), input)

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_is_one_pass(self, passes_counted, count):
        input, target = volumes("cpu", 3, labels=True)
        names = ["dice", "cross-entropy", "fog", "boundary", "hausdorff"][:count]
        loss = sum(PARTS[name][0](include_background=True, **LABELS, **PARTS[name][2]) for name in names)
        loss(input, target).backward()
        assert passes_counted == ["geo_loss"]

    def test_of_sums_and_ratios_is_one_pass_too(self, passes_counted):
        input, target = volumes("cpu", 3, labels=True)
        (gk.GeneralizedDiceLoss(**LABELS) + gk.DiceCELoss(**LABELS) + gk.FOGLoss(**LABELS))(input, target)
        assert passes_counted == ["geo_sums"]

    @pytest.mark.parametrize(
        "second",
        [
            {"axes": (1, 2), "norm": "l2_squared"},
            {"axes": 0, "operator": "central"},
            {"axes": 0, "norm": "l1", "spacing": (1.0, 2.0, 2.0)},
            {"axes": "axial", "norm": "l1", "axis_order": "zyx"},
        ],
        ids=str,
    )
    def test_two_parts_of_a_kind_keep_their_parameters(self, backend, second):
        input, target = volumes(backend, 2, labels=False)
        losses = [
            gk.FOGLoss(sigmoid=True, axes=0, norm="l1", spacing=SPACING),
            gk.FOGLoss(sigmoid=True, **second),
        ]
        alone = [loss(input, target) for loss in losses]
        assert not torch.equal(*alone)
        assert_close((losses[0] + losses[1])(input, target), alone[0] + alone[1], input)

    def test_spacing_of_the_call_takes_the_place_of_every_part(self, backend):
        input, target = volumes(backend, 2, labels=False)
        own, plain = (
            gk.FOGLoss(sigmoid=True, spacing=fog) + gk.BoundaryLoss(sigmoid=True, spacing=boundary)
            for fog, boundary in ((SPACING, (2.0, 1.0, 1.0)), (None, None))
        )
        assert not torch.equal(own(input, target), plain(input, target))
        assert_equal(own(input, target, spacing=(1, 1, 1)), plain(input, target), input)
        assert_equal(own(input, target, spacing=SPACING), plain(input, target, spacing=SPACING), input)

    def test_a_part_given_twice_is_one_with_twice_the_weight(self, backend):
        input, target = volumes(backend, 2, labels=False)
        loss = gk.FormulaLoss(formulas.fog(norm="l1") + formulas.fog(norm="l1"), sigmoid=True)
        assert_close(loss(input, target), 2 * gk.FOGLoss(norm="l1", sigmoid=True)(input, target), input)

    def test_differences_quotients_and_signs(self, backend):
        input, target = volumes(backend, 2, labels=False)
        dice, fog = formulas.dice(), formulas.fog()
        loss = gk.FormulaLoss(-(fog - 3 * dice) / 2, sigmoid=True)
        alone = [gk.FormulaLoss(part, sigmoid=True)(input, target) for part in (dice, fog)]
        assert_close(loss(input, target), 1.5 * alone[0] - 0.5 * alone[1], input)

    @pytest.mark.parametrize("other", [1, "dice", None, torch.ones(())])
    def test_only_losses_add_up_and_only_numbers_scale(self, other):
        for summand in (gk.DiceLoss(), formulas.dice()):
            with pytest.raises(TypeError):
                summand + other
            if not isinstance(other, int):
                with pytest.raises(TypeError):
                    summand * other
        with pytest.raises(TypeError):
            gk.DiceLoss() + formulas.dice()

    def test_a_batch_counts_what_dice_counts(self, backend):
        """The background is in the Hausdorff half where it is in the Dice half, and only there."""
        input, target = volumes(backend, 2, labels=False)
        for options in ({}, {"include_background": True}, {"include_background": False}):
            both = {"include_background": options.get("include_background", True), "sigmoid": True}
            expected = gk.DiceLoss(**both) + gk.HausdorffDTLoss(**both)
            named = gk.DiceHausdorffDTLoss(sigmoid=True, **options)
            assert_equal(named(input, target), expected(input, target), input)


class TestDistances:
    def loss(self, **options: Any) -> gk.FormulaLoss:
        options = {"include_background": True, "sigmoid": True, **options}
        return 0.1 * gk.BoundaryLoss(**options) + gk.HausdorffDTLoss(**options)

    def test_maps_that_are_given_in_turn(self, backend):
        input, target = volumes(backend, 2, labels=False)
        maps = [signed_distance_map(target, SPACING), distance_map(target, SPACING)]
        given = self.loss()(input, target, distance_map=maps)
        assert_equal(given, self.loss()(input, target, spacing=SPACING), input)
        assert not torch.equal(given, self.loss()(input, target, distance_map=maps[::-1]))

    def test_one_map_serves_parts_of_the_same_distance(self, backend):
        input, target = volumes(backend, 2, labels=False)
        twice = gk.BoundaryLoss(sigmoid=True) + gk.DiceBoundaryLoss(sigmoid=True)
        computed = twice(input, target)
        assert_equal(twice(input, target, distance_map=signed_distance_map(target)), computed, input)

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_another_number_of_maps(self, count):
        input, target = volumes("cpu", 2, labels=False)
        message = f"distance_map: expected 2, one for each distance of the loss, got {count}"
        with pytest.raises(ValueError, match=message):
            self.loss()(input, target, distance_map=[target] * count)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (1.0, "distance_map: expected a tensor or a sequence of them, got float"),
            ([[1.0], [2.0]], "distance_map: expected a tensor, got list"),
        ],
    )
    def test_what_is_no_map(self, given, message):
        input, target = volumes("cpu", 2, labels=False)
        with pytest.raises(TypeError, match=message):
            self.loss()(input, target, distance_map=given)

    def test_a_map_of_another_shape_or_for_a_loss_without_distance(self):
        input, target = volumes("cpu", 2, labels=False)
        with pytest.raises(ValueError, match=r"distance_map: expected shape .* got \(2, 2, 3, 4, 1\)"):
            self.loss()(input, target, distance_map=[target, target[..., :1]])
        with pytest.raises(ValueError, match=r"distance_map: expected 0, .* got 1"):
            gk.DiceLoss(sigmoid=True)(input, target, distance_map=target)


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "first", "second"),
        [
            ("include_background", {}, {"include_background": False}),
            ("to_onehot_y", {"to_onehot_y": True}, {}),
            ("sigmoid", {"sigmoid": True}, {}),
            ("softmax", {}, {"softmax": True}),
            ("other_act", {"other_act": torch.tanh}, {}),
            ("reduction", {}, {"reduction": "sum"}),
            ("batch", {"batch": True}, {"batch": False}),
            ("ignore_index", {"ignore_index": 0}, {"ignore_index": None}),
            ("ddp", {"batch": True, "ddp": True}, {"batch": True}),
        ],
    )
    def test_those_that_differ_are_named_with_both_values(self, name, first, second):
        losses = gk.DiceLoss(**first), gk.FOGLoss(**second)
        own, other = (repr(getattr(loss.options, name)) for loss in losses)
        message = f"{name}: expected the same in losses that are added up, got {own} and {other}"
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
            losses[0] + losses[1]
        assert str(caught.value) == message

    def test_the_background_of_a_hausdorff_loss_differs_by_default(self):
        with pytest.raises(ValueError, match=r"include_background: .* got True and False"):
            gk.DiceLoss() + gk.HausdorffDTLoss()

    def test_the_sum_has_them(self):
        loss = gk.DiceLoss(reduction="sum", batch=True, sigmoid=True)
        total = loss + 2 * gk.SOGLoss(reduction="sum", batch=True, sigmoid=True)
        assert total.options == loss.options
        assert total.reduction == "sum"

    @pytest.mark.parametrize(
        "compose",
        [lambda log, dice: log + dice, lambda log, dice: dice + log, lambda log, dice: 0.5 * log],
        ids=["log + dice", "dice + log", "0.5 * log"],
    )
    def test_a_logarithm_is_no_sum(self, compose):
        message = "LogHausdorffDTLoss is the logarithm of a loss, not a sum of ratios: add up the results"
        with pytest.raises(TypeError, match=message):
            compose(gk.LogHausdorffDTLoss(include_background=True), gk.DiceLoss())

    @pytest.mark.parametrize(
        ("part", "count", "message"),
        [
            (
                lambda i: formulas.fog(spacing=(1.0, 1.0, 1.0 + i)),
                9,
                "8 first- and second-order terms .*, got 9",
            ),
            (lambda i: formulas.boundary(spacing=(1.0, 1.0, 1.0 + i)), 5, "4 distance maps .*, got 5"),
            (lambda i: formulas.dice(smooth_dr=i), 17, "16 fractions .*, got 17"),
        ],
    )
    def test_what_is_too_much_for_one_pass_is_said_so(self, part, count, message):
        input, target = volumes("cpu", 2, labels=False)
        most = gk.FormulaLoss(sum(part(i) for i in range(count - 1)), sigmoid=True)
        assert most(input, target).isfinite()
        loss = gk.FormulaLoss(sum(part(i) for i in range(count)), sigmoid=True)
        with pytest.raises(ValueError, match=f"formula: expected at most {message}; add up the results"):
            loss(input, target)

    @pytest.mark.parametrize(
        "pair", [("cross-entropy", "dice"), ("generalized dice", "dice"), ("fog", "cross-entropy")]
    )
    def test_parts_that_are_apart_for_other_volumes_need_a_reduction(self, pair):
        input, target = volumes("cpu", 3, labels=False)
        loss = sum(PARTS[name][0](softmax=True, reduction="none") for name in pair)
        with pytest.raises(ValueError, match="reduction: expected 'mean' or 'sum' with parts that are apart"):
            loss(input, target)


class TestOtherActivation:
    class Counting:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, input: Tensor) -> Tensor:
            self.calls += 1
            return input.sigmoid()

    @pytest.mark.parametrize("name", NAMED)
    def test_is_called_once_and_is_the_activation(self, backend, name):
        input, target = volumes(backend, 1, labels=False)
        loss, _, parameters = NAMED[name]
        activation = self.Counting()
        value = loss(include_background=True, other_act=activation, **parameters)(input, target)
        assert activation.calls == 1
        expected = loss(include_background=True, sigmoid=True, **parameters)(input, target)
        assert_close(value, expected, input)

    def test_composes_and_is_called_once(self, backend):
        input, target = volumes(backend, 2, labels=False)
        activation = self.Counting()
        options = {"other_act": activation, "include_background": True}
        loss = gk.DiceLoss(**options) + gk.HausdorffDTLoss(**options) + gk.BoundaryLoss(**options)
        value = loss(input, target)
        assert activation.calls == 1
        plain = {"sigmoid": True, "include_background": True}
        expected = gk.DiceLoss(**plain) + gk.HausdorffDTLoss(**plain) + gk.BoundaryLoss(**plain)
        assert_close(value, expected(input, target), input)

    def test_cross_entropy_of_dice_ce_takes_the_logits_before_it(self, backend):
        input, target = volumes(backend, 3, labels=True)
        activation = partial(torch.softmax, dim=1)
        options = {"to_onehot_y": True, "other_act": activation}
        loss = gk.DiceCELoss(**options) + gk.FOGLoss(**options)
        parts = [gk.DiceLoss(**LABELS), gk.CrossEntropyLoss(**LABELS), gk.FOGLoss(**LABELS)]
        assert_close(loss(input, target), sum(part(input, target) for part in parts), input)


FORMULAS: dict[str, Formula] = {
    "dice()": formulas.dice(),
    "-fog()": -formulas.fog(),
    "dice() + 0.5 * fog(norm='l1')": formulas.dice() + 0.5 * formulas.fog(norm="l1"),
    "2 * dice(jaccard=True) - fog(axes=(0, 1))": 2 * formulas.dice(jaccard=True) - formulas.fog(axes=[0, 1]),
    "dice(weight=[1.0, 2.0]) + cross_entropy(weight=0.5, label_smoothing=0.1)": (
        formulas.dice(weight=[1.0, 2.0]) + formulas.cross_entropy(weight=0.5, label_smoothing=0.1)
    ),
    "0.3333333333333333 * sog(two_sided=True)": formulas.sog(two_sided=True) / 3,
    "1e-05 * boundary(empty='far', spacing=(1.0, 2.0, 3.0)) + hausdorff(alpha=1.0)": (
        1e-5 * formulas.boundary("far", torch.tensor([1, 2, 3])) + formulas.hausdorff(alpha=1.0)
    ),
    "generalized_dice(w_type='simple') + bce(pos_weight=4.0) + tversky(alpha=0.3)": (
        formulas.generalized_dice(w_type="simple") + formulas.bce(4.0) + formulas.tversky(alpha=0.3)
    ),
}


class TestText:
    @pytest.mark.parametrize("text", FORMULAS)
    def test_of_a_formula_is_the_formula(self, text):
        formula = FORMULAS[text]
        assert repr(formula) == text
        again = eval(text, vars(formulas).copy())
        assert repr(again) == text
        input, target = volumes("cpu", 2, labels=False)
        ours, theirs = (gk.FormulaLoss(each, sigmoid=True)(input, target) for each in (again, formula))
        assert_equal(ours, theirs, input)

    def test_of_a_sum_of_losses(self):
        loss = gk.DiceLoss(**LABELS) + 0.5 * gk.FOGLoss(norm="l1", **LABELS)
        assert repr(loss) == "FormulaLoss(dice() + 0.5 * fog(norm='l1'), to_onehot_y=True, softmax=True)"
        assert repr(gk.DiceLoss(sigmoid=True)) == "DiceLoss(dice(), sigmoid=True)"

    def test_a_formula_is_expected(self):
        with pytest.raises(TypeError, match="formula: expected a formula, got DiceLoss"):
            gk.FormulaLoss(gk.DiceLoss())


class TestModules:
    def loss(self) -> gk.FormulaLoss:
        weighted = gk.DiceLoss(sigmoid=True, weight=[1.0, 3.0]) + gk.CrossEntropyLoss(
            sigmoid=True, weight=[0.5, 2.0]
        )
        return weighted + gk.FOGLoss(sigmoid=True, axes=(0, 1))

    @pytest.mark.parametrize(
        "copied", [copy.copy, copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))]
    )
    def test_copies(self, backend, copied):
        input, target = volumes(backend, 2, labels=False)
        twin = copied(self.loss())
        assert repr(twin) == repr(self.loss())
        assert_equal(twin(input, target), self.loss()(input, target), input)
        assert_equal((twin + twin)(input, target), 2 * self.loss()(input, target), input)

    def test_class_weights_are_buffers_that_are_loaded(self, backend):
        input, target = volumes(backend, 2, labels=False)
        loss = self.loss()
        assert {name: weight.tolist() for name, weight in loss.state_dict().items()} == {
            "class_weight": [1.0, 3.0],
            "class_weight_1": [0.5, 2.0],
        }
        before = loss(input, target)
        loss.load_state_dict({"class_weight": torch.tensor([2.0, 1.0]), "class_weight_1": torch.ones(2)})
        options = {"sigmoid": True}
        expected = gk.DiceLoss(weight=[2.0, 1.0], **options) + gk.CrossEntropyLoss(
            weight=[1.0, 1.0], **options
        )
        expected = expected + gk.FOGLoss(axes=(0, 1), **options)
        assert not torch.equal(loss(input, target), before)
        assert_equal(loss(input, target), expected(input, target), input)
        assert_close((2 * loss)(input, target), 2 * expected(input, target), input)

    def test_a_weight_that_parts_share_is_one_buffer(self):
        loss = gk.DiceCELoss(softmax=True, weight=[1.0, 2.0])
        assert [name for name, _ in loss.named_buffers()] == ["class_weight"]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
    def test_a_dtype_for_the_weights_changes_no_result(self, backend, dtype):
        """These weights are exact in every dtype."""
        input, target = volumes(backend, 2, labels=False)
        loss = self.loss().to(dtype)
        assert loss.class_weight.dtype == dtype
        assert_equal(loss(input, target), self.loss()(input, target), input)

    def test_weights_that_were_loaded_into_another_dtype_are_those_of_a_sum(self, backend):
        input, target = volumes(backend, 2, labels=False)
        loss = gk.DiceLoss(sigmoid=True, weight=[1.0, 3.0]).float()
        loss.load_state_dict({"class_weight": torch.tensor([2.0, 0.5])})
        expected = 2 * gk.DiceLoss(sigmoid=True, weight=[2.0, 0.5])(input, target)
        assert_close((2 * loss)(input, target), expected, input)
