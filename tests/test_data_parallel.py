"""Two processes that train together compute what one does with the whole batch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from training_helpers import make_subjects, tiny_config

import geoloss_kernels as gk
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.prediction.prediction import load_model
from geoloss_kernels.lesions.subjects.table import format_table
from geoloss_kernels.lesions.training.loop import train
from geoloss_kernels.lesions.training.network import build_network
from geoloss_kernels.lesions.training.processes import Processes
from geoloss_kernels.lesions.training.run_folder import RunFolder

PROCESSES = 2
BATCH_LOSSES: dict[str, Callable[[bool], nn.Module]] = {
    "dice": lambda ddp: gk.DiceLoss(sigmoid=True, batch=True, ddp=ddp),
    "tversky": lambda ddp: gk.TverskyLoss(sigmoid=True, batch=True, ddp=ddp),
    "dice+fog": lambda ddp: gk.DiceFOGLoss(sigmoid=True, batch=True, ddp=ddp),
    "boundary": lambda ddp: gk.BoundaryLoss(sigmoid=True, batch=True, ddp=ddp),
    "dice+hausdorff": lambda ddp: gk.DiceHausdorffDTLoss(
        sigmoid=True, include_background=True, batch=True, ddp=ddp
    ),
}


def volumes() -> tuple[Tensor, Tensor]:
    """Lesions of very different size, so that a batch-Dice differs from the mean of Dices."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1, 8, 9, 10, generator=generator, dtype=torch.float64)
    target = torch.zeros(4, 1, 8, 9, 10)
    for number in range(4):
        target[number, :, : 1 + number, : 2 * number + 1, :3] = 1
    return logits, target


def loss_and_gradient(loss: nn.Module, part: slice) -> tuple[Tensor, Tensor]:
    logits, target = volumes()
    logits = logits[part].requires_grad_()
    value = loss(logits, target[part])
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


def compute_part(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    part = slice(2 * rank, 2 * rank + 2)
    found = {name: loss_and_gradient(make(True), part) for name, make in BATCH_LOSSES.items()}
    torch.save(found, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def test_losses_sum_over_the_processes(tmp_path: Path) -> None:
    multiprocessing.spawn(compute_part, (tmp_path,), PROCESSES)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]
    for name, make in BATCH_LOSSES.items():
        value, gradient = loss_and_gradient(make(False), slice(None))
        for part in parts:
            torch.testing.assert_close(part[name][0], value, rtol=1e-12, atol=0)
        # DistributedDataParallel divides by the number of processes.
        averaged = torch.cat([part[name][1] for part in parts]) / PROCESSES
        torch.testing.assert_close(averaged, gradient, rtol=1e-10, atol=1e-14)
        assert gradient.abs().max() > 1e-6


def test_sums_over_processes_need_a_batch_and_a_group() -> None:
    with pytest.raises(ValueError, match="ddp: expected batch=True with it, got batch=False"):
        gk.DiceLoss(ddp=True)
    loss = gk.DiceLoss(sigmoid=True, batch=True, ddp=True)
    with pytest.raises(RuntimeError, match=r"ddp: expected torch\.distributed\.init_process_group"):
        loss(*volumes())


FUSED_HEAD = {
    "network": "unet_full_resolution",
    "channels": [4, 8, 8],
    "strides": [2, 2],
    "fused_head": True,
}


@pytest.mark.parametrize("settings", [{}, {"batch_dice": True, **FUSED_HEAD}], ids=["plain", "fused head"])
def test_torchrun_trains_the_network_of_one_process(tmp_path: Path, settings: dict[str, Any]) -> None:
    subjects = make_subjects(tmp_path / "data", ("train", "train", "validation", "validation", "validation"))
    config = tiny_config(batch_size=4, epochs=2, **settings)
    train(config, subjects, tmp_path / "alone", log=lambda line: None)
    (tmp_path / "subjects.csv").write_text(format_table(subjects))
    (tmp_path / "settings.toml").write_text(config.to_toml())
    output = torchrun("subjects.csv", "--config", "settings.toml", "--out", "together", folder=tmp_path)
    assert output.count("finished: ") == 1
    assert output.count("epoch 2/2") == 1
    # Not their weights: a bias before an instance norm has no effect, and Adam moves it by rounding errors.
    alone, together = (logits(tmp_path / name) for name in ("alone", "together"))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    with torch.no_grad():
        assert (alone - build_network(config)(images())).abs().max() > 0.01
    rows = [read_metrics(tmp_path / name) for name in ("alone", "together")]
    assert [len(found) for found in rows] == [2, 2]
    for first, second in zip(*rows, strict=True):
        for key in first:
            if not key.endswith("seconds"):
                assert float(first[key]) == pytest.approx(float(second[key]), rel=1e-3, nan_ok=True)


def test_batches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(InputError, match="batch_size: expected a multiple of 3 processes, got 4"):
        Processes(1, 3).check_batch_size(4)


def test_results_come_back_in_the_order_of_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(range(5))
    processes = [Processes(rank, 3) for rank in range(3)]
    parts = [list(process.share(items)) for process in processes]
    monkeypatch.setattr(Processes, "_gather", lambda self, item: parts)
    assert processes[0].collect(parts[0]) == items


def torchrun(*arguments: str, folder: Path) -> str:
    """The output of ``torchrun -m geoloss_kernels train``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    finished = subprocess.run(
        [*command, "-m", "geoloss_kernels", "train", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(run: Path) -> Tensor:
    """Of a run's network after its last epoch."""
    found: Tensor = load_model(RunFolder(run).last_checkpoint, "cpu").network(images())
    return found


def read_metrics(run: Path) -> list[dict[str, str]]:
    with RunFolder(run).metrics_file.open(newline="") as file:
        return list(csv.DictReader(file))
