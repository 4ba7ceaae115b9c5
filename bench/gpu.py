"""Everything that a machine with a GPU is needed for, in one command.

    python -m bench.gpu                        # all steps, into $OUT or ./gpu-run
    python -m bench.gpu build test sanitize    # some of them
    python -m bench.gpu --dry-run              # what it would run

    build      the operators for the GPU that is there, in place, without a network
    test       the suite with the CPU's and the CUDA operators
    triton     the suite's part for Triton
    sanitize   memcheck, synccheck, initcheck and racecheck over tests/test_every_kernel.py
    bench      python -m bench --device cuda; the tables also go to bench/results

A step that fails or exceeds its time limit does not stop the others. The summary comes last; the exit code
is 1 if a step failed. What is not installed is left out and named in the summary. Needs Python, torch with
CUDA and nvcc; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PYTHON = sys.executable
PROCESSES = 8
EVERY_KERNEL = "tests/test_every_kernel.py"
SANITIZERS = ("memcheck", "synccheck", "initcheck", "racecheck")  # the slowest last
SANITIZER_PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
EXIT_OF_SANITIZER = "86"
STOPPED = 124

CHECK_BUILD = """
import torch, geoloss_kernels as gk
print(torch.cuda.get_device_name(), gk.build_info())
reason = gk.backends.available()["cuda"]
assert reason is None, f"the CUDA operators cannot be used: {reason}"
"""


@dataclass(frozen=True)
class Command:
    """A command line with what it adds to the environment."""

    arguments: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)

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
    limit: int
    keep_going: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    name: str
    passed: bool
    seconds: float
    detail: str

    def __str__(self) -> str:
        return f"{self.name:9} {'pass' if self.passed else 'FAIL'}  {self.seconds:5.0f} s  {self.detail}"


def build_step(out: Path) -> Step:
    install = [
        PYTHON,
        "-m",
        "pip",
        "install",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "--editable",
        ".",
    ]
    return Step([Command(install, {"GEOLOSS_BUILD": "cuda"}), Command([PYTHON, "-c", CHECK_BUILD])], 420)


def test_step(out: Path) -> Step:
    return _suite("not triton", 540)


def triton_step(out: Path) -> Step:
    return _suite("triton", 540)


def sanitize_step(out: Path) -> Step:
    """Without torch's own memory cache, in which an overrun lands in another block of the cache."""
    sanitizer = find_sanitizer()
    if sanitizer is None:
        return Step([], 0, notes=["compute-sanitizer is not installed"])
    checked = [
        PYTHON,
        "-m",
        "pytest",
        *_pytest_options(),
        "-q",
        "-x",
        "-k",
        "cuda and not host",
        EVERY_KERNEL,
    ]
    options = ["--error-exitcode", EXIT_OF_SANITIZER, "--kernel-name", "kns=geo_"]
    options += ["--launch-timeout", "0", "--print-limit", "20"]
    commands = [
        Command([sanitizer, "--tool", tool, *options, *checked], {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        for tool in SANITIZERS
    ]
    return Step(commands, 560, keep_going=True)


def bench_step(out: Path) -> Step:
    return Step([Command([PYTHON, "-m", "bench", "--device", "cuda", "--output", str(out)])], 590)


STEPS: dict[str, Callable[[Path], Step]] = {
    "build": build_step,
    "test": test_step,
    "triton": triton_step,
    "sanitize": sanitize_step,
    "bench": bench_step,
}


def _suite(selection: str, limit: int) -> Step:
    ignored = files_without_their_packages()
    options = _pytest_options()
    if find_spec("xdist"):
        options += ["-n", str(PROCESSES)]
    options += [f"--ignore={file}" for file in ignored]
    command = Command([PYTHON, "-m", "pytest", *options, "-q", "--no-header", "-k", selection])
    notes = [f"{file} needs {package}" for file, package in ignored.items()]
    return Step([command], limit, notes=notes)


def _pytest_options() -> list[str]:
    """The options of pyproject.toml name plugins that may not be there."""
    return [] if find_spec("pytest_benchmark") else ["--override-ini=addopts=-ra --strict-markers"]


def files_without_their_packages() -> dict[str, str]:
    """The test files that cannot be imported here, with the package that they lack."""
    command = [PYTHON, "-m", "pytest", *_pytest_options(), "--collect-only", "-q", "--no-header"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    found, file = {}, ""
    for line in lines:
        if match := re.match(r"_+ ERROR collecting (\S+) _+$", line):
            file = match[1]
        elif (match := re.match(r"E\s+ModuleNotFoundError: No module named '([^']+)'", line)) and file:
            found[file] = match[1]
    return found


def find_sanitizer() -> str | None:
    places = [os.environ.get("PATH", ""), *SANITIZER_PLACES]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def run_step(name: str, step: Step, log: Path) -> Outcome:
    """Run the commands, their output to the screen and into ``log``."""
    if not step.commands:
        return Outcome(name, False, 0.0, "; ".join(step.notes))
    start = time.monotonic()
    failures: list[str] = []
    with log.open("a", encoding="utf-8") as file:
        for command in step.commands:
            left = step.limit - (time.monotonic() - start)
            code = run_command(command, left, file.write)
            if code != 0:
                failures.append(f"exit {code}{' (time limit)' if code == STOPPED else ''}: {_name(command)}")
                if not step.keep_going:
                    break
    detail = "; ".join([*failures, last_line(log), *step.notes])
    return Outcome(name, not failures, time.monotonic() - start, detail)


def run_command(command: Command, limit: float, write: Callable[[str], object]) -> int:
    """The exit code; `STOPPED`, with the whole process group ended, after ``limit`` seconds."""
    write(f"$ {command}\n")
    print(f"$ {command}", flush=True)
    if limit <= 0:
        return STOPPED
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **command.environment}
    process = subprocess.Popen(
        command.arguments,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

    alarm = threading.Timer(limit, stop)
    alarm.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            write(line)
            print(line, end="", flush=True)
        code = process.wait()
    finally:
        alarm.cancel()
    return STOPPED if stopped.is_set() else code


def last_line(log: Path) -> str:
    """Of what a step printed, without the frames that pytest and compute-sanitizer draw."""
    lines = [line.strip("= \n") for line in log.read_text(encoding="utf-8").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def keep_results(out: Path) -> None:
    """Put the tables of a run beside those that the project keeps."""
    for table in [*out.glob("*.md"), *out.glob("*.csv")]:
        shutil.copy(table, RESULTS)


def _name(command: Command) -> str:
    """Of a sanitizer its tool, of Python the module."""
    arguments = list(command.arguments)
    flag = "--tool" if "--tool" in arguments else "-m"
    return arguments[arguments.index(flag) + 1] if flag in arguments else "check"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; returns the exit code."""
    options = _parse(arguments)
    out: Path = options.out.resolve()
    if options.dry_run:
        for name in options.steps:
            step = STEPS[name](out)
            print(f"{name}: {step.limit} s", *step.commands, *step.notes, sep="\n  ")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in options.steps:
        log = out / f"{name}.log"
        log.write_text("", encoding="utf-8")
        outcomes.append(run_step(name, STEPS[name](out), log))
        if name == "bench" and outcomes[-1].passed:
            keep_results(out)
    summary = "\n".join(map(str, outcomes))
    (out / "summary.txt").write_text(summary + "\n", encoding="utf-8")
    print(f"\n{summary}", flush=True)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}; default: all")
    default = Path(os.environ.get("OUT", "gpu-run"))
    parser.add_argument("--out", type=Path, default=default, help="for logs and tables; default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    options = parser.parse_args(arguments)
    for step in options.steps:
        if step not in STEPS:
            parser.error(f"STEP: expected any of {', '.join(STEPS)}, got {step!r}")
    options.steps = options.steps or list(STEPS)
    return options


if __name__ == "__main__":
    sys.exit(main())
