"""Every fused backend against the reference in float64: sums and gradients of everything geo_sums takes.

The cases are sampled from the product of all options, and added to at the corners that sampling would miss.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from numerics import (
    ACTIVATIONS,
    DEVICES,
    DTYPES,
    INTEGERS,
    LAYOUTS,
    SHAPES,
    STENCIL_TERMS,
    TERMS,
    VOXEL_TERMS,
    Arguments,
    Case,
    activations,
    assert_backend_matches_reference,
    fewer,
    library,
    ratio_arguments,
    sample_cases,
)

from geoloss_kernels import backends, build_info, formulas, use_backend
from geoloss_kernels.formulas import CONSTANT, CallTraits, Formula
from geoloss_kernels.terms import Term

MIXED = ("first_order_forward_l2", "second_order_two_sided", "squared_error", "map_prediction")
LOSSES = {
    "bce": formulas.bce(),
    "cross-entropy": formulas.cross_entropy(label_smoothing=0.1),
    "dice": formulas.dice(),
    "dice squared": formulas.dice(squared_pred=True),
    "tversky soft label": formulas.tversky(soft_label=True),
    "fog": formulas.fog(),
    "fog l2 squared": formulas.fog("l2_squared"),
    "fog l1": formulas.fog("l1"),
    "fog central": formulas.fog(operator="central"),
    "dice + fog": formulas.dice() + formulas.fog(),
    "dice + cross-entropy + fog": formulas.dice() + formulas.cross_entropy() + formulas.fog(),
    "dice + sog": formulas.dice() + formulas.sog(),
    "dice + boundary": formulas.dice() + formulas.boundary(),
    "hausdorff": formulas.hausdorff(),
}
SAMPLES = 400


def terms_of(formula: Formula) -> tuple[str, ...]:
    """The names of the sums that it is made of, under a softmax of label maps."""
    call = CallTraits("softmax", channels=2, label_map=True, reduction="mean")
    names = {
        term.name if isinstance(term, Term) else term
        for _, part in formula.parts
        for fraction in part.fractions(call)
        for term in (*fraction.numerator, *fraction.denominator)
        if term != CONSTANT
    }
    return tuple(name for name in TERMS if name in names)


def by_case(case: Case) -> str:
    return f"{case.seed}-{'x'.join(map(str, case.shape))}-{str(case.dtype).removeprefix('torch.')}"


class TestSamples:
    @pytest.mark.parametrize("case", sample_cases(SAMPLES, seed=0), ids=by_case)
    def test_sample(self, backend, case):
        assert_backend_matches_reference(backend, case)


class TestCorners:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("term", TERMS)
    def test_each_term_alone(self, backend, term, dtype, activation):
        for target, target_dtype in (("binary", torch.uint8), ("soft", dtype)):
            case = Case(
                (2, 3, 4, 5, 19),
                (term,),
                dtype,
                activation,
                target=target,
                target_dtype=target_dtype,
                spacing=(1.0, 0.5, 3.0),
            )
            assert_backend_matches_reference(backend, case)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("mask", [None, "shared", "channels"])
    @pytest.mark.parametrize("term", STENCIL_TERMS)
    def test_each_stencil_masked_ignored_and_on_labels(self, backend, term, mask, activation):
        case = Case((2, 3, 4, 5, 19), (term,), activation=activation, mask=mask, spacing=(2.0, 0.7, 1.0))
        assert_backend_matches_reference(backend, replace(case, ignore_index=1))
        labels = replace(case, target="labels", target_dtype=torch.int16)
        assert_backend_matches_reference(backend, labels)
        assert_backend_matches_reference(backend, replace(labels, ignore_index=127))
        assert_backend_matches_reference(backend, replace(labels, include_background=False))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize(
        "terms",
        [VOXEL_TERMS, STENCIL_TERMS[::2], STENCIL_TERMS[1::2]],
        ids=["voxel", "stencil", "other stencil"],
    )
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_all_terms_in_one_pass(self, backend, shape, terms, dtype):
        for activation in activations(shape):
            assert_backend_matches_reference(backend, Case(shape, terms, dtype, activation, mask="shared"))
            assert_backend_matches_reference(backend, Case(shape, terms, dtype, activation))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("width", [*range(1, 36), 63, 64, 65])
    def test_widths_around_those_of_vectors(self, backend, width, dtype):
        for activation in ("none", "sigmoid"):
            case = Case((1, 2, 2, 3, width), MIXED, dtype, activation)
            assert_backend_matches_reference(backend, case)
            assert_backend_matches_reference(backend, replace(case, mask="channels"))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize(
        "shape",
        [
            (1, 1, 1201, 64),
            (1, 1, 100, 5, 7),
            (1, 1, 3, 700, 65),
            (2, 1, 36, 190, 33),
            (1, 1, 70, 9, 16),
            (1, 3, 40, 120, 33),
        ],
        ids=str,
    )
    def test_volumes_of_several_tiles(self, backend, shape, dtype):
        activation = "softmax" if shape[1] > 1 else "sigmoid"
        for terms in (("first_order_central_l2", "count"), ("second_order_two_sided",), MIXED):
            assert_backend_matches_reference(backend, Case(shape, terms, dtype, activation))
        assert_backend_matches_reference(backend, Case(shape, MIXED, dtype, activation, mask="shared"))

    @pytest.mark.parametrize("spacing", [None, (2.0, 0.7, 1.0)], ids=["unit", "spacing"])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("loss", LOSSES)
    def test_terms_of_each_loss_on_rows_of_whole_vectors(self, backend, loss, dtype, spacing):
        """Such rows need not be copied, so that they have code of their own; each loss's terms as well."""
        terms = terms_of(LOSSES[loss])
        for width in fewer((16, 32, 48)):
            case = Case((2, 2, 3, 5, width), terms, dtype, target_dtype=dtype, spacing=spacing)
            for activation in ACTIVATIONS:
                assert_backend_matches_reference(backend, replace(case, activation=activation))
            assert_backend_matches_reference(backend, replace(case, target_dtype=torch.uint8))
            assert_backend_matches_reference(backend, replace(case, mask="shared"))
            assert_backend_matches_reference(backend, replace(case, layout="sliced", target_layout="sliced"))
            assert_backend_matches_reference(backend, replace(case, layout="channels_last"))
        for shape in fewer(((1, 1, 2, 500, 128), (1, 1, 70, 20, 64), (3, 1, 40, 17, 32))):
            for activation in ("none", "sigmoid"):
                case = Case(shape, terms, dtype, activation, target_dtype=dtype, spacing=spacing)
                assert_backend_matches_reference(backend, case)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, backend, layout, dtype):
        for shape in fewer(((2, 3, 4, 5, 16), (2, 2, 7, 19))):
            case = Case(shape, MIXED, dtype, layout=layout, target_dtype=dtype)
            for activation in ACTIVATIONS:
                assert_backend_matches_reference(backend, replace(case, activation=activation))
            assert_backend_matches_reference(backend, replace(case, target_layout=layout, mask="channels"))
            assert_backend_matches_reference(
                backend, replace(case, layout="contiguous", target_layout=layout, activation="sigmoid")
            )

    @pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (2, 0, 1)], ids=str)
    @pytest.mark.parametrize("term", [name for name in STENCIL_TERMS if name.startswith("first")])
    def test_axes_and_anisotropic_spacing(self, backend, term, axes):
        case = Case((1, 2, 4, 5, 9), (term,), axes=axes, spacing=(0.5, 2.0, 3.5), activation="sigmoid")
        assert_backend_matches_reference(backend, case)
        assert_backend_matches_reference(backend, replace(case, mask="shared"))

    @pytest.mark.parametrize("target_dtype", [torch.bool, *INTEGERS, *DTYPES], ids=str)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dtypes_of_target_and_mask(self, backend, dtype, target_dtype):
        case = Case((2, 3, 3, 4, 17), MIXED, dtype, target_dtype=target_dtype, activation="softmax")
        assert_backend_matches_reference(backend, case)
        assert_backend_matches_reference(backend, replace(case, mask="shared", mask_dtype=target_dtype))
        if target_dtype != torch.bool:
            labels = replace(case, target="labels", ignore_index=127)
            assert_backend_matches_reference(backend, labels)

    def test_a_negative_ignore_index_is_no_label_of_an_unsigned_map(self, backend):
        case = Case((1, 2, 3, 4), ("count", "target"), target="labels", target_dtype=torch.uint8)
        arguments = replace(case, ignore_index=-1).arguments("cpu")
        assert (arguments.target == 127).any()
        assert_backend_matches_reference(backend, replace(case, ignore_index=-1))


class TestLossOperator:
    """`geo_loss` is `geo_ratio` of `geo_sums`, bit for bit, for the dispatcher and as the losses call it."""

    @pytest.mark.parametrize("case", sample_cases(60, seed=1), ids=by_case)
    def test_composition(self, backend, case):
        arguments = case.arguments(DEVICES[backend])
        self.assert_composition(backends.operators(arguments.input), arguments)

    @pytest.mark.parametrize("case", sample_cases(20, seed=3), ids=by_case)
    def test_composition_for_the_dispatcher(self, backend, case):
        arguments = case.arguments(DEVICES[backend])
        operators = library(backend)
        for ratio in ratio_arguments(arguments):
            loss, sums = operators.geo_loss(*arguments[:3], ratio[0], *arguments[3:], *ratio[1:])
            assert torch.equal(sums, operators.geo_sums(*arguments))
            assert torch.equal(loss, operators.geo_ratio(sums, *ratio))
            gradient = torch.randn(loss.shape, dtype=torch.float64).to(loss)
            slope = operators.geo_loss_backward(
                gradient, sums, *arguments[:3], ratio[0], *arguments[3:], *ratio[1:]
            )
            of_sums = operators.geo_ratio_backward(gradient, sums, *ratio)
            assert torch.equal(slope, operators.geo_sums_backward(of_sums, *arguments))

    def test_composition_of_the_reference(self):
        for case in sample_cases(20, seed=2):
            with use_backend("reference"):
                arguments = case.arguments("cpu")
                self.assert_composition(backends.operators(arguments.input), arguments)

    def assert_composition(self, operators: backends.Operators, arguments: Arguments) -> None:
        for ratio in ratio_arguments(arguments):
            self.assert_composition_of(operators, arguments, ratio)

    def assert_composition_of(self, operators, arguments, ratio):
        leaf = arguments.input.detach().requires_grad_()
        _, target, mask, *rest = arguments
        given = (target, mask, ratio[0], *rest, *ratio[1:])
        loss, sums = operators.geo_loss(leaf, *given)
        expected_sums = operators.geo_sums(leaf, target, mask, *rest)
        expected = operators.geo_ratio(expected_sums, *ratio)
        assert torch.equal(sums, expected_sums)
        assert torch.equal(loss, expected)
        assert not sums.requires_grad
        with torch.no_grad():
            assert torch.equal(operators.geo_loss(leaf, *given)[0], expected)
        if expected.requires_grad:
            slope = torch.randn(expected.shape, dtype=torch.float64).to(expected)
            (ours,), (theirs,) = (torch.autograd.grad(each, leaf, slope) for each in (loss, expected))
            assert torch.equal(ours, theirs)


def instruction_sets() -> dict[str, bool]:
    """The CPU kernels' variants, and whether this processor has the instructions."""
    level = torch.backends.cpu.get_cpu_capability()
    return {"baseline": True, "avx2": level in ("AVX2", "AVX512"), "avx512": level == "AVX512"}


def run_with(instruction_set: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "GEOLOSS_CPU": instruction_set},
        capture_output=True,
        text=True,
        check=False,
    )


PRESENT = [name for name, present in instruction_sets().items() if present]
ABSENT = [name for name, present in instruction_sets().items() if not present]
IN_FORCE_HERE = build_info()["cpu_instruction_set"]
IN_FORCE = "import geoloss_kernels as gk; print(gk.build_info()['cpu_instruction_set'])"


class TestInstructionSets:
    @pytest.mark.parametrize("name", PRESENT)
    def test_the_environment_chooses_one(self, name):
        assert run_with(name, "-c", IN_FORCE).stdout.strip() == name

    @pytest.mark.parametrize("name", [*ABSENT, "sse9"])
    def test_one_that_is_not_there_is_an_error(self, name):
        run = run_with(name, "-c", IN_FORCE)
        assert run.returncode != 0
        expected = "GEOLOSS_CPU: expected baseline, avx2 or avx512, as far as this processor has them, got"
        assert f"{expected} '{name}'" in run.stderr

    @pytest.mark.parametrize("name", [name for name in PRESENT if name != IN_FORCE_HERE])
    def test_parity(self, name):
        """Samples, widths and the terms over their range, with a set that this process does not run with."""
        here = Path(__file__)
        files = [f"{here}::TestSamples", f"{here}::TestCorners", str(here.with_name("test_terms.py"))]
        options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "cpu and (sample or width or alone or range)"]
        run = run_with(name, "-m", "pytest", *options, *files)
        assert run.returncode == 0, run.stdout[-4000:]
        assert " passed" in run.stdout
