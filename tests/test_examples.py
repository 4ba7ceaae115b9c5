"""The scripts under examples/, as small as they go: they run, and print what they say they print."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys) -> Callable[..., str]:
    """Runs a script with arguments in an empty folder; what it prints."""
    monkeypatch.chdir(tmp_path)

    def run_script(script: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        text: str = capsys.readouterr().out
        return text

    return run_script


def test_lesions(run):
    table = run("lesions_2d.py", "--steps", "2").splitlines()
    assert [line.rsplit(maxsplit=3)[0] for line in table] == ["loss", "Dice", "Dice + FOG"]


def test_loss_of_your_own(run, tmp_path):
    text = run("loss_of_your_own.py", "--side", "24", "--out", "push.png")
    difference = next(line for line in text.splitlines() if line.startswith("largest difference"))
    assert float(difference.split()[-1]) < 1e-5
    assert (tmp_path / "push.png").read_bytes().startswith(b"\x89PNG")


def test_many_classes(run):
    text = run("many_classes.py", "--side", "16", "--steps", "3")
    values = [line.split("value")[1].split()[0] for line in text.splitlines() if "value" in line]
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-4)
    steps = [float(line.split()[-1]) for line in text.splitlines() if "step" in line]
    assert steps[-1] < steps[0]
