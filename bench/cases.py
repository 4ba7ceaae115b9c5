"""The losses and, for each, every implementation that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import geoloss_kernels as gk
from bench import distance_transforms, plain_losses, scipy_losses
from bench.inputs import Volumes
from bench.providers import (
    COPY,
    SUM,
    Loss,
    Missing,
    Provider,
    compiled,
    in_float32,
    of_loss,
    of_operators,
    with_backend,
)
from geoloss_kernels import backends, formulas, reference
from geoloss_kernels.distance import distance_transform_edt
from geoloss_kernels.formulas import Formula

OURS = "ours"
OPERATORS = "ours, operators alone"
TRITON = "ours in Triton"
TRITON_OPERATORS = "ours in Triton, operators alone"
EAGER = "reference, eager"
COMPILED = "reference, torch.compile"
PLAIN = "plain PyTorch, eager"
PLAIN_COMPILED = "plain PyTorch, torch.compile"
MONAI = "MONAI"
SCIPY = "scipy + PyTorch"
SCIPY_ALONE = "scipy"
EDT = "edt"
CUCIM = "cuCIM"

MEMORY = "memory"
UINT8_TARGET = "dice_fog_uint8"
FUSED_LOSSES = ("fog", "dice_fog", "dice", "sog", "boundary", "hausdorff")
TRANSFORMS = ("edt_sparse", "edt_dense")
LOSSES = (*FUSED_LOSSES, *TRANSFORMS)
LABEL_LOSSES = ("dice_labels", "ce_labels", "dice_ce_labels", "dice_ce_fog_labels")
"""Of label maps under a softmax, for volumes of several channels."""
CUDA_LOSSES = (*LOSSES, UINT8_TARGET)


@dataclass(frozen=True)
class Case:
    """One loss and its implementations.

    Attributes:
        from_logits: the input is logits, else probabilities.
        reference: the definition of right, for the correctness gate; None for what is no loss.
        target_dtype: of the target, if it is not the input's.
        of_labels: the target is the label map.
        missing: implementations that cannot be measured here.
    """

    name: str
    title: str
    from_logits: bool
    providers: Sequence[Provider]
    reference: Loss | None = None
    target_dtype: torch.dtype | None = None
    missing: Sequence[Missing] = ()
    of_labels: bool = False

    def input_of(self, volumes: Volumes) -> Tensor:
        return volumes.logits if self.from_logits else volumes.probabilities

    def target_of(self, volumes: Volumes) -> Tensor:
        if self.of_labels:
            return volumes.labels
        return volumes.target if self.target_dtype is None else volumes.target.to(self.target_dtype)

    def only(self, names: Sequence[str] | None) -> Case:
        """With the implementations of these names; None for all."""
        if names is None:
            return self
        kept = [provider for provider in self.providers if provider.name in names]
        return replace(self, providers=kept, missing=[each for each in self.missing if each.name in names])

    def exact_target_of(self, volumes: Volumes) -> Tensor:
        """For the reference."""
        return volumes.labels if self.of_labels else volumes.target.double()


@dataclass(frozen=True)
class Backend:
    """An implementation of ours: its name in `use_backend`, its library in `torch.ops`, and its titles."""

    name: str
    library: str
    title: str
    operators_title: str


BACKENDS = {
    "cpu": (Backend("cpu", "geoloss", OURS, OPERATORS),),
    "cuda": (
        Backend("cuda", "geoloss", OURS, OPERATORS),
        Backend("triton", "geoloss_triton", TRITON, TRITON_OPERATORS),
    ),
}
"""Of each type of device; the first is the one that a user gets."""

Entry = Provider | Missing


@dataclass(frozen=True)
class _Maker:
    """Makes the cases for a type of device and a dtype of input."""

    device: str
    dtype: torch.dtype

    def fused(
        self,
        name: str,
        title: str,
        formula: Formula,
        ours: Loss,
        reference: Loss,
        plain: Loss,
        from_logits: bool,
        others: Sequence[Entry] = (),
        target_dtype: torch.dtype | None = None,
    ) -> Case:
        """A loss that torch.compile can take as one graph."""
        activation = "sigmoid" if from_logits else "none"
        entries = [
            *self._by_backend(lambda backend: of_loss(backend.title, self._forced(backend, ours))),
            *self._by_backend(
                lambda backend: of_operators(
                    backend.operators_title, formula, activation, backend.name, backend.library
                )
            ),
            of_loss(EAGER, reference),
            compiled(COMPILED, reference),
            of_loss(PLAIN, self._rival(plain)),
            compiled(PLAIN_COMPILED, self._rival(plain)),
            *others,
        ]
        return _case(name, title, from_logits, entries, reference, target_dtype)

    def labels(self, name: str, title: str, formula: Formula, plain: Loss, *others: Entry) -> Case:
        """A loss of a label map under a softmax; plain PyTorch in float64 is what it is held to."""
        ours = gk.FormulaLoss(formula, softmax=True, to_onehot_y=True)
        entries = [
            *self._by_backend(lambda backend: of_loss(backend.title, self._forced(backend, ours))),
            of_loss(PLAIN, self._rival(plain)),
            compiled(PLAIN_COMPILED, self._rival(plain)),
            *others,
        ]
        return replace(_case(name, title, True, entries, plain), of_labels=True)

    def distance(self, name: str, title: str, ours: Loss, reference: Loss, monai: Entry, scipy: Loss) -> Case:
        """A loss with a distance transform, for which every rival leaves PyTorch: none can be compiled.

        Beside a GPU that takes seconds, and MONAI's has to do.
        """
        by_backend = self._by_backend(lambda backend: of_loss(backend.title, self._forced(backend, ours)))
        rest = [of_loss(EAGER, reference), monai, of_loss(SCIPY, scipy)] if self.device == "cpu" else [monai]
        return _case(name, title, True, [*by_backend, *rest], reference)

    def transform(self, name: str, title: str, make_mask: distance_transforms.MakeMask) -> Case:
        """A distance transform on its own, which checks itself."""
        of_transform = partial(distance_transforms.of_transform, make_mask=make_mask)
        entries = self._by_backend(
            lambda backend: of_transform(backend.title, distance_transform_edt, backend=backend.name)
        )
        if self.device == "cpu":
            entries.append(of_transform(EDT, distance_transforms.of_edt))
        else:
            missing = distance_transforms.cucim_missing()
            cucim = of_transform(CUCIM, distance_transforms.of_cucim)
            entries.append(cucim if missing is None else Missing(CUCIM, missing))
        entries.append(of_transform(SCIPY_ALONE, distance_transforms.of_scipy, on_host=True))
        return _case(name, title, False, entries)

    def monai(self, name: str, on_host: bool = False, **options: Any) -> Entry:
        """The loss ``name`` of MONAI."""
        try:
            from monai import losses
        except ImportError as error:
            return Missing(MONAI, str(error))
        return of_loss(MONAI, self._rival(getattr(losses, name)(**options)), on_host=on_host)

    def _by_backend(self, make: Callable[[Backend], Provider]) -> list[Entry]:
        return [self._of_backend(backend, make) for backend in BACKENDS[self.device]]

    def _of_backend(self, backend: Backend, make: Callable[[Backend], Provider]) -> Entry:
        reason = backends.available()[backend.name]
        provider = make(backend)
        return provider if reason is None else Missing(provider.name, reason)

    def _forced(self, backend: Backend, loss: Loss) -> Loss:
        is_default = backend is BACKENDS[self.device][0]
        return loss if is_default else with_backend(backend.name, loss)

    def _rival(self, loss: Loss) -> Loss:
        """Others compute in the dtype of their input, which the gate lets pass in float32 only."""
        return loss if self.dtype.itemsize >= 4 else in_float32(loss)


def _case(
    name: str,
    title: str,
    from_logits: bool,
    entries: Sequence[Entry],
    reference: Loss | None = None,
    target_dtype: torch.dtype | None = None,
) -> Case:
    providers = [entry for entry in entries if isinstance(entry, Provider)]
    missing = [entry for entry in entries if isinstance(entry, Missing)]
    return Case(name, title, from_logits, providers, reference, target_dtype, missing)


def make_cases(device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Case]:
    """Every case; those that name a compiled provider compile at its first call."""
    make = _Maker(device, dtype)
    without_cucim = device == "cpu" or distance_transforms.cucim_missing() is not None
    dice_fog = partial(
        make.fused,
        formula=formulas.dice() + formulas.fog(),
        ours=gk.DiceFOGLoss(sigmoid=True),
        reference=partial(reference.dice_fog_loss, sigmoid=True),
        plain=plain_losses.dice_fog_loss,
        from_logits=True,
    )
    cases = [
        Case(MEMORY, "memory traffic", False, [SUM, COPY]),
        make.fused(
            "fog",
            "FOG (l2) from probabilities",
            formulas.fog(),
            gk.FOGLoss(),
            reference.fog_loss,
            plain_losses.fog_loss,
            from_logits=False,
        ),
        dice_fog("dice_fog", "Dice + FOG from logits"),
        make.fused(
            "dice",
            "Dice from logits",
            formulas.dice(),
            gk.DiceLoss(sigmoid=True),
            partial(reference.dice_loss, sigmoid=True),
            plain_losses.dice_loss,
            from_logits=True,
            others=[make.monai("DiceLoss", sigmoid=True)],
        ),
        make.fused(
            "sog",
            "SOG from probabilities",
            formulas.sog(),
            gk.SOGLoss(),
            reference.sog_loss,
            plain_losses.sog_loss,
            from_logits=False,
        ),
        make.distance(
            "boundary",
            "boundary loss (BD) from logits",
            gk.BoundaryLoss(sigmoid=True),
            partial(reference.boundary_loss, sigmoid=True),
            make.monai("BoundaryLoss", on_host=without_cucim, sigmoid=True),
            scipy_losses.boundary_loss,
        ),
        make.distance(
            "hausdorff",
            "Hausdorff loss (HD) from logits",
            gk.HausdorffDTLoss(include_background=True, sigmoid=True),
            partial(reference.hausdorff_dt_loss, sigmoid=True),
            make.monai("HausdorffDTLoss", on_host=without_cucim, include_background=True, sigmoid=True),
            scipy_losses.hausdorff_dt_loss,
        ),
        make.transform(
            "edt_sparse", "distance to the nearest lesion", distance_transforms.outside_of_lesions
        ),
        make.transform("edt_dense", "distances within noise", distance_transforms.noise),
    ]
    if device == "cuda":
        cases.append(dice_fog(UINT8_TARGET, "Dice + FOG from logits, uint8 target", target_dtype=torch.uint8))
    return [*cases, *_cases_of_labels(make)]


def _cases_of_labels(make: _Maker) -> list[Case]:
    dice, cross_entropy = formulas.dice(), formulas.cross_entropy()
    monai_options = {"softmax": True, "to_onehot_y": True}
    return [
        make.labels(
            "dice_labels",
            "Dice of labels",
            dice,
            plain_losses.dice_loss_of_labels,
            make.monai("DiceLoss", **monai_options),
        ),
        make.labels("ce_labels", "cross-entropy of labels", cross_entropy, plain_losses.cross_entropy_loss),
        make.labels(
            "dice_ce_labels",
            "Dice + cross-entropy of labels",
            dice + cross_entropy,
            plain_losses.dice_ce_loss,
            make.monai("DiceCELoss", **monai_options),
        ),
        make.labels(
            "dice_ce_fog_labels",
            "Dice + cross-entropy + FOG of labels",
            dice + cross_entropy + formulas.fog(),
            plain_losses.dice_ce_fog_loss,
        ),
    ]
