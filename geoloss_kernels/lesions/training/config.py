"""Training configuration: the paper's recipe as defaults, TOML files, ``key=value`` overrides, validation."""

from __future__ import annotations

import difflib
import functools
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf, prod
from pathlib import Path
from typing import Any, NamedTuple

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import read_text
from geoloss_kernels.lesions.training.devices import DEVICE_NAME
from geoloss_kernels.lesions.training.loss_schedules import SCHEDULES
from geoloss_kernels.lesions.training.named_losses import LOSSES
from geoloss_kernels.lesions.training.network import NETWORKS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a run computes. Sizes are in voxels, in (x, y, z) order of the RAS volume.

    Raises:
        InputError: a value has the wrong type or is out of range; the message starts with the key.
    """

    # Loss
    loss: str = "dice+fog"
    """A name of ``training.named_losses.LOSSES``."""
    loss_coefficient: float = 1.0
    """Weight of the geometric term beside Dice."""
    loss_schedule: str | None = None
    """A name of ``training.loss_schedules.SCHEDULES``; None: rebalance for dice+boundary, as in the paper,
    and constant for every other loss."""
    loss_schedule_step: float = 0.01
    """Change of the weights per epoch in the schedules increase and rebalance."""
    spacing_aware: bool = False
    """Divide differences by the voxel spacing (mm); the paper does not."""
    batch_dice: bool = False
    """Sum over the whole batch, and over the processes of data-parallel training, before dividing."""

    # Data
    modalities: tuple[str, ...] = ("t1", "t2", "flair")
    lesion_label: int | None = None
    """Value that marks lesions in masks that hold more than 0 and 1."""
    cache: bool = True
    """Keep the preprocessed volumes in memory."""
    num_workers: int = 0

    # Random crops
    patch_size: Triple = (64, 64, 64)
    batch_size: int = 4
    """Crops per step, of all processes of data-parallel training together."""
    samples_per_subject: int = 4
    """Crops of each training subject per epoch when ``steps_per_epoch`` is not given."""
    steps_per_epoch: int | None = None
    lesion_crop_fraction: float = 0.5
    """Probability that a crop is placed to contain a random lesion voxel; other crops are uniform."""

    # Augmentation
    intensity_shift: float = 0.1
    """Largest shift per channel, in standard deviations of the normalised image."""
    elastic_probability: float = 0.5
    elastic_strength: float = 0.3
    """Largest displacement of a control point, as a fraction of the control point distance."""
    elastic_control_points: int = 6
    """Control points along each axis of a crop."""

    # Network
    network: str = "unet"
    """A name of ``training.network.NETWORKS``."""
    channels: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[Triple, ...] = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    residual_units: int = 0
    fused_head: bool = False
    """Compute the last layer and the loss in one, strip by strip: the logits of a step are never in memory.
    For networks that end in a convolution with kernel 1, as unet_full_resolution does."""
    lesion_prior: float = 0.01
    """Probability that the untrained network gives every voxel: about the share of lesion in the volumes."""

    # Optimisation
    epochs: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    milestones: tuple[float, ...] = (0.5, 0.7, 0.9)
    """Fractions of the epochs after which the learning rate is halved."""
    precision: str = "fp32"
    """Autocast of the network: fp32 (none), bf16, or fp16 (CUDA only); the loss always sees fp32 logits."""
    compile: bool = False
    """Train the network through ``torch.compile``."""
    deterministic: bool = True
    """Have cuDNN choose algorithms that repeat bit for bit on a device; the CPU's always do."""

    # Validation
    validation_interval: int = 5
    """Epochs between validations; the last epoch is always validated."""
    window_overlap: float = 0.25
    """Overlap of neighbouring windows of the sliding-window inference."""
    threshold: float = 0.5
    min_lesion_size: int = 0
    """Predicted lesions with fewer voxels are removed."""

    # Run
    seed: int = 0
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto for CUDA where there is a device."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = _coerce(field.name, getattr(self, field.name), _type_hints()[field.name])
            object.__setattr__(self, field.name, value)
        _validate(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Defaults overridden by ``values``; unknown keys are errors."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(known)}"
                raise InputError(f"{key}: unknown configuration key{hint}")
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_toml(self) -> str:
        """The configuration as a TOML file; keys whose value is None are left out."""
        lines = [f"{key} = {_toml(value)}" for key, value in self.to_mapping().items() if value is not None]
        return "\n".join(lines) + "\n"


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> TrainingConfig:
    """Configuration from a TOML file (or the defaults) with ``key=value`` overrides in TOML syntax.

    A value that is not valid TOML is taken as a string, so ``loss=dice+fog`` needs no quotes.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(read_text(path))
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise InputError(f"--set {override}: expected key=value")
        values[key.strip()] = _parse_value(text.strip())
    return TrainingConfig.from_mapping(values)


def _parse_value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


@functools.cache
def _type_hints() -> dict[str, Any]:
    return typing.get_type_hints(TrainingConfig)


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """``value`` as the annotated type; lists become tuples, and one integer stands for three equal ones."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
        return None if value is None else _coerce(key, value, inner)
    if typing.get_origin(hint) is tuple:
        return _coerce_tuple(key, value, typing.get_args(hint))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        advice = "; TOML writes true or false" if hint is bool else ""
        raise InputError(f"{key}: expected {hint.__name__}, got {value!r}{advice}")
    return value


def _coerce_tuple(key: str, value: Any, element_hints: tuple[Any, ...]) -> tuple[Any, ...]:
    variable_length = element_hints[-1] is Ellipsis
    if not variable_length and isinstance(value, int):
        value = (value,) * len(element_hints)
    if not isinstance(value, list | tuple):
        raise InputError(f"{key}: expected a list, got {value!r}")
    if variable_length:
        return tuple(_coerce(key, element, element_hints[0]) for element in value)
    if len(value) != len(element_hints):
        raise InputError(f"{key}: expected {len(element_hints)} values, got {len(value)}: {value!r}")
    return tuple(_coerce(key, element, hint) for element, hint in zip(value, element_hints, strict=True))


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    expected: str


def _at_least(lowest: float) -> _Rule:
    return _Rule(lambda value: lowest <= value < inf, f"a finite number, at least {lowest}")


def _one_of(names: Collection[str]) -> _Rule:
    return _Rule(lambda value: value in names, f"one of {', '.join(names)}")


_FRACTION = _Rule(lambda value: 0 <= value <= 1, "between 0 and 1")

_RULES = {
    "loss": _one_of(LOSSES),
    "loss_coefficient": _at_least(0),
    "loss_schedule": _one_of(SCHEDULES),
    "loss_schedule_step": _at_least(0),
    "modalities": _Rule(lambda names: 0 < len(names) == len(set(names)), "one or more different names"),
    "num_workers": _at_least(0),
    "batch_size": _at_least(1),
    "samples_per_subject": _at_least(1),
    "steps_per_epoch": _at_least(1),
    "lesion_crop_fraction": _FRACTION,
    "intensity_shift": _at_least(0),
    "elastic_probability": _FRACTION,
    "elastic_strength": _Rule(lambda value: 0 <= value < 0.5, "at least 0 and below 0.5 (no folds)"),
    "elastic_control_points": _at_least(3),
    "network": _one_of(NETWORKS),
    "channels": _Rule(lambda counts: len(counts) >= 2 and min(counts) >= 1, "two or more positive numbers"),
    "residual_units": _at_least(0),
    "lesion_prior": _Rule(lambda value: 0 < value < 1, "a number above 0 and below 1"),
    "epochs": _at_least(1),
    "learning_rate": _Rule(lambda value: 0 < value < inf, "a finite number above 0"),
    "weight_decay": _at_least(0),
    "milestones": _Rule(
        lambda fractions: all(a < b for a, b in pairwise((0.0, *fractions, 1.0))),
        "increasing fractions between 0 and 1",
    ),
    "precision": _one_of(("fp32", "bf16", "fp16")),
    "validation_interval": _at_least(1),
    "window_overlap": _Rule(lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "threshold": _Rule(lambda value: 0 < value < 1, "between 0 and 1, both excluded"),
    "min_lesion_size": _at_least(0),
    "seed": _at_least(0),
    "device": _Rule(lambda name: DEVICE_NAME.fullmatch(name) is not None, "auto, cpu, cuda or cuda:N"),
}


def _validate(config: TrainingConfig) -> None:
    for key, rule in _RULES.items():
        value = getattr(config, key)
        _require(value is None or rule.holds(value), config, key, rule.expected)
    has_two_terms = "+" in config.loss or config.loss_schedule in (None, "constant")
    _require(has_two_terms, config, "loss_schedule", f"constant for {config.loss}, which is one term")
    _validate_sizes(config)


def _validate_sizes(config: TrainingConfig) -> None:
    levels = len(config.channels) - 1
    _require(len(config.strides) == levels, config, "strides", f"{levels} levels, one fewer than channels")
    _require(
        all(stride >= 1 for level in config.strides for stride in level),
        config,
        "strides",
        "positive numbers",
    )
    divisors = tuple(prod(level[axis] for level in config.strides) for axis in range(3))
    divisible = all(size >= 1 and size % d == 0 for size, d in zip(config.patch_size, divisors, strict=True))
    _require(divisible, config, "patch_size", f"multiples of {divisors}, the product of the strides")


def _require(condition: bool, config: TrainingConfig, key: str, expected: str) -> None:
    if not condition:
        raise InputError(f"{key}: expected {expected}, got {getattr(config, key)!r}")
