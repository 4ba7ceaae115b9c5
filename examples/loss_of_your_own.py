"""Writes a loss as functions of s, g and φ, sees what it computes, and where it pushes a prediction.

    python examples/loss_of_your_own.py --out push.png

The loss is the squared error, which counts more beside an edge of the prediction or of the target. The
picture has the target, the prediction, and -∂L/∂logit of this loss and of Dice.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

import geoloss_kernels as gk

SHARPNESS = 4.0


def error(s: Tensor, g: Tensor) -> Tensor:
    """Θ."""
    return (s - g).square()


def beside_edges(s: Tensor, g: Tensor, phi: gk.phi.Stencil) -> Tensor:
    """Ψ, of the components of φ of the prediction and of the target."""
    return 1 + SHARPNESS * (gk.norm(phi(s)) + gk.norm(phi(g)))


def make_loss(fused: bool = True) -> gk.GEOLoss:
    return gk.GEOLoss(error, beside_edges, gk.phi.sobel(), fused=fused, sigmoid=True)


def two_balls(side: int) -> tuple[Tensor, Tensor]:
    """Logits and mask [1, 1, side, side, side]: one lesion found off its place, one missed."""
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 3, indexing="ij")
    found = 0.4 - (z.square() + (y + 0.35).square() + (x + 0.1).square()).sqrt()
    large = 0.4 - (z.square() + (y + 0.25).square() + x.square()).sqrt()
    small = 0.15 - (z.square() + (y - 0.6).square() + (x - 0.5).square()).sqrt()
    return (30 * found).clamp(-4, 4)[None, None], (torch.maximum(large, small) > 0)[None, None]


def push(loss: torch.nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """-∂L/∂logit and the milliseconds it took."""
    leaf = logits.clone().requires_grad_()
    start = time.perf_counter()
    loss(leaf, target).backward()
    return -leaf.grad, 1e3 * (time.perf_counter() - start)


def draw(panels: dict[str, Tensor], target: Tensor, file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 3.2), layout="constrained")
    middle = target.shape[2] // 2
    for place, (name, volume) in zip(axes, panels.items(), strict=True):
        image = volume[0, 0, middle].float()
        largest = float(image.abs().max())
        place.imshow(image, cmap="RdBu_r", vmin=-largest, vmax=largest)
        place.contour(target[0, 0, middle].float(), [0.5], colors="black", linewidths=1)
        place.set_title(name)
        place.set_axis_off()
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=96, help="voxels along each edge")
    parser.add_argument("--out", type=Path, default=Path("loss_of_your_own.png"))
    options = parser.parse_args()

    logits, target = two_balls(options.side)
    loss = make_loss()
    print(gk.explain(loss))

    push(loss, logits, target)  # the first call compiles the functions
    fused, fused_ms = push(loss, logits, target)
    plain, plain_ms = push(make_loss(fused=False), logits, target)
    print(f"\nforward and backward: {fused_ms:.1f} ms in one pass, {plain_ms:.1f} ms in plain PyTorch")
    difference = (fused - plain).abs().max() / plain.abs().max()
    print(f"largest difference of the gradients, relative: {difference:.1e}")

    of_dice, _ = push(gk.DiceLoss(sigmoid=True), logits, target)
    panels = {"target": target, "prediction": logits.sigmoid(), "this loss": fused, "Dice": of_dice}
    draw(panels, target, options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
