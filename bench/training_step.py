"""The loss's share of a training step of the paper's U-Net, on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench import cuda
from bench.inputs import Shape, format_shape, make_volumes
from bench.timing import Spread, spread_of

SIZES = (64, 96)
BATCH = 4
WARM_UPS, STEPS = 5, 20


@dataclass
class StepTimes:
    """Seconds on patches [N, modalities, D, H, W]: of whole steps, and of the loss in them."""

    shape: Shape
    step: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.spread("loss").median / self.spread("step").median

    def spread(self, phase: str) -> Spread:
        return spread_of(getattr(self, phase))


def measure_steps(device: str = "cuda", sizes: Sequence[int] = SIZES, steps: int = STEPS) -> list[StepTimes]:
    """Forward, Dice + FOG and its gradient in float32 from the trainer's uint8 mask, backward, Adam.

    As `geoloss_kernels.lesions.training` does it, with its defaults but for the network with a level at full
    resolution, and autocast to bfloat16. Raises ImportError where a package of the trainer is missing.
    """
    return [_measure(device, size, steps) for size in sizes]


def _measure(device: str, size: int, steps: int) -> StepTimes:
    from geoloss_kernels.lesions.training.config import TrainingConfig
    from geoloss_kernels.lesions.training.named_losses import build_loss
    from geoloss_kernels.lesions.training.network import build_network

    config = TrainingConfig(
        network="unet_full_resolution", precision="bf16", patch_size=(size, size, size), batch_size=BATCH
    )
    torch.manual_seed(config.seed)
    network = build_network(config).to(device).train()
    step = _Step(
        network, torch.optim.Adam(network.parameters(), config.learning_rate), build_loss(config.loss)
    )
    mask = make_volumes((BATCH, 1, size, size, size)).target.to(device, torch.uint8)
    image = torch.randn((BATCH, len(config.modalities), size, size, size), device=device)
    times = StepTimes(tuple(image.shape))
    for index in range(WARM_UPS + steps):
        whole, loss = step(image, mask)
        if index >= WARM_UPS:
            times.step.append(whole)
            times.loss.append(loss)
    return times


@dataclass
class _Step:
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[float, float]:
        """Seconds of the step, and of the loss with its gradient."""
        begin, loss_begin, loss_end, end = (cuda.GPU.event() for _ in range(4))
        begin.record()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(image.device.type, torch.bfloat16):
            logits = self.network(image)
        boundary = logits.detach().float().requires_grad_()
        loss_begin.record()
        self.loss(boundary, mask).backward()
        loss_end.record()
        assert boundary.grad is not None
        logits.backward(boundary.grad.to(logits.dtype))
        self.optimizer.step()
        end.record()
        cuda.GPU.synchronize()
        return begin.elapsed_time(end) / 1000, loss_begin.elapsed_time(loss_end) / 1000


def main(device: str) -> None:
    """Print the times; on the CPU, a rehearsal with tiny patches and the host's clock."""
    if device == "cpu":
        cuda.GPU = cuda.HostClock()
    for times in measure_steps(device, *(((16,), 2) if device == "cpu" else ())):
        shape = format_shape(times.shape)
        step, loss = (1000 * times.spread(phase).median for phase in ("step", "loss"))
        print(f"{shape}: step {step:.3g} ms, loss {loss:.3g} ms, {100 * times.share:.2g} %", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
