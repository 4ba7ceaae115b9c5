"""The script for a machine with a GPU, without one."""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import bench.__main__
from bench.gpu import __main__ as script
from bench.gpu import commands, pack, repeat, steps
from bench.gpu.commands import Command, Step

GPU = steps.Machine("cuda", Path("out"), 14)


def python(code: str) -> Command:
    return Command([sys.executable, "-c", code])


class TestSteps:
    def test_log_holds_command_and_output(self, tmp_path):
        log = tmp_path / "log"
        outcome = commands.run_step("build", Step([python("print('=== 3 passed ===')")], 60), log)
        assert (outcome.passed, outcome.detail) == (True, "3 passed")
        assert log.read_text().splitlines()[0].startswith(f"$ {sys.executable} -c ")

    def test_failure_stops_the_step(self, tmp_path):
        listed = [python("raise SystemExit(3)"), python("print('not run')")]
        outcome = commands.run_step("build", Step(listed, 60), tmp_path / "log")
        assert not outcome.passed
        assert outcome.detail.startswith("exit 3: check")
        assert "\nnot run\n" not in (tmp_path / "log").read_text()

    def test_failure_does_not_stop_a_step_that_keeps_going(self, tmp_path):
        listed = [python("raise SystemExit(3)"), python("print('run')")]
        outcome = commands.run_step("sanitize", Step(listed, 60, keep_going=True), tmp_path / "log")
        assert not outcome.passed
        assert outcome.detail == "exit 3: check; run"

    def test_time_limit_ends_children_too_that_do_not_want_to(self, tmp_path):
        stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
        child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stubborn!r}])"
        listed = [python(f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {child}"), python("")]
        outcome = commands.run_step("test", Step(listed, 2, keep_going=True), tmp_path / "log")
        assert not outcome.passed
        assert outcome.seconds < 30
        assert outcome.detail.count("exit 124 (time limit)") == 2

    def test_environment_is_added(self, tmp_path):
        command = Command([sys.executable, "-c", "import os; print(os.environ['ADDED'])"], {"ADDED": "here"})
        assert commands.run_step("build", Step([command], 60), tmp_path / "log").detail == "here"
        assert str(command).startswith("ADDED=here ")

    def test_interrupted_command_has_time_to_sum_up(self, tmp_path):
        code = "import time\ntry:\n  time.sleep(60)\nexcept KeyboardInterrupt:\n  print('3 passed so far')"
        outcome = commands.run_step("parity", Step([python(code)], 4), tmp_path / "log")
        assert outcome.detail == "exit 124 (time limit): check; 3 passed so far"

    def test_time_that_is_left_and_a_command_s_own_limit(self, tmp_path):
        slow = "import time; time.sleep(60)"
        for step, left in (
            (Step([python(slow)], 60), 0.5),
            (Step([Command(python(slow).arguments, limit=0.5)], 60), 60),
        ):
            outcome = commands.run_step("once", step, tmp_path / "log", left)
            assert not outcome.passed
            assert outcome.seconds < 30

    def test_nothing_to_run_is_a_failure_with_its_reason(self, monkeypatch, tmp_path):
        monkeypatch.setattr(steps, "find_sanitizer", lambda: None)
        outcome = commands.run_step("sanitize", steps.sanitize(GPU), tmp_path / "log")
        assert (outcome.passed, outcome.detail) == (False, "compute-sanitizer is not installed")

    def test_sanitizer_of_the_toolkit_is_found(self, monkeypatch, tmp_path):
        tool = tmp_path / "compute-sanitizer"
        tool.write_text("")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(steps, "SANITIZER_PLACES", [str(tmp_path)])
        listed = steps.sanitize(GPU).commands
        assert [str(command).split()[1:4] for command in listed] == [
            [str(tool), "--tool", name] for name in steps.SANITIZERS
        ]

    def test_files_and_losses_that_the_steps_name_are_there(self):
        for step in steps.STEPS.values():
            for command in step(GPU).commands:
                files = [argument for argument in command.arguments if argument.startswith("tests/")]
                assert all((commands.ROOT / file).exists() for file in files)
                if "bench" in command.arguments:
                    on_cpu = ["cpu" if argument == "cuda" else argument for argument in command.arguments[3:]]
                    options = on_cpu[: on_cpu.index("--dtypes")] + on_cpu[on_cpu.index("--losses") :]
                    bench.__main__._parse(options)

    def test_limits_leave_time_for_the_most_worthy(self):
        assert sum(step(GPU).limit for name, step in steps.STEPS.items() if name != "reproduce") <= 700


class TestPack:
    @pytest.fixture
    def tree(self, monkeypatch, tmp_path):
        """A tree with sources, and a pack made of them without a compiler or an index."""
        root = tmp_path / "tree"
        (root / "csrc").mkdir(parents=True)
        (root / "csrc" / "kernel.cu").write_text("kernel")
        (root / "setup.py").write_text("setup")
        monkeypatch.setattr(pack, "ROOT", root)

        def download(folder: Path, python: str) -> None:
            folder.mkdir()
            with zipfile.ZipFile(folder / "peer-1-py3-none-any.whl", "w") as file:
                file.writestr("peer.py", "")
                file.writestr("peer-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: peer\nVersion: 1\n")
                file.writestr(
                    "peer-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
                )
                file.writestr("peer-1.dist-info/RECORD", "")

        monkeypatch.setattr(pack, "_download", download)

        def build(archive: Path, built: Path, architectures: str) -> None:
            archive.parent.mkdir()
            with zipfile.ZipFile(f"{archive}.zip", "w") as file:
                file.writestr("_C_cuda.abi3.so", architectures)

        monkeypatch.setattr(pack, "_build", build)
        return root

    def test_there_and_back(self, tree, tmp_path):
        line = pack.make(tmp_path / "pack", "3.12", "9.0")
        assert "manifest.json" in line
        assert "operators.zip" in line
        pack.unpack(tmp_path / "pack", tmp_path / "site")
        assert (tree / "geoloss_kernels" / "_C_cuda.abi3.so").read_text() == "9.0"
        assert (tmp_path / "site" / "peer.py").exists()

    def test_of_other_sources_is_refused(self, tree, tmp_path):
        pack.make(tmp_path / "pack", "3.12", "9.0")
        (tree / "csrc" / "kernel.cu").write_text("another")
        with pytest.raises(pack.PackError, match="pack again"):
            pack.unpack(tmp_path / "pack", tmp_path / "site")

    def test_no_pack_is_an_error_that_says_how_to_make_it(self, tmp_path, capsys):
        assert script.main(["run", "--pack", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
        assert "`python -m bench.gpu pack`" in capsys.readouterr().err

    def test_too_large_keeps_the_old_one(self, tree, monkeypatch, tmp_path):
        pack.make(tmp_path / "pack", "3.12", "9.0")
        monkeypatch.setattr(pack, "LARGEST", 10)
        with pytest.raises(pack.PackError, match="expected at most"):
            pack.make(tmp_path / "pack", "3.12", "8.0")
        assert json.loads((tmp_path / "pack" / pack.MANIFEST).read_text())["architectures"] == "9.0"


class TestRun:
    def test_list_runs_nothing(self, tmp_path, capsys):
        assert script.main(["list", "--out", str(tmp_path / "new")]) == 0
        shown = capsys.readouterr().out
        assert all(f"{name}: " in shown for name in steps.STEPS)
        assert not (tmp_path / "new").exists()

    def test_steps_go_on_and_everything_is_kept(self, monkeypatch, tmp_path, capsys):
        def broken(machine: steps.Machine) -> Step:
            raise RuntimeError("no such tool")

        chosen = {
            "once": lambda machine: Step([python("raise SystemExit(1)")], 60),
            "parity": broken,
            "kernels": lambda machine: Step(
                [python(f"open({str(machine.out / 'gpu.md')!r}, 'w').write('table')")], 60
            ),
        }
        monkeypatch.setattr(script, "STEPS", chosen)
        out, results = tmp_path / "out", tmp_path / "results"
        assert script.main(["run", "--rehearse", "--out", str(out), "--results", str(results)]) == 1
        lines = (results / script.SUMMARY).read_text().splitlines()
        assert [line.split()[:2] for line in lines] == [
            ["once", "FAIL"],
            ["parity", "FAIL"],
            ["kernels", "pass"],
        ]
        assert lines[1].endswith("RuntimeError: no such tool")
        assert lines[0] in capsys.readouterr().out
        with tarfile.open(results / script.RESULTS) as archive:
            assert "gpu-run/gpu.md" in archive.getnames()

    def test_no_time_left_is_said(self, monkeypatch, tmp_path):
        monkeypatch.setattr(script, "STEPS", {"once": lambda machine: Step([python("")], 60)})
        options = ["--seconds", "0", "--out", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
        assert script.main(["run", "--rehearse", *options]) == 1
        assert "time limit" in (tmp_path / "results" / script.SUMMARY).read_text()

    def test_unknown_step(self, capsys):
        with pytest.raises(SystemExit):
            script.main(["run", "fly"])
        assert "STEP: expected any of once, parity" in capsys.readouterr().err


class TestRepeat:
    def test_other_bits_are_seen(self, monkeypatch, capsys):
        volume = torch.ones(1, 1, 4, 4, 4)
        noise = iter(range(10**6))

        def unsteady(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return input.sum() * (1 + next(noise))

        monkeypatch.setattr(repeat, "losses", lambda device: [("unsteady", unsteady, volume, volume)])
        monkeypatch.setattr(repeat, "CHECKS", (repeat.runs_agree,))
        assert repeat.main("cpu") == 1
        assert "FAIL: other bits: runs_agree: unsteady" in capsys.readouterr().out
