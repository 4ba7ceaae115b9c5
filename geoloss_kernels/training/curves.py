"""Picture of a run's learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geoloss_kernels.training.files import replacing
from geoloss_kernels.training.run_folder import EpochRecord

VALIDATION_CURVES = {
    "validation_dice": "DSC",
    "validation_ltpr": "LTPR",
    "validation_lppv": "LPPV",
    "validation_lf1": "L-F1",
}


def plot_progress(history: Sequence[EpochRecord], path: Path, title: str) -> None:
    """Write ``progress.png``: training loss, validation metrics and learning rate against the epoch."""
    from matplotlib.figure import Figure

    epochs = [record.epoch for record in history]
    figure = Figure(figsize=(8, 8))
    loss, validation, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    loss.plot(epochs, [record.train_loss for record in history], color="black")
    loss.set(title=title, ylabel="training loss")
    for key, label in VALIDATION_CURVES.items():
        points = [(record.epoch, getattr(record, key)) for record in history]
        defined = [(epoch, value) for epoch, value in points if value == value]
        if defined:
            validation.plot(*zip(*defined, strict=True), marker=".", label=label)
    validation.set(ylabel="validation", ylim=(0, 1.05))
    if validation.lines:
        validation.legend(loc="lower right", ncols=len(VALIDATION_CURVES))
    rate.plot(epochs, [record.learning_rate for record in history], color="grey", drawstyle="steps-post")
    rate.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    for axes in (loss, validation, rate):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
