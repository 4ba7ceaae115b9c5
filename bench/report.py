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
from bench.providers import SUM
from bench.timing import Measurement

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


def markdown(
    header: Mapping[str, str], measurements: Sequence[Measurement], verdicts: Sequence[Verdict]
) -> str:
    """Header, bars, and a table for each shape and dtype."""
    parts = ["# Benchmark", table(("", ""), header.items())]
    if verdicts:
        parts += ["## Bars", bars_table(verdicts)]
    for (shape, dtype), group in groupby(measurements, key=lambda m: (m.shape, m.dtype)):
        parts += [f"## {format_shape(shape)}, {_name(dtype)}", times_table(list(group))]
    return "\n\n".join(parts) + "\n"


def bars_table(verdicts: Sequence[Verdict]) -> str:
    rows = [(v.text, v.limit, v.measured, "pass" if v.passed else "**FAIL**") for v in verdicts]
    return table(("bar", "limit", "measured", ""), rows)


def times_table(measurements: Sequence[Measurement]) -> str:
    """Medians of one shape and dtype; the ratios are of whole calls, forward and backward."""
    return table(HEADINGS, [_row(m, measurements) for m in measurements])


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_csv(measurements: Sequence[Measurement]) -> str:
    """One row for each provider and phase, see `CSV_FIELDS`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for _, group in groupby(measurements, key=lambda m: (m.shape, m.dtype)):
        peers = list(group)
        writer.writerows(_record(m, phase, peers) for m in peers for phase in m.phases)
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
        f"{_milliseconds(whole.median)} ({_milliseconds(whole.p20)} to {_milliseconds(whole.p80)})",
        f"{_gb_per_s(measurement, measurement.whole):.1f}",
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
        f"{_gb_per_s(measurement, phase):.3f}",
        _number(_times(measurement, phase, _find(peers, MEMORY, SUM.name), "forward")),
        _number(_times(measurement, phase, ours, phase)),
        f"{_faults(measurement):.1f}",
        "" if measurement.extra_bytes is None else measurement.extra_bytes,
    )
    return dict(zip(CSV_FIELDS, values, strict=True))


def _find(peers: Sequence[Measurement], case: str, provider: str) -> Measurement | None:
    matches = (m for m in peers if (m.case.name, m.provider.name) == (case, provider))
    return next(matches, None)


def _times(measurement: Measurement, phase: str, other: Measurement | None, other_phase: str) -> float | None:
    """How many times the time of ``other`` the phase takes."""
    if other is None:
        return None
    return measurement.spread(phase).median / other.spread(other_phase).median


def _gb_per_s(measurement: Measurement, phase: str) -> float:
    return measurement.bytes_moved(phase) / measurement.spread(phase).median / 1e9


def _faults(measurement: Measurement) -> float:
    return sum(measurement.faults) / len(measurement.faults)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
