"""The benchmark harness, and its cases on small volumes (``pytest --benchmark-enable`` times them)."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bench import __main__ as command
from bench import bars, gate, plain_losses, report, timing
from bench.cases import COMPILED, LABEL_LOSSES, LOSSES, MEMORY, OURS, PLAIN_COMPILED, Case, make_cases
from bench.inputs import Volumes, format_shape, make_volumes, parse_shape
from bench.providers import SUM, Provider, Steps, compiled, of_loss
from bench.timing import Measurement, Plan, calls_within, measure, takes_part
from geoloss_kernels.lesions.reporting.memory import peak_growth

SMALL = (2, 1, 12, 13, 14)
SMALL_CLASSES = (1, 3, 8, 12, 16)
MIB = 1 << 20


def eager_cases() -> list[Case]:
    """Every case without the providers that need seconds to compile."""
    return [without_compiled(case) for case in make_cases()]


def without_compiled(case: Case) -> Case:
    eager = [provider for provider in case.providers if provider.name not in (COMPILED, PLAIN_COMPILED)]
    return replace(case, providers=eager)


EAGER = [(case, provider) for case in eager_cases() for provider in case.providers]


def small_volumes(case: Case) -> Volumes:
    return make_volumes(SMALL_CLASSES if case.of_labels else SMALL)


@pytest.mark.parametrize(("case", "provider"), EAGER, ids=[f"{c.name}: {p.name}" for c, p in EAGER])
def test_speed(benchmark, case, provider):
    volumes = small_volumes(case)
    volume = case.input_of(volumes)
    steps = provider.prepare(volume, case.target_of(volumes))

    def call() -> Tensor:
        steps.release()
        result = steps.forward()
        if steps.backward is not None:
            steps.backward(result)
        return result.detach()

    result = benchmark(call)
    if provider.loss is not None:
        assert case.reference is not None
        expected = case.reference(volume.double(), case.exact_target_of(volumes))
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=0)
    else:
        assert result.isfinite().all()


class TestInputs:
    @pytest.mark.parametrize("shape", [(2, 1, 128, 128, 128), (1, 3, 4, 5, 6)])
    def test_shape_is_written_and_read(self, shape):
        assert parse_shape(format_shape(shape)) == shape

    @pytest.mark.parametrize("text", ["128", "2x1x128", "2x1x0^3", "2x1x8x8", "axbxc^3", "2x1x8^2"])
    def test_bad_shape(self, text):
        with pytest.raises(ValueError, match=r"^shape: expected"):
            parse_shape(text)

    def test_volumes(self):
        volumes = make_volumes((2, 2, 20, 24, 28))
        assert volumes.logits.shape == volumes.target.shape == (2, 2, 20, 24, 28)
        fractions = volumes.target.mean((2, 3, 4))
        assert ((fractions > 0.001) & (fractions < 0.1)).all()
        assert set(volumes.target.unique().tolist()) == {0.0, 1.0}
        agreement = ((volumes.probabilities > 0.5) == (volumes.target > 0.5)).double().mean()
        assert 0.9 < agreement < 1
        assert torch.equal(volumes.probabilities > 0.5, volumes.logits.double().sigmoid() > 0.5)


class TestGate:
    def test_all_eager_providers_agree(self):
        for case in eager_cases():
            assert gate.disagreements([case], small_volumes(case)) == []

    def test_compiled_provider_agrees(self):
        provider = compiled("compiled", plain_losses.dice_loss)
        case = Case("dice", "Dice", True, [provider], plain_losses.dice_loss)
        assert gate.disagreements([case], make_volumes(SMALL)) == []

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda loss, s, g: 1.001 * loss(s, g),
            lambda loss, s, g: loss(s, g) + 0 * (0 * s.sum()).sqrt(),
            lambda loss, s, g: loss(s, g) + 1e-3 * (s - s.detach()).mean(),
        ],
        ids=["loss", "gradient is nan", "gradient"],
    )
    def test_names_what_is_wrong(self, wrong):
        right = plain_losses.dice_loss
        case = Case(
            "dice", "Dice", True, [of_loss("right", right), of_loss("odd", partial(wrong, right))], right
        )
        (line,) = gate.disagreements([case], make_volumes(SMALL))
        assert line.startswith("dice: odd: relative error of the loss")

    def test_suite_is_run(self, monkeypatch, tmp_path):
        monkeypatch.setattr(gate, "ROOT", tmp_path)
        suite = tmp_path / gate.SUITE[0]
        suite.parent.mkdir()
        for body, green in (("pass", True), ("assert False", False)):
            suite.write_text(f"def test(): {body}\n")
            assert gate.run_suite() == (gate.SUITE[0], green)

    def test_reference_suite_is_run_without_a_parity_suite(self, monkeypatch, tmp_path):
        monkeypatch.setattr(gate, "ROOT", tmp_path)
        (tmp_path / "tests").mkdir()
        (tmp_path / gate.SUITE[1]).write_text("def test(): pass\n")
        assert gate.run_suite() == (gate.SUITE[1], True)


class Recorder:
    """A provider that writes its steps into a list; they take the given times on the list's clock."""

    def __init__(self, name: str, log: Log, forward: float = 0.001, backward: float = 0.001) -> None:
        self.name, self.log, self.times = name, log, (forward, backward)

    def provider(self) -> Provider:
        return Provider(self.name, lambda *_: Steps(self.forward, self.backward, self.release))

    def forward(self) -> str:
        self.log.add(f"{self.name} forward", self.times[0])
        return self.name

    def backward(self, result: str) -> None:
        assert result == self.name
        self.log.add(f"{self.name} backward", self.times[1])

    def release(self) -> None:
        self.log.add(f"{self.name} release", 0.5)


class Log(list[str]):
    """Lines, and a clock that only they move."""

    seconds = 0.0

    def add(self, line: str, seconds: float) -> None:
        self.append(line)
        self.seconds += seconds


def recorded(plan: Plan, *recorders: Recorder) -> list[Measurement]:
    case = Case("case", "Case", True, [recorder.provider() for recorder in recorders])
    return measure([case], make_volumes((1, 1, 4, 4, 4)), plan)


class TestTiming:
    @pytest.fixture
    def log(self, monkeypatch) -> Log:
        log = Log()
        monkeypatch.setattr(timing, "perf_counter", lambda: log.seconds)
        return log

    def test_steps_are_timed_apart(self, log):
        (measurement,) = recorded(Plan(rounds=4), Recorder("a", log, 0.01, 0.03))
        for phase, seconds in zip(timing.PHASES, (0.01, 0.03, 0.04), strict=True):
            spread = measurement.spread(phase)
            assert (spread.p20, spread.median, spread.p80) == pytest.approx([seconds] * 3)

    def test_spread(self):
        times = [0.05, 0.01, 0.04, 0.02, 0.03, 0.06]
        case = Case("case", "Case", True, [])
        spread = Measurement(case, SUM, SMALL, torch.float32, forward=times).spread("forward")
        assert (spread.p20, spread.median, spread.p80) == pytest.approx((0.02, 0.035, 0.05))

    def test_gradient_is_released_before_every_forward_step(self, log):
        recorded(Plan(rounds=3), Recorder("a", log))
        before = [log[index - 1] for index, line in enumerate(log) if line == "a forward"]
        assert set(before) == {"a release"}
        assert log.count("a forward") == log.count("a backward") == len(before)

    def test_all_take_turns(self, monkeypatch, log):
        monkeypatch.setattr(timing, "FAST", 0.0)
        monkeypatch.setattr(timing, "peak_growth", lambda *_, **options: None)
        names = ("a", "b", "c")
        recorded(Plan(rounds=10), *(Recorder(name, log) for name in names))
        visits = [line[0] for line in log if "forward" in line][2 * len(names) :]
        rounds = ["".join(visits[i : i + 3]) for i in range(0, 30, 3)]
        assert all(set(visit) == set(names) for visit in rounds)
        assert len(set(rounds)) > 1

    def test_slow_provider_has_fewer_calls(self, log):
        plan = Plan(rounds=8, budget=0.085)
        fast, slow = recorded(plan, Recorder("fast", log), Recorder("slow", log, 0.019))
        assert (len(fast.forward), len(slow.forward)) == (8, 4)

    def test_calls_within_budget(self):
        plan = Plan(rounds=40, budget=6)
        assert [calls_within(plan, seconds) for seconds in (1e-6, 0.5, 100.0)] == [40, 12, 3]

    @pytest.mark.parametrize("calls", [1, 3, 7, 40])
    def test_turns_are_evenly_spaced(self, calls):
        turns = [index for index in range(40) if takes_part(calls, index, 40)]
        gaps = [b - a for a, b in pairwise(turns)]
        assert len(turns) == calls
        assert not gaps or max(gaps) - min(gaps) <= 1

    def test_sum_has_no_backward_step(self):
        volumes = make_volumes(SMALL)
        (measurement,) = measure([Case(MEMORY, "memory", False, [SUM])], volumes, Plan(rounds=3))
        assert measurement.phases == ("forward",)
        assert measurement.bytes_moved("forward") == 3 * volumes.target.nbytes

    def test_cold_call_reads_the_buffer_first(self, monkeypatch, log):
        buffer = torch.ones(1)
        monkeypatch.setattr(timing, "eviction_buffer", lambda: log.append("evict") or buffer)
        recorded(Plan(rounds=3, cold=True), Recorder("a", log))
        assert log.count("evict") == 3
        at = log.index("evict")
        assert log[at + 1 : at + 3] == ["a release", "a forward"]


class TestMemory:
    def test_peak_counts_what_is_freed_again(self):
        def call() -> None:
            torch.ones(64 * MIB // 4).add_(1)

        growth = peak_growth(call)
        assert growth == pytest.approx(64 * MIB, abs=MIB)

    def test_what_the_last_call_left_hides_nothing(self):
        left: list[Tensor] = []

        def call() -> None:
            left.append(torch.ones(64 * MIB // 4))

        assert peak_growth(call, left.clear) == pytest.approx(64 * MIB, abs=MIB)

    def test_fused_loss_needs_its_gradient_alone(self):
        (case,) = (case for case in eager_cases() if case.name == "dice_fog")
        ours = [provider for provider in case.providers if provider.name == OURS]
        volumes = make_volumes((1, 1, 96, 96, 96))
        (measurement,) = measure([Case("dice_fog", "", True, ours)], volumes, Plan(rounds=3))
        assert measurement.extra_bytes is not None
        assert measurement.extra_bytes < MIB

    def test_reserved_memory_has_no_page_faults(self):
        code = (
            "import torch\n"
            "from bench.memory import keep_freed_memory, page_faults, reserve\n"
            "keep_freed_memory()\n"
            "reserve(1 << 28)\n"
            "torch.ones(1)\n"
            "before = page_faults()\n"
            "torch.ones(1 << 24)\n"
            "print(page_faults() - before)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=gate.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 100


def measured(case: str, provider: str, milliseconds: float, extra: int = 0) -> Measurement:
    """A measurement of calls that all took the same time, half of it forward."""
    half = [milliseconds / 2000] * 5
    implementation = SUM if provider == SUM.name else of_loss(provider, plain_losses.dice_loss)
    forward = [2 * t for t in half] if implementation is SUM else half
    measurement = Measurement(
        Case(case, case, True, []), implementation, bars.SHAPE, torch.float32, forward, half, [0] * 5
    )
    measurement.extra_bytes = extra
    return measurement


class TestBars:
    def test_ratios_are_judged(self):
        verdicts = bars.judge(
            [
                measured(MEMORY, SUM.name, 2.0),
                measured("fog", OURS, 5.0, extra=900_000),
                measured("fog", "reference, eager", 70.0),
            ]
        )
        judged = [(v.measured, v.passed) for v in verdicts]
        assert judged == [("2.50 x", True), ("14.00 x", False), ("0.90 MB", True)]

    @pytest.mark.parametrize(("milliseconds", "passed"), [(6.0, True), (6.01, False)])
    def test_limit_is_included(self, milliseconds, passed):
        verdict, _ = bars.judge([measured(MEMORY, SUM.name, 2.0), measured("fog", OURS, milliseconds)])
        assert verdict.passed is passed

    def test_memory_above_the_bar_fails(self):
        (verdict,) = bars.judge([measured("dice_fog", OURS, 1.0, extra=1_000_000)])
        assert not verdict.passed

    def test_bars_name_measured_cases(self):
        pytest.importorskip("monai")
        names = {(case.name, provider.name) for case in make_cases() for provider in case.providers}
        assert {key for bar in bars.BARS for key in (bar.numerator, bar.denominator)} <= names


class TestReport:
    MEASUREMENTS = (
        measured(MEMORY, SUM.name, 2.0),
        measured("fog", OURS, 5.0),
        measured("fog", "other", 20.0),
    )

    def test_markdown(self):
        text = report.markdown({"machine": "abacus"}, self.MEASUREMENTS, bars.judge(self.MEASUREMENTS))
        assert "| machine | abacus |" in text
        assert "## 2x1x128^3, float32" in text
        cells = next(line for line in text.splitlines() if "| other |" in line).split(" | ")
        assert cells[2:9] == ["5", "10", "10", "20 (20 to 20)", "4.2", "10", "4.00"]

    def test_csv(self):
        rows = list(csv.DictReader(io.StringIO(report.as_csv(self.MEASUREMENTS))))
        assert [row["phase"] for row in rows] == ["forward", *timing.PHASES, *timing.PHASES]
        assert rows[-1]["median_ms"] == "20.0000"
        assert rows[-1]["times_ours"] == "4.00"
        assert rows[-1]["times_input_plus_target"] == "10"
        assert float(rows[-1]["gb_per_s"]) == pytest.approx(5 * 2 * 128**3 * 4 / 0.02 / 1e9, rel=1e-3)

    def test_file_is_whole_or_absent(self, tmp_path, monkeypatch):
        path = tmp_path / "new" / "table.md"
        report.write(path, "old")
        monkeypatch.setattr(report.os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            report.write(path, "new")
        assert [entry.read_text() for entry in path.parent.iterdir()] == ["old"]


class TestCommand:
    @pytest.fixture(autouse=True)
    def _green_and_eager(self, monkeypatch):
        monkeypatch.setattr(gate, "run_suite", lambda device: ("suite", True))
        monkeypatch.setattr(command, "make_cases", lambda *_: eager_cases())
        monkeypatch.setattr(command, "keep_freed_memory", lambda: None)

    def test_providers_that_are_named_alone(self, tmp_path, capsys):
        named = ["--providers", "ours", "copy", "--no-suite", "--output", str(tmp_path)]
        assert command.main(["--quick", "--losses", "dice", *named]) == 0
        (table,) = tmp_path.glob("*.csv")
        rows = list(csv.DictReader(table.open()))
        assert {row["provider"] for row in rows} == {"ours", "copy"}
        assert "| gate | no suite, and every provider against float64 |" in capsys.readouterr().out

    def test_quick_run_writes_both_tables(self, tmp_path, capsys):
        assert command.main(["--quick", "--losses", "fog", "dice", "--output", str(tmp_path)]) == 0
        (table,) = tmp_path.glob("*.md")
        assert table.read_text() == capsys.readouterr().out.rstrip("\n") + "\n"
        (rows,) = (list(csv.DictReader(path.open())) for path in tmp_path.glob("*.csv"))
        assert {row["loss"] for row in rows} == {MEMORY, "fog", "dice"}
        assert "commit" in table.read_text()

    def test_red_suite_reports_nothing(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr(gate, "run_suite", lambda device: ("suite", False))
        assert command.main(["--quick", "--output", str(tmp_path)]) == 1
        assert capsys.readouterr() == (
            "",
            "Correctness gate\nbench: error: suite is red; nothing was timed\n",
        )
        assert not list(tmp_path.iterdir())

    def test_wrong_loss_reports_nothing(self, monkeypatch, capsys, tmp_path):
        wrong = of_loss(OURS, lambda s, g: 2 * plain_losses.dice_loss(s, g))
        case = Case("dice", "Dice", True, [wrong], plain_losses.dice_loss)
        monkeypatch.setattr(command, "make_cases", lambda *_: [case])
        assert command.main(["--quick", "--output", str(tmp_path)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "dice: ours: relative error of the loss 1.0e+00" in err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "arguments", [["--shapes", "8"], ["--rounds", "2"], ["--budget", "0"], ["--losses", "none"]]
    )
    def test_bad_arguments(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            command.main(arguments)
        assert stop.value.code == 2
        assert "error" in capsys.readouterr().err

    def test_every_loss_is_a_case(self):
        assert [case.name for case in make_cases()] == [MEMORY, *LOSSES, *LABEL_LOSSES]
