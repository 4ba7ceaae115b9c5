"""How large a study is: subjects, voxels, network, steps. Sizes of crops and strides are (x, y, z)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from geoloss_kernels.lesions.study.methods import times_as_long, training_options
from geoloss_kernels.lesions.training.config import TrainingConfig, Triple

ISOTROPIC = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
THICK_SLICES = ((2, 2, 1), (2, 2, 2), (2, 2, 2))
"""Strides for voxels that are four times as thick as wide: z is halved once less."""


@dataclass(frozen=True)
class DataPlan:
    """One data set and the crops of it that a network sees.

    Attributes:
        like: "ge30" or "si170".
        subjects: How many to make; None for as many as the paper has.
        voxel_scale: Edge of the voxels as a multiple of the paper's.
        patch_size: Crop in voxels.
        strides: Of the network's levels.
    """

    like: str
    subjects: int | None
    voxel_scale: float
    patch_size: Triple
    strides: tuple[Triple, ...]


@dataclass(frozen=True)
class Preset:
    """The size of a study.

    Attributes:
        name: Of the preset.
        summary: What it is for.
        data: The data sets.
        network: Name in ``training.NETWORKS``.
        channels: Of the network's levels.
        epochs: Of a training.
        steps_per_epoch: Optimiser steps; None for as many as four crops of every training subject fill.
        batch_size: Crops per step.
        learning_rate: At the start; halved at 50, 70 and 90 % of the epochs.
        validation_interval: Epochs between validations.
        precision: Of the network, see ``TrainingConfig``.
        num_workers: Processes that cut crops.
        seeds: Trainings of each row.
    """

    name: str
    summary: str
    data: tuple[DataPlan, ...]
    network: str
    channels: tuple[int, ...]
    epochs: int
    steps_per_epoch: int | None
    batch_size: int
    learning_rate: float
    validation_interval: int
    precision: str
    num_workers: int
    seeds: int

    def plan(self, dataset: str) -> DataPlan:
        """The plan of a data set by name; one of another name gets that of the last, isotropic one."""
        return next((plan for plan in self.data if plan.like == dataset), self.data[-1])

    def config(self, dataset: str, method: str, seed: int) -> TrainingConfig:
        """The configuration of one training.

        The boundary loss takes over from Dice by the last epoch, as it does in the paper's 100.
        """
        plan = self.plan(dataset)
        epochs = times_as_long(method) * self.epochs
        return TrainingConfig(
            **training_options(method),
            loss_schedule_step=1 / epochs,
            seed=seed,
            patch_size=plan.patch_size,
            strides=plan.strides,
            network=self.network,
            channels=self.channels,
            epochs=epochs,
            steps_per_epoch=self.steps_per_epoch,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            validation_interval=self.validation_interval,
            precision=self.precision,
            num_workers=self.num_workers,
        )


CPU = Preset(
    name="cpu",
    summary="a small study, one to two hours on two cores",
    data=(
        DataPlan("ge30", 24, 1.0, (64, 64, 24), THICK_SLICES),
        DataPlan("si170", 30, 1.0, (48, 48, 48), ISOTROPIC),
    ),
    network="unet",
    channels=(16, 32, 64, 128),
    epochs=10,
    steps_per_epoch=40,
    batch_size=4,
    learning_rate=3e-3,
    validation_interval=5,
    precision="fp32",
    num_workers=0,
    seeds=1,
)

SMOKE = replace(
    CPU,
    name="smoke",
    summary="every row and figure in a few minutes on two cores; too short to tell losses apart",
    data=(
        DataPlan("ge30", 8, 2.5, (48, 48, 16), THICK_SLICES),
        DataPlan("si170", 8, 2.5, (32, 32, 32), ISOTROPIC),
    ),
    epochs=4,
    steps_per_epoch=25,
    validation_interval=4,
)

GPU = Preset(
    name="gpu",
    summary="one hour of a large GPU",
    data=(
        DataPlan("ge30", None, 1.0, (96, 96, 32), THICK_SLICES),
        DataPlan("si170", 60, 1.0, (96, 96, 96), ISOTROPIC),
    ),
    network="unet_full_resolution",
    channels=(16, 32, 64, 128),
    epochs=30,
    steps_per_epoch=60,
    batch_size=4,
    learning_rate=1e-3,
    validation_interval=10,
    precision="bf16",
    num_workers=4,
    seeds=1,
)

PAPER = replace(
    GPU,
    name="paper",
    summary="the paper's subjects, voxels, epochs and optimiser, three trainings of each row",
    data=(
        DataPlan("ge30", None, 1.0, (96, 96, 32), THICK_SLICES),
        DataPlan("si170", None, 1.0, (96, 96, 96), ISOTROPIC),
    ),
    channels=(32, 64, 128, 256),
    epochs=100,
    steps_per_epoch=None,
    precision="fp32",
    seeds=3,
)

PRESETS = {preset.name: preset for preset in (SMOKE, CPU, GPU, PAPER)}
