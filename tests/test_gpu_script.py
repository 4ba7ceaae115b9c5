"""The script for a machine with a GPU, without one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import gpu
from bench.gpu import Command, Step


def python(code: str) -> Command:
    return Command([sys.executable, "-c", code])


class TestSteps:
    def test_log_holds_command_and_output(self, tmp_path):
        log = tmp_path / "log"
        outcome = gpu.run_step("build", Step([python("print('=== 3 passed ===')")], 60), log)
        assert (outcome.passed, outcome.detail) == (True, "3 passed")
        assert log.read_text().splitlines()[0].startswith(f"$ {sys.executable} -c ")

    def test_failure_stops_the_step(self, tmp_path):
        commands = [python("raise SystemExit(3)"), python("print('not run')")]
        outcome = gpu.run_step("build", Step(commands, 60), tmp_path / "log")
        assert not outcome.passed
        assert outcome.detail.startswith("exit 3: check")
        assert "\nnot run\n" not in (tmp_path / "log").read_text()

    def test_failure_does_not_stop_a_step_that_keeps_going(self, tmp_path):
        commands = [python("raise SystemExit(3)"), python("print('run')")]
        outcome = gpu.run_step("sanitize", Step(commands, 60, keep_going=True), tmp_path / "log")
        assert not outcome.passed
        assert outcome.detail == "exit 3: check; run"

    def test_time_limit_ends_children_too(self, tmp_path):
        child = (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
        )
        outcome = gpu.run_step(
            "test", Step([python(child), python("")], 1, keep_going=True), tmp_path / "log"
        )
        assert not outcome.passed
        assert outcome.seconds < 30
        assert outcome.detail.count("exit 124 (time limit)") == 2

    def test_environment_is_added(self, tmp_path):
        command = Command([sys.executable, "-c", "import os; print(os.environ['ADDED'])"], {"ADDED": "here"})
        assert gpu.run_step("build", Step([command], 60), tmp_path / "log").detail == "here"
        assert str(command).startswith("ADDED=here ")

    def test_nothing_to_run_is_a_failure_with_its_reason(self, monkeypatch, tmp_path):
        monkeypatch.setattr(gpu, "find_sanitizer", lambda: None)
        outcome = gpu.run_step("sanitize", gpu.sanitize_step(tmp_path), tmp_path / "log")
        assert (outcome.passed, outcome.detail) == (False, "compute-sanitizer is not installed")

    def test_sanitizer_of_the_toolkit_is_found(self, monkeypatch, tmp_path):
        tool = tmp_path / "compute-sanitizer"
        tool.write_text("")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(gpu, "SANITIZER_PLACES", [str(tmp_path)])
        commands = gpu.sanitize_step(tmp_path).commands
        assert [str(command).split()[1:4] for command in commands] == [
            [str(tool), "--tool", name] for name in gpu.SANITIZERS
        ]
        assert Path(gpu.ROOT / gpu.EVERY_KERNEL).exists()

    def test_files_that_lack_a_package_are_left_out_and_named(self, monkeypatch, tmp_path):
        (tmp_path / "test_right.py").write_text("def test(): pass\n")
        (tmp_path / "test_lacking.py").write_text("import no_such_package.inner\n")
        (tmp_path / "test_broken.py").write_text("1 / 0\n")
        monkeypatch.setattr(gpu, "ROOT", tmp_path)
        assert gpu.files_without_their_packages() == {"test_lacking.py": "no_such_package"}
        step = gpu.triton_step(tmp_path)
        assert "--ignore=test_lacking.py" in step.commands[0].arguments
        assert step.notes == ["test_lacking.py needs no_such_package"]


class TestCommand:
    def test_dry_run_runs_nothing(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(gpu, "run_step", None)
        monkeypatch.setattr(gpu, "files_without_their_packages", dict)
        assert gpu.main(["--dry-run", "--out", str(tmp_path / "new")]) == 0
        out = capsys.readouterr().out
        assert all(f"{name}: " in out for name in gpu.STEPS)
        assert "GEOLOSS_BUILD=cuda" in out
        assert not (tmp_path / "new").exists()

    def test_steps_go_on_and_the_exit_code_tells(self, monkeypatch, tmp_path, capsys):
        steps = {
            "build": lambda out: Step([python("raise SystemExit(1)")], 60),
            "bench": lambda out: Step([python(f"open({str(out / 'gpu.md')!r}, 'w').write('table')")], 60),
        }
        monkeypatch.setattr(gpu, "STEPS", steps)
        monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
        (tmp_path / "results").mkdir()
        out = tmp_path / "out"
        assert gpu.main(["--out", str(out)]) == 1
        assert (tmp_path / "results" / "gpu.md").read_text() == "table"
        summary = (out / "summary.txt").read_text()
        assert [line.split()[:2] for line in summary.splitlines()] == [["build", "FAIL"], ["bench", "pass"]]
        assert capsys.readouterr().out.endswith(summary)
        assert gpu.main(["bench", "--out", str(out)]) == 0

    def test_default_folder_is_out(self, monkeypatch):
        monkeypatch.setenv("OUT", "elsewhere")
        assert gpu._parse([]).out == Path("elsewhere")

    def test_unknown_step(self, capsys):
        with pytest.raises(SystemExit):
            gpu.main(["fly"])
        assert "STEP: expected any of build, test" in capsys.readouterr().err
