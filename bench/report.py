"""The measurements as Markdown for people and as CSV for programs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from bench.bars import Verdict
from bench.cases import MEMORY, OURS
from bench.inputs import format_shape
from bench.providers import COPY, SUM
from bench.timing import Measurement, Spread
from bench.training_step import StepTimes

CSV_FIELDS = (
    "shape",
    "dtype",
    "loss",
    "provider",
    "phase",
    "calls",
    "median_ms",
    "p20_ms",
    "p80_ms",
    "gb_per_s",
    "times_input_plus_target",
    "times_ours",
    "page_faults_per_call",
    "extra_bytes",
)
HEADINGS = (
    "loss",
    "provider",
    "calls",
    "forward ms",
    "backward ms",
    "both ms (p20 to p80)",
    "GB/s",
    "x `input + target`",
    "x ours",
    "faults",
    "extra MB",
)
CUDA_HEADINGS = (
    "loss",
    "provider",
    "calls",
    "forward ms",
    "backward ms",
    "both ms (p20 to p80)",
    "CUDA graph ms (p20 to p80)",
    "host ms",
    "forward GB/s",
    "backward GB/s",
    "forward / copy",
    "backward / copy",
    "x ours",
    "extra MB",
)


def markdown(
    header: Mapping[str, str],
    measurements: Sequence[Measurement],
    verdicts: Sequence[Verdict],
    steps: Sequence[StepTimes] = (),
) -> str:
    """Header, bars, a table for each shape and dtype, training steps, and what was not measured."""
    parts = ["# Benchmark", table(("", ""), header.items())]
    if verdicts:
        parts += ["## Bars", bars_table(verdicts)]
    for (shape, dtype), group in groupby(measurements, key=lambda m: (m.shape, m.dtype)):
        parts += [f"## {format_shape(shape)}, {_name(dtype)}", times_table(list(group))]
    if steps:
        parts += ["## Training step of the U-Net, bfloat16 autocast", steps_table(steps)]
    missing = _missing_rows(measurements)
    if missing:
        parts += ["## Not measured", table(("provider", "losses", "why"), missing)]
    return "\n\n".join(parts) + "\n"


def bars_table(verdicts: Sequence[Verdict]) -> str:
    marks = {True: "pass", False: "**FAIL**", None: ""}
    rows = [(v.text, v.limit, v.measured, marks[v.passed]) for v in verdicts]
    return table(("bar", "limit", "measured", ""), rows)


def times_table(measurements: Sequence[Measurement]) -> str:
    """Medians of one shape and dtype; the ratios are of whole calls, forward and backward."""
    if any(m.host for m in measurements):
        return table(CUDA_HEADINGS, [_cuda_row(m, measurements) for m in measurements])
    return table(HEADINGS, [_row(m, measurements) for m in measurements])


def steps_table(steps: Sequence[StepTimes]) -> str:
    rows = [
        (
            format_shape(times.shape),
            str(len(times.step)),
            *(_spread(times.spread(phase)) for phase in ("step", "loss")),
            f"{100 * times.share:.2f} %",
        )
        for times in steps
    ]
    return table(("patches", "steps", "step ms (p20 to p80)", "Dice + FOG ms (p20 to p80)", "share"), rows)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_csv(measurements: Sequence[Measurement], steps: Sequence[StepTimes] = ()) -> str:
    """One row for each provider and phase, see `CSV_FIELDS`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for _, group in groupby(measurements, key=lambda m: (m.shape, m.dtype)):
        peers = list(group)
        writer.writerows(_record(m, phase, peers) for m in peers for phase in m.phases)
    writer.writerows(_step_record(times, phase) for times in steps for phase in ("step", "loss"))
    return text.getvalue()


def write(path: Path, text: str) -> None:
    """Whole or not at all, also when the program is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _missing_rows(measurements: Sequence[Measurement]) -> list[tuple[str, str, str]]:
    """Each provider and reason with the losses that lack it."""
    losses: dict[tuple[str, str], dict[str, None]] = {}
    for measurement in measurements:
        for missing in measurement.case.missing:
            losses.setdefault((missing.name, missing.reason), {})[measurement.case.title] = None
        if measurement.no_graph is not None:
            key = (f"{measurement.provider.name}, in a CUDA graph", measurement.no_graph)
            losses.setdefault(key, {})[measurement.case.title] = None
    return [(name, ", ".join(titles), reason) for (name, reason), titles in losses.items()]


def _cuda_row(measurement: Measurement, peers: Sequence[Measurement]) -> list[str]:
    copy = _find(peers, MEMORY, COPY.name)
    ours = _find(peers, measurement.case.name, OURS)
    steps = [phase for phase in ("forward", "backward") if phase in measurement.phases]
    bandwidths = [measurement.bytes_per_second(phase) for phase in steps] + [None] * (2 - len(steps))
    shares = [rate / copy.bytes_per_second("forward") if rate and copy else None for rate in bandwidths]
    milliseconds = [_milliseconds(measurement.spread(phase).median) for phase in steps]
    extra = measurement.extra_bytes
    return [
        measurement.case.title,
        measurement.provider.name,
        str(len(measurement.forward)),
        *milliseconds,
        *[""] * (2 - len(steps)),
        _spread(measurement.spread(measurement.whole)),
        _spread(measurement.spread("graph")) if measurement.graph else "",
        _milliseconds(measurement.spread("host").median) if measurement.host else "",
        *("" if rate is None else f"{rate / 1e9:.0f}" for rate in bandwidths),
        *("" if share is None else f"{100 * share:.0f} %" for share in shares),
        _number(_times(measurement, measurement.whole, ours, measurement.whole)),
        "" if extra is None else f"{extra / 1e6:.2f}",
    ]


def _row(measurement: Measurement, peers: Sequence[Measurement]) -> list[str]:
    phases = measurement.phases
    whole = measurement.spread(measurement.whole)
    has_backward = "backward" in phases
    extra = measurement.extra_bytes
    return [
        measurement.case.title,
        measurement.provider.name,
        str(len(measurement.forward)),
        _milliseconds(measurement.spread("forward").median),
        _milliseconds(measurement.spread("backward").median) if has_backward else "",
        _spread(whole),
        f"{measurement.bytes_per_second(measurement.whole) / 1e9:.1f}",
        _number(_times(measurement, measurement.whole, _find(peers, MEMORY, SUM.name), "forward")),
        _number(
            _times(
                measurement, measurement.whole, _find(peers, measurement.case.name, OURS), measurement.whole
            )
        ),
        f"{_faults(measurement):.0f}",
        "" if extra is None else f"{extra / 1e6:.1f}",
    ]


def _record(measurement: Measurement, phase: str, peers: Sequence[Measurement]) -> dict[str, object]:
    spread = measurement.spread(phase)
    ours = _find(peers, measurement.case.name, OURS)
    values = (
        format_shape(measurement.shape),
        _name(measurement.dtype),
        measurement.case.name,
        measurement.provider.name,
        phase,
        len(measurement.forward),
        f"{1e3 * spread.median:.4f}",
        f"{1e3 * spread.p20:.4f}",
        f"{1e3 * spread.p80:.4f}",
        "" if phase == "host" else f"{measurement.bytes_per_second(phase) / 1e9:.3f}",
        _number(_times(measurement, phase, _find(peers, MEMORY, SUM.name), "forward")),
        _number(_times(measurement, phase, ours, phase)),
        f"{_faults(measurement):.1f}" if measurement.faults else "",
        "" if measurement.extra_bytes is None else measurement.extra_bytes,
    )
    return dict(zip(CSV_FIELDS, values, strict=True))


def _step_record(times: StepTimes, phase: str) -> dict[str, object]:
    spread = times.spread(phase)
    return {
        "shape": format_shape(times.shape),
        "dtype": "bfloat16",
        "loss": "training step" if phase == "step" else "dice_fog",
        "provider": OURS,
        "phase": phase,
        "calls": len(times.step),
        "median_ms": f"{1e3 * spread.median:.4f}",
        "p20_ms": f"{1e3 * spread.p20:.4f}",
        "p80_ms": f"{1e3 * spread.p80:.4f}",
    }


def _find(peers: Sequence[Measurement], case: str, provider: str) -> Measurement | None:
    matches = (m for m in peers if (m.case.name, m.provider.name) == (case, provider))
    return next(matches, None)


def _times(measurement: Measurement, phase: str, other: Measurement | None, other_phase: str) -> float | None:
    """How many times the time of ``other`` the phase takes."""
    if other is None or other_phase not in other.phases:
        return None
    return measurement.spread(phase).median / other.spread(other_phase).median


def _faults(measurement: Measurement) -> float:
    return sum(measurement.faults) / len(measurement.faults)


def _spread(spread: Spread) -> str:
    median, p20, p80 = (_milliseconds(seconds) for seconds in (spread.median, spread.p20, spread.p80))
    return f"{median} ({p20} to {p80})"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
