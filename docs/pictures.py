"""Draws what each loss sees on made-up lesions, for the gallery; the documentation's build calls `draw`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import geoloss_kernels as gk

matplotlib.use("Agg")

SIDE = 72
"""voxels along each edge of the slice"""


def _blob(z: float, y: float, radius: float, wobble: float = 0.0) -> Tensor:
    """The distance to the boundary of a lesion, [H, W], positive inside."""
    row, column = torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float64)] * 2, indexing="ij")
    angle = torch.atan2(row - z, column - y)
    return radius * (1 + wobble * torch.sin(3 * angle)) - torch.hypot(row - z, column - y)


def lesions() -> tuple[Tensor, Tensor]:
    """Logits and mask [1, 1, H, W] of a slice in which a network has made every kind of mistake.

    A large lesion is found a few voxels off its place, a small one is missed, a small one is found as it is,
    and there is a false alarm. Beside boundaries the network is in doubt.
    """
    target = torch.maximum(_blob(30, 28, 14, 0.12), torch.maximum(_blob(14, 58, 4), _blob(58, 58, 5))) > 0
    found = torch.maximum(_blob(33, 31, 13, 0.05), torch.maximum(_blob(58, 58, 5), _blob(60, 18, 5)))
    missed = torch.exp(-((4 - _blob(14, 58, 4)) ** 2) / 18)  # a hint of the small lesion
    logits = (found / 1.2).clamp(-4, 4) + 2 * missed
    return logits[None, None], target[None, None]


def push(loss: gk.FormulaLoss, logits: Tensor, target: Tensor) -> Tensor:
    """-∂L/∂logit of each voxel [H, W]: where a step raises the logit, and where it lowers it."""
    leaf = logits.clone().requires_grad_()
    loss(leaf, target).backward()
    return -leaf.grad[0, 0]


NAMED: Mapping[str, gk.FormulaLoss] = {
    "DiceLoss": gk.DiceLoss(sigmoid=True),
    "BCELoss": gk.BCELoss(sigmoid=True),
    "FocalLoss": gk.FocalLoss(gamma=2.0),
    "FOGLoss": gk.FOGLoss(sigmoid=True),
    "SOGLoss": gk.SOGLoss(sigmoid=True),
    "SOGLoss(two_sided=True)": gk.SOGLoss(two_sided=True, sigmoid=True),
    "BoundaryLoss": gk.BoundaryLoss(sigmoid=True),
    "HausdorffDTLoss": gk.HausdorffDTLoss(include_background=True, sigmoid=True),
    "DiceFOGLoss": gk.DiceFOGLoss(sigmoid=True),
}


def open_formulas() -> Mapping[str, gk.FormulaLoss]:
    """The five losses of the page about open formulas, from the code that it shows."""
    page = (Path(__file__).parent / "open_formulas.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        exec(block, names)
        if "five_losses" in names:
            break
    losses: Mapping[str, gk.FormulaLoss] = names["five_losses"]
    return losses


def _panel(axes: plt.Axes, image: Tensor, target: Tensor, title: str, **shown: object) -> None:
    axes.imshow(image.numpy(), interpolation="nearest", **shown)
    axes.contour(target[0, 0].numpy(), [0.5], colors="black", linewidths=0.8)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _draw_case(file: Path) -> None:
    logits, target = lesions()
    s = logits.sigmoid()
    figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.8), layout="constrained")
    _panel(axes[0], target[0, 0].double(), target, "target g", cmap="Greys", vmax=1.6)
    _panel(axes[1], s[0, 0], target, "prediction s", cmap="Greys", vmin=0, vmax=1.6)
    _panel(axes[2], (s - target.double())[0, 0], target, "error s − g", cmap="RdBu_r", vmin=-1, vmax=1)
    _write(figure, file)


def _draw_pushes(losses: Mapping[str, gk.FormulaLoss], columns: int, file: Path) -> None:
    logits, target = lesions()
    rows = -(-len(losses) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.5 * columns, 2.7 * rows), layout="constrained", squeeze=False
    )
    for place in axes.flat:
        place.set_axis_off()
    for place, (name, loss) in zip(axes.flat, losses.items(), strict=False):
        image = push(loss, logits, target)
        largest = float(np.quantile(image.abs().numpy(), 0.998))
        _panel(place, image, target, name, cmap="RdBu_r", vmin=-largest, vmax=largest)
    _write(figure, file)


def _write(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, dpi=130)
    plt.close(figure)


def draw(folder: Path) -> None:
    """All pictures of the documentation."""
    folder.mkdir(parents=True, exist_ok=True)
    _draw_case(folder / "case.png")
    _draw_pushes(NAMED, 3, folder / "named.png")
    _draw_pushes(open_formulas(), 3, folder / "open.png")


if __name__ == "__main__":
    draw(Path(__file__).parent / "generated")
