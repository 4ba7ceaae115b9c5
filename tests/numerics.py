"""What the tests of the fused backends share: cases, layouts, tolerances, comparison with the reference.

Every comparison is with the reference in float64 on the same, already rounded, inputs, and within the
tolerances below.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geoloss_kernels import backends, reference, use_backend
from geoloss_kernels.reference.terms import TERMS as DENSITIES
from geoloss_kernels.reference.terms import columns_of
from geoloss_kernels.reference.voxels import prepare
from geoloss_kernels.terms import TERM_KINDS, Term, encode

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's kernels run in its interpreter, and are what is tested."""

DEVICES = {
    "cpu": "cpu",
    "cuda on host": "cpu",
    "cuda": "cuda",
    "triton": "cpu" if INTERPRETED else "cuda",
}
"""Where each fused backend works; "cuda on host" is the CUDA kernels, run on the CPU by `host_cuda`."""

TESTED_ALWAYS = ("cpu", "cuda on host")
"""The suite fails without these."""

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = tuple(getattr(torch, f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64))
ACTIVATIONS = ("none", "sigmoid", "softmax")
TERMS = tuple(TERM_KINDS)
STENCIL_TERMS = tuple(name for name, kind in TERM_KINDS.items() if kind.stencil is not None)
VOXEL_TERMS = tuple(name for name in TERMS if name not in STENCIL_TERMS)
SHAPES = (
    (1, 1, 1, 1, 1),
    (1, 1, 1, 1),
    (2, 3, 5, 7, 11),
    (3, 2, 9, 13),
    (1, 2, 1, 6, 17),
    (2, 1, 6, 1, 17),
    (1, 1, 6, 17, 1),
    (2, 2, 1, 31),
    (1, 3, 31, 1),
    (1, 4, 3, 4, 16),
)


@dataclass(frozen=True)
class Tolerance:
    """Bounds on a difference from the float64 reference, relative to the reference unless said otherwise."""

    sums: float
    """of a sum, to Σ|term|"""
    floor: float
    """absolute, of a sum per voxel and of each element of the gradient: rounding of a probability near 1"""
    rms: float
    """of the gradient, root mean square to root mean square"""
    cosine: float
    """1 - cosine of the angle between the gradients"""
    bias: float
    """of the gradient, |Σ difference| to Σ|reference|"""
    peak: float
    """of the gradient, largest difference to largest element"""


_FLOAT64 = Tolerance(sums=1e-10, floor=1e-15, rms=1e-10, cosine=1e-12, bias=1e-10, peak=1e-9)
_FLOAT32 = Tolerance(sums=1e-5, floor=1e-6, rms=1e-5, cosine=1e-9, bias=1e-6, peak=1e-4)

TOLERANCES = {
    torch.float64: _FLOAT64,
    torch.float32: _FLOAT32,
    # Half-precision inputs are computed in float32: the rounding of the gradient to their dtype is all that
    # may come on top, see `_gradient_faults`.
    torch.float16: _FLOAT32,
    torch.bfloat16: _FLOAT32,
}


def activations(shape: Sequence[int]) -> Sequence[str]:
    """Those that losses ask for: a softmax of a single channel they leave away."""
    return ACTIVATIONS if shape[1] > 1 else ACTIVATIONS[:2]


def fused_backends() -> list[str]:
    """Those that are always tested, and the others where they can be used.

    In Triton's interpreter, Triton's alone.
    """
    if INTERPRETED:
        return ["triton"]
    reasons = backends.available()
    return [name for name in DEVICES if name in TESTED_ALWAYS or reasons[name] is None]


def fewer(cases: Sequence[Any]) -> Sequence[Any]:
    """All of the cases that a test goes through; in Triton's interpreter, where each takes seconds, some."""
    return cases[::4] if INTERPRETED else cases


def library(backend: str) -> Any:
    """A backend's operators as the dispatcher has them."""
    with use_backend(backend):
        backends.operators(torch.empty(0, device=DEVICES[backend]))  # loads them
    names = {"triton": "geoloss_triton", "cuda on host": "geoloss_cuda_on_host"}
    return getattr(torch.ops, names.get(backend, "geoloss"))


ON_HOST_ONE_IN = {
    # Arguments are checked above the launches, which is all that runs here.
    "TestErrorsOfTheOperators": 0,
    "test_the_operator_checks_its_arguments": 0,
    # Triton has those of CUDA tensors.
    "test_open_formulas.py": 0,
    # What lies above the operators is tested with the others.
    "test_monai_parity.py": 40,
    "test_losses.py": 10,
    "test_composition.py": 20,
    "test_cross_entropy.py": 40,
    # Large volumes, or thousands of small ones
    "test_random_masks": 4,
    "test_terms_of_each_loss_on_rows_of_whole_vectors": 8,
    "test_volumes_of_several_tiles": 3,
    "test_of_sums_and_gradient": 4,
    # Other orders of threads and blocks say more: see `test_cuda_on_host`.
    "test_for_any_number_of_threads": 0,
    "test_from_run_to_run": 0,
    # These are about the conversions between 16 bits and 32, for which a GPU has instructions.
    "test_whole_range_is_read_exactly": 0,
    "test_whole_range_is_rounded_to_nearest_even": 0,
}
"""Of these tests "cuda on host" runs a sample, one in so many or none, and every other test in full: a launch
takes it a thousand times as long as a GPU."""


def is_run_on_host(test: str) -> bool:
    """Whether a test, given by its node id, is in the sample."""
    for name, one_in in ON_HOST_ONE_IN.items():
        if name in test:
            return one_in > 0 and zlib.crc32(test.encode()) % one_in == 0
    return True


# ---- layouts: the same values in other places of memory ----


def contiguous(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


def sliced(tensor: Tensor) -> Tensor:
    """Cut out of a larger tensor that is NaN (or as large as integers get) around it."""
    larger = _poison([size + 2 for size in tensor.shape], tensor)
    inner = larger[tuple(slice(1, -1) for _ in tensor.shape)]
    inner.copy_(tensor)
    return inner


def strided(tensor: Tensor) -> Tensor:
    """Every second element along x; NaN between them."""
    larger = _poison([*tensor.shape[:-1], 2 * tensor.shape[-1]], tensor)
    inner = larger[..., ::2]
    inner.copy_(tensor)
    return inner


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def reversed_axes(tensor: Tensor) -> Tensor:
    order = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(order).contiguous().permute(order)


def channels_last(tensor: Tensor) -> Tensor:
    memory_format = torch.channels_last_3d if tensor.ndim == 5 else torch.channels_last
    return tensor.contiguous(memory_format=memory_format)


def expanded(tensor: Tensor) -> Tensor:
    """The first row, stride 0 along x and the batch: other values, as no other layout has repeated ones."""
    return tensor[:1, ..., :1].expand_as(tensor)


Layout = Callable[[Tensor], Tensor]
LAYOUTS: dict[str, Layout] = {
    layout.__name__: layout
    for layout in (contiguous, sliced, strided, transposed, reversed_axes, channels_last, expanded)
}


def _poison(shape: Sequence[int], like: Tensor) -> Tensor:
    if like.dtype == torch.bool:
        return torch.ones(shape, dtype=like.dtype, device=like.device)
    value = torch.nan if like.is_floating_point() else torch.iinfo(like.dtype).max
    return torch.full(shape, value, dtype=like.dtype).to(like.device)


# ---- cases: the arguments of geo_sums ----


class Arguments(NamedTuple):
    """The arguments of `geo_sums`."""

    input: Tensor
    target: Tensor
    mask: Tensor | None
    maps: Sequence[Tensor]
    terms: Sequence[int]
    parameters: Sequence[float]
    activation: int
    ignore_index: int | None
    include_background: bool

    def widened(self) -> Arguments:
        """The same values in the widest types: what the reference is exact for."""
        return self._replace(
            input=_widened(self.input),
            target=_widened(self.target),
            mask=None if self.mask is None else _widened(self.mask),
            maps=[_widened(map) for map in self.maps],
        )


def encoded(
    terms: Sequence[str | Term],
    dimensions: int,
    spacing: Sequence[float] | None = None,
    axes: Sequence[int] | None = None,
) -> tuple[Sequence[int], Sequence[float]]:
    """The operators' ``terms`` and ``parameters``; a name has ``axes``, and the first map."""
    wanted = [term if isinstance(term, Term) else Term(term, axes, map=0) for term in terms]
    encoding = encode(wanted, {0: 0, 1: 1}, dimensions, spacing)
    return encoding.terms, encoding.parameters


def columns(terms: Sequence[int]) -> int:
    """How many sums the operators' ``terms`` ask for."""
    place = count = 0
    while place < len(terms):
        place += 3 + terms[place + 1]
        count += 1
    return count


class Ratio(NamedTuple):
    """The arguments of `geo_ratio` beside the sums."""

    channel_weights: Tensor | None
    fractions: Sequence[int]
    weights: Sequence[float]
    reduction: int


def ratio_arguments(arguments: Arguments) -> list[Ratio]:
    """Ratios of every kind for the sums: each pooling and reduction, class weights, channels left out."""
    input, count = arguments.input, columns(arguments.terms)
    channels = input.shape[1] - (0 if arguments.include_background else 1)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    row = [0.5 + 1.5 * number / count for number in range(count + 1)]
    ones = [1.0] * (count + 1)
    class_weights = torch.linspace(0.5, 3, 2 * channels, dtype=dtype, device=input.device).view(2, channels)
    last = channels - 1
    return [
        Ratio(None, [0, 0, -1, -1] * 2, [*row, *ones, *row[::-1], *row], 0),
        Ratio(class_weights, [1, last, 1, -1], [*row, *row[::-1]], 0),
        Ratio(class_weights, [2, 0, 0, 1, 0, last, 1, -1], [*row, *ones, *row[::-1], *row], 1),
        Ratio(class_weights, [1, 0, -1, -1, 2, last, -1, 0, 0, 0, 0, -1], [*row, *ones] * 3, 2),
    ]


def _widened(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.bool:
        return tensor
    return tensor.double() if tensor.is_floating_point() else tensor.long()


@dataclass(frozen=True)
class Case:
    """A recipe for `Arguments`: the same recipe gives the same values on every device."""

    shape: tuple[int, ...]
    terms: tuple[str, ...] = ("prediction", "target", "intersection", "first_order_forward_l2", "count")
    dtype: torch.dtype = torch.float64
    activation: str = "none"
    layout: str = "contiguous"
    target: str = "binary"
    """"binary", "soft", or "labels": a label map [N, 1, *spatial] with labels outside the channels, too"""
    target_dtype: torch.dtype = torch.float32
    target_layout: str = "contiguous"
    mask: str | None = None
    """None, "shared" [N, 1, *spatial], or "channels" [N, C, *spatial]"""
    mask_dtype: torch.dtype = torch.bool
    map: str = "channels"
    """"shared" or "channels"; it is given only if a term needs it"""
    ignore_index: int | None = None
    spacing: tuple[float, ...] | None = None
    axes: tuple[int, ...] | None = None
    include_background: bool = True
    seed: int = 0

    def __str__(self) -> str:
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name != "shape" and getattr(self, field.name) != field.default
        ]
        return " ".join(["x".join(map(str, self.shape)), *changed])

    def arguments(self, device: str) -> Arguments:
        generator = torch.Generator().manual_seed(self.seed)
        dimensions = len(self.shape) - 2
        needs_map = any(term.startswith("map_") for term in self.terms)
        terms, parameters = encoded(self.terms, dimensions, self.spacing, self.axes)
        return Arguments(
            input=LAYOUTS[self.layout](self._input(generator).to(device)),
            target=LAYOUTS[self.target_layout](self._target(generator).to(device)),
            mask=None if self.mask is None else self._mask(generator).to(device),
            maps=[self._map(generator).to(device)] if needs_map else [],
            terms=terms,
            parameters=parameters,
            activation=ACTIVATIONS.index(self.activation),
            ignore_index=self.ignore_index,
            include_background=self.include_background,
        )

    def _input(self, generator: torch.Generator) -> Tensor:
        """Logits, or probabilities that keep off 0 and 1; the terms' behaviour there has its own tests."""
        logits = 2 * torch.randn(self.shape, generator=generator, dtype=torch.float64)
        values = 0.01 + 0.98 * logits.sigmoid() if self.activation == "none" else logits
        return values.to(self.dtype)

    def _target(self, generator: torch.Generator) -> Tensor:
        shape = (self.shape[0], 1, *self.shape[2:]) if self.target == "labels" else self.shape
        if self.target == "soft":
            return torch.rand(shape, generator=generator, dtype=torch.float64).to(self.target_dtype)
        if self.target == "binary":
            return (torch.rand(shape, generator=generator) > 0.6).to(self.target_dtype)
        lowest = -1 if self.target_dtype.is_signed else 0
        labels = torch.randint(lowest, self.shape[1] + 1, shape, generator=generator)
        ignored = torch.rand(shape, generator=generator) > 0.9
        return torch.where(ignored, 127, labels).to(self.target_dtype)

    def _mask(self, generator: torch.Generator) -> Tensor:
        mask = torch.rand(self._companion_shape(self.mask), generator=generator) > 0.3
        return (mask * 2.0).to(self.mask_dtype)

    def _map(self, generator: torch.Generator) -> Tensor:
        values = 3 * torch.randn(self._companion_shape(self.map), generator=generator, dtype=torch.float64)
        return values.to(self.dtype)

    def _companion_shape(self, kind: str | None) -> tuple[int, ...]:
        return (self.shape[0], self.shape[1] if kind == "channels" else 1, *self.shape[2:])


def sample_cases(count: int, seed: int) -> list[Case]:
    """Cases drawn from the product of everything that a backend has to get right."""
    chance = random.Random(seed)
    return [_sample_case(chance, index) for index in range(count)]


def _sample_case(chance: random.Random, seed: int) -> Case:
    dimensions = chance.choice((2, 3))
    channels = chance.choice((1, 2, 3))
    dtype = chance.choice(DTYPES)
    target = chance.choice(("binary", "soft", "labels") if channels > 1 else ("binary", "soft"))
    any_dtype = (*INTEGERS, *DTYPES, *(() if target == "labels" else (torch.bool,)))
    several = [*chance.sample(VOXEL_TERMS, chance.randint(0, 5)), *chance.sample(STENCIL_TERMS, 2)]
    return Case(
        shape=(
            chance.choice((1, 2)),
            channels,
            *(chance.choice((1, 2, 3, 5, 8, 9, 16, 17, 33)) for _ in range(dimensions)),
        ),
        terms=tuple(chance.sample(several, chance.randint(1, len(several)))),
        dtype=dtype,
        activation=chance.choice(activations((1, channels))),
        layout=chance.choice(tuple(LAYOUTS)),
        target=target,
        target_dtype=chance.choice(DTYPES if target == "soft" else any_dtype),
        target_layout=chance.choice(tuple(LAYOUTS)),
        mask=chance.choice((None, None, "shared", "channels")),
        mask_dtype=chance.choice((torch.bool, torch.uint8, torch.int64, torch.float32, dtype)),
        map=chance.choice(("shared", "channels")),
        ignore_index=chance.choice((None, None, 0, 1, 127, -1)),
        spacing=tuple(chance.choice((1.0, 0.5, 0.7, 3.0)) for _ in range(dimensions)),
        axes=tuple(chance.sample(range(dimensions), chance.randint(1, dimensions))),
        include_background=chance.random() < 0.7 if channels > 1 else True,
        seed=seed,
    )


# ---- comparison ----


class Result(NamedTuple):
    """Sums [N, C', K], and the gradient of their sum, each weighted at random, [N, C, *spatial]."""

    sums: Tensor
    gradient: Tensor


def compute(geo_sums: Callable[..., Tensor], arguments: Arguments) -> Result:
    """What ``geo_sums`` makes of the arguments, by autograd."""
    leaf = arguments.input.detach().requires_grad_()
    sums = geo_sums(leaf, *arguments[1:])
    if not sums.requires_grad:
        return Result(sums, torch.zeros_like(leaf))
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(sums.shape, generator=generator, dtype=torch.float64).to(sums)
    (gradient,) = torch.autograd.grad(sums, leaf, weights)
    return Result(sums.detach(), gradient)


def compute_with(backend: str, arguments: Arguments) -> Result:
    """`compute` by a backend's own operator."""
    with use_backend(backend):
        return compute(backends.operators(arguments.input).geo_sums, arguments)


def assert_backend_matches_reference(backend: str, case: Case) -> None:
    """Sums and gradient of ``case`` within the tolerance of its dtype; the reference runs on the CPU."""
    ours = Result(*(tensor.cpu() for tensor in compute_with(backend, case.arguments(DEVICES[backend]))))
    arguments = case.arguments("cpu")
    dtype = arguments.input.dtype
    exact = compute(reference.geo_sums, arguments.widened())
    assert ours.sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert ours.gradient.dtype == dtype
    assert ours.gradient.shape == arguments.input.shape
    faults = _sums_faults(ours.sums, exact.sums, arguments)
    faults += _gradient_faults(ours.gradient, exact.gradient, arguments)
    assert not faults, "\n".join([str(case), *faults])


def _sums_faults(ours: Tensor, exact: Tensor, arguments: Arguments) -> list[str]:
    """Σ|term| is what the rounding of a sum is relative to: signed terms cancel."""
    tolerance = TOLERANCES[arguments.input.dtype]
    voxels = arguments.input[0, 0].numel()
    limit = tolerance.sums * _magnitudes(arguments) + tolerance.floor * voxels
    wrong = ~((ours.double() - exact).abs() <= limit)
    return [
        f"sum {k} at n={n} c={c}: {ours[n, c, k]:.9g}, expected {exact[n, c, k]:.9g}"
        for n, c, k in wrong.nonzero().tolist()
    ]


def _magnitudes(arguments: Arguments) -> Tensor:
    options = arguments.widened()._asdict()
    options["activation"] = ACTIVATIONS[options["activation"]]
    columns = columns_of(options.pop("terms"), options.pop("parameters"), arguments.input.ndim - 2)
    voxels = prepare(**options)
    return torch.stack([voxels.sum(DENSITIES[each.name](voxels, each).abs()) for each in columns], dim=-1)


def _gradient_faults(ours: Tensor, exact: Tensor, arguments: Arguments) -> list[str]:
    """A half-precision gradient may also be as far off as the reference's in float32, rounded as it is."""
    tolerance = TOLERANCES[ours.dtype]
    if bool(((ours.double() - exact).abs() <= tolerance.floor).all()):
        return []
    measured, rounding = _measure(ours, exact), _NO_DIFFERENCE
    if ours.dtype in (torch.float16, torch.bfloat16):
        rounded = arguments.widened()._replace(input=arguments.input)
        rounding = _measure(compute(reference.geo_sums, rounded).gradient, exact)
    return [
        f"gradient: {name} {value:.3g}, expected at most {limit:.3g}"
        for name, value, limit in (
            ("relative RMS", measured.rms, tolerance.rms + rounding.rms),
            ("1 - cosine", measured.cosine, tolerance.cosine + rounding.cosine),
            ("bias", measured.bias, tolerance.bias + rounding.bias + 4 * rounding.random_bias),
            ("relative peak", measured.peak, tolerance.peak + rounding.peak),
        )
        if not value <= limit
    ]


class _Measures(NamedTuple):
    """How far a gradient is from the exact one, as in `Tolerance`."""

    rms: float
    cosine: float
    bias: float
    random_bias: float
    """the bias to expect where the differences are as large, but independent and symmetric"""
    peak: float


_NO_DIFFERENCE = _Measures(0.0, 0.0, 0.0, 0.0, 0.0)


def _measure(ours: Tensor, exact: Tensor) -> _Measures:
    ours = ours.double()
    difference = ours - exact
    if not difference.any():
        return _NO_DIFFERENCE
    return _Measures(
        rms=float(difference.norm() / exact.norm()),
        cosine=float(1 - (ours * exact).sum() / (ours.norm() * exact.norm())),
        bias=float(difference.sum().abs() / exact.abs().sum()),
        random_bias=float(difference.norm() / exact.abs().sum()),
        peak=float(difference.abs().max() / exact.abs().max()),
    )


def options_of(**options: Any) -> str:
    """A test's id from keyword arguments."""
    return "-".join(f"{name}={value}" for name, value in options.items()) or "default"
