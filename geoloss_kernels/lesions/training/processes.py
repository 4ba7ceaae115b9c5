"""The processes that train a network together, each on its part of every batch.

``torchrun --nproc-per-node 2 -m geoloss_kernels train …`` starts them. torch.distributed's default group is
theirs: NCCL between CUDA devices, Gloo between CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.training.devices import resolve_device

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; alone, it is the first of one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Of torch.distributed's default group, if it was initialised."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files and reports progress."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device for this process: `resolve_device`, with one CUDA device for each process of a machine.

        Raises:
            InputError: there is no such device, or one CUDA device is asked for by several processes.
        """
        device = resolve_device(name)
        if self.count == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise InputError(f"device: expected auto, cuda or cpu for {self.count} processes, got {name}")
        device = resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}")
        torch.cuda.set_device(device)
        return device

    def check_batch_size(self, batch_size: int) -> None:
        """Raise InputError unless every process gets an equal part of a batch."""
        if batch_size % self.count:
            raise InputError(f"batch_size: expected a multiple of {self.count} processes, got {batch_size}")

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network, with gradients averaged over the processes."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def mean(self, value: float) -> float:
        """The mean of every process's value."""
        return sum(self._gather(value)) / self.count

    def least(self, value: int) -> int:
        """The least of every process's value."""
        return min(self._gather(value))

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every ``count``-th item, from the ``rank``-th on."""
        return items[self.rank :: self.count]

    def collect(self, results: list[Item]) -> list[Item]:
        """What came of all `share`s, in the order of the items."""
        gathered = self._gather(results)
        return [
            part[position]
            for position in range(len(gathered[0]))
            for part in gathered
            if position < len(part)
        ]

    def once(self, action: Callable[[], Any]) -> None:
        """Run an action in the first process; an InputError of it is raised in every one."""
        error = None
        if self.is_first:
            try:
                action()
            except InputError as raised:
                error = raised
        for found in self._gather(error):
            if found is not None:
                raise found

    def _gather(self, item: Item) -> list[Item]:
        """Every process's item, by rank."""
        if self.count == 1:
            return [item]
        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, item)
        return gathered


@contextmanager
def torchrun_processes() -> Iterator[Processes]:
    """The processes that torchrun has started, as a group for as long as the context lasts."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    distributed.init_process_group()
    try:
        yield Processes.current()
        distributed.barrier()  # a process that leaves early breaks the connections of the others
    finally:
        distributed.destroy_process_group()
