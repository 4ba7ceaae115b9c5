"""Every loss as a formula over sums: Σ_j λ_j (a_j · S + nr_j) / (b_j · S + dr_j), Eq. 1 on numbers.

A formula adds up and can be scaled; `geoloss_kernels.FormulaLoss` makes a loss of it, whose sums are computed
in one pass:

    formulas.dice() + 0.5 * formulas.fog(norm="l1")

A new loss of sums that are there is one class here: its parameters, and the `Fraction` s that they make.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from geoloss_kernels.distance.loss_maps import HausdorffDistances, SignedDistance
from geoloss_kernels.open_terms import Density, OpenFunctions, known_sums
from geoloss_kernels.terms import NORMS, OPERATORS, Axes, Term, check_axis_order, spacing_as_tuple

Weight = Sequence[float] | float | Tensor
Weights = dict[Any, float]
"""A sum's `Term`, or its name -> its weight. The name `CONSTANT` is the number 1."""

CONSTANT = "1"


@dataclass(frozen=True)
class CallTraits:
    """What a formula may depend on of the loss that it is evaluated in.

    Attributes:
        activation: "none", "sigmoid" or "softmax".
        channels: C of the input.
        label_map: whether the target is a map of class numbers, not a volume per channel.
        reduction: "mean", "sum" or "none".
        include_background: whether channel 0 is in the loss.
    """

    activation: str
    channels: int
    label_map: bool
    reduction: str
    include_background: bool = True

    @property
    def summed_channels(self) -> int:
        """C', the channels in the loss."""
        return self.channels if self.include_background else self.channels - 1


@dataclass(frozen=True, eq=False)
class Fraction:
    """One ratio of weighted sums.

    Attributes:
        numerator, denominator: the weights of the sums.
        pooling: "volume" for a ratio of each volume and channel, "batch" for one of each channel, "all" for
            one of everything; None is what the loss says with ``batch``.
        include_background: whether channel 0 is in it; None is what the loss says.
        numerator_weight, denominator_weight: class weights; a fraction of single channels is multiplied by
            ``numerator_weight``, in one that pools channels they multiply the channel's sums.
        weighs_every_channel: the class weights are those of all channels, also of a background left out.
    """

    numerator: Weights
    denominator: Weights
    pooling: str | None = None
    include_background: bool | None = None
    numerator_weight: Tensor | None = None
    denominator_weight: Tensor | None = None
    weighs_every_channel: bool = False


class Formula:
    """A weighted sum of parts: `Part` s with their factors.

    Attributes:
        is_open: whether functions of the user's are among its parts.
    """

    is_open: bool = False

    @property
    def parts(self) -> tuple[tuple[float, Part], ...]:
        raise NotImplementedError(f"{type(self).__name__} has no parts")

    def opened(self, dimensions: int) -> OpenedFormula:
        """The formula with its open parts traced as they are now, for volumes with so many axes."""
        parts, parameters = [], {}
        for factor, part in self.parts:
            traced = part.traced(dimensions) if isinstance(part, geo) else part
            if isinstance(traced, TracedGeo):
                parameters[traced.part.functions] = traced.part.functions.parameters
            parts.append((factor, traced))
        return OpenedFormula(kept_combination(tuple(parts)), parameters)

    def __add__(self, other: Any) -> Formula:
        return Combination((*self.parts, *other.parts)) if isinstance(other, Formula) else NotImplemented

    def __radd__(self, other: Any) -> Formula:
        """Lets Python's ``sum`` start from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: Any) -> Formula:
        return self + -1.0 * other if isinstance(other, Formula) else NotImplemented

    def __mul__(self, factor: Any) -> Formula:
        if not isinstance(factor, (int, float)):
            return NotImplemented
        return Combination(tuple((factor * own, part) for own, part in self.parts))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Formula:
        return self * (1 / divisor) if isinstance(divisor, (int, float)) else NotImplemented

    def __neg__(self) -> Formula:
        return -1.0 * self

    def __repr__(self) -> str:
        """As a person would write it."""
        text = ""
        for factor, part in self.parts:
            sign = ("-" if factor < 0 else "") if not text else (" - " if factor < 0 else " + ")
            scale = "" if abs(factor) == 1 else f"{_written_number(abs(factor))} * "
            text += sign + scale + part.written()
        return text


class OpenedFormula(NamedTuple):
    """A formula that can be computed, and the tensors that its open parts read, by `Density.owner`."""

    formula: Formula
    parameters: dict[Any, tuple[Tensor, ...]]


class Combination(Formula):
    """Parts with factors, made by + and *."""

    def __init__(self, parts: tuple[tuple[float, Part], ...]) -> None:
        self._parts = parts
        self.is_open = any(part.is_open for _, part in parts)

    @property
    def parts(self) -> tuple[tuple[float, Part], ...]:
        return self._parts


@functools.lru_cache(maxsize=512)
def kept_combination(parts: tuple[tuple[float, Part], ...]) -> Combination:
    """One object for the same parts, by which passes are kept."""
    return Combination(parts)


class Part(Formula):
    """A formula by name: its parameters, and what they make of the sums.

    Attributes:
        own_activation: "logits" for a part that always takes the input for logits, of a softmax or, with a
            single channel, of a sigmoid, as MONAI's and torch's cross-entropy do; "sigmoid" for one that
            takes it for those of a sigmoid, as MONAI's focal loss.
        is_of_voxels: without a reduction it is the loss of every voxel, not of volumes and channels.
    """

    own_activation: ClassVar[str | None] = None
    is_of_voxels: ClassVar[bool] = False

    @property
    def parts(self) -> tuple[tuple[float, Part], ...]:
        return ((1.0, self),)

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        """The ratios that add up to it, for a ``call``."""
        raise NotImplementedError(f"{type(self).__name__} has no fractions")

    def class_weights(self) -> Iterator[Tensor]:
        """The class weights among its parameters."""
        yield from ()

    def with_class_weights(self, current: Callable[[Tensor], Tensor]) -> Part:
        """The same, with what ``current`` gives for each class weight."""
        weights = {
            field.name: current(value)
            for field in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        changed = any(weight is not getattr(self, name) for name, weight in weights.items())
        return replace(self, **weights) if changed else self  # type: ignore[type-var]

    def written(self) -> str:
        """The call that makes it, with the parameters that are not the default's."""
        changed = [
            f"{field.name}={_written(value)}"
            for field in fields(self)  # type: ignore[arg-type]
            if not _is_default(value := getattr(self, field.name), field.default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (not isinstance(value, Tensor) and value == default)


def _written_number(number: float) -> str:
    """As short as it can be without being another number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _written(value: Any) -> str:
    if hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return repr(value.tolist() if isinstance(value, Tensor) else value)


class SumsPart(Part):
    """A part that is another function of the sums than a ratio; plain PyTorch on a few numbers."""

    def sums(self, call: CallTraits) -> Sequence[Any]:
        """The terms, or names of terms, that it takes."""
        raise NotImplementedError(f"{type(self).__name__} has no sums")

    def of_sums(self, sums: Tensor, batch: bool) -> Tensor:
        """The values that are to be reduced, of the sums [N, C', K]."""
        raise NotImplementedError(f"{type(self).__name__} has no function of sums")


def checked_weight(weight: Weight | None) -> Tensor | None:
    """Class weights as a tensor, none negative."""
    if weight is None:
        return None
    try:
        weights = torch.as_tensor(weight, dtype=None if isinstance(weight, Tensor) else torch.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"weight: expected a number, numbers or a tensor, got {weight!r}") from error
    if bool((weights < 0).any()):
        raise ValueError(f"weight: expected numbers >= 0, got {weights.tolist()}")
    return weights


def _mean(term: Weights) -> tuple[Fraction, ...]:
    """1/|Ω| Σ term."""
    return (Fraction(term, {"count": 1.0}),)


def _one_of(name: str, value: str, expected: Sequence[str]) -> None:
    if value not in expected:
        raise ValueError(f"{name}: expected one of {tuple(expected)}, got {value!r}")


@dataclass(frozen=True, eq=False, repr=False)
class bce(Part):  # noqa: N801 - used as a function, as every part
    """1/|Ω| Σ -(w g log s + (1 - g) log(1 - s)), w = ``pos_weight``."""

    pos_weight: float = 1.0

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        return _mean({"cross_entropy_foreground": self.pos_weight, "cross_entropy_background": 1.0})


@dataclass(frozen=True, eq=False, repr=False)
class cross_entropy(Part):  # noqa: N801
    """-Σ_v Σ_c w_c g_c log s_c / Σ_v Σ_c w_c g_c, over batch, voxels and all channels: torch's cross_entropy.

    Under a sigmoid, or with a single channel, it is 1/|Ω| Σ -(w_c g log s + (1 - g) log(1 - s)), torch's
    binary_cross_entropy. Channel 0 counts also with ``include_background=False``, as in MONAI's DiceCELoss.
    For a target of a volume per channel the denominator is the number of voxels, as in torch.

    Args:
        weight: w of each channel, none negative.
        label_smoothing: ε of g (1 - ε) + ε / C; of the softmax alone.
    """

    weight: Weight | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", checked_weight(self.weight))
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing: expected a number from 0 to 1, got {self.label_smoothing}")

    def class_weights(self) -> Iterator[Tensor]:
        if isinstance(self.weight, Tensor):
            yield self.weight

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        if call.activation == "sigmoid" or call.channels == 1:
            return self._binary(call)
        smooth = self.label_smoothing
        surprise = {"cross_entropy_foreground": 1 - smooth}
        if smooth > 0:
            surprise["cross_entropy_uniform"] = smooth / call.channels
        voxels = {"target": 1.0} if call.label_map else {"count": 1 / call.channels}
        of_target = self.weight if call.label_map else None
        return (self._pooled(call, surprise, voxels, self.weight, of_target),)

    def _binary(self, call: CallTraits) -> Sequence[Fraction]:
        return (
            self._pooled(call, {"cross_entropy_foreground": 1.0}, {"count": 1.0}, self.weight),
            self._pooled(call, {"cross_entropy_background": 1.0}, {"count": 1.0}),
        )

    @staticmethod
    def _pooled(
        call: CallTraits, top: Weights, bottom: Weights, top_weight: Any = None, bottom_weight: Any = None
    ) -> Fraction:
        if call.reduction == "sum":
            bottom, bottom_weight = {CONSTANT: 1.0}, None
        return Fraction(top, bottom, "all", True, top_weight, bottom_weight)


@dataclass(frozen=True, eq=False, repr=False)
class cross_entropy_with_logits(cross_entropy):  # noqa: N801
    """`cross_entropy` that takes the input for logits, whatever the loss's activation."""

    own_activation = "logits"


@dataclass(frozen=True, eq=False, repr=False)
class dice(Part):  # noqa: N801
    """1 - (2 Σsg + nr) / (Σs + Σg + dr): MONAI's DiceLoss.

    Args:
        smooth_nr, smooth_dr: nr and dr.
        squared_pred: Σs² + Σg² in the denominator.
        jaccard: 1 - (2 Σsg + nr) / (2 (Σs + Σg - Σsg) + dr).
        weight: of each channel that is in the loss: one number, or one per channel, none negative.
        soft_label: (Σs + Σg - Σ|s - g|) / 2 for Σsg, exact for a fractional target.
    """

    smooth_nr: float = 1e-5
    smooth_dr: float = 1e-5
    squared_pred: bool = False
    jaccard: bool = False
    weight: Weight | None = None
    soft_label: bool = False

    weighs_every_channel: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", checked_weight(self.weight))

    def class_weights(self) -> Iterator[Tensor]:
        if isinstance(self.weight, Tensor):
            yield self.weight

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        power = "_squared" if self.squared_pred else ""
        extent = {f"prediction{power}": 1.0, f"target{power}": 1.0}
        overlap = _overlap(self.soft_label and not self.squared_pred)
        union = _combine(extent, overlap, 2.0, -2.0) if self.jaccard else extent
        complement = _complement(_scale(overlap, 2.0), union, self.smooth_nr, self.smooth_dr)
        weight: Any = self.weight
        every = self.weighs_every_channel
        return (replace(complement, numerator_weight=weight, weighs_every_channel=every),)


class dice_with_weights_of_all_channels(dice):  # noqa: N801
    """`dice` whose ``weight`` has a number for a background that is left out, too, as DiceCELoss's."""

    weighs_every_channel = True


@dataclass(frozen=True, eq=False, repr=False)
class tversky(Part):  # noqa: N801
    """1 - (Σsg + nr) / (Σsg + α Σs(1-g) + β Σ(1-s)g + dr): MONAI's TverskyLoss.

    Args:
        alpha, beta: α weighs false positives, β false negatives.
        smooth_nr, smooth_dr: nr and dr.
        soft_label: as in `dice`.
    """

    alpha: float = 0.5
    beta: float = 0.5
    smooth_nr: float = 1e-5
    smooth_dr: float = 1e-5
    soft_label: bool = False

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        overlap = _overlap(self.soft_label)
        errors = {"prediction": self.alpha, "target": self.beta}
        extent = _combine(errors, overlap, 1.0, 1.0 - self.alpha - self.beta)
        return (_complement(overlap, extent, self.smooth_nr, self.smooth_dr),)


@dataclass(frozen=True, eq=False, repr=False)
class generalized_dice(SumsPart):  # noqa: N801
    """1 - (2 Σ_c w_c Σsg + nr) / (Σ_c w_c (Σs + Σg) + dr), w_c from the class's volume: MONAI's.

    Args:
        w_type: "square" for w = 1 / (Σg)², "simple" for 1 / Σg, "uniform" for 1; a class without voxels has
            the largest w of the others.
        smooth_nr, smooth_dr: nr and dr.
        soft_label: as in `dice`.
    """

    w_type: str = "square"
    smooth_nr: float = 1e-5
    smooth_dr: float = 1e-5
    soft_label: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "w_type", str(getattr(self.w_type, "value", self.w_type)))
        _one_of("w_type", self.w_type, ("square", "simple", "uniform"))

    def sums(self, call: CallTraits) -> Sequence[Any]:
        return ["prediction", "target", "absolute_error" if self.soft_label else "intersection"]

    def of_sums(self, sums: Tensor, batch: bool) -> Tensor:
        prediction, target, overlap = (sums.sum(0, keepdim=True) if batch else sums).unbind(-1)
        if self.soft_label:
            overlap = (prediction + target - overlap) / 2
        weight = self._weight(target)
        hit = 2 * (overlap * weight).sum(1, keepdim=True) + self.smooth_nr
        extent = ((prediction + target) * weight).sum(1, keepdim=True) + self.smooth_dr
        return 1 - hit / extent

    def _weight(self, target: Tensor) -> Tensor:
        target = target.detach()
        powers = {"square": -2, "simple": -1, "uniform": 0}
        weight = target ** powers[self.w_type]
        infinite = weight.isinf()
        largest = weight.masked_fill(infinite, 0.0).amax(dim=1, keepdim=True)
        return torch.where(infinite, largest, weight)


@dataclass(frozen=True, eq=False, repr=False)
class fog(Part):  # noqa: N801
    """1/|Ω| Σ_v ‖φ(s, v) - φ(g, v)‖ with φ = (∂_i)_i over ``axes``: the first-order gradient loss, Eq. 2.

    φ is linear, so that it is blind to a constant error: combine it with Dice or cross-entropy.

    Args:
        norm: "l2" (not squared; its gradient is 0 where the norm is 0), "l2_squared" or "l1".
        operator: "forward" differences (u[v+1] - u[v]) / h, 0 at the last voxel, or "central" ones
            (u[v+1] - u[v-1]) / 2h with indices clamped.
        axes: the spatial axes i: numbers, or in 3-D "sagittal" (the derivative runs left-right), "coronal"
            (front-back), "axial" (foot-head); None = all.
        axis_order: where the named axes lie in the tensor, "xyz" (nibabel, TorchIO, MONAI) or "zyx"
            (SimpleITK, nnU-Net).
        spacing: the voxel size h along each spatial axis in mm; None = that of the call, or 1.
    """

    norm: str = "l2"
    operator: str = "forward"
    axes: Axes = None
    axis_order: str = "xyz"
    spacing: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _one_of("norm", self.norm, NORMS)
        _one_of("operator", self.operator, OPERATORS)
        check_axis_order(self.axis_order)
        _hold_spacing(self, self.spacing)
        if self.axes is not None and not isinstance(self.axes, (int, str)):
            object.__setattr__(self, "axes", _hashable_axes(self.axes))

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        name = f"first_order_{self.operator}_{self.norm}"
        spacing: Any = self.spacing
        return _mean({Term(name, self.axes, self.axis_order, spacing): 1.0})


@dataclass(frozen=True, eq=False, repr=False)
class sog(Part):  # noqa: N801
    """1/|Ω| Σ_v |s_v - g_v| |Δg|_v, Δ with indices clamped: the second-order gradient loss, Eq. 3.

    Args:
        two_sided: adds |s_v - g_v| |Δs|_v, differentiated through.
        signed: Eq. 3 letter for letter, Δ without the bars. It is ill-posed: Δg sums to 0 over an edge, so
            that the gradient pushes s the same way on both sides of it and only ever shrinks lesions.
        spacing: the voxel size along each spatial axis in mm; None = that of the call, or 1.
    """

    two_sided: bool = False
    signed: bool = False
    spacing: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _hold_spacing(self, self.spacing)

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        name = f"second_order{'_two_sided' if self.two_sided else ''}{'_signed' if self.signed else ''}"
        spacing: Any = self.spacing
        return _mean({Term(name, spacing=spacing): 1.0})


@dataclass(frozen=True, eq=False, repr=False)
class boundary(Part):  # noqa: N801
    """1/|Ω| Σ s D(g), D the signed distance in mm (Kervadec et al. 2019; MONAI's BoundaryLoss).

    Args:
        empty: what D is for a mask without boundary, "zero" or "far", see `distance.signed_distance_map`.
        spacing: the voxel size along each spatial axis in mm; None = that of the call, or 1.
    """

    empty: str = "zero"
    spacing: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _hold_spacing(self, self.spacing)

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        spacing: Any = self.spacing
        return _mean({Term("map_prediction", map=SignedDistance(self.empty, spacing)): 1.0})


@dataclass(frozen=True, eq=False, repr=False)
class hausdorff(Part):  # noqa: N801
    """1/|Ω| Σ (s - g)² (D(s)^α + D(g)^α) (Karimi and Salcudean 2019; MONAI's HausdorffDTLoss).

    D is the distance to the boundary of the mask above 0.5, in mm and unsigned on both sides; it is a
    constant for autograd. Voxels that are not valid count as background in it.

    Args:
        alpha: α.
        empty: what D is for a mask without boundary, "zero" or "far", see `distance.distance_map`.
        spacing: the voxel size along each spatial axis in mm; None = that of the call, or 1.
    """

    alpha: float = 2.0
    empty: str = "zero"
    spacing: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _hold_spacing(self, self.spacing)

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        spacing: Any = self.spacing
        distances = HausdorffDistances(self.alpha, self.empty, spacing)
        return _mean({Term("map_squared_error", map=distances): 1.0})


@dataclass(frozen=True, eq=False, repr=False)
class geo(Part):  # noqa: N801
    """(Σ_v Θ(s, g) Ψ(s, g, φ) + nr) / (Σ_v Γ(s, g) + dr): Eq. 1 with functions of your own, in one pass.

        geo(lambda s, g: (s - g).abs(), lambda s, g, phi: gk.norm(phi(s) - phi(g)), gk.phi.sobel())

    The functions are run on symbols at every call, and what they do is compiled where it is new: arithmetic,
    comparisons and torch.where, elementary functions of torch. They may read numbers, and tensors with one
    element, which may change during training; other tensors, and branches on data, raise
    `expressions.trace.ExpressionError`, and ``fused=False`` computes them with plain PyTorch.

    Args:
        theta: Θ, called as theta(s, g).
        psi: Ψ, called as psi(s, g, phi), where phi(u) of s, g or what is linear in them is the stack of φ's
            components along a new first axis; None = 1.
        phi: one of `geoloss_kernels.phi`, or a sequence of them, which reaches psi as a tuple.
        gamma: Γ, called as gamma(s, g); None = 1, so that ΣΓ = |Ω|.
        smooth_nr, smooth_dr: nr and dr.
        spacing: the voxel size along each spatial axis in mm; None = that of the call, or 1.
        fused: False computes it with plain PyTorch, any functions and any φ.
    """

    theta: Callable[..., Any]
    psi: Callable[..., Any] | None = None
    phi: Any = None
    gamma: Callable[..., Any] | None = None
    smooth_nr: float = 0.0
    smooth_dr: float = 0.0
    spacing: Sequence[float] | None = None
    fused: bool = True

    is_open = True

    def __post_init__(self) -> None:
        _hold_spacing(self, self.spacing)
        spacing: Any = self.spacing
        functions = OpenFunctions(self.theta, self.psi, self.phi, self.gamma, spacing)
        object.__setattr__(self, "_functions", functions)

    @property
    def functions(self) -> OpenFunctions:
        functions: OpenFunctions = self._functions  # type: ignore[attr-defined]
        return functions

    def traced(self, dimensions: int) -> Part:
        """The part as its functions are now; one that is not fused as it is."""
        return _kept_trace(self, *self.functions.densities(dimensions)) if self.fused else self


@dataclass(frozen=True, eq=False, repr=False)
class TracedGeo(Part):
    """`geo` as its functions are at one call."""

    part: geo
    density: Density
    weight: Density | None

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        numerator, denominator = self._sums(self.density), self._sums(self.weight)
        numerator[CONSTANT], denominator[CONSTANT] = self.part.smooth_nr, self.part.smooth_dr
        return (Fraction(numerator, denominator),)

    def _sums(self, density: Density | None) -> Weights:
        """By terms that have kernels of their own where there are such."""
        if density is None:
            return {"count": 1.0}
        known = known_sums(density.expression)
        if known is not None:
            return dict(known)
        spacing: Any = self.part.spacing if density.stencils else None
        return {Term("program", spacing=spacing, density=density): 1.0}

    def written(self) -> str:
        return self.part.written()


@dataclass(frozen=True, eq=False, repr=False)
class focal(Part):  # noqa: N801
    """1/|Ω| Σ -(α g (1 - s)^γ log s + (1 - α) (1 - g) s^γ log(1 - s)): the focal loss (Lin et al. 2017).

    Under a softmax the first half alone, as MONAI's, with 1 - α in place of α for channel 0.

    Args:
        gamma: γ.
        alpha: α; None leaves α and 1 - α out. One number per channel in the loss weighs the first half alone.
        weight: of each channel that is in the loss: one number, or one per channel, none negative.
        pooled: averages over the valid voxels of all volumes together and adds up the channels, which is what
            MONAI's does with an ``ignore_index``.
    """

    gamma: float = 2.0
    alpha: float | Sequence[float] | None = None
    weight: Weight | None = None
    pooled: bool = False

    is_of_voxels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", checked_weight(self.weight))
        if self.alpha is not None and not isinstance(self.alpha, (int, float)):
            object.__setattr__(self, "alpha", tuple(float(share) for share in self.alpha))

    def class_weights(self) -> Iterator[Tensor]:
        if isinstance(self.weight, Tensor):
            yield self.weight

    def fractions(self, call: CallTraits) -> Sequence[Fraction]:
        softmax = call.activation == "softmax"
        of_foreground, of_background = self._shares(call)
        halves = [(_focal_density(True, self.gamma), of_foreground)]
        if not softmax:
            halves.append((_focal_density(False, self.gamma), of_background))
        return [self._fraction(density, share, call) for density, share in halves]

    def _shares(self, call: CallTraits) -> tuple[float | Tensor, float | Tensor]:
        """α and 1 - α, numbers or class weights."""
        if self.alpha is None:
            return 1.0, 1.0
        if isinstance(self.alpha, tuple):
            return torch.tensor(self.alpha, dtype=torch.float64), 1.0
        alpha: Any = self.alpha
        if call.activation != "softmax":
            return alpha, 1 - alpha
        others = [alpha] * (call.channels - 1)
        return torch.tensor([1 - alpha, *others], dtype=torch.float64), 0.0

    def _fraction(self, density: Density, share: float | Tensor, call: CallTraits) -> Fraction:
        weight: Any = self.weight
        if weight is not None and weight.ndim == 0:
            share, weight = share * float(weight), None
        elif weight is not None and call.channels == 1:
            raise ValueError(f"weight: expected one number for a single channel, got {len(weight)}")
        factor = 1.0 if isinstance(share, Tensor) else share
        if isinstance(share, Tensor):
            weight = share if weight is None else share * weight
        term = Term("program", density=density)
        pooled = self.pooled and call.reduction == "mean"
        voxels = {"count": 1 / call.summed_channels if pooled else 1.0}
        pooling = "all" if pooled else "volume"
        return Fraction({term: factor}, voxels, pooling, numerator_weight=weight)


class focal_with_logits(focal):  # noqa: N801
    """`focal` that takes the input for logits of a sigmoid, whatever the loss's activation."""

    own_activation = "sigmoid"


@functools.lru_cache(maxsize=64)
def _focal_density(of_foreground: bool, gamma: float) -> Density:
    """-g (1 - s)^γ log s, or -(1 - g) s^γ log(1 - s)."""

    def theta(s: Any, g: Any) -> Any:
        if of_foreground:
            return -g * (1 - s) ** gamma * torch.log(s)
        return -(1 - g) * s**gamma * torch.log1p(-s)

    def plain(voxels: Any) -> Tensor:
        weight, logarithm = voxels.g, voxels.log_s
        other = 1 - voxels.s
        if not of_foreground:
            weight, logarithm, other = 1 - voxels.g, voxels.log_complement, voxels.s
        surprise: Tensor = torch.where(weight == 0, torch.zeros_like(logarithm), logarithm)
        return -weight * other**gamma * surprise

    functions = OpenFunctions(theta, None, None, None, None)
    return replace(functions.densities(3)[0], plain=plain)


@functools.lru_cache(maxsize=512)
def _kept_trace(part: geo, density: Density, weight: Density | None) -> TracedGeo:
    """One object for what is computed alike, by which passes are kept."""
    return TracedGeo(part, density, weight)


def _hold_spacing(part: Part, spacing: Sequence[float] | None) -> None:
    """As a tuple, by which terms and maps are told apart."""
    object.__setattr__(part, "spacing", None if spacing is None else spacing_as_tuple(spacing))


def _hashable_axes(axes: Any) -> Any:
    return tuple(axes) if isinstance(axes, Sequence) else axes


def _overlap(soft_label: bool) -> Weights:
    """Σsg; for a fractional target (Σs + Σg - Σ|s - g|) / 2, which is the same for a binary one."""
    if soft_label:
        return {"prediction": 0.5, "target": 0.5, "absolute_error": -0.5}
    return {"intersection": 1.0}


def _scale(weights: Mapping[Any, float], factor: float) -> Weights:
    return {name: factor * weight for name, weight in weights.items()}


def _combine(a: Weights, b: Weights, factor_a: float, factor_b: float) -> Weights:
    return {name: factor_a * a.get(name, 0.0) + factor_b * b.get(name, 0.0) for name in {**a, **b}}


def _complement(hit: Weights, extent: Weights, smooth_nr: float, smooth_dr: float) -> Fraction:
    """1 - (hit + nr) / (extent + dr), as one fraction."""
    rest = _combine(extent, hit, 1.0, -1.0)
    return Fraction({**rest, CONSTANT: smooth_dr - smooth_nr}, {**extent, CONSTANT: smooth_dr})
