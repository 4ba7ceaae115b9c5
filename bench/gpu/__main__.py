"""The command line: pack, run, list."""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import bench.gpu
from bench.gpu import pack
from bench.gpu.commands import Outcome, Step, run_step
from bench.gpu.steps import STEPS, Machine

PACK = Path("gpu-pack")
SECONDS = 540.0
PROCESSES = 14
SUMMARY, RESULTS = "summary.txt", "results.tar"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code, 1 if a step failed."""
    options = _parse(arguments)
    try:
        return options.call(options)
    except pack.PackError as error:
        print(f"bench.gpu: error: {error}", file=sys.stderr)
        return 1


def make_pack(options: argparse.Namespace) -> int:
    print(pack.make(options.pack.resolve(), options.python, options.architectures))
    return 0


def show_steps(options: argparse.Namespace) -> int:
    machine = _machine(options)
    for name in options.steps:
        step = STEPS[name](machine)
        print(f"{name}: {step.limit:.0f} s", *step.commands, *step.notes, sep="\n  ")
    return 0


def run_steps(options: argparse.Namespace) -> int:
    """One step after the other within the time given; what is known is written after each."""
    start = time.monotonic()
    machine = _machine(options)
    machine.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="geoloss-packages-") as site:
        if not options.rehearse:
            pack.unpack(options.pack.resolve(), Path(site))
            places = [site, os.environ.get("PYTHONPATH")]
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        for name in options.steps:
            left = options.seconds - (time.monotonic() - start)
            outcomes.append(_run_step(name, machine, left))
            _keep(outcomes, machine.out, options.results.resolve())
    print("", *outcomes, f"{time.monotonic() - start:.0f} s in all", sep="\n", flush=True)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _run_step(name: str, machine: Machine, left: float) -> Outcome:
    log = machine.out / f"{name}.log"
    log.write_text("", encoding="utf-8")
    try:
        step = STEPS[name](machine)
    except Exception as error:  # a step that cannot be set up must not stop the others
        step = Step([], 0, notes=[f"{type(error).__name__}: {error}"])
    return run_step(name, step, log, left)


def _keep(outcomes: Sequence[Outcome], out: Path, results: Path) -> None:
    """The summary and everything that was written so far, each complete at any moment."""
    results.mkdir(parents=True, exist_ok=True)
    summary, archive = (results / f"{name}.new" for name in (SUMMARY, RESULTS))
    summary.write_text("\n".join(map(str, outcomes)) + "\n", encoding="utf-8")
    summary.replace(results / SUMMARY)
    with tarfile.open(archive, "w") as file:
        file.add(out, arcname="gpu-run", filter=_kept)
    archive.replace(results / RESULTS)


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Logs and tables: neither weights and images nor the archive itself."""
    return None if member.name.endswith((".pt", ".nii.gz", ".tar", ".new")) else member


def _machine(options: argparse.Namespace) -> Machine:
    device = "cpu" if options.rehearse else "cuda"
    return Machine(device, options.out.resolve(), 1 if options.rehearse else PROCESSES)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=bench.gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    packing = commands.add_parser("pack", help="build and gather what travels")
    packing.set_defaults(call=make_pack)
    packing.add_argument("--python", default="3.12", help="the machine's; default: %(default)s")
    packing.add_argument(
        "--architectures", default="9.0", help="as TORCH_CUDA_ARCH_LIST; default: %(default)s"
    )
    running = commands.add_parser("run", help="test and measure")
    running.set_defaults(call=run_steps)
    running.add_argument("--seconds", type=float, default=SECONDS, help="for all steps; default: %(default)s")
    running.add_argument(
        "--results", type=Path, default=Path(os.environ.get("OUT", "gpu-run")),
        help=f"folder for {SUMMARY} and {RESULTS}; default: %(default)s",
    )  # fmt: skip
    listing = commands.add_parser("list", help="show the steps")
    listing.set_defaults(call=show_steps)
    for command in (packing, running):
        command.add_argument("--pack", type=Path, default=PACK, help="default: %(default)s")
    for command in (running, listing):
        command.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}; default: all")
        command.add_argument("--rehearse", action="store_true", help="on the CPU, with small volumes")
        command.add_argument(
            "--out", type=Path, default=Path("gpu-run"), help="for logs; default: %(default)s"
        )
    options = parser.parse_args(arguments)
    for step in getattr(options, "steps", ()):
        if step not in STEPS:
            parser.error(f"STEP: expected any of {', '.join(STEPS)}, got {step!r}")
    if hasattr(options, "steps"):
        options.steps = options.steps or list(STEPS)
    return options


if __name__ == "__main__":
    sys.exit(main())
