"""Runs the user's functions on symbols: what they do to a `Traced` is written down as an expression.

A `Traced` stands for a volume [N, C, *spatial], a `Stack` for φ's components of one, [K, N, C, *spatial].
Numbers become constants; a tensor with one element becomes a parameter, which is read at every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from geoloss_kernels.expressions import simplify as s
from geoloss_kernels.expressions.expression import Expression, FieldKind, constant, field, parameter

_UNFUSED = "; fused=False computes it with plain PyTorch"


class ExpressionError(TypeError):
    """What a function does has no expression."""


class Trace:
    """One run of the user's functions: the parameters that they read, and who is to blame for an error."""

    def __init__(self) -> None:
        self.parameters: list[Tensor] = []
        self.role = "loss"

    def error(self, message: str) -> ExpressionError:
        return ExpressionError(f"{self.role}: {message}{_UNFUSED}")

    def symbol(self, kind: FieldKind, number: int = 0) -> Traced:
        return Traced(self, field(kind, number))

    def expression(self, value: Any) -> Expression:
        """Of a traced volume, a number or a tensor with one element."""
        if isinstance(value, Traced):
            return value.expression
        if isinstance(value, Tensor):
            return self._parameter(value)
        if isinstance(value, (bool, int, float)):
            return constant(value)
        if isinstance(value, Stack):
            raise self.error("expected a volume, got φ's components: take one, their sum(0), or gk.norm")
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            return constant(value.item())
        raise self.error(f"cannot compute with a {type(value).__name__}")

    def _parameter(self, tensor: Tensor) -> Expression:
        if tensor.numel() != 1:
            raise self.error(
                f"reads a tensor of shape {tuple(tensor.shape)}; besides s, g and φ a loss may read numbers "
                "and tensors with one element"
            )
        if tensor.requires_grad:
            raise self.error("reads a tensor that requires a gradient; parameters of a loss have none")
        for number, known in enumerate(self.parameters):
            if known is tensor:
                return parameter(number)
        self.parameters.append(tensor)
        return parameter(len(self.parameters) - 1)

    def result(self, value: Any) -> Expression:
        """Of what a function returned: a volume, or a stack of one component."""
        if isinstance(value, Stack) and len(value) == 1:
            value = value[0]
        if isinstance(value, Stack):
            raise self.error(
                f"expected it to return a volume like s, got a stack of {len(value)} components: take one, "
                "their sum(0), or gk.norm"
            )
        if not isinstance(value, (Traced, Tensor, bool, int, float)):
            raise self.error(f"expected it to return a volume like s, got {type(value).__name__}")
        return self.expression(value)


class _Symbol:
    """The arithmetic and the methods that `Traced` and `Stack` share."""

    __slots__ = ()
    trace: Trace

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Sequence[Any] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", str(function))
        return _call(name, arguments, keywords or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments, **keywords: _call(name, (self, *arguments), keywords)

    def __bool__(self) -> NoReturn:
        raise self.trace.error("branches on the values of a volume; torch.where selects voxel by voxel")

    def _no_number(self, *_: Any) -> NoReturn:
        raise self.trace.error("takes a volume for a number (`math`, float); use the functions of torch")

    __float__ = __int__ = __index__ = __complex__ = _no_number

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise self.trace.error("hands a volume to NumPy; use the functions of torch")

    @property
    def shape(self) -> NoReturn:
        raise self.trace.error("reads the shape of a volume; expressions work on each voxel alone")

    ndim = size = shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.get_default_dtype()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    __hash__ = object.__hash__


def _operators() -> dict[str, Callable[..., Any]]:
    """Python's operators and their reflections, by torch's names."""
    names = ("add", "sub", "mul", "truediv", "pow", "and", "or", "xor")
    compared = ("lt", "le", "gt", "ge", "eq", "ne")
    made: dict[str, Callable[..., Any]] = {}
    for name in (*names, *compared):
        made[f"__{name}__"] = lambda a, b, name=name: _call(name, (a, b), {})
    for name in names:
        made[f"__r{name}__"] = lambda a, b, name=name: _call(name, (b, a), {})
    for name in ("neg", "pos", "abs", "invert"):
        made[f"__{name}__"] = lambda a, name=name: _call(name, (a,), {})
    return made


for _name, _operator in _operators().items():
    setattr(_Symbol, _name, _operator)


class Traced(_Symbol):
    """A volume. `logical` ones are the results of comparisons."""

    __slots__ = ("expression", "logical", "trace")

    def __init__(self, trace: Trace, expression: Expression, logical: bool = False) -> None:
        self.trace, self.expression, self.logical = trace, expression, logical

    def __iter__(self) -> NoReturn:
        raise self.trace.error("goes through the voxels of a volume one by one")

    def __getitem__(self, _: Any) -> NoReturn:
        raise self.trace.error("picks voxels of a volume by their place")

    def __repr__(self) -> str:
        return repr(self.expression)


class Stack(_Symbol):
    """The components φ_k(u)."""

    __slots__ = ("components", "trace")

    def __init__(self, trace: Trace, components: Sequence[Traced]) -> None:
        self.trace, self.components = trace, tuple(components)

    def __len__(self) -> int:
        return len(self.components)

    def __iter__(self) -> Iterator[Traced]:
        return iter(self.components)

    def __getitem__(self, key: Any) -> Traced | Stack:
        if isinstance(key, slice):
            return Stack(self.trace, self.components[key])
        if not isinstance(key, int):
            raise self.trace.error(f"takes the components {key!r} of φ; a number or a slice picks them")
        return self.components[key]

    def __repr__(self) -> str:
        return repr(list(self.components))


def norm_of(components: Sequence[Traced]) -> Traced:
    """The Euclidean norm of the components, with slope 0 at 0."""
    trace = components[0].trace
    squares = s.ZERO
    for component in components:
        squares = s.add(squares, s.square(component.expression))
    return Traced(trace, s.root(squares))


def _call(name: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
    key = _canonical(name)
    trace = _trace_of(arguments)
    function = FUNCTIONS.get(key)
    if function is None:
        raise trace.error(f"no expression for {name!r}; there are " + ", ".join(sorted(FUNCTIONS)))
    if key in _ON_STACKS:
        return function(trace, *arguments, **keywords)
    return _elementwise(trace, function, arguments, keywords)


def _canonical(name: str) -> str:
    name = name.strip("_").removeprefix("special_").removeprefix("linalg_")
    return _ALIASES.get(name, name)


def _trace_of(arguments: Sequence[Any]) -> Trace:
    for argument in arguments:
        if isinstance(argument, _Symbol):
            return argument.trace
        if isinstance(argument, (list, tuple)) and any(isinstance(each, _Symbol) for each in argument):
            return _trace_of(argument)
    raise ExpressionError(f"a volume is given by keyword; give it by position{_UNFUSED}")


def _elementwise(
    trace: Trace, function: Callable[..., Any], arguments: Sequence[Any], keywords: dict[str, Any]
) -> Any:
    """``function`` of the volumes; of stacks, component by component."""
    everything = (*arguments, *keywords.values())
    sizes = {len(argument) for argument in everything if isinstance(argument, Stack)}
    if not sizes:
        return function(trace, *arguments, **keywords)
    if len(sizes) > 1:
        raise trace.error(f"combines stacks of {' and '.join(map(str, sorted(sizes)))} components")

    def component(value: Any, k: int) -> Any:
        return value.components[k] if isinstance(value, Stack) else value

    return Stack(
        trace,
        [
            function(
                trace,
                *[component(argument, k) for argument in arguments],
                **{name: component(argument, k) for name, argument in keywords.items()},
            )
            for k in range(sizes.pop())
        ],
    )


def _plain(builder: Callable[..., Expression]) -> Callable[..., Traced]:
    """A function of expressions as one of volumes and numbers."""

    def function(trace: Trace, *arguments: Any) -> Traced:
        return Traced(trace, builder(*[trace.expression(argument) for argument in arguments]))

    return function


def _compared(builder: Callable[..., Expression], swap: bool = False) -> Callable[..., Traced]:
    def function(trace: Trace, a: Any, b: Any) -> Traced:
        x, y = trace.expression(a), trace.expression(b)
        return Traced(trace, builder(y, x) if swap else builder(x, y), logical=True)

    return function


def _not(a: Expression) -> Expression:
    return s.subtract(s.ONE, a)


def _logical(builder: Callable[..., Expression]) -> Callable[..., Traced]:
    """Of conditions: results of comparisons, True and False."""

    def function(trace: Trace, *arguments: Any) -> Traced:
        for argument in arguments:
            if not (isinstance(argument, bool) or (isinstance(argument, Traced) and argument.logical)):
                raise trace.error("combines conditions with something that is none; compare first")
        return Traced(trace, builder(*[trace.expression(argument) for argument in arguments]), logical=True)

    return function


def _add(trace: Trace, a: Any, b: Any, alpha: float = 1) -> Traced:
    return Traced(trace, s.add(trace.expression(a), s.multiply(constant(alpha), trace.expression(b))))


def _subtract(trace: Trace, a: Any, b: Any, alpha: float = 1) -> Traced:
    return Traced(trace, s.subtract(trace.expression(a), s.multiply(constant(alpha), trace.expression(b))))


def _where(trace: Trace, condition: Any, a: Any, b: Any) -> Traced:
    if not (isinstance(condition, Traced) and condition.logical):
        raise trace.error("where: expected a comparison for a condition")
    logical = all(isinstance(each, bool) or getattr(each, "logical", False) for each in (a, b))
    selected = s.select(condition.expression, trace.expression(a), trace.expression(b))
    return Traced(trace, selected, logical)


def _clamp(trace: Trace, a: Any, min: Any = None, max: Any = None) -> Traced:
    result = trace.expression(a)
    if min is not None:
        result = s.clamp_minimum(result, trace.expression(min))
    if max is not None:
        result = s.clamp_maximum(result, trace.expression(max))
    return Traced(trace, result)


def _relu(trace: Trace, a: Any, inplace: bool = False) -> Traced:
    x = trace.expression(a)
    return Traced(trace, s.select(s.less(s.ZERO, x), x, s.ZERO))


def _softplus(trace: Trace, a: Any, beta: float = 1, threshold: float = 20) -> Traced:
    scaled = s.multiply(constant(beta), trace.expression(a))
    return Traced(trace, s.multiply(constant(1 / beta), s.softplus(scaled)))


def _log_sigmoid(a: Expression) -> Expression:
    return s.negate(s.softplus(s.negate(a)))


def _binary_cross_entropy(
    trace: Trace, a: Any, b: Any, weight: Any = None, *_: Any, reduction: str = "mean", **__: Any
) -> Traced:
    if reduction != "none":
        raise trace.error("binary_cross_entropy: expected reduction='none', a value for each voxel")
    x, g = trace.expression(a), trace.expression(b)
    entropy = s.add(s.multiply(g, s.logarithm(x)), s.multiply(_not(g), s.logarithm(_not(x))))
    scale = s.ONE if weight is None else trace.expression(weight)
    return Traced(trace, s.negate(s.multiply(scale, entropy)))


def _to(trace: Trace, a: Any, *arguments: Any, **keywords: Any) -> Traced:
    """A conversion: every number here has the precision of the pass."""
    dtypes = [each for each in (*arguments, *keywords.values()) if isinstance(each, torch.dtype)]
    if any(not dtype.is_floating_point for dtype in dtypes):
        raise trace.error(f"converts to {dtypes[0]}; volumes are floating-point")
    return Traced(trace, trace.expression(a))


def _constant_like(trace: Trace, a: Any, value: float, **_: Any) -> Traced:
    return Traced(trace, trace.expression(value))


def _check_first_axis(trace: Trace, name: str, value: Any, dim: Any) -> Stack:
    if not isinstance(value, Stack) or dim not in (0, (0,), [0]):
        raise trace.error(f"{name}: only φ's components are reduced, along dim 0; the loss sums over voxels")
    return value


def _reduction(name: str, combine: Callable[[Expression, Expression], Expression]) -> Callable[..., Traced]:
    def function(trace: Trace, a: Any, dim: Any = None, **_: Any) -> Traced:
        stack = _check_first_axis(trace, name, a, dim)
        result = stack[0].expression
        for each in stack.components[1:]:
            result = combine(result, each.expression)
        return Traced(trace, result)

    return function


def _amax(trace: Trace, a: Any, dim: Any = None, **_: Any) -> Traced:
    stack = _check_first_axis(trace, "amax", a, dim)
    return Traced(trace, s.largest(*[each.expression for each in stack]))


def _two(builder: Callable[..., Expression]) -> Callable[..., Traced]:
    """torch.max and torch.min of two volumes; with a number for a second argument they reduce."""

    def function(trace: Trace, a: Any, b: Any = None) -> Traced:
        if not isinstance(b, (Traced, Tensor)):
            raise trace.error("max and min: expected two volumes; amax(0) and amin(0) reduce φ's components")
        return Traced(trace, builder(trace.expression(a), trace.expression(b)))

    return function


def _mean(trace: Trace, a: Any, dim: Any = None, **_: Any) -> Traced:
    stack = _check_first_axis(trace, "mean", a, dim)
    total = FUNCTIONS["sum"](trace, stack, 0)
    return Traced(trace, s.multiply(constant(1 / len(stack)), total.expression))


def _vector_norm(trace: Trace, a: Any, ord: float = 2, dim: Any = None, **_: Any) -> Traced:
    stack = _check_first_axis(trace, "vector_norm", a, dim)
    if ord == 2:
        return norm_of(stack.components)
    if ord == 1:
        return FUNCTIONS["sum"](trace, _call("abs", (stack,), {}), 0)
    raise trace.error(f"vector_norm: expected the order 1 or 2, got {ord}")


def _stack(trace: Trace, tensors: Sequence[Any], dim: int = 0) -> Stack:
    if dim != 0:
        raise trace.error(f"stack: expected dim 0, got {dim}")
    return Stack(trace, [Traced(trace, trace.expression(each)) for each in tensors])


def _log_to_base(base: float) -> Callable[[Expression], Expression]:
    return lambda a: s.multiply(constant(1 / math.log(base)), s.logarithm(a))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _subtract,
    "rsub": lambda trace, a, b, alpha=1: _subtract(trace, b, a, alpha),
    "mul": _plain(s.multiply),
    "div": _plain(s.divide),
    "neg": _plain(s.negate),
    "pos": _plain(lambda a: a),
    "pow": _plain(s.power),
    "square": _plain(s.square),
    "sqrt": _plain(s.square_root),
    "rsqrt": _plain(s.reciprocal_square_root),
    "reciprocal": _plain(lambda a: s.divide(s.ONE, a)),
    "abs": _plain(s.absolute),
    "sign": _plain(s.sign),
    "exp": _plain(s.exponential),
    "exp2": _plain(lambda a: s.exponential(s.multiply(constant(math.log(2)), a))),
    "expm1": _plain(s.exponential_m1),
    "log": _plain(s.logarithm),
    "log2": _plain(_log_to_base(2)),
    "log10": _plain(_log_to_base(10)),
    "log1p": _plain(s.logarithm_1p),
    "sin": _plain(s.sine),
    "cos": _plain(s.cosine),
    "tan": _plain(lambda a: s.divide(s.sine(a), s.cosine(a))),
    "tanh": _plain(s.hyperbolic_tangent),
    "sigmoid": _plain(s.sigmoid),
    "logit": _plain(lambda a: s.subtract(s.logarithm(a), s.logarithm(_not(a)))),
    "softplus": _softplus,
    "log_sigmoid": _plain(_log_sigmoid),
    "relu": _relu,
    "clamp": _clamp,
    "clamp_min": _plain(s.clamp_minimum),
    "clamp_max": _plain(s.clamp_maximum),
    "minimum": _plain(s.minimum),
    "maximum": _plain(s.maximum),
    "max": _two(s.maximum),
    "min": _two(s.minimum),
    "where": _where,
    "xlogy": _plain(lambda a, b: s.weighted(a, s.logarithm(b))),
    "lerp": _plain(lambda a, b, weight: s.add(a, s.multiply(weight, s.subtract(b, a)))),
    "binary_cross_entropy": _binary_cross_entropy,
    "lt": _compared(s.less),
    "gt": _compared(s.less, swap=True),
    "le": _compared(s.less_equal),
    "ge": _compared(s.less_equal, swap=True),
    "eq": _compared(s.equal),
    "ne": _compared(lambda a, b: _not(s.equal(a, b))),
    "logical_and": _logical(s.multiply),
    "logical_or": _logical(s.maximum),
    "logical_xor": _logical(lambda a, b: _not(s.equal(a, b))),
    "logical_not": _logical(_not),
    "to": _to,
    "detach": _plain(s.detach),
    "ones_like": lambda trace, a, **_: _constant_like(trace, a, 1),
    "zeros_like": lambda trace, a, **_: _constant_like(trace, a, 0),
    "full_like": _constant_like,
    "sum": _reduction("sum", s.add),
    "prod": _reduction("prod", s.multiply),
    "amax": _amax,
    "amin": lambda trace, a, dim=None, **_: _call("neg", (_amax(trace, _call("neg", (a,), {}), dim),), {}),
    "mean": _mean,
    "vector_norm": _vector_norm,
    "norm": lambda trace, a, p=2, dim=None, **_: _vector_norm(trace, a, p, dim),
    "stack": _stack,
    "unbind": lambda trace, a, dim=0: _check_first_axis(trace, "unbind", a, dim).components,
}

_ON_STACKS = frozenset(("sum", "prod", "amax", "amin", "mean", "vector_norm", "norm", "stack", "unbind"))

_ALIASES = {
    other: name
    for name, others in {
        "sub": ("subtract",),
        "mul": ("multiply",),
        "div": ("divide", "true_divide", "truediv"),
        "neg": ("negative",),
        "abs": ("absolute",),
        "sign": ("sgn",),
        "pow": ("float_power",),
        "log_sigmoid": ("logsigmoid",),
        "sigmoid": ("expit",),
        "clamp": ("clip",),
        "lt": ("less",),
        "le": ("less_equal",),
        "gt": ("greater",),
        "ge": ("greater_equal",),
        "ne": ("not_equal",),
        "logical_and": ("and", "bitwise_and"),
        "logical_or": ("or", "bitwise_or"),
        "logical_xor": ("xor", "bitwise_xor"),
        "logical_not": ("invert", "bitwise_not"),
        "to": ("float", "double", "type_as", "clone", "contiguous", "alias"),
    }.items()
    for other in others
}
