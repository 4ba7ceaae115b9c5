"""Trains on a map of many classes, with labels that nobody has annotated, from the label map as it is.

    python examples/many_classes.py                       # some 40 s on two cores
    python examples/many_classes.py --steps 2 --side 24   # to see that it runs

A volume of 14 organs is an integer map of one channel; a one-hot copy would have 14. The example measures the
tensors that a loss allocates beside logits, labels and gradient, with PyTorch's profiler, against the way it
is usually written, and trains a network that ends in 14 channels, leaving out slices that are marked 255.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, one_hot, pad
from torch.profiler import ProfilerActivity, profile

import geoloss_kernels as gk

CLASSES = 14
IGNORED = 255
OPTIONS = {"softmax": True, "to_onehot_y": True, "ignore_index": IGNORED}
CLASS_WEIGHTS = [0.2, *[1.0] * (CLASSES - 1)]


def make_loss() -> gk.FormulaLoss:
    """Dice and weighted cross-entropy and half of FOG; one pass."""
    return gk.DiceCELoss(**OPTIONS, weight=CLASS_WEIGHTS) + 0.5 * gk.FOGLoss(**OPTIONS)


def usual_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The same in plain PyTorch, without the ignored label: softmax, one-hot, differences."""
    s = logits.softmax(1)
    g = one_hot(labels[:, 0].long(), CLASSES).movedim(-1, 1).to(s)
    weight = s.new_tensor(CLASS_WEIGHTS)
    axes = (2, 3, 4)
    hit, extent = (s * g).sum(axes), (s + g).sum(axes)
    dice = weight * (1 - (2 * hit + 1e-5) / (extent + 1e-5))
    steps = [pad(torch.diff(s - g, dim=d), [0, 0] * (4 - d) + [0, 1]) for d in axes]
    fog = torch.linalg.vector_norm(torch.stack(steps), dim=0)
    return dice.mean() + cross_entropy(logits, labels[:, 0].long(), weight) + 0.5 * fog.mean()


def make_volume(side: int, seed: int) -> tuple[Tensor, Tensor]:
    """An image [1, 1, D, H, W] and its labels, a quarter of whose slices nobody has annotated."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, CLASSES, 5, 5, 5, generator=generator)
    labels = interpolate(coarse, size=(side,) * 3, mode="trilinear").argmax(1, keepdim=True)
    image = labels / CLASSES + 0.02 * torch.randn(labels.shape, generator=generator)
    labels[:, :, ::4] = IGNORED
    return image, labels.to(torch.uint8)


def allocated(loss: nn.Module, logits: Tensor, labels: Tensor) -> float:
    """MB of tensors that a call and its gradient allocate in all, the gradient left out."""
    leaf = logits.clone().requires_grad_()
    loss(leaf, labels).backward()
    leaf.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss(leaf, labels).backward()
    total = sum(event.self_cpu_memory_usage for event in record.events() if event.self_cpu_memory_usage > 0)
    return (total - leaf.nbytes) / 1e6


def seconds(loss: nn.Module, logits: Tensor, labels: Tensor) -> float:
    """The shortest of three calls with their gradients."""

    def once() -> float:
        leaf = logits.clone().requires_grad_()
        start = time.perf_counter()
        loss(leaf, labels).backward()
        return time.perf_counter() - start

    return min(once() for _ in range(3))


class Usual(nn.Module):
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return usual_loss(logits, labels)


def compare(side: int) -> None:
    logits = torch.randn(1, CLASSES, side, side, side)
    labels = torch.randint(0, CLASSES, (1, 1, side, side, side), dtype=torch.uint8)
    print(f"1 x {CLASSES} x {side}³ logits, {logits.nbytes / 1e6:.0f} MB")
    for name, loss in {"one pass": make_loss(), "plain PyTorch": Usual()}.items():
        value = loss(logits, labels).item()
        print(
            f"  {name:14} value {value:.5f}  {1e3 * seconds(loss, logits, labels):7.1f} ms  "
            f"allocates {allocated(loss, logits, labels):7.1f} MB"
        )


def train(side: int, steps: int) -> None:
    image, labels = make_volume(side, seed=0)
    gk.check_target(labels, CLASSES, to_onehot_y=True, ignore_index=IGNORED)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 24, 3, padding=1), nn.ReLU(), nn.Conv3d(24, 24, 1), nn.ReLU(), nn.Conv3d(24, CLASSES, 1)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    loss = make_loss()
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(network(image), labels)
        value.backward()
        optimizer.step()
        if step % max(1, steps // 5) == 0 or step == steps - 1:
            print(f"  step {step:3}  loss {value.item():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=64, help="voxels along each edge")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    compare(options.side)
    train(options.side, options.steps)


if __name__ == "__main__":
    main()
