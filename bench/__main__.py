"""The command line: gate, measure, report."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import bench
from bench import bars, cuda_bars, gate, machine, report
from bench.cases import CUDA_LOSSES, LABEL_LOSSES, LOSSES, MEMORY, make_cases
from bench.cuda import CudaRun
from bench.inputs import Shape, format_shape, make_volumes, parse_shape
from bench.memory import keep_freed_memory
from bench.settings import DEFAULTS, Setting
from bench.timing import FEWEST_CALLS, Measurement, Plan, Run, measure
from bench.training_step import StepTimes, measure_steps

RESULTS = Path(__file__).parent / "results"
QUICK_SHAPES = ("1x1x24^3",)
QUICK_CALLS = (5, 0.5)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RUNS = {"cpu": Run, "cuda": CudaRun}

EXIT_RED_GATE = 1


@dataclass
class Results:
    measurements: list[Measurement]
    steps: list[StepTimes]


class Tables:
    """The tables of a run. On a GPU they are written after each setting, in case the run is cut off."""

    def __init__(self, header: Mapping[str, str], results: Results, options: argparse.Namespace) -> None:
        self.header, self.results, self.options = header, results, options
        name = f"{machine.slug(options.device)}-{header['date'][:10]}"
        self.path = None if options.output is None else options.output / name

    def text(self) -> str:
        return report.markdown(self.header, self.results.measurements, self._verdicts(), self.results.steps)

    def write(self) -> None:
        if self.path is not None:
            report.write(self.path.with_suffix(".md"), self.text())
            report.write(
                self.path.with_suffix(".csv"), report.as_csv(self.results.measurements, self.results.steps)
            )
            _say(f"Written: {self.path}.md, {self.path}.csv")

    def remove(self) -> None:
        """No speed is reported once something is wrong."""
        if self.path is not None and self.results.measurements and self.options.device == "cuda":
            for suffix in (".md", ".csv"):
                self.path.with_suffix(suffix).unlink(missing_ok=True)

    def _verdicts(self) -> list[bars.Verdict]:
        if self.options.device == "cpu":
            return bars.judge(self.results.measurements)
        return [] if self.options.quick else cuda_bars.judge(self.results.measurements, self.results.steps)


class RedGateError(Exception):
    """Something computes a wrong loss or gradient."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code, 1 for a red gate."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    if options.allocator == "keep":
        keep_freed_memory()
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    tests = "no suite"
    if options.suite:
        _say("Correctness gate")
        tests, green = gate.run_suite(options.device)
        if not green:
            return _fail(f"{tests} is red; nothing was timed")
    header = {
        **machine.describe(options.device),
        **_describe_method(options),
        "gate": f"{tests}, and every provider against float64",
    }
    results = Results([], [])
    tables = Tables(header, results, options)
    try:
        for setting in options.settings:
            results.measurements += _measure(setting, options)
            if options.device == "cuda":
                tables.write()
    except RedGateError as error:
        tables.remove()
        return _fail(str(error))
    if options.device == "cuda" and not options.quick and options.providers is None:
        results.steps = _measure_steps()
    print(tables.text())
    tables.write()
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=bench.__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", metavar="NxCxL^3", help="default: see bench/settings.py")
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, help="of the volumes of --shapes; the CPU takes float32 alone"
    )
    parser.add_argument("--losses", nargs="+", metavar="LOSS", help=", ".join(CUDA_LOSSES))
    parser.add_argument(
        "--providers", nargs="+", metavar="NAME", help="as the tables name them; default: all"
    )
    parser.add_argument(
        "--no-suite", dest="suite", action="store_false", help="where the tests of parity have just been run"
    )
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="most timed calls of a provider")
    parser.add_argument(
        "--budget", type=float, default=Plan.budget, help="seconds of a provider's timed calls"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="default: torch's choice"
    )
    parser.add_argument("--allocator", choices=("keep", "system"), help="see bench/README.md")
    parser.add_argument("--cache", choices=("warm", "cold"), help="see bench/README.md")
    parser.add_argument("--output", type=Path, help="folder for the tables; default: bench/results")
    parser.add_argument(
        "--quick", action="store_true", help="a small volume and few calls: no bars, and no files by default"
    )
    options = parser.parse_args(arguments)
    try:
        options.settings = _settings(options)
    except ValueError as error:
        parser.error(str(error))
    if options.rounds < FEWEST_CALLS or options.threads < 1 or not options.budget > 0:
        parser.error(f"expected --rounds >= {FEWEST_CALLS}, --threads >= 1 and --budget > 0")
    on_cpu = options.device == "cpu"
    options.allocator = options.allocator or ("keep" if on_cpu else "system")
    options.cache = options.cache or ("warm" if on_cpu else "cold")
    rounds, budget = QUICK_CALLS if options.quick else (options.rounds, options.budget)
    options.plan = Plan(rounds, budget, cold=options.cache == "cold", reserved=options.allocator == "keep")
    if options.output is None and not options.quick:
        options.output = RESULTS
    return options


def _settings(options: argparse.Namespace) -> list[Setting]:
    """What to measure. Raises ValueError for a device, shape, loss or dtype that is not there."""
    if options.device == "cuda" and not machine.has_gpu():
        raise ValueError("--device: expected cpu, since torch sees no GPU, got 'cuda'")
    known = (*(LOSSES if options.device == "cpu" else CUDA_LOSSES), *LABEL_LOSSES)
    for loss in options.losses or ():
        if loss not in known:
            raise ValueError(f"--losses: expected any of {', '.join(known)}, got {loss!r}")
    shapes = QUICK_SHAPES if options.quick else options.shapes
    if options.device == "cpu" and options.dtypes not in (None, ["float32"]):
        raise ValueError("--dtypes: expected float32 on the CPU")
    if shapes is None and options.dtypes is not None:
        raise ValueError("--dtypes: expected --shapes beside it")
    losses = options.losses or known
    if shapes is None:
        chosen = [
            replace(setting, losses=[loss for loss in setting.losses if loss in losses])
            for setting in DEFAULTS[options.device]
        ]
        return [setting for setting in chosen if setting.losses]
    return [
        Setting(shape, DTYPES[dtype], _losses_for(shape, losses), graphs=options.device == "cuda")
        for shape in map(parse_shape, shapes)
        for dtype in options.dtypes or ["float32"]
    ]


def _losses_for(shape: Shape, losses: Sequence[str]) -> list[str]:
    """Those of label maps are for volumes of several channels, and the others for those of one."""
    return [loss for loss in losses if (loss in LABEL_LOSSES) == (shape[1] > 1)]


def _measure(setting: Setting, options: argparse.Namespace) -> list[Measurement]:
    volumes = make_volumes(setting.shape, setting.dtype).to(options.device)
    torch.compiler.reset()
    cases = [
        case.only(options.providers)
        for case in make_cases(options.device, setting.dtype)
        if case.name in (MEMORY, *setting.losses)
    ]
    name = f"{format_shape(setting.shape)}, {str(setting.dtype).removeprefix('torch.')}"
    _say(f"{name}: comparing losses and gradients with the reference in float64")
    if options.device == "cuda":
        cases = gate.without_broken_rivals(cases, volumes)
    wrong = gate.disagreements(cases, volumes)
    if wrong:
        raise RedGateError("\n".join(["these are wrong, and nothing is reported:", *wrong]))
    _say(f"{name}: timing")
    plan = replace(options.plan, graphs=setting.graphs)
    return measure(cases, volumes, plan, _say, RUNS[options.device])


def _measure_steps() -> list[StepTimes]:
    _say("Training steps")
    try:
        return measure_steps()
    except ImportError as error:
        _say(f"  not measured: {error}")
        return []


def _describe_method(options: argparse.Namespace) -> dict[str, str]:
    plan: Plan = options.plan
    return {
        "calls": f"at most {plan.rounds} in turn, or as many as fit into {plan.budget:g} s but at least "
        f"{FEWEST_CALLS}",
        "allocator": "keep (freed memory is reused)" if plan.reserved else "system",
        "cache": "cold (input and target in memory)" if plan.cold else "warm (after an untimed call)",
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fail(reason: str) -> int:
    _say(f"bench: error: {reason}")
    return EXIT_RED_GATE


if __name__ == "__main__":
    sys.exit(main())
