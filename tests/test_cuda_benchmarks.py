"""The benchmark of GPUs, on CPU tensors and with a stand-in for the GPU's clock."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import pytest
import torch
from test_benchmarks import without_compiled

from bench import __main__ as command
from bench import (
    cases,
    cuda,
    cuda_bars,
    distance_transforms,
    gate,
    machine,
    plain_losses,
    report,
    settings,
    training_step,
)
from bench.cases import (
    CUDA_LOSSES,
    EAGER,
    LABEL_LOSSES,
    MEMORY,
    MONAI,
    OPERATORS,
    OURS,
    SCIPY_ALONE,
    TRITON,
    UINT8_TARGET,
    Backend,
    Case,
)
from bench.cuda import CudaRun
from bench.inputs import Volumes, format_shape, make_volumes
from bench.providers import COPY, Missing, Provider, Steps, of_loss
from bench.settings import CUDA_SETTINGS, LARGE, TRAINING
from bench.timing import Measurement, Plan, measure
from bench.training_step import StepTimes

SMALL = (1, 1, 12, 13, 16)


class Moment:
    """An event of a GPU that does everything at once."""

    def record(self) -> None:
        self.seconds = perf_counter()

    def elapsed_time(self, end: Moment) -> float:
        return 1000 * (end.seconds - self.seconds)


class StandIn(cuda.Gpu):
    """Does at once what it is asked; a graph is a call."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def event(self) -> Moment:
        return Moment()

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def evict(self) -> None:
        self.log.append("evict")

    def peak_growth(self, call: Callable[[], Any], release: Callable[[], None]) -> int:
        release()
        call()
        return 500_000

    def capture(self, steps: Steps) -> Callable[[], None]:
        return lambda: cuda._both(steps)


@pytest.fixture(autouse=True)
def gpu(monkeypatch) -> StandIn:
    """The CPU in place of a GPU that has no Triton."""
    stand_in = StandIn()
    monkeypatch.setattr(cuda, "GPU", stand_in)
    monkeypatch.setattr(Volumes, "to", lambda volumes, device: volumes)
    backends = (Backend("cpu", "geoloss", OURS, OPERATORS), cases.BACKENDS["cuda"][1])
    monkeypatch.setitem(cases.BACKENDS, "cuda", backends)
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(machine, "gpu_model", lambda: "Abacus 1")
    monkeypatch.setattr(machine, "_describe_gpu", lambda: {"gpu": "Abacus 1"})
    return stand_in


def eager_cases(device: str, dtype: torch.dtype) -> list[Case]:
    return [without_compiled(case) for case in cases.make_cases(device, dtype)]


class TestRun:
    TWO_DTYPES = (
        "--device cuda --shapes 1x1x12^3 --dtypes float32 bfloat16 --losses dice --rounds 3 --budget 0.01"
    )

    @pytest.fixture
    def steps(self, monkeypatch, gpu) -> None:
        monkeypatch.setattr(gate, "run_suite", lambda device: ("suite", True))
        monkeypatch.setattr(command, "make_cases", eager_cases)
        monkeypatch.setattr(command, "measure_steps", lambda: training_step.measure_steps("cpu", (16,), 3))

    @pytest.mark.usefixtures("steps")
    def test_all_losses_in_both_dtypes(self, tmp_path, capsys):
        pytest.importorskip("monai")
        arguments = "--device cuda --shapes 1x1x16^3 --dtypes float32 bfloat16 --rounds 3 --budget 0.01"
        assert command.main([*arguments.split(), "--output", str(tmp_path)]) == 0
        (table,) = tmp_path.glob("abacus-1-*.md")
        text = table.read_text()
        assert text == capsys.readouterr().out.rstrip("\n") + "\n"
        for section in (
            "## Bars",
            "## 1x1x16^3, bfloat16",
            "## Training step of the U-Net",
            "## Not measured",
        ):
            assert section in text
        assert f"| {TRITON} | FOG (l2) from probabilities, Dice + FOG" in text
        (rows,) = (list(csv.DictReader(path.open())) for path in tmp_path.glob("*.csv"))
        assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
        assert {row["loss"] for row in rows} == {MEMORY, *CUDA_LOSSES, "training step"}
        phases = {row["phase"] for row in rows if (row["loss"], row["provider"]) == ("dice_fog", OURS)}
        assert phases == {"forward", "backward", "both", "graph", "host", "loss"}
        assert all(row["gb_per_s"] == "" for row in rows if row["phase"] == "host")

    @pytest.mark.usefixtures("steps")
    def test_quick_run_writes_nothing(self, capsys):
        assert command.main(["--device", "cuda", "--quick", "--losses", "dice"]) == 0
        out = capsys.readouterr().out
        assert "## Bars" not in out
        assert "## 1x1x24^3, float32" in out

    @pytest.mark.usefixtures("steps")
    def test_trainer_that_cannot_be_imported_is_not_measured(self, monkeypatch, tmp_path, capsys):
        def missing() -> list[StepTimes]:
            raise ImportError("No module named 'monai'")

        monkeypatch.setattr(command, "measure_steps", missing)
        arguments = "--device cuda --shapes 1x1x12^3 --losses dice --rounds 3 --budget 0.01"
        assert command.main([*arguments.split(), "--output", str(tmp_path)]) == 0
        captured = capsys.readouterr()
        assert "not measured: No module named 'monai'" in captured.err
        assert "Training step: share of the loss | ≤ 2 % | not measured |" in captured.out

    @pytest.mark.parametrize(
        "arguments",
        ["--dtypes bfloat16", "--device cuda --dtypes bfloat16", f"--losses {UINT8_TARGET}", "--losses none"],
    )
    def test_bad_arguments(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            command.main(arguments.split())
        assert stop.value.code == 2
        assert "error: --" in capsys.readouterr().err

    def test_without_a_gpu_nothing_is_started(self, monkeypatch, capsys):
        monkeypatch.setattr(machine, "has_gpu", lambda: False)
        with pytest.raises(SystemExit) as stop:
            command.main(["--device", "cuda"])
        assert stop.value.code == 2
        assert "error: --device: expected cpu, since torch sees no GPU" in capsys.readouterr().err

    def test_defaults_hold_the_volumes_of_the_bars(self):
        measured = {(setting.shape, setting.dtype) for setting in CUDA_SETTINGS}
        wanted = {(LARGE, torch.float32), (LARGE, torch.bfloat16), (TRAINING, torch.bfloat16)}
        assert wanted <= measured
        names = [case.name for case in cases.make_cases("cuda")]
        assert names == [MEMORY, *CUDA_LOSSES, *LABEL_LOSSES]
        assert {loss for setting in settings.CUDA_SETTINGS for loss in setting.losses} == set(CUDA_LOSSES)

    @pytest.mark.usefixtures("steps")
    def test_run_that_is_cut_off_keeps_its_tables(self, monkeypatch, tmp_path):
        measured = command.measure

        def cut_off(cases: list[Case], volumes: Volumes, *rest: Any) -> list[Measurement]:
            if volumes.logits.dtype == torch.bfloat16:
                raise KeyboardInterrupt
            return measured(cases, volumes, *rest)

        monkeypatch.setattr(command, "measure", cut_off)
        with pytest.raises(KeyboardInterrupt):
            command.main([*self.TWO_DTYPES.split(), "--output", str(tmp_path)])
        (table,) = tmp_path.glob("*.md")
        assert "## 1x1x12^3, float32" in table.read_text()

    @pytest.mark.usefixtures("steps")
    def test_red_gate_takes_back_the_tables_before_it(self, monkeypatch, tmp_path, capsys):
        def wrong(cases: list[Case], volumes: Volumes) -> list[str]:
            return ["dice: ours: wrong"] if volumes.logits.dtype == torch.bfloat16 else []

        monkeypatch.setattr(gate, "disagreements", wrong)
        assert command.main([*self.TWO_DTYPES.split(), "--output", str(tmp_path)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Written" in captured.err
        assert list(tmp_path.iterdir()) == []


class TestCalls:
    def measured(self, provider: Provider, **plan: Any) -> Measurement:
        case = Case("dice", "Dice", True, [provider], plain_losses.dice_loss)
        (measurement,) = measure([case], make_volumes(SMALL), Plan(rounds=3, **plan), run_type=CudaRun)
        return measurement

    def test_cache_is_evicted_ahead_of_each_timed_call(self, gpu):
        self.measured(of_loss("dice", plain_losses.dice_loss), cold=True, graphs=True)
        assert gpu.log.count("evict") == 6  # eager calls and graphs, three of each

    def test_without_graphs_there_are_none(self):
        measurement = self.measured(of_loss("dice", plain_losses.dice_loss))
        assert measurement.graph == []
        assert len(measurement.host) == len(measurement.forward) == 3

    def test_extra_memory_is_beyond_the_gradient(self):
        measurement = self.measured(of_loss("dice", plain_losses.dice_loss))
        assert measurement.extra_bytes == 500_000 - measurement.array_bytes

    def test_what_works_on_the_cpu_is_called_once_before_and_not_captured(self):
        calls = []

        def loss(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            calls.append(None)
            return plain_losses.dice_loss(input, target)

        measurement = self.measured(of_loss("slow", loss, on_host=True), budget=1e-9, graphs=True)
        assert (measurement.graph, measurement.host, measurement.no_graph) == ([], [], None)
        assert len(calls) == 1 + 3 + 1  # warm-up, timed, peak memory

    def test_refused_capture_is_reported(self, gpu, monkeypatch):
        def refuse(steps: Steps) -> None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        monkeypatch.setattr(gpu, "capture", refuse)
        measurement = self.measured(of_loss("dice", plain_losses.dice_loss), graphs=True)
        text = report.markdown({}, [measurement], [])
        assert "| dice, in a CUDA graph | Dice | operation not permitted when stream is capturing |" in text

    def test_bytes_of_a_smaller_target(self):
        case = Case("dice", "Dice", True, [], None, torch.uint8)
        measurement = Measurement(
            case, of_loss("dice", plain_losses.dice_loss), (1, 1, 2, 5, 10), torch.float32
        )
        assert [measurement.bytes_moved(phase) for phase in ("forward", "backward", "both")] == [
            500,
            900,
            1400,
        ]


class TestGate:
    def test_broken_rival_is_missing_and_ours_is_not_excused(self):
        def broken(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("not for this dtype\nat all")

        right = of_loss("right", plain_losses.dice_loss)
        case = Case("dice", "Dice", True, [right, of_loss("rival", broken)], plain_losses.dice_loss)
        (checked,) = gate.without_broken_rivals([case], make_volumes(SMALL))
        assert [provider.name for provider in checked.providers] == ["right"]
        assert checked.missing == [Missing("rival", "NotImplementedError: not for this dtype")]
        ours = replace(case, providers=[of_loss(OURS, broken)])
        (unchanged,) = gate.without_broken_rivals([ours], make_volumes(SMALL))
        with pytest.raises(NotImplementedError):
            gate.disagreements([unchanged], make_volumes(SMALL))

    def test_wrong_distance_transform_of_a_rival_is_missing(self):
        def doubled(mask: torch.Tensor) -> torch.Tensor:
            return 2 * distance_transforms.of_scipy(mask)

        named = {OURS: distance_transforms.of_scipy, "rival": doubled}
        providers = [
            distance_transforms.of_transform(name, transform, distance_transforms.noise)
            for name, transform in named.items()
        ]
        case = Case("edt_dense", "EDT", False, providers)
        (checked,) = gate.without_broken_rivals([case], make_volumes(SMALL))
        assert [provider.name for provider in checked.providers] == [OURS]
        assert checked.missing == [Missing("rival", "AssertionError: Tensor-likes are not close!")]

    def test_missing_cucim_is_reported(self, monkeypatch):
        monkeypatch.setattr(distance_transforms, "find_spec", lambda package: None)
        (transform,) = (case for case in cases.make_cases("cuda") if case.name == "edt_sparse")
        assert "no package cupy and cucim" in [missing.reason for missing in transform.missing]
        assert SCIPY_ALONE in [provider.name for provider in transform.providers]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_all_eager_providers_agree(self, dtype):
        for case in eager_cases("cuda", dtype):
            volumes = make_volumes((1, 3 if case.of_labels else 1, 16, 16, 16), dtype)
            assert gate.disagreements([case], volumes) == []

    def test_half_precision_rival_that_does_not_widen_is_wrong(self):
        provider = of_loss("narrow", plain_losses.dice_fog_loss)
        case = Case("dice_fog", "", True, [provider], plain_losses.dice_fog_loss)
        assert gate.disagreements([case], make_volumes((1, 1, 16, 16, 16), torch.bfloat16)) != []

    def test_missing_package_is_reported(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "monai", None)
        (dice,) = (case for case in cases.make_cases("cuda") if case.name == "dice")
        assert MONAI in [missing.name for missing in dice.missing]


@dataclass(frozen=True)
class Timed:
    """Milliseconds of a provider that has them all: forward, backward, in a graph, of the host."""

    case: str
    provider: str
    forward: float
    backward: float = 0.0
    graph: float = 0.0
    host: float = 0.0

    def measurement(self, shape: tuple[int, ...], dtype: torch.dtype) -> Measurement:
        provider = COPY if self.provider == COPY.name else of_loss(self.provider, plain_losses.dice_loss)
        case = Case(self.case, self.case, True, [])
        lists = [[each / 1000] * 3 if each else [] for each in (self.graph, self.host)]
        times = [[each / 1000] * 3 for each in (self.forward, self.backward)]
        return Measurement(case, provider, shape, dtype, *times, [], 900_000, *lists)


class TestBars:
    LARGE_MS = 2 * 4 * 8 * 256**3 / 3e12 * 1000  # of a float32 copy at 3 TB/s

    def large(self) -> list[Measurement]:
        timed = (Timed(MEMORY, COPY.name, self.LARGE_MS), Timed("fog", OPERATORS, self.LARGE_MS / 0.9, 1.0))
        return [each.measurement(LARGE, torch.float32) for each in timed]

    def training(self) -> list[Measurement]:
        timed = (
            Timed("dice_fog", OURS, 0.04, 0.06, graph=0.06, host=0.05),
            Timed("dice_fog", EAGER, 0.5, 0.5),
            Timed("dice", MONAI, 0.2, 0.2, host=0.04),
            Timed("hausdorff", MONAI, 59.0, 0.1),
            Timed("hausdorff", OURS, 0.5, 0.1),
            Timed("edt_sparse", OURS, 0.44),
            Timed("edt_dense", OURS, 1.4),
        )
        return [each.measurement(TRAINING, torch.bfloat16) for each in timed]

    def test_all_are_listed_without_measurements(self):
        verdicts = cuda_bars.judge([], [])
        assert {verdict.passed for verdict in verdicts} == {None}
        assert len(verdicts) == 8 + 6 + 2 + 2 + 1 + 2
        assert report.bars_table(verdicts).count("not measured") == len(verdicts)

    def test_judged(self):
        steps = [StepTimes((4, 3, 64, 64, 64), [0.1] * 3, [0.003] * 3)]
        verdicts = cuda_bars.judge([*self.large(), *self.training()], steps)
        judged = {verdict.text: (verdict.measured, verdict.passed) for verdict in verdicts}
        measured = {text: each for text, each in judged.items() if each[1] is not None}
        assert [each for text, each in measured.items() if "kernel" in text] == [
            ("90 %", True),
            ("53.7 %", False),
        ]
        (floor,) = (each for text, each in measured.items() if "units of the bytes'" in text)
        assert floor == (f"{0.06e-3 / (5 * 2 * 4 * 128**3 / 3e12):.3g} x", True)
        expected = {
            "the eager reference": ("16.7 x", True),
            "MONAI HausdorffDTLoss": ("985 x", False),
            "host time": ("1.25 x", False),
            "share of the loss": ("3 %", False),
            "memory beyond": ("0.90 MB", True),
            "hausdorff, 4x1x128^3: faster": ("98.5 x", False),
            "edt_sparse": ("0.44 ms", True),
            "edt_dense": ("1.4 ms", False),
        }
        for text, verdict in expected.items():
            assert [each for key, each in measured.items() if text in key] == [verdict]
        assert [text for text in judged if "BoundaryLoss" in text and judged[text][1] is None]


def test_share_of_a_training_step():
    pytest.importorskip("monai")
    (times,) = training_step.measure_steps("cpu", (16,), 3)
    assert format_shape(times.shape) == "4x3x16^3"
    assert 0 < times.share < 1


def test_csv_of_training_steps():
    steps = [StepTimes((4, 3, 64, 64, 64), [0.1] * 3, [0.003] * 3)]
    rows = list(csv.DictReader(io.StringIO(report.as_csv([], steps))))
    assert [(row["phase"], row["median_ms"]) for row in rows] == [("step", "100.0000"), ("loss", "3.0000")]
