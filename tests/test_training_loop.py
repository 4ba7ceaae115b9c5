from __future__ import annotations

import csv
import json
import random
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_helpers import SHAPE, make_arrays, make_subjects, tiny_config, write_image

from geoloss_kernels import heads
from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.prediction.prediction import load_model
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.subjects.table import format_table
from geoloss_kernels.lesions.training import loop
from geoloss_kernels.lesions.training.curves import draw_progress
from geoloss_kernels.lesions.training.loop import TrainingResult, resume, steps_per_epoch, train
from geoloss_kernels.lesions.training.named_losses import LOSSES, build_loss
from geoloss_kernels.lesions.training.network import NETWORKS, build_network
from geoloss_kernels.lesions.training.run_folder import EpochRecord, RunFolder, load_checkpoint

TINY_NETWORK = [
    f"--set={setting}"
    for setting in ("patch_size=16", "batch_size=2", "channels=[4, 8]", "strides=[2]", "device=cpu")
]


class KilledError(Exception):
    """Stands for the signal that ends a run."""


def quiet(line: str) -> None:
    del line


def kill_after(epoch: int) -> Callable[[EpochRecord], None]:
    def callback(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise KilledError

    return callback


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run_dir / "last.pt", torch.device("cpu"))[1]["model"]


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    return make_subjects(tmp_path_factory.mktemp("subjects"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, subjects: list[Subject]) -> TrainingResult:
    return train(tiny_config(), subjects, tmp_path_factory.mktemp("runs") / "run", log=quiet)


def test_run_folder(uninterrupted: TrainingResult, subjects: list[Subject]) -> None:
    folder = RunFolder.open(uninterrupted.run_dir)
    names = {path.name for path in folder.path.iterdir()}
    assert names == {
        "config.toml",
        "subjects.csv",
        "environment.json",
        "metrics.csv",
        "progress.png",
        "last.pt",
        "best.pt",
        "tensorboard",
    }
    assert folder.load_config() == tiny_config()
    assert folder.load_subjects() == subjects
    assert folder.progress_file.read_bytes().startswith(b"\x89PNG")
    assert len(list(folder.tensorboard_dir.iterdir())) == 1
    (start,) = json.loads(folder.environment_file.read_text())
    assert start["first_epoch"] == 1
    assert start["packages"]["torch"] == torch.__version__


def test_metrics_table(uninterrupted: TrainingResult) -> None:
    with (uninterrupted.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["learning_rate"]) for row in rows] == [1e-3, 1e-3, 5e-4, 2.5e-4]
    assert [row["validation_dice"] == "nan" for row in rows] == [True, False, True, False]
    for row, record in zip(rows, uninterrupted.history, strict=True):
        assert float(row["train_loss"]) == record.train_loss
        assert 0 < record.loss_seconds < record.step_seconds < record.epoch_seconds


def test_best_checkpoint_is_the_best_validated_epoch(uninterrupted: TrainingResult) -> None:
    validated = {r.epoch: r.validation_dice for r in uninterrupted.history if r.epoch % 2 == 0}
    assert uninterrupted.best_dice == max(validated.values())
    _, content = load_checkpoint(uninterrupted.run_dir / "best.pt", torch.device("cpu"))
    assert content["epoch"] == uninterrupted.best_epoch
    assert validated[content["epoch"]] == uninterrupted.best_dice
    assert_same(load_model(uninterrupted.run_dir, "cpu").network.state_dict(), content["model"])


def test_same_seed_same_weights_other_seed_other_weights(
    tmp_path: Path, subjects: list[Subject], uninterrupted: TrainingResult
) -> None:
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    train(tiny_config(cache=False), subjects, tmp_path / "same", log=quiet)
    assert_same(weights(tmp_path / "same"), weights(uninterrupted.run_dir))
    train(tiny_config(seed=8), subjects, tmp_path / "other", log=quiet)
    other = weights(tmp_path / "other")
    assert any(not torch.equal(t, other[n]) for n, t in weights(uninterrupted.run_dir).items())


@pytest.mark.parametrize("epoch", [1, 3])
def test_killed_run_resumes_to_the_same_bits(
    tmp_path: Path, subjects: list[Subject], uninterrupted: TrainingResult, epoch: int
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KilledError):
        train(tiny_config(), subjects, run, on_epoch_end=kill_after(epoch), log=quiet)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    result = resume(run, log=quiet)
    assert_same(weights(run), weights(uninterrupted.run_dir))
    assert [r.train_loss for r in result.history] == [r.train_loss for r in uninterrupted.history]
    assert (result.best_epoch, result.best_dice) == (uninterrupted.best_epoch, uninterrupted.best_dice)
    assert [start["first_epoch"] for start in json.loads((run / "environment.json").read_text())] == [
        1,
        epoch + 1,
    ]
    state, expected = (
        load_checkpoint(folder / "last.pt", torch.device("cpu"))[1] for folder in (run, uninterrupted.run_dir)
    )
    for parameter, moments in state["optimizer"]["state"].items():
        assert_same(moments, expected["optimizer"]["state"][parameter])
    assert torch.equal(state["generators"]["torch"], expected["generators"]["torch"])


def test_run_killed_within_an_epoch_resumes_to_the_same_bits(
    tmp_path: Path, subjects: list[Subject], uninterrupted: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiesInEpoch3(nn.Module):
        def __init__(self, loss: nn.Module) -> None:
            super().__init__()
            self.loss, self.calls = loss, 0

        def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 1 + 6:  # after the rehearsal
                raise KilledError
            return self.loss(logits, mask)

    with monkeypatch.context() as patch:
        patch.setattr(
            loop, "build_loss", lambda *names, **options: DiesInEpoch3(build_loss(*names, **options))
        )
        with pytest.raises(KilledError):
            train(tiny_config(), subjects, tmp_path / "run", log=quiet)
    resume(tmp_path / "run", log=quiet)
    assert_same(weights(tmp_path / "run"), weights(uninterrupted.run_dir))


def test_run_on_a_full_disk_names_the_file_and_resumes_to_the_same_bits(
    tmp_path: Path, subjects: list[Subject], uninterrupted: TrainingResult
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(record: EpochRecord) -> None:
        if record.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    run = tmp_path / "run"
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/run/(best|last)\.pt'"):
            train(tiny_config(), subjects, run, on_epoch_end=fill_disk, log=quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in run.iterdir() if path.name.startswith(".")] == []
    assert load_checkpoint(run / "last.pt", torch.device("cpu"))[1]["epoch"] == 2
    resume(run, log=quiet)
    assert_same(weights(run), weights(uninterrupted.run_dir))


def test_run_killed_before_its_first_checkpoint_resumes(
    tmp_path: Path, subjects: list[Subject], uninterrupted: TrainingResult
) -> None:
    RunFolder.create(tmp_path / "run", tiny_config(), subjects)
    resume(tmp_path / "run", log=quiet)
    assert_same(weights(tmp_path / "run"), weights(uninterrupted.run_dir))


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path, subjects: list[Subject]) -> None:
    config = tiny_config(epochs=1)
    first = train(config, subjects, tmp_path / "run", log=quiet)
    again = resume(tmp_path / "run", log=quiet)
    assert repr(again.history) == repr(first.history)  # NaN is not equal to itself
    assert_same(again.network.state_dict(), first.network.state_dict())


def test_loss_falls_while_training(tmp_path: Path, subjects: list[Subject]) -> None:
    recipe = {"loss": "dice", "learning_rate": 1e-2, "lesion_crop_fraction": 1.0}
    config = tiny_config(steps_per_epoch=20, epochs=4, channels=[8, 16], batch_size=4, **recipe)
    result = train(config, subjects, tmp_path / "run", log=quiet)
    assert result.history[-1].train_loss < 0.6 * result.history[0].train_loss
    assert result.best_dice > 0.5


def test_every_loss_trains(tmp_path: Path, subjects: list[Subject]) -> None:
    config = tiny_config(epochs=1, steps_per_epoch=1, lesion_crop_fraction=1.0)
    final = {}
    for name in LOSSES:
        run = tmp_path / name
        result = train(replace(config, loss=name), subjects[:1], run, log=quiet)
        assert np.isfinite(result.history[0].train_loss)
        final[name] = (result.history[0].train_loss, weights(run)["model.0.conv.weight"])
    assert len({loss for loss, _ in final.values()}) == len(LOSSES)


def test_directional_loss_sees_its_anatomical_axis() -> None:
    """A step along one axis of the RAS volume is an error for that direction's FOG and no other."""
    for axis, direction in enumerate(("sagittal", "coronal", "axial")):
        step = torch.zeros(1, 1, 6, 6, 6)
        step.movedim(2 + axis, 0)[3:] = 1
        logits = torch.zeros_like(step)
        for name in ("sagittal", "coronal", "axial"):
            with_fog = build_loss(f"dice+fog_{name}")(logits, step)
            fog = float(with_fog - build_loss("dice")(logits, step))
            assert (fog > 1e-2) == (name == direction)


def test_coefficient_scales_the_geometric_term() -> None:
    logits, mask = torch.randn(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8).round()
    dice = build_loss("dice")(logits, mask)
    once, twice = (build_loss("dice+fog", weight)(logits, mask) - dice for weight in (1.0, 2.0))
    assert float(twice) == pytest.approx(2 * float(once), rel=1e-5)


def test_weight_of_dice_scales_dice() -> None:
    logits, mask = torch.randn(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8).round()
    whole, half = (
        build_loss("dice+boundary", 0.0, dice_weight=weight)(logits, mask) for weight in (1.0, 0.5)
    )
    assert float(half) == pytest.approx(float(whole) / 2, rel=1e-6)


def test_schedule_changes_the_weights_while_training(tmp_path: Path, subjects: list[Subject]) -> None:
    """With a learning rate that changes nothing, the loss of an epoch is that of its weights."""
    recipe = {"loss_schedule_step": 0.5, "learning_rate": 1e-30, "weight_decay": 0.0, "epochs": 2}
    frozen = tiny_config(loss="dice+boundary", steps_per_epoch=4, lesion_crop_fraction=1.0, **recipe)
    histories = {}
    for schedule in (None, "constant", "rebalance"):
        run = tmp_path / str(schedule)
        result = train(replace(frozen, loss_schedule=schedule), subjects[:1], run, log=quiet)
        histories[schedule] = [record.train_loss for record in result.history]
    assert histories[None] == histories["rebalance"]
    assert histories["constant"] != histories["rebalance"]
    dice = [
        record.train_loss
        for record in train(replace(frozen, loss="dice"), subjects[:1], tmp_path / "dice", log=quiet).history
    ]
    for epoch, (dice_weight, boundary_weight) in enumerate([(1.0, 0.5), (0.5, 1.0)]):
        boundary = histories["constant"][epoch] - dice[epoch]
        expected = dice_weight * dice[epoch] + boundary_weight * boundary
        assert histories["rebalance"][epoch] == pytest.approx(expected, rel=1e-5)


def test_loss_sees_the_spacing_when_asked() -> None:
    logits, mask = torch.randn(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8).round()
    dice = build_loss("dice")(logits, mask)
    unit, double = (
        build_loss("dice+fog", 1.0, spacing)(logits, mask) - dice for spacing in (None, (2.0, 2.0, 2.0))
    )
    assert float(double) == pytest.approx(float(unit) / 2, rel=1e-5)


def test_spacing_aware_training_needs_one_spacing(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "data", ("train", "train"))
    config = tiny_config(spacing_aware=True, epochs=1)
    result = train(config, subjects, tmp_path / "aware", log=quiet)
    unaware = train(replace(config, spacing_aware=False), subjects, tmp_path / "unaware", log=quiet)
    assert result.history[0].train_loss != unaware.history[0].train_loss
    for name, values in make_arrays(seed=1).items():
        write_image(tmp_path / "data" / "subject1" / f"{name}.nii.gz", values, np.diag([1.0, 1, 4, 1]))
    with pytest.raises(InputError, match=r"spacing_aware: expected one voxel spacing .* in subject1"):
        train(config, subjects, tmp_path / "mixed", log=quiet)
    assert not (tmp_path / "mixed").exists()


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("strides", [(2, 2), ([2, 2, 1], 2)])
def test_networks_keep_the_grid(name: str, strides: tuple[object, ...]) -> None:
    config = tiny_config(network=name, channels=(2, 4, 6), strides=strides)
    network = build_network(config)
    assert network(torch.randn(1, 3, 16, 24, 8)).shape == (1, 1, 16, 24, 8)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_all_voxels_get_their_logits_from_the_same_weights(name: str) -> None:
    network = build_network(tiny_config(network=name, channels=(4, 6, 8), strides=(2, 2)))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    to_logits = [convolution for convolution in convolutions if convolution.out_channels == 1]
    assert [convolution.stride for convolution in to_logits] == [(1, 1, 1)]


def test_bf16_trains_and_resumes(tmp_path: Path, subjects: list[Subject]) -> None:
    config = tiny_config(precision="bf16", epochs=2)
    whole = train(config, subjects, tmp_path / "whole", log=quiet)
    assert np.isfinite(whole.history[-1].train_loss)
    with pytest.raises(KilledError):
        train(config, subjects, tmp_path / "cut", on_epoch_end=kill_after(1), log=quiet)
    resume(tmp_path / "cut", log=quiet)
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_workers_do_not_change_the_result(tmp_path: Path, subjects: list[Subject]) -> None:
    config = tiny_config(epochs=1)
    for workers in (0, 1):
        train(replace(config, num_workers=workers), subjects, tmp_path / f"{workers}", log=quiet)
    assert_same(weights(tmp_path / "0"), weights(tmp_path / "1"))


def test_compiled_network_trains_alike_and_its_checkpoint_is_the_plain_networks(
    tmp_path: Path, subjects: list[Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []
    real = torch.compile

    def traced(network: nn.Module) -> object:
        compiled.append(network)
        return real(network, backend="aot_eager")  # all of the way but the C++ compiler

    monkeypatch.setattr(torch, "compile", traced)
    for name in ("plain", "compiled"):
        train(tiny_config(epochs=1, compile=name == "compiled"), subjects, tmp_path / name, log=quiet)
    assert len(compiled) == 1
    expected, found = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-3)])
def test_fused_head_trains_alike_and_its_checkpoint_is_the_plain_networks(
    tmp_path: Path,
    subjects: list[Subject],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    tolerance: float,
) -> None:
    monkeypatch.setitem(heads.STRIP_BYTES, "cpu", 4096)
    monkeypatch.setitem(heads.OVERLAPPING_BYTES, "cpu", 8192)
    config = tiny_config(
        network="unet_full_resolution", channels=[4, 8, 8], strides=[2, 2], epochs=2, precision=precision
    )
    plain = train(config, subjects, tmp_path / "plain", log=quiet)
    fused = train(replace(config, fused_head=True), subjects, tmp_path / "fused", log=quiet)
    for first, second in zip(plain.history, fused.history, strict=True):
        assert second.train_loss == pytest.approx(first.train_loss, abs=tolerance)
    load_model(tmp_path / "fused", "cpu")
    assert weights(tmp_path / "fused").keys() == weights(tmp_path / "plain").keys()


def test_fused_head_needs_a_network_that_ends_in_one(tmp_path: Path, subjects: list[Subject]) -> None:
    with pytest.raises(InputError, match=r"fused_head: expected false with network unet: .* kernel 1"):
        train(tiny_config(fused_head=True), subjects, tmp_path / "run", log=quiet)


def test_steps_per_epoch() -> None:
    assert steps_per_epoch(tiny_config(steps_per_epoch=None, samples_per_subject=4, batch_size=4), 15) == 15
    assert steps_per_epoch(tiny_config(steps_per_epoch=None, samples_per_subject=1, batch_size=4), 2) == 1
    assert steps_per_epoch(tiny_config(steps_per_epoch=9), 15) == 9


def test_log_has_a_line_per_epoch_and_says_what_is_missing(tmp_path: Path, subjects: list[Subject]) -> None:
    lines: list[str] = []
    result = train(tiny_config(epochs=2), subjects[:2], tmp_path / "run", log=lines.append)
    assert lines[0] == "no validation subjects: best.pt will not be written, last.pt is the model"
    assert [line.split(":")[0] for line in lines[1:]] == ["epoch 1/2", "epoch 2/2"]
    assert result.best_epoch is None
    assert not (tmp_path / "run" / "best.pt").exists()
    assert_same(load_model(tmp_path / "run", "cpu").network.state_dict(), result.network.state_dict())


def test_lesion_free_training_masks_are_named(tmp_path: Path) -> None:
    subjects = make_subjects(tmp_path / "subjects", ("train", "train", "validation"))
    masks = [subject.mask for subject in subjects if subject.mask is not None]
    lines: list[str] = []
    write_image(masks[2], np.zeros(SHAPE, np.uint8))
    train(tiny_config(epochs=1), subjects, tmp_path / "whole", log=lines.append)
    assert [line.split(":")[0] for line in lines] == ["epoch 1/1"]
    write_image(masks[1], np.zeros(SHAPE, np.uint8))
    train(tiny_config(epochs=1), subjects, tmp_path / "half", log=lines.append)
    assert lines[1] == "warning: no lesion in the training masks of subject1"
    for config, message in (
        (
            tiny_config(lesion_label=5),
            r"every training mask is empty \(lesion_label 5\): subject0, subject1$",
        ),
        (tiny_config(), "every training mask is empty: subject0, subject1$"),
    ):
        with pytest.raises(InputError, match=message):
            train(config, subjects, tmp_path / "none", log=quiet)
        write_image(masks[0], np.zeros(SHAPE, np.uint8))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_curves_have_whole_epochs_and_no_empty_panel(uninterrupted: TrainingResult, epochs: int) -> None:
    history = uninterrupted.history[:epochs]
    figure = draw_progress(history, "run")
    panels = (
        ["training loss", "learning rate"]
        if epochs == 1
        else ["training loss", "validation", "learning rate"]
    )
    assert [axes.get_ylabel() for axes in figure.axes] == panels
    low, high = figure.axes[-1].get_xlim()
    shown = [tick for tick in figure.axes[-1].get_xticks() if low <= tick <= high]
    assert shown == [record.epoch for record in history]


def test_errors_before_anything_is_written(tmp_path: Path, subjects: list[Subject]) -> None:
    run = tmp_path / "run"
    cases = {
        "expected at least one with split train": [replace(s, split="test") for s in subjects],
        "subject subject0 has no lesion mask": [replace(subjects[0], mask=None)],
        "subject subject0 has no flair image": [
            replace(subjects[0], images={m: p for m, p in subjects[0].images.items() if m != "flair"})
        ],
    }
    for message, table in cases.items():
        with pytest.raises(InputError, match=message):
            train(tiny_config(), table, run, log=quiet)
    with pytest.raises(InputError, match="precision: fp16 needs a CUDA device"):
        train(tiny_config(precision="fp16"), subjects, run, log=quiet)
    too_deep = tiny_config(patch_size=8, channels=(2, 2, 2, 2), strides=(2, 2, 2))
    with pytest.raises(InputError, match=r"patch_size, strides: the network cannot take crops .*spatial"):
        train(too_deep, subjects, run, log=quiet)
    assert not run.exists()


def test_step_that_does_not_fit_into_memory_is_an_error_before_the_run(
    tmp_path: Path, subjects: list[Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Greedy(nn.Module):
        def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "build_loss", lambda *names, **options: Greedy())
    with pytest.raises(
        InputError, match=r"batch_size, patch_size: .* memory of cpu, got \(2, 3, 16, 16, 16\)"
    ):
        train(tiny_config(loss="dice"), subjects, tmp_path / "run", log=quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks the error of a machine without a GPU")
def test_missing_cuda_device_is_an_error(tmp_path: Path, subjects: list[Subject]) -> None:
    with pytest.raises(InputError, match="device: cuda asked for, but torch sees 0 CUDA devices"):
        train(tiny_config(device="cuda"), subjects, tmp_path / "run", log=quiet)


def test_a_run_folder_is_not_overwritten(
    uninterrupted: TrainingResult, subjects: list[Subject], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="already holds a run; resume it or choose another folder"):
        train(tiny_config(), subjects, uninterrupted.run_dir, log=quiet)
    with pytest.raises(InputError, match="no run here"):
        resume(tmp_path)


def test_a_run_in_use_is_refused(tmp_path: Path, subjects: list[Subject]) -> None:
    def resume_meanwhile(record: EpochRecord) -> None:
        with pytest.raises(InputError, match=r"/run: in use by another process"):
            resume(tmp_path / "run", log=quiet)

    train(tiny_config(epochs=1), subjects, tmp_path / "run", on_epoch_end=resume_meanwhile, log=quiet)


def test_not_a_number_stops_the_run(
    tmp_path: Path, subjects: list[Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NotANumber(nn.Module):
        def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (logits * float("nan")).mean()

    monkeypatch.setattr(loop, "build_loss", lambda *names, **options: NotANumber())
    message = (
        r"the loss of epoch 1, step 1 is not finite: try a learning_rate below 0\.001; no epoch is finished"
    )
    with pytest.raises(InputError, match=message):
        train(tiny_config(loss="dice"), subjects, tmp_path / "run", log=quiet)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_the_checkpoint_before_a_divergence_is_kept(
    tmp_path: Path, subjects: list[Subject], uninterrupted: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KilledError):
        train(tiny_config(), subjects, run, on_epoch_end=kill_after(2), log=quiet)
    config = run / "config.toml"
    config.write_text(config.read_text().replace("learning_rate = 0.001", "learning_rate = 1e30"))
    state = torch.load(run / "last.pt", weights_only=True)
    state["optimizer"]["param_groups"][0]["lr"] = 1e30
    torch.save(state, run / "last.pt")
    kept = (run / "last.pt").read_bytes()
    with pytest.raises(
        InputError, match=r"the loss of epoch 3, step 2 is not finite: .*; last.pt is of epoch 2"
    ):
        resume(run, log=quiet)
    assert (run / "last.pt").read_bytes() == kept


def test_weights_that_are_not_finite_are_no_checkpoint(
    tmp_path: Path, subjects: list[Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step of an epoch no loss tells it."""

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
            ctx.shape = logits.shape
            return logits.new_zeros(())

        @staticmethod
        def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
            return slope.new_full(ctx.shape, float("nan"))

    class SteepLoss(nn.Module):
        def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return Steep.apply(logits)

    monkeypatch.setattr(loop, "build_loss", lambda *names, **options: SteepLoss())
    with pytest.raises(InputError, match="the network after 1 epochs is not finite"):
        train(tiny_config(loss="dice", steps_per_epoch=1), subjects, tmp_path / "run", log=quiet)
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_one_error_with_workers_too(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    subjects = make_subjects(tmp_path / "data", ("train",))
    broken = subjects[0].images["t2"]
    broken.write_bytes(broken.read_bytes()[:3000])
    table = tmp_path / "table.csv"
    table.write_text(format_table(subjects))
    settings = ["--set=cache=false", f"--set=num_workers={workers}"]
    assert main(["train", str(table), "--out", str(tmp_path / "run"), *TINY_NETWORK, *settings]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"geoloss: error: {broken}: cannot read the voxels: ")


def test_test_subjects_need_no_masks(tmp_path: Path) -> None:
    """Neither of a table, nor those of nnU-Net's imagesTs."""
    subjects = make_subjects(tmp_path / "data")
    table = tmp_path / "table.csv"
    table.write_text(format_table([replace(s, mask=None if s.split == "test" else s.mask) for s in subjects]))
    small = ["--set=epochs=1", "--set=steps_per_epoch=1"]
    assert main(["train", str(table), "--out", str(tmp_path / "run"), *TINY_NETWORK, *small]) == 0
    assert (tmp_path / "run" / "last.pt").is_file()


def test_bad_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match=r"model.pt: no such checkpoint"):
        load_model(path, "cpu")
    for content in (b"", b"no checkpoint", b"epochs = 3\n"):
        path.write_bytes(content)
        with pytest.raises(
            InputError, match=r"model.pt: not a checkpoint written by geoloss train, or damaged$"
        ):
            load_model(path, "cpu")
    torch.save({"version": 99}, path)
    with pytest.raises(InputError, match="checkpoint version 99, expected 2"):
        load_model(path, "cpu")
