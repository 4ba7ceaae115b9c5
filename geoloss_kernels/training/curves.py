"""Picture of a run's learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geoloss_kernels.training.files import replacing
from geoloss_kernels.training.run_folder import EpochRecord

# Label and colour (Okabe and Ito's palette, safe for colour-blind readers).
VALIDATION_CURVES = {
    "validation_dice": ("DSC", "black"),
    "validation_ltpr": ("LTPR", "#E69F00"),
    "validation_lppv": ("LPPV", "#56B4E9"),
    "validation_lf1": ("L-F1", "#009E73"),
}


def plot_progress(history: Sequence[EpochRecord], path: Path, title: str) -> None:
    """Write ``progress.png``: training loss, validation metrics and learning rate against the epoch."""
    from matplotlib.figure import Figure

    epochs = [record.epoch for record in history]
    figure = Figure(figsize=(7, 7))
    figure.subplots_adjust(left=0.14, right=0.97, bottom=0.08, top=0.95, hspace=0.12)
    loss, validation, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    loss.plot(epochs, [record.train_loss for record in history], color="black")
    loss.set(title=title, ylabel="training loss")
    for key, (label, colour) in VALIDATION_CURVES.items():
        points = [(record.epoch, getattr(record, key)) for record in history]
        defined = [(epoch, value) for epoch, value in points if value == value]
        if defined:
            validation.plot(*zip(*defined, strict=True), marker=".", label=label, color=colour)
    validation.set(ylabel="validation")
    validation.set_ylim(0)
    if validation.lines:
        validation.legend(loc="lower right", ncols=len(VALIDATION_CURVES))
    rate.plot(epochs, [record.learning_rate for record in history], color="grey", drawstyle="steps-post")
    rate.set(xlabel="epoch", ylabel="learning rate")
    rate.set_ylim(bottom=0)
    for axes in (loss, validation, rate):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
