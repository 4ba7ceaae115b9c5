"""Figs. 1 to 3 of the paper, of a study's own subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from geoloss_kernels.lesions.reporting.figures import INK, save_figure
from geoloss_kernels.lesions.reporting.subject_figures import (
    draw_subject,
    draw_subject_transforms,
    largest_load,
    load_reference,
)
from geoloss_kernels.lesions.study.cells import Cell
from geoloss_kernels.lesions.study.document import Picture
from geoloss_kernels.lesions.study.effects import TEST
from geoloss_kernels.lesions.study.measurements import THRESHOLDS, Measurements, mask_file
from geoloss_kernels.lesions.study.methods import TITLES
from geoloss_kernels.lesions.study.paper import Rates
from geoloss_kernels.lesions.study.statistics import mean_rates
from geoloss_kernels.lesions.subjects.subject import Subject

SEGMENTED = ("dice+boundary", "dice+fog")
"""Methods of Fig. 2."""
COMPARED = {"dice+fog": "#0072B2", "lst": "#D55E00"}
"""Methods of Fig. 3, and their colours."""
PANELS = {"dice": "DSC", "lppv": "LPPV", "ltpr": "LTPR", "lf1": "L-F1"}


def draw_figures(cells: Sequence[Cell], folder: Path) -> list[Picture]:
    """Draws what the cells of one data set allow: Figs. 1 and 2 need a lesion, Figs. 2 and 3 their rows.

    Where only results are there, without subjects, segmentations or thresholds, so much less is drawn.
    """
    subjects = cells[0].data.of_split("test")
    pictures = _subject_pictures(cells, largest_load(subjects), folder) if subjects else []
    measured = {
        TITLES[method]: [cell.measurements(TEST) for cell in cells if cell.method == method]
        for method in COMPARED
    }
    curves = {
        title: threshold_curve(found)
        for title, found in measured.items()
        if found and all(each.thresholds == THRESHOLDS for each in found)
    }
    if curves:
        path = draw_thresholds(folder / "figure-3.png", curves)
        pictures.append(Picture(path, f"Fig. 3: {' and '.join(curves)} at nine probability thresholds"))
    return pictures


def _subject_pictures(cells: Sequence[Cell], subject: Subject, folder: Path) -> list[Picture]:
    """Figs. 1 and 2; the segmentations are those of the first seed."""
    if not load_reference(subject.mask)[0].any():
        return []
    masks = {
        TITLES[cell.method]: mask_file(cell.masks, subject)
        for cell in cells
        if cell.method in SEGMENTED and cell.seed == 0 and mask_file(cell.masks, subject).is_file()
    }
    transforms = draw_subject_transforms(folder / "figure-1.png", subject)
    segmented = draw_subject(folder / "figure-2.png", subject, masks, f"{subject.name}, a test subject")
    shown = ", ".join(["reference", *masks])
    return [
        Picture(transforms, f"Fig. 1: geometric transforms of the reference of {subject.name}"),
        Picture(segmented, f"Fig. 2: images of {subject.name}, {shown}"),
    ]


def threshold_curve(measurements: Sequence[Measurements]) -> list[Rates]:
    """Mean rates at each threshold."""
    return [mean_rates(measurements, threshold) for threshold in THRESHOLDS]


def draw_thresholds(path: Path, curves: Mapping[str, Sequence[Rates]]) -> Path:
    """Draws the four rates of each method (title -> rates at each threshold) against the threshold."""
    colours = {TITLES[method]: colour for method, colour in COMPARED.items()}
    figure = Figure(figsize=(13, 3.6), facecolor="white")
    panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    for axes, (rate, label) in zip(panels, PANELS.items(), strict=True):
        for title, rates in curves.items():
            values = [getattr(of_threshold, rate) for of_threshold in rates]
            axes.plot(THRESHOLDS, values, marker=".", color=colours[title], label=title)
        axes.set_title(label, fontsize=13, color=INK)
        axes.set_xlabel("threshold")
        axes.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False)
    figure.subplots_adjust(left=0.04, right=0.99, top=0.9, bottom=0.15, wspace=0.08)
    return save_figure(figure, path)
