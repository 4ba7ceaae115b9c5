"""The folder of a run: configuration, subjects, environment, checkpoints, metrics and curves."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

import geoloss_kernels as gk
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import read_json, replacing, write_text
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.subjects.table import format_table, read_table
from geoloss_kernels.lesions.training.config import TrainingConfig, load_config

RECORDED_PACKAGES = ("torch", "monai", "nibabel", "numpy", "scipy")
CHECKPOINT_VERSION = 2


@dataclass(frozen=True)
class EpochRecord:
    """One row of metrics.csv. Validation values are NaN in epochs without validation."""

    epoch: int
    """1-based."""
    learning_rate: float
    train_loss: float
    """Mean over the steps."""
    validation_dice: float
    validation_ltpr: float
    validation_lppv: float
    validation_lf1: float
    step_seconds: float
    """Median wall time of a training step, data loading included."""
    loss_seconds: float
    """Median wall time of the loss in a step: forward, and backward down to the network's output."""
    epoch_seconds: float


@dataclass(frozen=True)
class RunFolder:
    """Paths and file formats of a run folder. Files are written whole: temporary name, then renamed."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: TrainingConfig, subjects: Sequence[Subject]) -> RunFolder:
        """Start a run folder.

        Raises:
            InputError: the folder already holds a run.
        """
        folder = cls(path)
        if folder.config_file.exists():
            raise InputError(f"{path}: already holds a run; resume it or choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        write_text(folder.subjects_file, format_table(subjects))
        write_text(folder.config_file, config.to_toml())
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run folder.

        Raises:
            InputError: there is no run in ``path``.
        """
        folder = cls(path)
        if not folder.config_file.is_file():
            raise InputError(f"{path}: no run here (expected {folder.config_file.name})")
        return folder

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def subjects_file(self) -> Path:
        return self.path / "subjects.csv"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def progress_file(self) -> Path:
        return self.path / "progress.png"

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "last.pt"

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "best.pt"

    @property
    def tensorboard_dir(self) -> Path:
        return self.path / "tensorboard"

    def load_config(self) -> TrainingConfig:
        return load_config(self.config_file)

    def load_subjects(self) -> list[Subject]:
        return read_table(self.subjects_file)

    def write_metrics(self, history: Sequence[EpochRecord]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(EpochRecord)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(record) for record in history)
        write_text(self.metrics_file, text.getvalue())

    def record_environment(self, first_epoch: int, device: torch.device) -> None:
        """Append the versions and the device that train from ``first_epoch`` on."""
        known = read_json(self.environment_file) if self.environment_file.exists() else []
        known.append({"first_epoch": first_epoch, **environment(device)})
        write_text(self.environment_file, json.dumps(known, indent=2) + "\n")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, platform and device of this process."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in RECORDED_PACKAGES},
        "geoloss_kernels": gk.build_info(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
    }


def save_checkpoint(path: Path, config: TrainingConfig, content: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain Python values, so that loading it runs no code."""
    # By way of memory: torch reports a full disk as a RuntimeError.
    data = io.BytesIO()
    torch.save({"version": CHECKPOINT_VERSION, "config": config.to_mapping(), **content}, data)
    with replacing(path) as temporary:
        temporary.write_bytes(data.getbuffer())


def load_checkpoint(path: Path, device: torch.device) -> tuple[TrainingConfig, dict[str, Any]]:
    """Read a checkpoint; tensors of the generators stay on the CPU.

    Raises:
        InputError: the file is missing, damaged or no checkpoint of this version.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        version = content["version"]
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch.load has no error of its own for a file that is no checkpoint
        raise InputError(f"{path}: not a checkpoint written by geoloss train, or damaged") from error
    if version != CHECKPOINT_VERSION:
        raise InputError(f"{path}: checkpoint version {version}, expected {CHECKPOINT_VERSION}")
    return TrainingConfig.from_mapping(content["config"]), content


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
