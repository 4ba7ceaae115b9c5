"""The training loop.

A loop of our own rather than a framework's: a killed run continues to exactly the weights of an uninterrupted
one, and the time spent in the loss is measured at the boundary between network and loss.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import geoloss_kernels as gk
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import exclusive
from geoloss_kernels.lesions.progress import Log
from geoloss_kernels.lesions.subjects.checks import check_subject
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.training.augmentation import augment
from geoloss_kernels.lesions.training.config import TrainingConfig
from geoloss_kernels.lesions.training.curves import plot_progress
from geoloss_kernels.lesions.training.devices import autocast, check_precision, wall_clock
from geoloss_kernels.lesions.training.inference import predict_probability, to_mask
from geoloss_kernels.lesions.training.loss_schedules import Weights, weights_at
from geoloss_kernels.lesions.training.named_losses import Spacing, build_loss
from geoloss_kernels.lesions.training.network import build_network
from geoloss_kernels.lesions.training.processes import Processes
from geoloss_kernels.lesions.training.run_folder import (
    EpochRecord,
    RunFolder,
    load_checkpoint,
    save_checkpoint,
)
from geoloss_kernels.lesions.training.sampling import (
    AUGMENTATION_STREAM,
    CropDataset,
    EpochBatches,
    VolumeStore,
    collate,
    torch_generator,
)
from geoloss_kernels.metrics import LesionSummary, lesion_metrics, summarise

EpochCallback = Callable[[EpochRecord], None]


@dataclass(frozen=True)
class TrainingResult:
    run_dir: Path
    network: nn.Module
    """The network after the last epoch, in evaluation mode."""
    history: list[EpochRecord]
    best_epoch: int | None
    """Epoch of best.pt, by validation DSC; None without validation subjects or with lesion-free ones only."""
    best_dice: float
    """Validation DSC of ``best_epoch``, NaN when that is None."""

    @property
    def loss_seconds(self) -> float:
        """Wall time of the loss per step: the median over the epochs of the epoch's median."""
        return float(np.median([record.loss_seconds for record in self.history]))

    @property
    def step_seconds(self) -> float:
        """Wall time of a training step: the median over the epochs of the epoch's median."""
        return float(np.median([record.step_seconds for record in self.history]))


def train(
    config: TrainingConfig,
    subjects: Sequence[Subject],
    run_dir: Path,
    *,
    on_epoch_end: EpochCallback | None = None,
    log: Log = print,
) -> TrainingResult:
    """Train on the subjects of split "train", validate on those of split "validation"; other subjects are
    only listed.

    Writes the run folder described in ``run_folder``. Deterministic on the CPU for a given configuration,
    table and number of threads. The processes of torch.distributed's default group, where it was initialised,
    train together: each with its part of every batch and of the validation subjects, the first one writing
    and reporting. They all have to call this function.

    Args:
        config: what to compute.
        subjects: the table; at least one training subject. Every training and validation subject needs a
            mask.
        run_dir: new folder.
        on_epoch_end: called after the checkpoint of each epoch is written, in the first process.
        log: takes the lines that report progress.

    Raises:
        InputError: before anything is trained or written, for what the user can correct.
    """
    trainer = _prepare(config, subjects, log)
    trainer.processes.once(lambda: RunFolder.create(run_dir, config, subjects))
    return trainer.run(RunFolder.open(run_dir), on_epoch_end)


def resume(run_dir: Path, *, on_epoch_end: EpochCallback | None = None, log: Log = print) -> TrainingResult:
    """Continue the run in ``run_dir`` after its last finished epoch, with its own configuration and subjects.

    On the CPU the weights at the end equal, bit for bit, those of a run that was not interrupted.
    """
    folder = RunFolder.open(run_dir)
    config, subjects = folder.load_config(), folder.load_subjects()
    trainer = _prepare(config, subjects, log)
    if folder.last_checkpoint.is_file():
        _, state = load_checkpoint(folder.last_checkpoint, torch.device("cpu"))
        trainer.load_state(state)
    return trainer.run(folder, on_epoch_end)


def _prepare(config: TrainingConfig, subjects: Sequence[Subject], log: Log) -> _Trainer:
    """A trainer of which everything that can be known before the first epoch is checked."""
    log = log if Processes.current().is_first else _ignore
    check_training_subjects(config, subjects, log)
    trainer = _Trainer(config, subjects, log)
    trainer.rehearse()
    return trainer


def check_training_subjects(config: TrainingConfig, subjects: Sequence[Subject], log: Log) -> None:
    """Check the headers and masks of the subjects of a run; log which training masks hold no lesion.

    Raises:
        InputError: names the subject or file at fault, or no training mask holds a lesion.
    """
    training = _of_split(subjects, "train")
    if not training:
        raise InputError("subjects: expected at least one with split train")
    lesion_free = []
    for subject in _of_split(subjects, "train", "validation"):
        missing = [modality for modality in config.modalities if modality not in subject.images]
        if missing:
            raise InputError(f"subject {subject.name} has no {missing[0]} image")
        if subject.mask is None:
            raise InputError(f"subject {subject.name} has no lesion mask")
        lesion_voxels = check_subject(subject, config.modalities, config.lesion_label)
        if subject.split == "train" and not lesion_voxels:
            lesion_free.append(subject.name)
    label = "" if config.lesion_label is None else f" (lesion_label {config.lesion_label})"
    if len(lesion_free) == len(training):
        raise InputError(f"subjects: every training mask is empty{label}: {', '.join(lesion_free)}")
    if lesion_free:
        log(f"warning: no lesion in the training masks{label} of {', '.join(lesion_free)}")


def steps_per_epoch(config: TrainingConfig, training_subjects: int) -> int:
    """The configured number, or as many batches as ``samples_per_subject`` crops of each subject fill."""
    if config.steps_per_epoch is not None:
        return config.steps_per_epoch
    return max(1, training_subjects * config.samples_per_subject // config.batch_size)


class _Split(NamedTuple):
    """What is trained as the network, and the head that belongs to the loss."""

    body: nn.Module
    head: nn.Module | None


class _Trainer:
    """State of a run between epochs, and the epochs."""

    def __init__(self, config: TrainingConfig, subjects: Sequence[Subject], log: Log) -> None:
        self.config = config
        self.processes = Processes.current()
        self.processes.check_batch_size(config.batch_size)
        self.device = self.processes.device(config.device)
        check_precision(self.device, config.precision)
        self.log = log
        self.validation = VolumeStore(_of_split(subjects, "validation"), config)
        training = VolumeStore(_of_split(subjects, "train"), config)
        self.steps = steps_per_epoch(config, len(training))
        self.crops = EpochBatches(self.steps, config.batch_size, self.processes.rank, self.processes.count)
        self.batches = DataLoader(
            CropDataset(training, config),
            batch_sampler=self.crops,
            collate_fn=collate,
            num_workers=config.num_workers,
            persistent_workers=config.num_workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),
        )
        self.loss_spacing = _loss_spacing(config, training)
        self.loss_weights: Weights | None = None
        _seed_generators(config.seed)
        torch.backends.cudnn.deterministic = config.deterministic
        self.network = build_network(config).to(self.device)
        trained, self.head = self._split() if config.fused_head else _Split(self.network, None)
        compiled = cast(nn.Module, torch.compile(trained)) if config.compile else trained
        self.trained_network = self.processes.parallel(compiled)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        milestones = [round(fraction * config.epochs) for fraction in config.milestones]
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, milestones, gamma=0.5)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.history: list[EpochRecord] = []
        self.best_epoch: int | None = None
        self.best_dice = float("nan")

    def _split(self) -> _Split:
        """The network without its head, and the head.

        Raises:
            InputError: it does not end in a convolution with kernel 1.
        """
        crop = torch.zeros((1, len(self.config.modalities), *self.config.patch_size), device=self.device)
        try:
            body, head = gk.split_head(self.network, crop)
        except ValueError as error:
            raise InputError(
                f"fused_head: expected false with network {self.config.network}: {error}"
            ) from error
        assert isinstance(head, nn.Module)
        return _Split(body, head)

    def rehearse(self) -> None:
        """One step that changes nothing, to fail before the first epoch rather than in it.

        Raises:
            InputError: the network cannot take such crops, or there is not enough memory.
        """
        config = self.config
        crops = (config.batch_size // self.processes.count, len(config.modalities), *config.patch_size)
        image = torch.zeros(crops, device=self.device)
        self.network.train()
        self._weigh_loss(1)
        try:
            self._backward(image, torch.zeros_like(image[:, :1], dtype=torch.uint8))
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"batch_size, patch_size: expected a step that fits into the memory of {self.device}, "
                f"got {crops}: {error}"
            ) from error
        except ValueError as error:
            raise InputError(
                f"patch_size, strides: the network cannot take crops {crops}: {error}"
            ) from error
        self.optimizer.zero_grad(set_to_none=True)

    def run(self, folder: RunFolder, on_epoch_end: EpochCallback | None) -> TrainingResult:
        """Train the epochs that are left."""
        first_epoch = len(self.history) + 1
        if len(self.validation) == 0:
            self.log("no validation subjects: best.pt will not be written, last.pt is the model")
        with ExitStack() as stack:
            self.processes.once(lambda: stack.enter_context(exclusive(folder.path)))
            events = None
            if self.processes.is_first:
                folder.record_environment(first_epoch, self.device)
                events = stack.enter_context(_events(folder, first_epoch))
            for epoch in range(first_epoch, self.config.epochs + 1):
                record = self._epoch(epoch)
                improved = self._take_in(record)
                if events is not None:
                    self._save(folder, record, improved)
                    _write_events(events, record)
                    self.log(_describe(record, self.config.epochs))
                    if on_epoch_end is not None:
                        on_epoch_end(record)
        self.network.eval()
        return TrainingResult(folder.path, self.network, self.history, self.best_epoch, self.best_dice)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        return {
            "epoch": len(self.history),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generators": _generator_states(self.device),
            "history": [asdict(record) for record in self.history],
            "best": (self.best_epoch, self.best_dice),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        _restore_generators(state["generators"], self.device)
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best_epoch, self.best_dice = state["best"]

    def _epoch(self, epoch: int) -> EpochRecord:
        started = time.perf_counter()
        learning_rate = self.optimizer.param_groups[0]["lr"]
        train_loss, step_seconds, loss_seconds = self._train_epoch(epoch)
        self.scheduler.step()
        due = epoch % self.config.validation_interval == 0 or epoch == self.config.epochs
        validation = self._validate() if due else summarise([])
        return EpochRecord(
            epoch=epoch,
            learning_rate=learning_rate,
            train_loss=train_loss,
            validation_dice=validation.dice,
            validation_ltpr=validation.ltpr,
            validation_lppv=validation.lppv,
            validation_lf1=validation.lf1,
            step_seconds=step_seconds,
            loss_seconds=loss_seconds,
            epoch_seconds=time.perf_counter() - started,
        )

    def _train_epoch(self, epoch: int) -> tuple[float, float, float]:
        """Mean loss, median seconds of a step and median seconds of the loss in a step.

        Medians, because the first step of a process pays for one-off initialisation.
        """
        self.network.train()
        self.crops.epoch = epoch - 1
        self._weigh_loss(epoch)
        losses: list[Tensor] = []
        loss_seconds: list[float] = []
        boundaries = [wall_clock(self.device)]
        for step, batch in enumerate(_progress_bar(self.batches, f"epoch {epoch}")):
            if isinstance(batch, InputError):
                raise batch
            image, mask = batch
            image = image.to(self.device, non_blocking=True)
            mask = mask.to(self.device, non_blocking=True)
            generators = [
                torch_generator(self.config.seed, AUGMENTATION_STREAM, crop)
                for crop in self.crops.crops(step)
            ]
            loss, seconds = self._step(*augment(image, mask, self.config, generators))
            losses.append(loss)
            loss_seconds.append(seconds)
            boundaries.append(wall_clock(self.device))
        mean_loss = self._mean_loss(torch.stack(losses), epoch)
        return mean_loss, float(np.median(np.diff(boundaries))), float(np.median(loss_seconds))

    def _mean_loss(self, losses: Tensor, epoch: int) -> float:
        """Of all steps of an epoch and all processes.

        Raises:
            InputError: a loss, or a weight after the last step, is not finite.
        """
        mean = self.processes.mean(float(losses.double().mean()))
        if np.isfinite(mean) and all(bool(weights.isfinite().all()) for weights in self.network.parameters()):
            return mean
        unfinite = (~losses.isfinite()).nonzero()
        step = self.processes.least(int(unfinite[0]) + 1 if len(unfinite) else self.steps + 1)
        found = (
            f"loss of epoch {epoch}, step {step}" if step <= self.steps else f"network after {epoch} epochs"
        )
        kept = f"last.pt is of epoch {epoch - 1}" if epoch > 1 else "no epoch is finished"
        raise InputError(
            f"the {found} is not finite: try a learning_rate below {self.config.learning_rate:g}"
            f"{'' if self.config.precision == 'fp32' else ', or precision fp32'}; {kept}"
        )

    def _weigh_loss(self, epoch: int) -> None:
        """Give the loss the weights that its terms have in ``epoch``."""
        config = self.config
        weights = weights_at(
            epoch, config.loss, config.loss_coefficient, config.loss_schedule, config.loss_schedule_step
        )
        if weights != self.loss_weights:
            loss = build_loss(
                config.loss,
                weights.geometric,
                self.loss_spacing,
                weights.dice,
                batch=config.batch_dice,
                ddp=config.batch_dice and self.processes.count > 1,
            )
            fused = loss if self.head is None else gk.HeadLoss(loss, self.head)
            self.loss, self.loss_weights = fused.to(self.device), weights

    def _step(self, image: Tensor, mask: Tensor) -> tuple[Tensor, float]:
        """One optimiser step; the loss, and the seconds its forward and backward took."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, seconds = self._backward(image, mask)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, seconds

    def _backward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, float]:
        """Forward and backward; the loss, and the seconds its forward and backward took.

        With a fused head the network ends with its features, and the head is part of the loss.
        """
        with autocast(self.device, self.config.precision):
            output = self.trained_network(image)
        boundary = output.detach().float().requires_grad_()
        started = wall_clock(self.device)
        loss = self.loss(boundary, mask)
        self.scaler.scale(loss).backward()
        seconds = wall_clock(self.device) - started
        assert boundary.grad is not None
        output.backward(boundary.grad.to(output.dtype))
        return loss.detach(), seconds

    def _validate(self) -> LesionSummary:
        """Mean metrics over the validation subjects, on their cropped volumes."""
        metrics = []
        for index in self.processes.share(range(len(self.validation))):
            volume = self.validation[index]
            assert volume.mask is not None
            probability = predict_probability(self.network, volume.image, self.config, self.device).numpy()
            prediction = to_mask(probability, self.config.threshold, self.config.min_lesion_size)
            metrics.append(lesion_metrics(prediction, volume.mask[0].numpy()))
        return summarise(self.processes.collect(metrics))

    def _take_in(self, record: EpochRecord) -> bool:
        """Add a finished epoch to the history; whether it is the best so far."""
        self.history.append(record)
        improved = record.validation_dice > self.best_dice or (
            self.best_epoch is None and not np.isnan(record.validation_dice)
        )
        if improved:
            self.best_epoch, self.best_dice = record.epoch, record.validation_dice
        return improved

    def _save(self, folder: RunFolder, record: EpochRecord, improved: bool) -> None:
        """Write everything that a reader or a resumed run needs."""
        if improved:
            save_checkpoint(
                folder.best_checkpoint,
                self.config,
                {"epoch": record.epoch, "model": self.network.state_dict()},
            )
        save_checkpoint(folder.last_checkpoint, self.config, self.state())
        folder.write_metrics(self.history)
        if record.epoch % self.config.validation_interval == 0 or record.epoch == self.config.epochs:
            plot_progress(self.history, folder.progress_file, f"{folder.path.name}: {self.config.loss}")


def _ignore(line: str) -> None:
    """Takes a line of progress."""


def _of_split(subjects: Sequence[Subject], *splits: str) -> list[Subject]:
    return [subject for subject in subjects if subject.split in splits]


def _loss_spacing(config: TrainingConfig, training: VolumeStore) -> Spacing | None:
    """The spacing the training volumes share, where the loss is to use it."""
    if not config.spacing_aware:
        return None
    volumes = [training[index] for index in range(len(training))]
    first = volumes[0]
    for volume in volumes[1:]:
        if not np.allclose(volume.grid.spacing, first.grid.spacing, atol=1e-3):
            raise InputError(
                f"spacing_aware: expected one voxel spacing in all training subjects, "
                f"got {first.grid.spacing} mm in {first.name} and {volume.grid.spacing} mm in {volume.name}"
            )
    return first.grid.spacing


def _seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _generator_states(device: torch.device) -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore_generators(states: dict[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)


def _progress_bar(batches: DataLoader[Any], description: str) -> Iterable[Any]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return batches
    from tqdm import tqdm

    return tqdm(batches, description, leave=False)


def _events(folder: RunFolder, first_epoch: int) -> Any:
    """TensorBoard's writer, which drops what an interrupted run wrote of the epochs to come."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder.tensorboard_dir), purge_step=first_epoch)


def _write_events(events: Any, record: EpochRecord) -> None:
    for name, value in asdict(record).items():
        if name != "epoch" and not np.isnan(value):
            events.add_scalar(name.replace("validation_", "validation/"), value, record.epoch)
    events.flush()


def _describe(record: EpochRecord, epochs: int) -> str:
    line = (
        f"epoch {record.epoch}/{epochs}: loss {record.train_loss:.4f}, {record.epoch_seconds:.1f} s, "
        f"{1000 * record.step_seconds:.0f} ms/step of which loss {1000 * record.loss_seconds:.1f} ms"
    )
    if np.isnan(record.validation_dice):
        return line
    return (
        f"{line}; validation DSC {record.validation_dice:.3f}, LTPR {record.validation_ltpr:.3f}, "
        f"LPPV {record.validation_lppv:.3f}, L-F1 {record.validation_lf1:.3f}"
    )
