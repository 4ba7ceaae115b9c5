"""From a trained network and a subject's files to masks and probabilities in the files' own grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.imaging.writing import save_image
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.training.config import TrainingConfig
from geoloss_kernels.lesions.training.devices import check_precision, resolve_device
from geoloss_kernels.lesions.training.inference import predict_probability, to_mask
from geoloss_kernels.lesions.training.network import build_network
from geoloss_kernels.lesions.training.run_folder import RunFolder, load_checkpoint
from geoloss_kernels.lesions.training.volumes import load_volume


@dataclass(frozen=True)
class Model:
    """A trained network, ready to predict."""

    network: nn.Module
    config: TrainingConfig
    device: torch.device


@dataclass(frozen=True)
class Prediction:
    """Both arrays are in the voxel grid of the subject's image files."""

    name: str
    probability: NDArray[np.float32]
    mask: NDArray[np.uint8]
    grid: Grid


def load_model(path: Path, device: str = "auto", precision: str | None = None) -> Model:
    """Load a checkpoint file, or a run folder's best checkpoint (its last if the run had no validation).

    Args:
        path: checkpoint file or run folder.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: "fp32", "bf16" or "fp16" for prediction; default: as trained.
    """
    if path.is_dir():
        run = RunFolder.open(path)
        path = run.best_checkpoint if run.best_checkpoint.is_file() else run.last_checkpoint
    resolved = resolve_device(device)
    config, content = load_checkpoint(path, resolved)
    if precision is not None:
        config = replace(config, precision=precision)
    check_precision(resolved, config.precision)
    network = build_network(config).to(resolved)
    network.load_state_dict(content["model"])
    return Model(network.eval(), config, resolved)


def predict_subject(
    model: Model, subject: Subject, *, threshold: float | None = None, min_lesion_size: int | None = None
) -> Prediction:
    """Segment one subject.

    Args:
        model: from ``load_model``, or a freshly trained network with its configuration.
        subject: needs the configuration's modalities on one grid; a mask is not read.
        threshold: probability above which a voxel is lesion; default: the configuration's.
        min_lesion_size: predicted lesions (26-connected) with fewer voxels are removed; default: the
            configuration's.
    """
    missing = [modality for modality in model.config.modalities if modality not in subject.images]
    if missing:
        raise InputError(f"subject {subject.name} has no {missing[0]} image, which the model needs")
    given: dict[str, Any] = {"threshold": threshold, "min_lesion_size": min_lesion_size}
    config = replace(model.config, **{key: value for key, value in given.items() if value is not None})
    volume = load_volume(subject, config.modalities, with_mask=False)
    probability = predict_probability(model.network, volume.image, config, model.device).numpy()
    mask = to_mask(probability, config.threshold, config.min_lesion_size)
    return Prediction(subject.name, volume.grid.to_file(probability), volume.grid.to_file(mask), volume.grid)


def save_prediction(prediction: Prediction, out_dir: Path) -> tuple[Path, Path]:
    """Write ``<subject>_mask.nii.gz`` and ``<subject>_probability.nii.gz``; returns both paths."""
    mask_file = out_dir / f"{prediction.name}_mask.nii.gz"
    probability_file = out_dir / f"{prediction.name}_probability.nii.gz"
    save_image(mask_file, prediction.mask, prediction.grid)
    save_image(probability_file, prediction.probability, prediction.grid)
    return mask_file, probability_file


def report_prediction(prediction: Prediction, out_dir: Path) -> None:
    """Write both files, and print the volume of the lesions."""
    mask_file, _ = save_prediction(prediction, out_dir)
    millilitres = int(prediction.mask.sum()) * prediction.grid.voxel_volume / 1000
    print(f"{prediction.name}: {millilitres:.2f} ml of lesions, {mask_file}")
