"""Open formulas: tracing, derivatives, programs and the interpreter that runs them on rows."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geoloss_kernels import phi
from geoloss_kernels.expressions import simplify
from geoloss_kernels.expressions.derivative import derivatives
from geoloss_kernels.expressions.encoding import compile_density, encode_density
from geoloss_kernels.expressions.expression import Expression, Field, FieldKind, constant, field
from geoloss_kernels.expressions.loss import TracedLoss, trace_loss
from geoloss_kernels.expressions.operations import OPERATIONS
from geoloss_kernels.expressions.printing import text
from geoloss_kernels.expressions.program import Program, compile_program
from geoloss_kernels.expressions.simplify import protect
from geoloss_kernels.expressions.trace import ExpressionError
from tests.host_programs import instruction_sets, run_program
from tests.random_losses import random_loss

ROOT = Path(__file__).parents[1]
SHAPE = (3, 37)


class Voxels:
    """Random values of every field on rows of voxels, as leaves of autograd."""

    def __init__(self, seed: int, components: int = 3, shape: tuple[int, int] = SHAPE) -> None:
        generator = torch.Generator().manual_seed(seed)

        def values(*size: int) -> Tensor:
            return torch.rand(*size, *shape, generator=generator, dtype=torch.float64)

        self.s = (0.02 + 0.96 * values()).requires_grad_()
        self.g = (values() > 0.5).double()
        self.of_prediction = (2 * values(components) - 1).requires_grad_()
        self.of_target = 2 * values(components) - 1

    def phi(self, u: Tensor) -> Tensor:
        """φ of what is linear in s and g: found by its derivatives at a voxel."""
        with torch.no_grad():
            columns = torch.stack([self.s.flatten(), self.g.flatten()], 1)
            a, b = torch.linalg.lstsq(columns, u.flatten()[:, None]).solution.flatten().tolist()
        return round(a, 9) * self.of_prediction + round(b, 9) * self.of_target

    def field(self, which: Field) -> Tensor:
        with torch.no_grad():
            return {
                FieldKind.PREDICTION: lambda: self.s,
                FieldKind.TARGET: lambda: self.g,
                FieldKind.LOG_PREDICTION: lambda: self.s.log(),
                FieldKind.LOG_COMPLEMENT: lambda: torch.log1p(-self.s),
                FieldKind.PREDICTION_COMPONENT: lambda: self.of_prediction[which.number],
                FieldKind.TARGET_COMPONENT: lambda: self.of_target[which.number],
                FieldKind.ERROR_COMPONENT: lambda: (
                    self.of_prediction[which.number] - self.of_target[which.number]
                ),
            }[which.kind]()


def run(program: Program, voxels: Voxels, instruction_set: str, dtype: torch.dtype) -> list[Tensor]:
    fields = [voxels.field(which).to(dtype).contiguous() for which in program.fields]
    like = voxels.g.to(dtype)
    return run_program(
        program.integers(), list(program.constants), fields, program.outputs, instruction_set, like
    )


def one(s: Any, g: Any) -> float:
    return 1.0


def traced(psi: Callable[..., Any]) -> TracedLoss:
    return trace_loss(one, psi, phi.forward(), None, 3)


def slopes_from(density: Expression, outputs: dict[Field, Tensor], voxels: Voxels) -> tuple[Tensor, Tensor]:
    """∂/∂s and ∂/∂φ(s) from the slopes of a program."""
    along_s, along_phi = torch.zeros_like(voxels.g), torch.zeros_like(voxels.of_target)
    with torch.no_grad():
        for which, slope in outputs.items():
            if which.kind == FieldKind.PREDICTION:
                along_s += slope
            elif which.kind == FieldKind.LOG_PREDICTION:
                along_s += slope / voxels.s
            elif which.kind == FieldKind.LOG_COMPLEMENT:
                along_s -= slope / (1 - voxels.s)
            else:
                along_phi[which.number] += slope
    return along_s, along_phi


MOVING = (
    FieldKind.PREDICTION,
    FieldKind.LOG_PREDICTION,
    FieldKind.LOG_COMPLEMENT,
    FieldKind.PREDICTION_COMPONENT,
    FieldKind.ERROR_COMPONENT,
)


def compare_with_autograd(psi: Callable[..., Any], seed: int, instruction_set: str) -> None:
    voxels = Voxels(seed)
    density = traced(psi).density
    moving = sorted(which for which in density.reads if which.kind in MOVING)
    (value,) = run(compile_program(protect([density])), voxels, instruction_set, torch.float64)
    slopes = run(
        compile_program(protect(derivatives(density, moving))), voxels, instruction_set, torch.float64
    )

    expected = psi(voxels.s, voxels.g, voxels.phi)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-11)
    leaves = (voxels.s, voxels.of_prediction)
    if expected.requires_grad:
        exact = torch.autograd.grad(expected.sum(), leaves, allow_unused=True, materialize_grads=True)
    else:
        exact = tuple(torch.zeros_like(leaf) for leaf in leaves)
    for ours, theirs in zip(
        slopes_from(density, dict(zip(moving, slopes, strict=True)), voxels), exact, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_random_losses_have_autograd_s_values_and_slopes(instruction_set: str) -> None:
    for seed in range(200):
        compare_with_autograd(random_loss(seed), seed, instruction_set)


ARGUMENTS = torch.cat(
    [
        torch.linspace(-9, 9, 1001, dtype=torch.float64),
        torch.tensor(
            [0.0, 1.0, -1.0, 0.5, 2.0, 1e-6, -1e-6, 1e-20, 30.0, -30.0, 5000.0], dtype=torch.float64
        ),
    ]
)

FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "exponential": (torch.exp, ARGUMENTS[:1001]),
    "exponential_m1": (torch.expm1, ARGUMENTS[:1010]),
    "logarithm": (torch.log, ARGUMENTS.abs() + 1e-30),
    "logarithm_1p": (torch.log1p, torch.cat([ARGUMENTS.clamp_min(-0.999), ARGUMENTS * 0.01])),
    "sine": (torch.sin, ARGUMENTS),
    "cosine": (torch.cos, ARGUMENTS),
    "hyperbolic_tangent": (torch.tanh, ARGUMENTS),
    "sigmoid": (torch.sigmoid, ARGUMENTS[:1010]),
    "softplus": (lambda x: x.clamp_min(0) + torch.log1p(torch.exp(-x.abs())), ARGUMENTS[:1010]),
    "square_root": (torch.sqrt, ARGUMENTS.abs()),
    "reciprocal_square_root": (torch.rsqrt, ARGUMENTS.abs()),
    "root": (torch.sqrt, ARGUMENTS.abs()),
    "inverse_root": (lambda x: torch.where(x == 0, 0, x.rsqrt()), ARGUMENTS.abs()),
}


def evaluate(operation: str, arguments: Sequence[Tensor], instruction_set: str) -> Tensor:
    """One operation on rows, each argument a map of its own."""
    from geoloss_kernels.expressions.expression import node

    fields = [field(FieldKind.MAP, number) for number in range(len(arguments))]
    program = compile_program([node(operation, *fields)])
    rows = [argument.reshape(1, -1).contiguous() for argument in arguments]
    return run_program(program.integers(), list(program.constants), rows, 1, instruction_set, rows[0])[0][0]


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_as_precise_as_its_type(name: str, dtype: torch.dtype, instruction_set: str) -> None:
    function, arguments = FUNCTIONS[name]
    rounded = arguments.to(dtype)
    result = evaluate(name, [rounded], instruction_set)
    exact = function(rounded.double())
    # sine and cosine lose what the argument's rounding takes from it near their zeros
    floor = 1e-7 if name in ("sine", "cosine") and dtype == torch.float32 else 1e-37
    bound = (4 * torch.finfo(torch.float32).eps if dtype == torch.float32 else 1e-12) * exact.abs() + floor
    wrong = ~(((result.double() - exact).abs() <= bound) | (result.double() == exact))
    assert not wrong.any(), torch.stack([rounded.double(), result.double(), exact])[:, wrong]


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_power_is_as_precise_as_its_type(dtype: torch.dtype, instruction_set: str) -> None:
    bases = torch.cat([ARGUMENTS.abs(), torch.logspace(-37, 37, 200).double(), -ARGUMENTS[:20].round()])
    limits = torch.finfo(torch.float32)
    for exponent in (2.5, -0.7, 0.25, 1.0, 30.0, -31.0, 0.0, 1e-3):
        base = bases.to(dtype)
        exponents = torch.full_like(base, exponent)
        exact = base.double() ** exponents.double()
        result = evaluate("power", [base, exponents], instruction_set).double()
        held = (exact.abs() < limits.max) & (exact.abs() > limits.tiny)
        bound = (4 * limits.eps if dtype == torch.float32 else 1e-12) * exact.abs()
        assert ((result - exact).abs() <= bound)[held].all(), exponent
        assert (result[exact == 0] == 0).all()
        assert result[exact.isnan()].isnan().all()


INFINITY, NAN = math.inf, math.nan
X = torch.tensor([-2.0, -1.0, 0.0, 0.0, 1.0, 1.0, 3.0, NAN, INFINITY])
Y = torch.tensor([1.0, -1.0, 0.0, 2.0, 1.0, 0.5, -INFINITY, 1.0, 0.0])


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_operations_do_at_their_edges(dtype: torch.dtype, instruction_set: str) -> None:
    x, y = X.to(dtype), Y.to(dtype)

    def result(name: str, *arguments: Tensor) -> Tensor:
        return evaluate(name, arguments, instruction_set)

    def is_exactly(ours: Tensor, expected: Tensor) -> bool:
        return torch.equal(torch.nan_to_num(ours, nan=-77), torch.nan_to_num(expected.to(dtype), nan=-77))

    assert is_exactly(result("minimum", x, y), torch.minimum(x, y))
    assert is_exactly(result("maximum", y, x), torch.maximum(y, x))
    assert is_exactly(result("less", x, y), (x < y).to(dtype))
    assert is_exactly(result("less_equal", x, y), (x <= y).to(dtype))
    assert is_exactly(result("equal", x, y), (x == y).to(dtype))
    assert is_exactly(result("step", x, y), (x > y) + 0.5 * (x == y))
    assert is_exactly(result("sign", x)[:7], torch.sign(x)[:7])
    assert is_exactly(result("absolute", x), x.abs())
    assert is_exactly(result("power", x.abs(), y), x.abs() ** y)
    assert is_exactly(result("select", (x < y).to(dtype), x, y), torch.where(x < y, x, y))
    assert is_exactly(result("multiply_add", x, y, x), x * y + x)
    assert is_exactly(result("negative_multiply_add", x, y, x), x - x * y)
    assert is_exactly(result("divide", x, y), x / y)
    assert is_exactly(result("negate", x), -x)
    assert is_exactly(result("copy", x), x)
    infinite = torch.full_like(x, -INFINITY)
    assert is_exactly(result("weighted", x, infinite)[:7], torch.where(x == 0, 0, x * infinite)[:7])
    squares = result("sum_of_squares", x[:6], y[:6], x[:6])
    assert is_exactly(squares, x[:6] ** 2 + y[:6] ** 2 + x[:6] ** 2)


def test_every_operation_is_one_of_the_interpreter() -> None:
    source = (ROOT / "csrc" / "program.h").read_text()

    def names(enumeration: str) -> list[str]:
        body = re.search(rf"enum class {enumeration} : int64_t {{(.*?)}};", source, re.S)
        assert body is not None
        return [_snake(name) for name in re.findall(r"k(\w+)", body[1])]

    assert names("Opcode") == [operation.name for operation in OPERATIONS]
    assert names("FieldKind") == [kind.name.lower() for kind in FieldKind]


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower().replace("1p", "_1p").replace("_m1", "_m1")


def test_a_program_that_does_not_fit_is_refused() -> None:
    program = compile_program([simplify.add(field(FieldKind.PREDICTION), constant(2.0))])
    integers, numbers = program.integers(), list(program.constants)
    rows = torch.zeros(1, 8)

    def refused(changed: Sequence[int], match: str, constants: Sequence[float] = numbers) -> None:
        with pytest.raises(ValueError, match=match):
            run_program(changed, constants, [rows], 1, "baseline", rows)

    for length in range(len(integers)):
        refused(integers[:length], "ends within")
    refused(integers, "ends within the constants", ())
    refused([*integers[:-5], 99, *integers[-4:]], "unknown instruction")
    refused([*integers[:-4], 1, *integers[-3:]], "unknown instruction")
    refused([*integers[:-3], 4, *integers[-2:]], "unknown instruction")
    refused([-1, *integers[1:]], "out of range")
    refused([*integers[:5], 12, *integers[6:]], "unknown kind")
    refused([*integers, 0], "longer")


def test_what_a_gradient_needs_is_recognised() -> None:
    def reads(psi: Callable[..., Any]) -> set[str]:
        return {which.kind.name for which in traced(psi).density.reads}

    assert reads(lambda s, g, phi: phi(s)[0] - phi(g)[0]) == {"ERROR_COMPONENT"}
    assert reads(lambda s, g, phi: (phi(s) - phi(g)).square().sum(0)) == {"ERROR_COMPONENT"}
    assert reads(lambda s, g, phi: (phi(g) - phi(s)).abs().sum(0)) == {"ERROR_COMPONENT"}
    assert reads(lambda s, g, phi: phi(2 * s - 2 * g + 1)[1]) == {"ERROR_COMPONENT"}
    assert reads(lambda s, g, phi: phi((s + g) / 2)[1]) == {"PREDICTION_COMPONENT", "TARGET_COMPONENT"}
    assert reads(lambda s, g, phi: -g * torch.log(s)) == {"TARGET", "LOG_PREDICTION"}
    assert reads(lambda s, g, phi: torch.log1p(-s) + torch.log(1 - s)) == {"LOG_COMPLEMENT"}
    assert reads(lambda s, g, phi: torch.logit(s)) == {"LOG_PREDICTION", "LOG_COMPLEMENT"}
    assert reads(lambda s, g, phi: 0 * s + g) == {"TARGET"}


def test_common_parts_are_computed_once() -> None:
    def psi(s: Any, g: Any, phi: Any) -> Any:
        return torch.exp(s * g) + torch.exp(g * s) * s

    program = compile_program(protect([traced(psi).density]))
    assert [each.operation for each in program.instructions] == ["multiply", "exponential", "multiply_add"]


def test_the_norm_takes_two_instructions_and_its_slopes_five() -> None:
    density = traced(lambda s, g, phi: torch.linalg.vector_norm(phi(s) - phi(g), dim=0)).density
    fields = sorted(density.reads)
    value = compile_program(protect([density]))
    assert [each.operation for each in value.instructions] == ["sum_of_squares", "root"]
    slopes = compile_program(protect(derivatives(density, fields)))
    assert [each.operation for each in slopes.instructions] == ["sum_of_squares", "inverse_root"] + [
        "multiply"
    ] * 3
    assert slopes.registers == 1


@pytest.mark.parametrize(
    ("psi", "expected"),
    [
        (lambda s, g, phi: s - (g - s), "s - (g - s)"),
        (lambda s, g, phi: -((1 - s) ** 2) * g * s.log(), "-(g·(1 - s)²·log(s))"),
        (lambda s, g, phi: (s + g) / (s * g + 1e-5), "(s + g) / (s·g + 1e-05)"),
        (lambda s, g, phi: (s + 1) ** 2.5, "(s + 1)^2.5"),
        (lambda s, g, phi: torch.where(s > g, s, 2 * g), "(s if [g < s] else 2·g)"),
        (lambda s, g, phi: phi(s - g)[1].abs(), "|φ₁(s - g)|"),
        (lambda s, g, phi: s.clamp(0.1, 0.9), "minimum(maximum(s, 0.1), 0.9)"),
    ],
)
def test_an_expression_is_written_as_a_person_would(psi: Callable[..., Any], expected: str) -> None:
    assert text(traced(psi).density) == expected


@pytest.mark.parametrize("name", ["zero", "norm", "maximum", "clamp", "sign"])
def test_slopes_where_there_is_none_are_torch_s(name: str) -> None:
    """At s = g = 0 and φ = 0."""
    psi: dict[str, Callable[..., Any]] = {
        "zero": lambda s, g, phi: (s - g).abs() + torch.relu(s),
        "norm": lambda s, g, phi: torch.linalg.vector_norm(phi(s), dim=0) + phi(s).abs().amax(0),
        "maximum": lambda s, g, phi: torch.maximum(s, g) + torch.minimum(s, g) * 3 + phi(s).amax(0),
        "clamp": lambda s, g, phi: s.clamp(0, 1) + 2 * s.clamp(-1, 0) + s.clamp_min(0),
        "sign": lambda s, g, phi: torch.sign(s) + torch.where(s > 0, s, 3 * s) + s.detach(),
    }
    voxels = Voxels(0, shape=(1, 5))
    with torch.no_grad():
        for tensor in (voxels.s, voxels.g, voxels.of_prediction, voxels.of_target):
            tensor.zero_()
    voxels.phi = lambda u: voxels.of_prediction  # type: ignore[method-assign]
    density = traced(psi[name]).density
    moving = sorted(which for which in density.reads if which.kind in MOVING)
    slopes = run(compile_program(protect(derivatives(density, moving))), voxels, "baseline", torch.float64)
    expected = torch.autograd.grad(
        psi[name](voxels.s, voxels.g, voxels.phi).sum(),
        (voxels.s, voxels.of_prediction),
        allow_unused=True,
        materialize_grads=True,
    )
    ours = slopes_from(density, dict(zip(moving, slopes, strict=True)), voxels)
    torch.testing.assert_close(ours, expected)


def test_a_weight_of_zero_takes_no_part_in_an_infinite_logarithm() -> None:
    def psi(s: Any, g: Any, phi: Any) -> Any:
        return -((1 - s) ** 2) * g * s.log() - s**2 * (1 - g) * torch.log1p(-s)

    density = traced(psi).density
    moving = sorted(which for which in density.reads if which.kind in MOVING)
    program = compile_program(protect([density, *derivatives(density, moving)]))
    rows = {
        FieldKind.PREDICTION: torch.tensor([[0.0, 1.0]]),
        FieldKind.TARGET: torch.tensor([[0.0, 1.0]]),
        FieldKind.LOG_PREDICTION: torch.tensor([[-INFINITY, 0.0]]),
        FieldKind.LOG_COMPLEMENT: torch.tensor([[0.0, -INFINITY]]),
    }
    fields = [rows[which.kind] for which in program.fields]
    results = run_program(program.integers(), list(program.constants), fields, 4, "baseline", fields[0])
    assert all(torch.equal(result, torch.zeros(1, 2)) for result in results)


def test_a_tensor_with_one_element_is_a_parameter_and_read_at_every_call() -> None:
    alpha = torch.tensor(0.25)
    loss = traced(lambda s, g, phi: alpha * s + (1 - g) * alpha)
    encoded = encode_density(compile_density(loss.density), (), 3, (1.0, 1.0, 1.0))
    assert loss.parameters == (alpha,)
    assert {number for _, number in encoded.parameters} == {0}
    assert len(encoded.parameters) == 2


def test_a_loss_is_traced_and_encoded_in_milliseconds() -> None:
    def encode(seed: int) -> float:
        start = time.perf_counter()
        density = traced(random_loss(seed, size=12)).density
        moving = sorted(which for which in density.reads if which.kind in MOVING)
        for roots in ([density], derivatives(density, moving)):
            compile_program(protect(roots)).integers()
        return time.perf_counter() - start

    assert sorted(encode(seed) for seed in range(20))[10] < 0.05


tensor_of_volume = torch.rand(1, 1, 4, 4, 4)


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (lambda s, g: s.cumsum(0), "theta: no expression for 'cumsum'; there are abs, add, .*; fused=False"),
        (lambda s, g: torch.erf(s), "no expression for 'erf'"),
        (lambda s, g: s if s > 0.5 else g, "branches on the values of a volume"),
        (lambda s, g: s * tensor_of_volume, r"reads a tensor of shape \(1, 1, 4, 4, 4\)"),
        (lambda s, g: s.mean(), "the loss sums over voxels"),
        (lambda s, g: math.sqrt(s), "takes a volume for a number"),
        (lambda s, g: s * torch.tensor(1.0, requires_grad=True), "requires a gradient"),
        (lambda s, g: None, "expected it to return a volume like s, got NoneType"),
        (lambda s, g: s[0], "picks voxels of a volume by their place"),
        (lambda s, g: s + s.shape[2], "reads the shape"),
        (lambda s, g: s.long(), "no expression for 'long'"),
        (lambda s, g: torch.where(s, s, g), "where: expected a comparison"),
    ],
)
def test_what_has_no_expression_is_named(theta: Callable[..., Any], message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        trace_loss(theta, None, None, None, 3)


@pytest.mark.parametrize(
    ("psi", "message"),
    [
        (lambda s, g, phi: phi(s * s), "φ is taken of s, g and what is linear in them"),
        (lambda s, g, phi: phi(s), "got a stack of 3 components"),
        (lambda s, g, phi: phi(s).sum(1), "along dim 0"),
        (lambda s, g, phi: phi(s) + torch.stack([s, g]), "stacks of 2 and 3 components"),
        (lambda s, g, phi: phi(s)[0, 1], "a number or a slice"),
    ],
)
def test_what_is_no_loss_of_phi_is_named(psi: Callable[..., Any], message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        traced(psi)


def test_several_phi_reach_psi_as_a_tuple() -> None:
    loss = trace_loss(
        one,
        lambda s, g, phi: phi[0](s)[0] + phi[1](s)[0] + phi[2](g),
        [phi.sobel(), phi.laplacian(), phi.signed_distance()],
        None,
        3,
    )
    assert loss.stencils == (phi.sobel(), phi.laplacian())
    assert loss.maps == ((phi.signed_distance(), FieldKind.TARGET),)
    assert {(which.kind.name, which.number) for which in loss.density.reads} == {
        ("PREDICTION_COMPONENT", 0),
        ("PREDICTION_COMPONENT", 3),
        ("MAP", 0),
    }
