"""Commands with a time limit, and what is kept of them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
STOPPED = 124
GRACE = 5  # s


@dataclass(frozen=True)
class Command:
    """A command line with what it adds to the environment.

    Attributes:
        limit: seconds; None for all that its step has left.
    """

    arguments: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    limit: float | None = None

    def __str__(self) -> str:
        return shlex.join([*(f"{key}={value}" for key, value in self.environment.items()), *self.arguments])


@dataclass(frozen=True)
class Step:
    """Commands that run one after another until one fails, or all of them with ``keep_going``.

    Attributes:
        limit: seconds for all commands together.
        notes: what is left out here, and why.
    """

    commands: Sequence[Command]
    limit: float
    keep_going: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    name: str
    passed: bool
    seconds: float
    detail: str

    def __str__(self) -> str:
        return f"{self.name:12} {'pass' if self.passed else 'FAIL'}  {self.seconds:5.0f} s  {self.detail}"


def run_step(name: str, step: Step, log: Path, left: float = float("inf")) -> Outcome:
    """Run the commands for at most ``left`` seconds, their output to the screen and into ``log``."""
    if not step.commands:
        return Outcome(name, False, 0.0, "; ".join(step.notes))
    start = time.monotonic()
    limit = min(step.limit, left)
    failures: list[str] = []
    with log.open("a", encoding="utf-8") as file:
        for command in step.commands:
            remaining = limit - (time.monotonic() - start)
            code = run_command(command, min(remaining, command.limit or remaining), file.write)
            if code != 0:
                failures.append(f"exit {code}{' (time limit)' if code == STOPPED else ''}: {_name(command)}")
                if not step.keep_going:
                    break
    detail = "; ".join([*failures, last_line(log), *step.notes])
    return Outcome(name, not failures, time.monotonic() - start, detail)


def run_command(command: Command, limit: float, write: Callable[[str], object]) -> int:
    """The exit code; `STOPPED`, with the whole process group ended, after ``limit`` seconds.

    It is interrupted first, so that pytest sums up what it has seen, and killed `GRACE` seconds later.
    """
    write(f"$ {command}\n")
    print(f"$ {command}", flush=True)
    if limit <= 0:
        return STOPPED
    process = subprocess.Popen(
        command.arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **command.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    stopped = threading.Event()

    def interrupt() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGINT)

    alarms = [
        threading.Timer(max(limit - GRACE, limit / 2), interrupt),
        threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL)),
    ]
    for alarm in alarms:
        alarm.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            write(line)
            print(line, end="", flush=True)
        code = process.wait()
    finally:
        for alarm in alarms:
            alarm.cancel()
    return STOPPED if stopped.is_set() else code


def last_line(log: Path) -> str:
    """Of what a step printed, without the frames that pytest and compute-sanitizer draw."""
    lines = [line.strip("= \n") for line in log.read_text(encoding="utf-8").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _name(command: Command) -> str:
    """Of a sanitizer its tool, of Python the module."""
    arguments = list(command.arguments)
    flag = "--tool" if "--tool" in arguments else "-m"
    return arguments[arguments.index(flag) + 1] if flag in arguments else "check"
