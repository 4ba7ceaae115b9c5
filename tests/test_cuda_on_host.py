"""The CUDA kernels on the CPU: any order of threads and blocks, under sanitizers, and with bugs planted.

That they compute what the reference does is shown where every backend's is, with the backend "cuda on host".
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import host_cuda.operators
import pytest
import torch
from host_cuda import build, planted_bugs
from host_cuda.planted_bugs import BUGS
from numerics import Case, assert_backend_matches_reference, compute_with, sample_cases
from torch import Tensor

import geoloss_kernels as gk

DICE = ("intersection", "prediction", "target")
FOG = ("first_order_forward_l2", "count")
CROSS_ENTROPY = ("cross_entropy_foreground", "cross_entropy_background")
EVERY_STENCIL = ("first_order_central_l1", "second_order_two_sided", "squared_error")
TRAINING = [
    Case((2, 1, 17, 20, 64), (*DICE, *FOG), dtype, "sigmoid", target_dtype=target)
    for dtype, target in (
        (torch.float32, torch.float32),
        (torch.float16, torch.uint8),
        (torch.bfloat16, torch.bfloat16),
    )
]
CASES = [
    *TRAINING,
    Case((1, 1, 70, 9, 16), DICE, torch.float32, "sigmoid"),
    Case((1, 2, 40, 35), (*DICE, *FOG), torch.float32, layout="sliced"),
    Case((1, 3, 5, 9, 33), EVERY_STENCIL, torch.float32, "softmax", mask="channels"),
    Case((1, 1, 5, 9, 33), EVERY_STENCIL, torch.float64, "sigmoid", mask="shared"),
    Case((2, 1, 17, 20, 64), (*DICE, *CROSS_ENTROPY, *FOG), torch.float32, "sigmoid"),
    Case((1, 3, 17, 20, 31), (*DICE, CROSS_ENTROPY[0]), torch.float32, "softmax", target="labels"),
    Case((1, 3, 5, 9, 33), CROSS_ENTROPY, torch.float32, "softmax", mask="shared"),
    *sample_cases(30, seed=3),
]
SCHEDULES = [("reverse", 0), ("random", 1), ("random", 2)]


@pytest.fixture
def forward_again() -> Iterator[None]:
    host_cuda.operators.add_backend()
    yield
    host_cuda.operators.module().set_schedule("forward", 0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits_under_every_schedule(forward_again, case, schedule):
    arguments = case.arguments("cpu")
    expected = compute_with("cuda on host", arguments)
    host_cuda.operators.module().set_schedule(*schedule)
    ours = compute_with("cuda on host", arguments)
    for mine, theirs in zip(ours, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_every_thread_of_a_launch_runs(forward_again):
    """Forward and backward, 8 tiles each of 128 threads in float64; then 128 that add up the tiles' sums."""
    module = host_cuda.operators.module()
    before = module.statistics()
    compute_with("cuda on host", Case((1, 1, 4, 8, 33), ("prediction",), mask="shared").arguments("cpu"))
    after = module.statistics()
    assert after["launches"] - before["launches"] == 3
    assert after["threads"] - before["threads"] == 2 * 8 * 128 + 128
    assert after["barriers"] > before["barriers"]
    assert after["exchanges"] > before["exchanges"]


@pytest.mark.parametrize("fog", [(), FOG[:1]], ids=["", "fog"])
@pytest.mark.parametrize("channels", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dice_and_cross_entropy_under_a_softmax(forward_again, dtype, channels, fog):
    """Up to 4 channels have a marching kernel of their own."""
    terms = (*DICE, CROSS_ENTROPY[0], *fog)
    shape = (2, channels, 17, 9, 33)
    case = Case(shape, terms, dtype, "softmax", target="labels", target_dtype=torch.uint8)
    assert_backend_matches_reference("cuda on host", case)


def launches_of(call: Callable[[], object]) -> int:
    before = host_cuda.operators.module().statistics()["launches"]
    call()
    return host_cuda.operators.module().statistics()["launches"] - before


@pytest.mark.parametrize(
    "loss",
    [
        gk.DiceLoss(softmax=True, to_onehot_y=True),
        gk.DiceCELoss(softmax=True, to_onehot_y=True) + 0.5 * gk.FOGLoss(softmax=True, to_onehot_y=True),
        gk.DiceLoss(softmax=True, to_onehot_y=True, batch=True, weight=[1.0, 2.0, 3.0]),
    ],
    ids=str,
)
def test_a_loss_takes_two_launches_each_way(forward_again, loss):
    """The pass, and one block for its second stage and the ratio; the ratio's slopes, and the pass."""
    logits = torch.rand(2, 3, 6, 7, 8, requires_grad=True)
    target = torch.randint(0, 3, (2, 1, 6, 7, 8))
    with gk.use_backend("cuda on host"):
        results: list[Tensor] = []
        assert launches_of(lambda: results.append(loss(logits, target))) == 2
        assert launches_of(results[0].backward) == 2


@pytest.mark.parametrize("flags", [(), ("-DCUDA_ON_HOST_UCONTEXT",)], ids=["assembler", "ucontext"])
def test_the_stand_in_keeps_to_the_language(flags):
    done = run(build.language(*flags))
    assert (done.returncode, done.stdout) == (0, "")


SANITIZERS = ("address", "thread")


@pytest.fixture(scope="module")
def launches() -> dict[str, Path]:
    """The builds of `launches.cpp`; unless a run asks for one of the bugs, they have none."""
    csrc = planted_bugs.plant()
    return {sanitizer: build.launches(sanitizer, csrc) for sanitizer in SANITIZERS}


def run(executable: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", **environment}
    return subprocess.run([executable], env=given, capture_output=True, text=True, check=False)


@pytest.mark.timeout(600)
class TestLaunches:
    @pytest.mark.parametrize("sanitizer", SANITIZERS)
    def test_are_clean(self, launches, sanitizer):
        done = run(launches[sanitizer])
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr[:8000]
        assert done.stdout.endswith(" cases\n")

    @pytest.mark.parametrize("number", range(len(BUGS)), ids=[bug.name for bug in BUGS])
    def test_a_planted_bug_is_caught(self, launches, number):
        bug = BUGS[number]
        done = run(launches[bug.caught_by], PLANTED_BUG=str(number))
        assert done.returncode != 0
        assert bug.report in done.stdout + done.stderr
