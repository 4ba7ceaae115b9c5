"""Training configuration: the paper's recipe as defaults, TOML files, ``key=value`` overrides, validation."""

from __future__ import annotations

import difflib
import functools
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

from geoloss_kernels.training.errors import InputError
from geoloss_kernels.training.losses import LOSSES
from geoloss_kernels.training.network import NETWORKS

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
    """A name of ``geoloss_kernels.training.losses.LOSSES``."""
    loss_coefficient: float = 1.0
    """Weight of the geometric term beside Dice."""
    spacing_aware: bool = False
    """Divide differences by the voxel spacing (mm); the paper does not."""

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
    """A name of ``geoloss_kernels.training.network.NETWORKS``."""
    channels: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[Triple, ...] = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    residual_units: int = 0

    # Optimisation
    epochs: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    milestones: tuple[float, ...] = (0.5, 0.7, 0.9)
    """Fractions of the epochs after which the learning rate is halved."""
    precision: str = "fp32"
    """"fp32", "bf16" or "fp16" (CUDA only) autocast of the network; the loss always sees fp32 logits."""

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
    """"cpu", "cuda", "cuda:N", or "auto" for CUDA where there is a device."""

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
            values = tomllib.loads(path.read_text(encoding="utf-8"))
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
        raise InputError(f"{key}: expected {hint.__name__}, got {value!r}")
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


def _validate(config: TrainingConfig) -> None:
    _validate_numbers(config)
    _validate_choices(config)
    _validate_network(config)


def _validate_numbers(config: TrainingConfig) -> None:
    for key in ("batch_size", "samples_per_subject", "steps_per_epoch", "epochs", "validation_interval"):
        value = getattr(config, key)
        _require(value is None or value >= 1, config, key, "at least 1")
    for key in ("num_workers", "seed", "min_lesion_size", "residual_units"):
        _require(getattr(config, key) >= 0, config, key, "at least 0")
    for key in ("intensity_shift", "loss_coefficient", "weight_decay"):
        _require(0 <= getattr(config, key) < float("inf"), config, key, "a finite number that is at least 0")
    for key in ("lesion_crop_fraction", "elastic_probability"):
        _require(0 <= getattr(config, key) <= 1, config, key, "between 0 and 1")
    _require(
        0 <= config.elastic_strength < 0.5, config, "elastic_strength", "at least 0 and below 0.5 (no folds)"
    )
    _require(config.elastic_control_points >= 3, config, "elastic_control_points", "at least 3")
    _require(0 < config.learning_rate < float("inf"), config, "learning_rate", "a finite number above 0")
    _require(0 <= config.window_overlap < 1, config, "window_overlap", "at least 0 and below 1")
    _require(0 < config.threshold < 1, config, "threshold", "between 0 and 1")
    _require(all(0 < m < 1 for m in config.milestones), config, "milestones", "fractions between 0 and 1")
    _require(
        list(config.milestones) == sorted(set(config.milestones)),
        config,
        "milestones",
        "increasing fractions",
    )


def _validate_choices(config: TrainingConfig) -> None:
    _require(config.loss in LOSSES, config, "loss", f"one of {', '.join(LOSSES)}")
    _require(config.network in NETWORKS, config, "network", f"one of {', '.join(NETWORKS)}")
    _require(config.precision in ("fp32", "bf16", "fp16"), config, "precision", "fp32, bf16 or fp16")
    device, _, index = config.device.partition(":")
    known_device = config.device in ("auto", "cpu", "cuda") or (device == "cuda" and index.isdecimal())
    _require(known_device, config, "device", "auto, cpu, cuda or cuda:N")
    _require(len(config.modalities) > 0, config, "modalities", "at least one name")
    _require(len(set(config.modalities)) == len(config.modalities), config, "modalities", "different names")


def _validate_network(config: TrainingConfig) -> None:
    _require(len(config.channels) >= 2, config, "channels", "at least 2 levels")
    _require(all(count >= 1 for count in config.channels), config, "channels", "positive numbers")
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
