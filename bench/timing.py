"""Times all providers in turn, so that a change of the machine's speed hits all of them alike."""

from __future__ import annotations

import functools
import gc
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter

import torch
from torch import Tensor

from bench.cases import Case
from bench.inputs import Shape, Volumes
from bench.memory import page_faults, reserve
from bench.providers import Provider, Steps
from geoloss_kernels.lesions.reporting.memory import peak_growth

PHASES = ("forward", "backward", "both")
CUDA_PHASES = ("graph", "host")
FEWEST_CALLS = 3
FAST = 0.5  # s; faster calls follow on an untimed one, which wakes the threads
SLOW = 1.0  # s; the memory of such a call is far above the noise of counting it
EVICTION_BYTES = 1 << 28
RESERVED_ARRAYS = 128
RESERVED_LIMIT = 2000 << 20


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: the most timed calls of a provider.
        budget: seconds for the timed calls of one provider; slow ones get fewer calls, at least 3.
        cold: read 256 MiB before each timed call, so that its input is in memory and not in a cache.
        reserved: calls find the memory that they allocate in the heap, touched; needs `keep_freed_memory`.
        graphs: on a GPU also time both steps as one CUDA graph, whose memory is kept until the end.
    """

    rounds: int = 40
    budget: float = 6.0
    cold: bool = False
    reserved: bool = False
    graphs: bool = False


@dataclass(frozen=True)
class Spread:
    """Seconds."""

    median: float
    p20: float
    p80: float


def spread_of(times: Sequence[float]) -> Spread:
    p20, *_, p80 = quantiles(times, n=5, method="inclusive")
    return Spread(median(times), p20, p80)


@dataclass
class Measurement:
    """One provider on one input.

    Attributes:
        graph: seconds of both steps, replayed from a CUDA graph.
        host: seconds until the host has queued both steps on an idle GPU.
        no_graph: why there is no CUDA graph, if one was wanted.
    """

    case: Case
    provider: Provider
    shape: Shape
    dtype: torch.dtype
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    extra_bytes: int | None = None
    graph: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    no_graph: str | None = None

    @property
    def both(self) -> list[float]:
        return [there + back for there, back in zip(self.forward, self.backward, strict=True)]

    @property
    def phases(self) -> tuple[str, ...]:
        steps = PHASES if self.provider.arrays[1] else PHASES[:1]
        return (*steps, *(phase for phase in CUDA_PHASES if getattr(self, phase)))

    @property
    def whole(self) -> str:
        """The phase that stands for all the work of the provider."""
        return PHASES[-1] if self.provider.arrays[1] else PHASES[0]

    def spread(self, phase: str) -> Spread:
        return spread_of(getattr(self, phase))

    def bytes_moved(self, phase: str) -> int:
        """What the operation has to move, however an implementation does it."""
        forward, backward = self.provider.arrays
        arrays = {"forward": forward, "backward": backward}.get(phase, forward + backward)
        reads_of_target = 1 if phase in ("forward", "backward") else 2
        return arrays * self.array_bytes - reads_of_target * self._bytes_saved_by_target

    @property
    def _bytes_saved_by_target(self) -> int:
        """By a target of smaller elements than the input's."""
        target = self.case.target_dtype
        return 0 if target is None else self.array_bytes - torch.Size(self.shape).numel() * target.itemsize

    def bytes_per_second(self, phase: str) -> float:
        return self.bytes_moved(phase) / self.spread(phase).median

    @property
    def array_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass
class Run:
    """The calls of one provider on the CPU."""

    measurement: Measurement
    steps: Steps
    calls: int = 0

    def visit(self, plan: Plan) -> None:
        if self.measurement.forward and self.measurement.forward[-1] < FAST:
            self._call()
        if plan.cold:
            eviction_buffer().sum()
        forward, backward, faults = self._call()
        self.measurement.forward.append(forward)
        self.measurement.backward.append(backward)
        self.measurement.faults.append(faults)

    def warm_up(self, plan: Plan) -> float:
        """Seconds of the second call; the first one compiles."""
        self._call()
        return sum(self._call()[:2])

    def peak(self) -> int | None:
        """Most memory beyond input, target and, after a backward step, the gradient."""
        gradient = self.measurement.array_bytes if self.steps.backward else 0
        growth = self._peak_growth()
        return None if growth is None else max(0, growth - gradient)

    def _peak_growth(self) -> int | None:
        seconds = self.measurement.spread("forward").median
        return peak_growth(self._call, self.steps.release, repeats=1 if seconds > SLOW else 3)

    def _call(self) -> tuple[float, float, int]:
        """Seconds forward and backward, and page faults. Frees the result and the gradient, untimed."""
        self.steps.release()
        faults = page_faults()
        start = perf_counter()
        result = self.steps.forward()
        middle = perf_counter()
        if self.steps.backward is not None:
            gradient = self.steps.backward(result)  # noqa: F841 - freed after the clock stops
        end = perf_counter()
        return middle - start, end - middle, page_faults() - faults


def measure(
    cases: Sequence[Case],
    volumes: Volumes,
    plan: Plan,
    say: Callable[[str], None] = lambda line: None,
    run_type: type[Run] = Run,
) -> list[Measurement]:
    """Time every provider of ``cases`` on ``volumes``: forward, backward, page faults, peak memory.

    All take part in every round, in a new order each time; those that need fewer calls, in some rounds that
    are evenly spaced.
    """
    runs = [_prepare(case, provider, volumes, run_type) for case in cases for provider in case.providers]
    if plan.reserved:
        reserve(min(RESERVED_ARRAYS * volumes.target.nbytes, RESERVED_LIMIT))
    for run in runs:
        seconds = run.warm_up(plan)
        run.calls = calls_within(plan, seconds)
        say(f"  {run.measurement.case.name}: {run.measurement.provider.name}: {1e3 * seconds:.1f} ms")
    with _garbage_kept():
        _take_turns(runs, plan)
        for run in runs:
            run.measurement.extra_bytes = run.peak()
    return [run.measurement for run in runs]


def _take_turns(runs: Sequence[Run], plan: Plan) -> None:
    order = random.Random(0)
    for index in range(plan.rounds):
        for run in order.sample(runs, len(runs)):
            if takes_part(run.calls, index, plan.rounds):
                run.visit(plan)
        gc.collect()


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """No garbage collection but the explicit ones, and those look at new objects only."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@functools.cache
def eviction_buffer(size: int = EVICTION_BYTES, device: str = "cpu") -> Tensor:
    return torch.ones(size // 4, device=device)


def calls_within(plan: Plan, seconds: float) -> int:
    """Timed calls of a provider whose call takes ``seconds``."""
    return min(plan.rounds, max(FEWEST_CALLS, int(plan.budget / seconds)))


def takes_part(calls: int, index: int, rounds: int) -> bool:
    """Whether a provider with ``calls`` calls in ``rounds`` rounds has one in round ``index``."""
    return (index + 1) * calls // rounds > index * calls // rounds


def _prepare(case: Case, provider: Provider, volumes: Volumes, run_type: type[Run]) -> Run:
    volume = case.input_of(volumes)
    measurement = Measurement(case, provider, tuple(volume.shape), volume.dtype)
    return run_type(measurement, provider.prepare(volume, case.target_of(volumes)))
