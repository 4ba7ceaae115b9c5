"""Every loss as a formula over sums: Σ_j λ_j (a_j · S + nr_j) / (b_j · S + dr_j), Eq. 1 on numbers.

A `Formula` names the sums that a loss needs and how their ratio makes the loss. Formulas add up and can be
scaled, and the sums of the result are still computed in one pass.
"""

from __future__ import annotations

Weights = dict[str, float]
"""Name of a sum -> its weight. The name "1" is the constant."""

NORMS = ("l2", "l2_squared", "l1")
OPERATORS = ("forward", "central")


class Formula:
    """Σ of fractions, each a pair of weights for the numerator and the denominator.

    Attributes:
        terms: the sums that the formula needs, each once.
        numerator, denominator: their weights, the arguments of `geo_ratio`.
    """

    def __init__(self, fractions: tuple[tuple[Weights, Weights], ...]) -> None:
        self.fractions = fractions
        names = [name for fraction in fractions for weights in fraction for name in weights]
        self.terms = [name for name in dict.fromkeys(names) if name != "1"]
        self.numerator = self._rows([numerator for numerator, _ in fractions])
        self.denominator = self._rows([denominator for _, denominator in fractions])

    def _rows(self, weights: list[Weights]) -> list[float]:
        return [float(row.get(name, 0.0)) for row in weights for name in [*self.terms, "1"]]

    def __add__(self, other: Formula) -> Formula:
        return Formula(self.fractions + other.fractions)

    def __rmul__(self, factor: float) -> Formula:
        return Formula(tuple((_scale(top, factor), bottom) for top, bottom in self.fractions))


def mean(term: Weights) -> Formula:
    """1/|Ω| Σ term."""
    return Formula(((term, {"count": 1.0}),))


def bce(pos_weight: float = 1.0) -> Formula:
    """1/|Ω| Σ -(w g log s + (1 - g) log(1 - s)), w = ``pos_weight``."""
    return mean({"cross_entropy_foreground": pos_weight, "cross_entropy_background": 1.0})


def dice(
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    squared_pred: bool = False,
    jaccard: bool = False,
    soft_label: bool = False,
) -> Formula:
    """1 - (2 Σsg + nr) / (Σs + Σg + dr), or with ``jaccard`` 1 - (2 Σsg + nr) / (2 (Σs + Σg - Σsg) + dr)."""
    power = "_squared" if squared_pred else ""
    extent = {f"prediction{power}": 1.0, f"target{power}": 1.0}
    overlap = _overlap(soft_label and not squared_pred)
    union = _combine(extent, overlap, 2.0, -2.0) if jaccard else extent
    return _complement(_scale(overlap, 2.0), union, smooth_nr, smooth_dr)


def tversky(
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    soft_label: bool = False,
) -> Formula:
    """1 - (Σsg + nr) / (Σsg + α Σs(1-g) + β Σ(1-s)g + dr)."""
    overlap = _overlap(soft_label)
    errors = {"prediction": alpha, "target": beta}
    extent = _combine(errors, overlap, 1.0, 1.0 - alpha - beta)
    return _complement(overlap, extent, smooth_nr, smooth_dr)


def fog(norm: str = "l2", operator: str = "forward") -> Formula:
    """1/|Ω| Σ ‖φ(s) - φ(g)‖, Eq. 2."""
    if norm not in NORMS:
        raise ValueError(f"norm: expected one of {NORMS}, got {norm!r}")
    if operator not in OPERATORS:
        raise ValueError(f"operator: expected one of {OPERATORS}, got {operator!r}")
    return mean({f"first_order_{operator}_{norm}": 1.0})


def sog(two_sided: bool = False, signed: bool = False) -> Formula:
    """1/|Ω| Σ |s - g| |Δg|, Eq. 3; ``two_sided`` adds |Δs|, ``signed`` leaves the bars of Δ away."""
    return mean({f"second_order{'_two_sided' if two_sided else ''}{'_signed' if signed else ''}": 1.0})


def boundary() -> Formula:
    """1/|Ω| Σ s D."""
    return mean({"map_prediction": 1.0})


def hausdorff() -> Formula:
    """1/|Ω| Σ (s - g)² D."""
    return mean({"map_squared_error": 1.0})


def _overlap(soft_label: bool) -> Weights:
    """Σsg; for a fractional target (Σs + Σg - Σ|s - g|) / 2, which is the same for a binary one."""
    if soft_label:
        return {"prediction": 0.5, "target": 0.5, "absolute_error": -0.5}
    return {"intersection": 1.0}


def _scale(weights: Weights, factor: float) -> Weights:
    return {name: factor * weight for name, weight in weights.items()}


def _combine(a: Weights, b: Weights, factor_a: float, factor_b: float) -> Weights:
    return {name: factor_a * a.get(name, 0.0) + factor_b * b.get(name, 0.0) for name in {**a, **b}}


def _complement(hit: Weights, extent: Weights, smooth_nr: float, smooth_dr: float) -> Formula:
    """1 - (hit + nr) / (extent + dr), as one fraction."""
    rest = _combine(extent, hit, 1.0, -1.0)
    return Formula((({**rest, "1": smooth_dr - smooth_nr}, {**extent, "1": smooth_dr}),))
