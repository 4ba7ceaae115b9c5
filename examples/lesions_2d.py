"""Trains a small network on made-up lesions, with Dice and with Dice + FOG, and compares them.

    python examples/lesions_2d.py             # a minute on two cores
    python examples/lesions_2d.py --steps 20  # to see that it runs

Every slice has a few bright lesions with soft edges on a textured background, beside bright spots that are
none. The table is of the slices that no training has seen. It shows how to swap a loss, not which is better:
that takes real scans and many seeds.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

import geoloss_kernels as gk

SIDE = 64
LOSSES = {"Dice": gk.DiceLoss(sigmoid=True), "Dice + FOG": gk.DiceFOGLoss(sigmoid=True)}


def smooth_noise(count: int, coarse: int, generator: torch.Generator) -> Tensor:
    """[count, 1, SIDE, SIDE] with structures of SIDE / coarse voxels."""
    noise = torch.randn(count, 1, coarse, coarse, generator=generator)
    return interpolate(noise, size=(SIDE, SIDE), mode="bicubic", align_corners=False)


def make_slices(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [count, 1, SIDE, SIDE] and lesion masks of the same shape."""
    generator = torch.Generator().manual_seed(seed)
    shape = smooth_noise(count, 12, generator)
    lesions = shape > 1.2
    spots = smooth_noise(count, 40, generator) > 2.3
    image = lesions.float() + 0.7 * spots + 0.5 * smooth_noise(count, 6, generator)
    image = avg_pool2d(image, 3, stride=1, padding=1)
    return image + 0.4 * torch.randn(image.shape, generator=generator), lesions


def make_network(channels: int = 16) -> nn.Module:
    """Five convolutions that see 31 voxels around each, as many as there are in and out."""
    layers: list[nn.Module] = []
    before = 1
    for dilation in (1, 2, 4, 8):
        layers += [
            nn.Conv2d(before, channels, 3, padding=dilation, dilation=dilation),
            nn.GroupNorm(4, channels),
            nn.ReLU(),
        ]
        before = channels
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))


def train(loss: nn.Module, images: Tensor, masks: Tensor, steps: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = torch.randint(len(images), (8,))
        optimizer.zero_grad()
        loss(network(images[batch]), masks[batch]).backward()
        optimizer.step()
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    images, masks = make_slices(128, seed=1)
    test_images, test_masks = make_slices(64, seed=2)
    print(f"{'loss':12}{'Dice':>8}{'edge':>8}{'s':>8}")
    for name, loss in LOSSES.items():
        start = time.perf_counter()
        network = train(loss, images, masks, options.steps, options.seed)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            predicted = network(test_images).sigmoid()
            dice = 1 - gk.DiceLoss(batch=True)((predicted > 0.5).float(), test_masks)
            edge = gk.FOGLoss()(predicted, test_masks)
        print(f"{name:12}{dice:8.3f}{edge:8.4f}{seconds:8.1f}")


if __name__ == "__main__":
    main()
