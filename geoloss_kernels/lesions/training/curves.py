"""Picture of a run's learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geoloss_kernels.lesions.files import replacing
from geoloss_kernels.lesions.training.run_folder import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Label and colour (Okabe and Ito's palette, safe for colour-blind readers).
VALIDATION_CURVES = {
    "validation_dice": ("DSC", "black"),
    "validation_ltpr": ("LTPR", "#E69F00"),
    "validation_lppv": ("LPPV", "#56B4E9"),
    "validation_lf1": ("L-F1", "#009E73"),
}


def plot_progress(history: Sequence[EpochRecord], path: Path, title: str) -> None:
    """Write ``progress.png``."""
    figure = draw_progress(history, title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def draw_progress(history: Sequence[EpochRecord], title: str) -> Figure:
    """Training loss, validation metrics (if there are any) and learning rate against the epoch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [record.epoch for record in history]
    validated = any(_defined(history, key) for key in VALIDATION_CURVES)
    heights = (3, 3, 1) if validated else (3, 1)
    figure = Figure(figsize=(7, sum(heights)))
    figure.subplots_adjust(
        left=0.14, right=0.97, bottom=0.56 / sum(heights), top=1 - 0.35 / sum(heights), hspace=0.12
    )
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    loss, rate = panels[0], panels[-1]
    loss.plot(epochs, [record.train_loss for record in history], color="black")
    loss.set(title=title, ylabel="training loss")
    if validated:
        _draw_validation(panels[1], history)
    rate.plot(epochs, [record.learning_rate for record in history], color="grey", drawstyle="steps-post")
    rate.set(xlabel="epoch", ylabel="learning rate")
    rate.set_ylim(bottom=0)
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure


def _draw_validation(axes: Axes, history: Sequence[EpochRecord]) -> None:
    for key, (label, colour) in VALIDATION_CURVES.items():
        if points := _defined(history, key):
            axes.plot(*zip(*points, strict=True), marker=".", label=label, color=colour)
    axes.set(ylabel="validation")
    axes.set_ylim(0)
    axes.legend(loc="lower right", ncols=len(VALIDATION_CURVES))


def _defined(history: Sequence[EpochRecord], key: str) -> list[tuple[int, float]]:
    """Epochs and values, without those that are NaN."""
    points = [(record.epoch, getattr(record, key)) for record in history]
    return [(epoch, value) for epoch, value in points if value == value]
