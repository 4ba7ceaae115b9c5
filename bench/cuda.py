"""Times on a GPU: by its own clock, in a CUDA graph, and what a call costs the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

import torch

from bench.providers import Steps
from bench.timing import EVICTION_BYTES, Plan, Run, eviction_buffer
from geoloss_kernels.lesions.reporting.memory import cuda_peak_growth

CAPTURE_WARM_UPS = 3
EVICTED_CACHES = 4


class Event(Protocol):
    """A moment in the GPU's queue."""

    def record(self) -> None: ...

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds."""


class Gpu:
    """What the measurements need of `torch.cuda`; a test brings a stand-in."""

    def event(self) -> Event:
        return torch.cuda.Event(enable_timing=True)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def evict(self) -> None:
        """Fill the cache with what no call reads, in the queue ahead of the call that is timed.

        The buffer is read and not written: lines that have to go back to memory would slow the call. The GPU
        is busy for some 0.1 ms meanwhile, in which the host queues the call.
        """
        cache = getattr(torch.cuda.get_device_properties(), "L2_cache_size", 0)
        eviction_buffer(max(EVICTION_BYTES, EVICTED_CACHES * cache), "cuda").sum()

    def peak_growth(self, call: Callable[[], Any], release: Callable[[], None]) -> int:
        """Bytes by which the allocated memory peaks above its start, after ``release``, during ``call``."""
        return cuda_peak_growth(call, release)

    def capture(self, steps: Steps) -> Callable[[], None]:
        """Both steps as a CUDA graph; the result replays it. Raises RuntimeError if that cannot be."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(CAPTURE_WARM_UPS):
                steps.release()
                _both(steps)
        torch.cuda.current_stream().wait_stream(aside)
        steps.release()
        graph = torch.cuda.CUDAGraph()
        # The outer context makes this stream the current one again also where the capture fails to end.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            _both(steps)
        return graph.replay


class HostClock(Gpu):
    """The host's clock in place of a GPU's, to rehearse without one."""

    def event(self) -> Event:
        return _Moment()

    def synchronize(self) -> None:
        pass


class _Moment:
    def record(self) -> None:
        self.seconds = perf_counter()

    def elapsed_time(self, end: _Moment) -> float:
        return 1000 * (end.seconds - self.seconds)


GPU = Gpu()


def _both(steps: Steps) -> None:
    result = steps.forward()
    if steps.backward is not None:
        steps.backward(result)


@dataclass
class CudaRun(Run):
    """The calls of one provider on a GPU."""

    replay: Callable[[], None] | None = None

    def warm_up(self, plan: Plan) -> float:
        """Seconds of a call that compiles nothing; a provider that works on the CPU is not called twice."""
        on_host = self.measurement.provider.on_host
        seconds = sum(self._call()[:2]) if on_host else super().warm_up(plan)
        if plan.graphs and not on_host:
            self._capture()
        return seconds

    def visit(self, plan: Plan) -> None:
        forward, backward, _ = self._call(cold=plan.cold)
        self.measurement.forward.append(forward)
        self.measurement.backward.append(backward)
        if self.replay is not None:
            self.steps.release()
            self.measurement.graph.append(self._gpu_seconds(plan.cold, self.replay)[0])
        if not self.measurement.provider.on_host:
            self.measurement.host.append(self._host_seconds())

    def _capture(self) -> None:
        try:
            self.replay = GPU.capture(self.steps)
        except RuntimeError as error:
            self.measurement.no_graph = str(error).splitlines()[0]

    def _call(self, cold: bool = False) -> tuple[float, float, int]:
        """Seconds of the GPU, forward and backward, and no page faults."""
        self.steps.release()
        results: list[Any] = []
        forward, backward = self._gpu_seconds(
            cold,
            lambda: results.append(self.steps.forward()),
            lambda: None if self.steps.backward is None else results.append(self.steps.backward(results[0])),
        )
        return forward, backward, 0

    def _gpu_seconds(self, cold: bool, *parts: Callable[[], Any]) -> list[float]:
        """The seconds of each part, from the events around it."""
        if cold:
            GPU.evict()
        events = [GPU.event() for _ in range(len(parts) + 1)]
        events[0].record()
        for part, event in zip(parts, events[1:], strict=True):
            part()
            event.record()
        GPU.synchronize()
        return [begin.elapsed_time(end) / 1000 for begin, end in pairwise(events)]

    def _host_seconds(self) -> float:
        """Until the host has queued both steps for an idle GPU."""
        self.steps.release()
        GPU.synchronize()
        start = perf_counter()
        result = self.steps.forward()
        if self.steps.backward is not None:
            gradient = self.steps.backward(result)  # noqa: F841 - freed after the clock stops
        end = perf_counter()
        GPU.synchronize()
        return end - start

    def _peak_growth(self) -> int | None:
        return GPU.peak_growth(self._call, self.steps.release)
