"""Every public loss as module and as function, against the reference's letter-for-letter formula."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from monai.data import MetaTensor
from numerics import DEVICES, DTYPES
from torch import Tensor

import geoloss_kernels as gk
from geoloss_kernels import functional, reference
from geoloss_kernels.reference import gamma, phi, psi, theta

SPACING = (0.5, 1.0, 3.0)
Options = dict[str, Any]


class Loss(NamedTuple):
    module: Callable[..., torch.nn.Module]
    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    variants: list[Options]
    """arguments of this loss alone"""


FOG_VARIANTS: list[Options] = [
    {},
    {"norm": "l2_squared"},
    {"norm": "l1", "operator": "central"},
    {"axes": 1},
    {"axes": (0, 2)},
    {"axes": "sagittal"},
    {"axes": ("axial", "coronal"), "axis_order": "zyx"},
]
SMOOTH = {"smooth_nr": 0.0, "smooth_dr": 0.3}
SOG_VARIANTS: list[Options] = [{}, {"two_sided": True}, {"signed": True}, {"signed": True, "two_sided": True}]


def _flat(loss: Tensor) -> Tensor:
    """Without the axes of size 1 that MONAI's TverskyLoss does not keep."""
    return loss.flatten(1) if loss.ndim else loss


LOSSES: dict[str, Loss] = {
    "bce": Loss(gk.BCELoss, functional.bce_loss, reference.bce_loss, [{}, {"pos_weight": 4.0}]),
    "dice": Loss(
        gk.DiceLoss,
        functional.dice_loss,
        reference.dice_loss,
        [
            {},
            {"squared_pred": True},
            {"jaccard": True},
            {"squared_pred": True, "jaccard": True},
            {"soft_label": True},
            {"weight": 3.0},
            SMOOTH,
        ],
    ),
    "tversky": Loss(
        gk.TverskyLoss,
        functional.tversky_loss,
        lambda *tensors, **options: _flat(reference.tversky_loss(*tensors, **options)),
        [{}, {"alpha": 0.3, "beta": 0.7}, {"soft_label": True, "alpha": 0.8}, SMOOTH],
    ),
    "fog": Loss(gk.FOGLoss, functional.fog_loss, reference.fog_loss, FOG_VARIANTS),
    "sog": Loss(gk.SOGLoss, functional.sog_loss, reference.sog_loss, SOG_VARIANTS),
    "dice_fog": Loss(
        gk.DiceFOGLoss,
        functional.dice_fog_loss,
        reference.dice_fog_loss,
        [*FOG_VARIANTS, {"lambda_dice": 0.5, "lambda_fog": 3.0}, SMOOTH],
    ),
    "dice_sog": Loss(
        gk.DiceSOGLoss,
        functional.dice_sog_loss,
        reference.dice_sog_loss,
        [*SOG_VARIANTS, {"lambda_dice": 0.5, "lambda_sog": 3.0}, SMOOTH],
    ),
    "boundary": Loss(
        gk.BoundaryLoss, functional.boundary_loss, reference.boundary_loss, [{}, {"empty": "far"}]
    ),
    "hausdorff": Loss(
        partial(gk.HausdorffDTLoss, include_background=True),
        functional.hausdorff_dt_loss,
        reference.hausdorff_dt_loss,
        [{}, {"alpha": 1.5}, {"empty": "far"}],
    ),
    "log_hausdorff": Loss(
        partial(gk.LogHausdorffDTLoss, include_background=True),
        functional.log_hausdorff_dt_loss,
        reference.log_hausdorff_dt_loss,
        [{}, {"alpha": 1.5}, {"empty": "far"}],
    ),
    "dice_boundary": Loss(
        gk.DiceBoundaryLoss,
        functional.dice_boundary_loss,
        reference.dice_boundary_loss,
        [{}, {"lambda_dice": 0.5, "lambda_boundary": 3.0}, {"empty": "far", **SMOOTH}],
    ),
    "dice_hausdorff": Loss(
        gk.DiceHausdorffDTLoss,
        functional.dice_hausdorff_dt_loss,
        reference.dice_hausdorff_dt_loss,
        [{}, {"lambda_dice": 0.5, "lambda_hausdorff": 3.0, "alpha": 1.0}, {"empty": "far", **SMOOTH}],
    ),
}

# Arguments of every loss: (channels, target, arguments).
COMMON: dict[str, tuple[int, str, Options]] = {
    "sigmoid": (2, "binary", {"sigmoid": True}),
    "probabilities": (2, "soft", {}),
    "softmax": (3, "binary", {"softmax": True}),
    "labels": (3, "labels", {"softmax": True, "to_onehot_y": True}),
    "without background": (
        3,
        "labels",
        {"softmax": True, "to_onehot_y": True, "include_background": False},
    ),
    "ignored label": (3, "labels", {"softmax": True, "to_onehot_y": True, "ignore_index": 1}),
    "ignored class": (3, "binary", {"sigmoid": True, "ignore_index": 2}),
    "ignored mark": (2, "binary", {"sigmoid": True, "ignore_index": 7}),
    "sum": (2, "binary", {"sigmoid": True, "reduction": "sum"}),
    "none": (2, "binary", {"sigmoid": True, "reduction": "none"}),
    "batch": (2, "binary", {"sigmoid": True, "batch": True, "reduction": "none"}),
}


def volumes(backend: str, channels: int, target: str, probabilities: bool) -> tuple[Tensor, Tensor]:
    shape = (2, channels, 4, 5, 6)
    logits = 2 * torch.randn(shape, dtype=torch.float64)
    given = logits.sigmoid() if probabilities else logits
    targets = {
        "binary": (torch.rand(shape) > 0.7).double(),
        "soft": torch.rand(shape, dtype=torch.float64),
        "labels": torch.randint(0, channels, (2, 1, *shape[2:])),
    }
    return given.to(DEVICES[backend]).requires_grad_(), targets[target].to(DEVICES[backend])


def value_and_slope(loss: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.linspace(1, 2, loss.numel(), dtype=loss.dtype, device=loss.device).view(loss.shape)
    (slope,) = torch.autograd.grad(loss, input, weights)
    return loss.detach(), slope


def assert_all_equal(of_module: Tensor, of_function: Tensor, expected: Tensor, input: Tensor) -> None:
    """Module and function bit by bit, both to rounding with the reference; value, shape and gradient."""
    module, function, theirs = (value_and_slope(loss, input) for loss in (of_module, of_function, expected))
    assert theirs[1].count_nonzero() > 0
    for mine, also_mine, right in zip(module, function, theirs, strict=True):
        assert torch.equal(mine, also_mine)
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-14)


def loss_variants() -> Iterator[Any]:
    for name, loss in LOSSES.items():
        for options in loss.variants:
            label = ", ".join(f"{key}={value}" for key, value in options.items())
            yield pytest.param(loss, options, id=f"{name}({label})")


class TestAgainstTheReference:
    @pytest.mark.parametrize("extras", [False, True], ids=["", "mask and spacing"])
    @pytest.mark.parametrize("common", COMMON)
    @pytest.mark.parametrize("name", LOSSES)
    def test_arguments_of_every_loss(self, backend, name, common, extras):
        loss = LOSSES[name]
        channels, target_kind, options = COMMON[common]
        given, target = volumes(backend, channels, target_kind, probabilities=common == "probabilities")
        context: Options = {}
        if extras:
            mask = torch.rand(2, 1, 4, 5, 6).to(given.device) > 0.3
            context = {"mask": mask, "spacing": SPACING}
        assert_all_equal(
            loss.module(**options)(given, target, **context),
            loss.function(given, target, **context, **options),
            loss.reference(given, target, **context, **options),
            given,
        )

    @pytest.mark.parametrize(("loss", "options"), list(loss_variants()))
    def test_arguments_of_this_loss(self, backend, loss, options):
        given, target = volumes(backend, 2, "binary", probabilities=False)
        target[0, 0] = 0
        options = {"sigmoid": True, "reduction": "none", **options}
        assert_all_equal(
            loss.module(**options)(given, target),
            loss.function(given, target, **options),
            loss.reference(given, target, **options),
            given,
        )

    @pytest.mark.parametrize("name", LOSSES)
    def test_in_two_dimensions(self, backend, name):
        loss = LOSSES[name]
        given, target = (volume[:, :, 0] for volume in volumes(backend, 2, "binary", probabilities=False))
        given = given.detach().requires_grad_()
        context = {"spacing": (0.5, 2.0), "mask": torch.rand(2, 2, 5, 6).to(given.device) > 0.3}
        assert_all_equal(
            loss.module(sigmoid=True)(given, target, **context),
            loss.function(given, target, sigmoid=True, **context),
            loss.reference(given, target, sigmoid=True, **context),
            given,
        )

    @pytest.mark.parametrize("name", LOSSES)
    def test_in_one_dimension(self, backend, name):
        loss = LOSSES[name]
        given, target = (volume[:, :, 0, 0] for volume in volumes(backend, 2, "binary", probabilities=False))
        given = given.detach().requires_grad_()
        context = {"spacing": (0.7,), "mask": torch.rand(2, 2, 6).to(given.device) > 0.3}
        options = {"sigmoid": True, "reduction": "none"}
        if "log" in name:
            options["reduction"] = "sum"
        value = loss.module(**options)(given, target, **context)
        shapes = {"log_hausdorff": (), "tversky": (2, 2)}
        assert value.shape == shapes.get(name, (2, 2, 1))
        assert_all_equal(
            value,
            loss.function(given, target, **options, **context),
            loss.reference(given, target, **options, **context),
            given,
        )

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", LOSSES)
    def test_dtypes(self, backend, name, dtype):
        """The loss comes in float32 or better, the gradient in the input's dtype."""
        given, target = volumes(backend, 2, "binary", probabilities=False)
        given = given.detach().to(dtype).requires_grad_()
        loss = LOSSES[name].module(sigmoid=True)(given, target)
        loss.backward()
        expected = LOSSES[name].reference(given.detach().double(), target, sigmoid=True)
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert given.grad.dtype == dtype
        torch.testing.assert_close(loss.detach().double(), expected, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("weight", [[0.5, 1.0, 3.0], torch.tensor([2.0, 0.0, 1.0]), 0.25], ids=str)
    def test_class_weights(self, backend, weight):
        given, target = volumes(backend, 3, "binary", probabilities=False)
        options = {"sigmoid": True, "weight": weight}
        assert_all_equal(
            gk.DiceLoss(**options)(given, target),
            functional.dice_loss(given, target, **options),
            reference.dice_loss(given, target, **options),
            given,
        )

    @pytest.mark.parametrize("name", ["dice", "tversky", "boundary", "hausdorff"])
    def test_other_activation(self, backend, name):
        given, target = volumes(backend, 2, "binary", probabilities=False)
        loss = LOSSES[name]
        assert_all_equal(
            loss.module(other_act=torch.sigmoid)(given, target),
            loss.function(given, target, other_act=torch.sigmoid),
            loss.reference(given.sigmoid(), target),
            given,
        )

    @pytest.mark.parametrize("name", LOSSES)
    def test_ignored_voxels_of_a_one_hot_target(self, backend, name):
        """Zero in every channel, or filled with the ignored label: the voxel belongs to no class."""
        given, target = volumes(backend, 3, "labels", probabilities=False)
        one_hot = torch.cat([target == c for c in range(3)], 1).double()
        ignored = torch.rand(2, 1, 4, 5, 6).to(given.device) > 0.7
        zeros, marks = one_hot.masked_fill(ignored, 0), one_hot.masked_fill(ignored, 255)
        loss = LOSSES[name].module(softmax=True, ignore_index=255)
        expected = LOSSES[name].module(softmax=True)(given, zeros, mask=~ignored)
        assert_all_equal(loss(given, zeros), loss(given, marks), expected, given)

    @pytest.mark.parametrize(
        "name", ["boundary", "dice_boundary", "hausdorff", "log_hausdorff", "dice_hausdorff"]
    )
    def test_given_distance_map(self, backend, name):
        given, target = volumes(backend, 2, "binary", probabilities=False)
        distance = torch.randn(2, 1, 4, 5, 6, dtype=torch.float64).to(given.device)
        loss = LOSSES[name]
        assert_all_equal(
            loss.module(sigmoid=True)(given, target, distance_map=distance),
            loss.function(given, target, sigmoid=True, distance_map=distance),
            loss.reference(given, target, sigmoid=True, distance_map=distance),
            given,
        )


class TestModules:
    def test_spacing_of_the_call_takes_the_place_of_the_modules(self, backend):
        given, target = volumes(backend, 1, "binary", probabilities=False)
        of_module = gk.FOGLoss(sigmoid=True, spacing=SPACING)
        plain = gk.FOGLoss(sigmoid=True)
        assert torch.equal(of_module(given, target), plain(given, target, spacing=SPACING))
        assert torch.equal(of_module(given, target, spacing=(1, 1, 1)), plain(given, target))
        assert not torch.equal(of_module(given, target), plain(given, target))

    def test_spacing_reaches_the_distances(self, backend):
        given, target = volumes(backend, 1, "binary", probabilities=False)
        for module in (gk.BoundaryLoss, partial(gk.HausdorffDTLoss, include_background=True)):
            value = module(sigmoid=True, spacing=SPACING)(given, target)
            assert torch.equal(value, module(sigmoid=True)(given, target, spacing=SPACING))
            assert not torch.equal(value, module(sigmoid=True)(given, target))

    def test_repr_names_what_was_chosen(self):
        text = repr(gk.DiceFOGLoss(sigmoid=True, axes="axial", spacing=(1, 1, 3)))
        assert text == "DiceFOGLoss(dice() + fog(axes='axial', spacing=(1.0, 1.0, 3.0)), sigmoid=True)"

    def test_copies_and_pickles(self, backend):
        given, target = volumes(backend, 2, "binary", probabilities=False)
        loss = gk.DiceLoss(sigmoid=True, weight=[1.0, 2.0])
        expected = loss(given, target)
        for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            assert torch.equal(twin(given, target), expected)

    def test_class_weights_are_a_buffer(self):
        loss = gk.DiceLoss(weight=[1.0, 2.0])
        assert [name for name, _ in loss.named_buffers()] == ["class_weight"]
        assert loss.double().class_weight.dtype == torch.float64

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_shape_of_the_result(self, backend, reduction):
        given, target = volumes(backend, 2, "binary", probabilities=False)
        loss = gk.DiceFOGLoss(sigmoid=True, reduction=reduction)(given, target)
        assert loss.shape == ((2, 2, 1, 1, 1) if reduction == "none" else ())

    @pytest.mark.parametrize(
        "option", [{"softmax": True}, {"to_onehot_y": True}, {"include_background": False}], ids=str
    )
    def test_options_without_effect_on_one_channel_warn(self, backend, option):
        given, target = volumes(backend, 1, "binary", probabilities=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expected = gk.DiceLoss()(given, target)
        (name,) = option
        with pytest.warns(UserWarning, match=f"single channel prediction, `{name}={option[name]}` ignored"):
            assert torch.equal(gk.DiceLoss(**option)(given, target), expected)

    def test_metatensors_are_taken(self, backend):
        given, target = volumes(backend, 1, "binary", probabilities=False)
        plain = gk.DiceFOGLoss(sigmoid=True)(given, target)
        leaf = MetaTensor(given.detach()).requires_grad_()
        mask = MetaTensor(torch.ones_like(target))
        wrapped = gk.DiceFOGLoss(sigmoid=True)(leaf, MetaTensor(target), mask=mask)
        wrapped.backward()
        assert torch.equal(wrapped.as_tensor() if isinstance(wrapped, MetaTensor) else wrapped, plain)
        (expected,) = torch.autograd.grad(plain, given)
        assert torch.equal(torch.as_tensor(leaf.grad), expected)

    def test_metatensors_are_taken_by_distance_losses(self, backend):
        given, target = volumes(backend, 1, "binary", probabilities=False)
        for module in (gk.BoundaryLoss, partial(gk.HausdorffDTLoss, include_background=True)):
            plain = module(sigmoid=True)(given, target)
            assert torch.equal(torch.as_tensor(module(sigmoid=True)(given, MetaTensor(target))), plain)


# The arguments of Eq. 1 beside the fused loss that they make.
EQUATION: dict[str, tuple[Options, torch.nn.Module]] = {
    "bce": ({"theta": theta.cross_entropy}, gk.BCELoss(sigmoid=True)),
    "dice": (
        {"theta": theta.overlap_error, "gamma": gamma.total, "smooth_dr": 1e-5},
        gk.DiceLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5),
    ),
    "tversky": (
        {
            "theta": partial(theta.tversky_error, alpha=0.3, beta=0.7),
            "gamma": partial(gamma.tversky_total, alpha=0.3, beta=0.7),
        },
        gk.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=0.0, smooth_dr=0.0),
    ),
    "fog": ({"theta": theta.one, "psi": psi.first_order, "phi": phi.gradient}, gk.FOGLoss(sigmoid=True)),
    "fog sagittal": (
        {"theta": theta.one, "psi": psi.first_order, "phi": partial(phi.gradient, axes=(0,))},
        gk.FOGLoss(sigmoid=True, axes="sagittal"),
    ),
    "sog": (
        {"theta": theta.absolute_error, "psi": psi.second_order, "phi": phi.laplacian},
        gk.SOGLoss(sigmoid=True),
    ),
    "boundary": (
        {"theta": theta.prediction, "psi": lambda s, g, phi: phi(g), "phi": phi.signed_distance},
        gk.BoundaryLoss(sigmoid=True),
    ),
}


@pytest.mark.parametrize("name", EQUATION)
def test_equation_1_is_the_fused_loss(backend, name):
    functions, fused = EQUATION[name]
    given, target = volumes(backend, 2, "binary", probabilities=False)
    ours = value_and_slope(fused(given, target), given)
    theirs = value_and_slope(gk.GEOLoss(**functions, sigmoid=True, fused=False)(given, target), given)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-14)


class TestPublicNames:
    def test_every_module_has_a_function_and_is_tested(self):
        modules = {name for name in gk.__all__ if name.endswith("Loss")}
        modules -= {"GEOLoss", "FormulaLoss", "HeadLoss"}
        functions = {name: _function_name(name) for name in modules}
        assert all(callable(getattr(functional, name)) for name in functions.values())
        tested = {loss.function.__name__ for loss in LOSSES.values()}
        elsewhere = {"cross_entropy_loss", "dice_ce_loss", "generalized_dice_loss", "focal_loss"}
        assert tested | elsewhere | {"dice_focal_loss"} == set(functions.values())

    @pytest.mark.parametrize("loss", LOSSES)
    def test_functions_have_the_names_and_defaults_of_their_modules(self, loss):
        function = inspect.signature(LOSSES[loss].function).parameters
        module = LOSSES[loss].module
        of_module = inspect.signature(module).parameters
        assert set(function) == {"input", "target", "mask", "spacing", "distance_map", *of_module}
        for name in set(of_module) - {"spacing"}:
            assert function[name].default == of_module[name].default
            assert function[name].kind == inspect.Parameter.KEYWORD_ONLY

    @pytest.mark.parametrize(
        ("function", "arguments"),
        [
            (functional.dice_loss, {"axes": (0,)}),
            (functional.dice_loss, {"axis_order": "zyx"}),
            (functional.dice_loss, {"spacing_": 1}),
            (functional.fog_loss, {"smooth_nr": 1.0}),
            (functional.bce_loss, {"axes": 0}),
            (functional.sog_loss, {"norm": "l1"}),
            (functional.dice_sog_loss, {"axes": (0,)}),
        ],
    )
    def test_a_parameter_of_another_loss_is_an_error(self, function, arguments):
        volume = torch.rand(1, 1, 3, 4)
        (name,) = arguments
        with pytest.raises(TypeError, match=f"{name}"):
            function(volume, volume, **arguments)
        module = getattr(gk, _module_name(function))
        with pytest.raises(TypeError, match=rf"{module.__name__}: .*{name}"):
            module(**arguments)

    def test_every_name_is_there(self):
        assert all(hasattr(gk, name) for name in gk.__all__)


def _function_name(module: str) -> str:
    """DiceFOGLoss -> dice_fog_loss."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", module)
    return "_".join(word.lower() for word in words)


def _module_name(function: Callable[..., Any]) -> str:
    modules = [name for name in gk.__all__ if name.endswith("Loss")]
    return next(name for name in modules if _function_name(name) == function.__name__)


@pytest.mark.parametrize("weight", ["a", ["a"], [[1.0], [1.0, 2.0]]])
def test_weight_that_holds_no_numbers(weight):
    with pytest.raises(TypeError, match="weight: expected a number, numbers or a tensor"):
        gk.DiceLoss(weight=weight)
