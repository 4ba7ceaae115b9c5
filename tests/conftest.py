"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import host_cuda.operators
import pytest
import torch
from numerics import INTERPRETED, fused_backends

from geoloss_kernels import use_backend

collect_ignore = [] if INTERPRETED else ["test_triton_interpreter.py"]
if INTERPRETED:
    import triton_interpreter

    triton_interpreter.install()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In Triton's interpreter, the tests of its kernels alone, and of each as many cases as time allows."""
    if INTERPRETED:
        kept = triton_interpreter.thinned(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture(autouse=True, scope="session")
def single_thread() -> None:
    """The tests' volumes are small: a second thread would mostly wait, and busily."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=fused_backends())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each fused backend in turn, in force for the test."""
    if request.param == "cuda on host":
        host_cuda.operators.add_backend()
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that is allocated and not written holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
