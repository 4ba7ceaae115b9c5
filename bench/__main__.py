"""The command line: gate, measure, report."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import bench
from bench import bars, gate, machine, report
from bench.cases import LOSSES, MEMORY, make_cases
from bench.inputs import format_shape, make_volumes, parse_shape
from bench.memory import keep_freed_memory
from bench.timing import FEWEST_CALLS, Measurement, Plan, measure

SHAPES = ("2x1x128^3", "4x1x96^3", "4x1x64^3")
RESULTS = Path(__file__).parent / "results"
QUICK_SHAPES = ("1x1x24^3",)
QUICK_CALLS = (5, 0.5)

EXIT_RED_GATE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code, 1 for a red gate."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    if options.allocator == "keep":
        keep_freed_memory()
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    _say("Correctness gate")
    suite, green = gate.run_suite()
    if not green:
        return _fail(f"{suite} is red; nothing was timed")
    header = {
        **machine.describe(),
        **_describe_method(options),
        "gate": f"{suite}, and every provider against float64",
    }

    measurements: list[Measurement] = []
    for shape in options.shapes:
        volumes = make_volumes(shape)
        torch.compiler.reset()
        cases = [case for case in make_cases() if case.name in (MEMORY, *options.losses)]
        _say(f"{format_shape(shape)}: comparing losses and gradients with the reference in float64")
        wrong = gate.disagreements(cases, volumes)
        if wrong:
            return _fail("\n".join(["these are wrong, and nothing is reported:", *wrong]))
        _say(f"{format_shape(shape)}: timing")
        measurements += measure(cases, volumes, options.plan, _say)
    _report(header, measurements, options.output)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=bench.__doc__)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="NxCxL^3", help="default: %(default)s")
    parser.add_argument(
        "--losses", nargs="+", default=LOSSES, choices=LOSSES, metavar="LOSS", help=", ".join(LOSSES)
    )
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="most timed calls of a provider")
    parser.add_argument(
        "--budget", type=float, default=Plan.budget, help="seconds of a provider's timed calls"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="default: torch's choice"
    )
    parser.add_argument("--allocator", choices=("keep", "system"), default="keep", help="see bench/README.md")
    parser.add_argument("--cache", choices=("warm", "cold"), default="warm", help="see bench/README.md")
    parser.add_argument("--output", type=Path, help="folder for the tables; default: bench/results")
    parser.add_argument(
        "--quick", action="store_true", help="a small volume and few calls: no bars, and no files by default"
    )
    options = parser.parse_args(arguments)
    if options.rounds < FEWEST_CALLS or options.threads < 1 or not options.budget > 0:
        parser.error(f"expected --rounds >= {FEWEST_CALLS}, --threads >= 1 and --budget > 0")
    try:
        options.shapes = [parse_shape(text) for text in (QUICK_SHAPES if options.quick else options.shapes)]
    except ValueError as error:
        parser.error(str(error))
    rounds, budget = QUICK_CALLS if options.quick else (options.rounds, options.budget)
    options.plan = Plan(rounds, budget, cold=options.cache == "cold", reserved=options.allocator == "keep")
    if options.output is None and not options.quick:
        options.output = RESULTS
    return options


def _describe_method(options: argparse.Namespace) -> dict[str, str]:
    plan: Plan = options.plan
    return {
        "calls": f"at most {plan.rounds} in turn, or as many as fit into {plan.budget:g} s but at least "
        f"{FEWEST_CALLS}",
        "allocator": "keep (freed memory is reused)" if plan.reserved else "system",
        "cache": "cold (input and target in memory)" if plan.cold else "warm (after an untimed call)",
    }


def _report(header: Mapping[str, str], measurements: Sequence[Measurement], folder: Path | None) -> None:
    """Print the tables, and write them into ``folder``."""
    verdicts = bars.judge(measurements)
    text = report.markdown(header, measurements, verdicts)
    print(text)
    if folder is not None:
        path = folder / f"{machine.slug()}-{header['date'][:10]}"
        report.write(path.with_suffix(".md"), text)
        report.write(path.with_suffix(".csv"), report.as_csv(measurements))
        _say(f"Written: {path}.md, {path}.csv")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fail(reason: str) -> int:
    _say(f"bench: error: {reason}")
    return EXIT_RED_GATE


if __name__ == "__main__":
    sys.exit(main())
