"""`functional.geo_sums`: the sums themselves, and a loss that is any function of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from numerics import ACTIVATIONS, DEVICES, STENCIL_TERMS, TERMS, VOXEL_TERMS, encoded
from torch import Tensor

import geoloss_kernels as gk
from geoloss_kernels import functional, reference
from geoloss_kernels.terms import TERM_KINDS, Term

SPACING = (0.5, 1.0, 3.0)
EVERY_TERM = [VOXEL_TERMS, STENCIL_TERMS[::2], STENCIL_TERMS[1::2]]
LABELS = {"softmax": True, "to_onehot_y": True}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda sums: sums.sum(),
    "log-Dice": lambda sums: -((2 * sums[..., 3] + 1) / (sums[..., 1] + sums[..., 2] + 1)).log().mean(),
    "focal Tversky": lambda sums: (1 - sums[..., 3] / (sums[..., 1] + sums[..., 2])).pow(0.75).sum(),
    "over the batch": lambda sums: sums.sum(0).prod(-1).tanh().sum() + sums.max(),
    "one entry": lambda sums: sums[1, -1, 3],
}


def volumes(backend: str, channels: int = 3, labels: bool = False) -> tuple[Tensor, Tensor]:
    shape = (2, channels, 3, 4, 5)
    logits = 2 * torch.randn(shape, dtype=torch.float64)
    target = torch.randint(0, channels, (2, 1, *shape[2:])) if labels else (torch.rand(shape) > 0.6).double()
    return logits.to(DEVICES[backend]).requires_grad_(), target.to(DEVICES[backend])


def of_reference(
    input: Tensor,
    target: Tensor,
    terms: Sequence[str | Term],
    activation: str = "none",
    spacing: Sequence[float] | None = None,
    mask: Tensor | None = None,
    map: Tensor | None = None,
    ignore_index: int | None = None,
    include_background: bool = True,
) -> Tensor:
    maps = [] if map is None else [map]
    encoding = encoded(terms, input.ndim - 2, spacing)
    number = ACTIVATIONS.index(activation)
    return reference.geo_sums(input, target, mask, maps, *encoding, number, ignore_index, include_background)


def assert_same(ours: Tensor, theirs: Tensor, input: Tensor, function: Callable[[Tensor], Tensor]) -> None:
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    slopes = [torch.autograd.grad(function(sums), input)[0] for sums in (ours, theirs)]
    assert slopes[1].count_nonzero() > 0
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


class TestValues:
    @pytest.mark.parametrize("terms", EVERY_TERM, ids=["voxel", "stencil", "other stencil"])
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_every_term(self, backend, activation, terms):
        input, target = volumes(backend)
        if activation == "none":
            input = input.detach().sigmoid().requires_grad_()
        map = torch.randn_like(target[:, :1])
        mask = torch.rand_like(map) > 0.3
        options = {} if activation == "none" else {activation: True}
        sums = functional.geo_sums(input, target, terms, mask, SPACING, map=map, **options)
        assert sums.shape == (2, 3, len(terms))
        weights = torch.linspace(1, 2, sums.numel(), dtype=sums.dtype, device=sums.device).view(sums.shape)
        theirs = of_reference(input, target, terms, activation, SPACING, mask, map)
        assert_same(sums, theirs, input, lambda each: (each * weights).sum())

    @pytest.mark.parametrize("function", FUNCTIONS)
    @pytest.mark.parametrize("include_background", [True, False])
    def test_any_function_of_them(self, backend, include_background, function):
        input, target = volumes(backend, labels=True)
        terms = ["first_order_forward_l2", "prediction", "target", "intersection"]
        options = {"ignore_index": 1, "include_background": include_background}
        sums = functional.geo_sums(input, target, terms, **LABELS, **options)
        theirs = of_reference(input, target, terms, "softmax", **options)
        assert_same(sums, theirs, input, FUNCTIONS[function])

    @pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5)], ids=str)
    def test_of_volumes_of_every_dimension(self, backend, shape):
        input = torch.randn(2, 1, *shape, device=DEVICES[backend], dtype=torch.float64, requires_grad=True)
        target = torch.rand_like(input).detach().round()
        fog = functional.geo_sums(input, target, ["first_order_central_l1", "count"], sigmoid=True)
        loss = gk.FOGLoss(norm="l1", operator="central", sigmoid=True)(input, target)
        torch.testing.assert_close((fog[..., 0] / fog[..., 1]).mean(), loss, rtol=1e-12, atol=0)

    def test_terms_keep_their_parameters(self, backend):
        input, target = volumes(backend)
        options: list[dict[str, Any]] = [
            {"axes": 0},
            {"axes": ("coronal", "axial"), "spacing": SPACING},
            {"axes": (1, 2)},
        ]
        terms = [Term("first_order_forward_l2", **each) for each in options]
        sums = functional.geo_sums(input, target, [*terms, "count"], sigmoid=True)
        for column, each in enumerate(options):
            loss = gk.FOGLoss(sigmoid=True, reduction="none", **each)(input, target)
            ratio = sums[..., column] / sums[..., -1]
            torch.testing.assert_close(ratio, loss.flatten(1), rtol=1e-12, atol=0)
        assert not torch.equal(sums[..., 1], sums[..., 2])

    def test_spacing_of_the_call_takes_the_place_of_the_terms(self, backend):
        input, target = volumes(backend)
        term = Term("second_order", spacing=(1.0, 2.0, 1.0))
        own, called, plain = (
            functional.geo_sums(input, target, [each], None, spacing, sigmoid=True)
            for each, spacing in ((term, None), (term, SPACING), ("second_order", SPACING))
        )
        assert torch.equal(called, plain)
        assert not torch.equal(own, called)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
    def test_sums_are_float32_or_better(self, backend, dtype):
        input, target = volumes(backend)
        sums = functional.geo_sums(input.to(dtype), target, ["prediction"], sigmoid=True)
        assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

    def test_a_term_that_is_given_twice_has_two_columns(self, backend):
        input, target = volumes(backend)
        sums = functional.geo_sums(input, target, ["count", "prediction", "count"], sigmoid=True)
        assert sums.shape == (2, 3, 3)
        assert torch.equal(sums[..., 0], sums[..., 2])


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "message", "changed"),
        [
            (ValueError, r"terms: expected names of \(.*'count'.*\), got 'volume'", {"terms": ["volume"]}),
            (ValueError, r"terms: expected at least one name in a sequence, got \[\]", {"terms": []}),
            (ValueError, "terms: expected at least one name in a sequence, got 'count'", {"terms": "count"}),
            (ValueError, r"map: expected a tensor for the terms map_\*, got None",
             {"terms": ["map_prediction"]}),
            (ValueError, r"map: expected shape .* got \(2, 3, 3, 4, 1\)", {"map": torch.ones(2, 3, 3, 4, 1)}),
            (TypeError, "map: expected a tensor, got list", {"map": [1.0]}),
            (TypeError, "input: expected a tensor, got list", {"input": [1.0]}),
            (ValueError, r"target: expected a label map .* got \(2, 3, 3, 4, 5\)", {"to_onehot_y": True}),
            (ValueError, r"mask: expected shape .* got \(2, 2, 3, 4, 5\)",
             {"mask": torch.ones(2, 2, 3, 4, 5)}),
            (ValueError, r"spacing: expected 3 positive .*, got \(1.0, 1.0\)", {"spacing": (1, 1)}),
            (ValueError, r"axes: expected distinct numbers from 0 to 2, got \(3,\)",
             {"terms": [Term("first_order_central_l2", axes=3)]}),
            (ValueError, "sigmoid, softmax, other_act: expected at most one",
             {"sigmoid": True, "softmax": True}),
            (TypeError, "ignore_index: expected an integer or None, got 1.5", {"ignore_index": 1.5}),
        ],
    )  # fmt: skip
    def test_arguments_are_named(self, error, message, changed):
        input, target = volumes("cpu")
        given = {"input": input, "target": target, "terms": ["count", "second_order"], **changed}
        with pytest.raises(error, match=message):
            functional.geo_sums(**given)

    def test_terms_are_what_they_are_called(self):
        assert [str(Term(name)) for name in TERMS] == list(TERM_KINDS)
        with pytest.raises(ValueError, match="terms: expected names of"):
            Term("first_order")
