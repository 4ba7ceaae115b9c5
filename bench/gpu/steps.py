"""What is run on a machine with a GPU, from the most to the least worth knowing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.gpu.commands import Command, Step

PYTHON = sys.executable
EVERY_KERNEL = "tests/test_every_kernel.py"
PARITY = tuple(
    f"tests/test_{name}.py"
    for name in ("parity", "terms", "cross_entropy", "composition", "losses", "autograd", "awkward_input")
)
TRITON = tuple(
    f"tests/test_{name}.py"
    for name in ("parity", "terms", "open_formulas", "triton_programs", "distance_transform")
)
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
SANITIZER_PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
EXIT_OF_SANITIZER = "86"

CHECK_OPERATORS = """
import torch, geoloss_kernels as gk
print(torch.cuda.get_device_name(), gk.build_info())
missing = {name: gk.backends.available()[name] for name in ("cuda", "triton")}
assert not any(missing.values()), f"cannot be used: {missing}"
"""
STAND_IN_CHECK = "import geoloss_kernels as gk; print(gk.build_info())"


@dataclass(frozen=True)
class Machine:
    """Where the steps run.

    Attributes:
        device: "cuda"; "cpu" in a rehearsal, in which the CPU stands in for the GPU and volumes are small.
        out: the folder for what the steps write.
        processes: that pytest runs side by side.
    """

    device: str
    out: Path
    processes: int

    @property
    def rehearses(self) -> bool:
        return self.device == "cpu"


def once(machine: Machine) -> Step:
    """The operators load, and every kernel gives the reference's numbers once."""
    check = STAND_IN_CHECK if machine.rehearses else CHECK_OPERATORS
    tests = [_pytest(machine, [EVERY_KERNEL], selection) for selection in dict.fromkeys(_selections(machine))]
    return Step([Command([PYTHON, "-c", check], limit=20), *tests], 80, keep_going=True)


def parity(machine: Machine) -> Step:
    cuda = _selections(machine)[0]
    files = [EVERY_KERNEL] if machine.rehearses else PARITY
    return Step([_pytest(machine, files, cuda)], 90)


def kernels(machine: Machine) -> Step:
    """Binary volumes, beside a copy, the eager reference and torch.compile."""
    losses = ["--losses", "fog", "dice_fog", "dice"]
    fast = ["--providers", *_ours(machine), "copy", "reference, eager"]
    compiled = [
        "--providers",
        "ours",
        "copy",
        "plain PyTorch, torch.compile",
        "reference, torch.compile",
        "MONAI",
    ]
    large = _volumes(machine, ["8x1x256^3", "4x1x128^3"], ["float32", "bfloat16"])
    training = _volumes(machine, ["4x1x128^3"], ["bfloat16"])
    return Step(
        [
            _bench(machine, "kernels", *large, *losses, *fast),
            _bench(machine, "kernels-compiled", *training, "--losses", "dice_fog", *compiled),
        ],
        110,
        keep_going=True,
    )


def labels(machine: Machine) -> Step:
    """Many classes under a softmax, and the heavier stencil."""
    few = _volumes(machine, ["1x2x128^3", "1x4x128^3", "1x14x128^3", "1x105x96^3"], ["float32"], "1x3x24^3")
    sog = _volumes(machine, ["4x1x128^3"], ["float32", "bfloat16"])
    return Step(
        [
            _bench(machine, "labels", *few, "--losses", "dice_labels", "dice_ce_labels", "dice_ce_fog_labels",
                   "--providers", *_ours(machine), "MONAI"),
            _bench(machine, "sog", *sog, "--losses", "sog", "--providers", *_ours(machine), "copy"),
        ],
        60,
        keep_going=True,
    )  # fmt: skip


def distances(machine: Machine) -> Step:
    """The transform and its losses, then MONAI's, which leave the GPU."""
    volumes = _volumes(machine, ["4x1x128^3"], ["float32"])
    losses = ["--losses", "edt_sparse", "edt_dense", "boundary", "hausdorff"]
    return Step(
        [
            _bench(machine, "distances", *volumes, *losses, "--providers", *_ours(machine)),
            _bench(
                machine, "distances-monai", *volumes, *losses[:1], *losses[3:], "--providers", "ours", "MONAI"
            ),
        ],
        60,
        keep_going=True,
    )


def repeat(machine: Machine) -> Step:
    """The same bits 50 times, in a CUDA graph, on two streams and under torch.compile."""
    return Step([Command([PYTHON, "-m", "bench.gpu.repeat", machine.device])], 60)


def training(machine: Machine) -> Step:
    """A step of the paper's U-Net with its loss."""
    return Step([Command([PYTHON, "-m", "bench.training_step", machine.device])], 60)


def sanitize(machine: Machine) -> Step:
    """Without torch's own memory cache, in which an overrun lands in another block of the cache."""
    sanitizer = find_sanitizer()
    if sanitizer is None:
        return Step([], 0, notes=["compute-sanitizer is not installed"])
    options = ["--error-exitcode", EXIT_OF_SANITIZER, "--kernel-name", "kns=geo_"]
    options += ["--launch-timeout", "0", "--print-limit", "20"]
    tests = _pytest(machine, [EVERY_KERNEL], "cuda and not host", parallel=False).arguments
    commands = [
        Command([sanitizer, "--tool", tool, *options, *tests, "-x"], {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        for tool in SANITIZERS
    ]
    return Step(commands, 80, keep_going=True)


def triton(machine: Machine) -> Step:
    files = [EVERY_KERNEL] if machine.rehearses else TRITON
    return Step([_pytest(machine, files, _selections(machine)[-1])], 90)


def reproduce(machine: Machine) -> Step:
    """Two rows of the paper's experiment, as far as the time that is left goes."""
    study = [
        "reproduce",
        "--preset",
        "smoke",
        "--out",
        str(machine.out / "study"),
        "--rows",
        "dice",
        "dice+fog",
    ]
    return Step([Command([PYTHON, "-m", "geoloss_kernels", *study])], 300)


STEPS: dict[str, Callable[[Machine], Step]] = {
    step.__name__: step
    for step in (once, parity, kernels, labels, distances, repeat, training, sanitize, triton, reproduce)
}


def _selections(machine: Machine) -> tuple[str, str]:
    """What pytest selects of the CUDA and of the Triton backend."""
    return ("cpu", "cpu") if machine.rehearses else ("cuda and not host", "triton")


def _ours(machine: Machine) -> list[str]:
    return ["ours"] if machine.rehearses else ["ours", "ours, operators alone", "ours in Triton"]


def _volumes(
    machine: Machine, shapes: Sequence[str], dtypes: Sequence[str], rehearsed: str = "1x1x24^3"
) -> list[str]:
    if machine.rehearses:
        return ["--shapes", rehearsed]
    return ["--shapes", *shapes, "--dtypes", *dtypes]


def _bench(machine: Machine, folder: str, *options: str) -> Command:
    """Without the suite, which is a step of its own; every provider is compared with float64 all the same."""
    place = ["--output", str(machine.out / folder)]
    calls = ["--rounds", "15", "--budget", "0.3"]
    return Command(
        [PYTHON, "-m", "bench", "--device", machine.device, "--no-suite", *place, *calls, *options]
    )


def _pytest(machine: Machine, files: Sequence[str], selection: str, parallel: bool = True) -> Command:
    """A file that cannot be imported must not stop the others."""
    options = ["--continue-on-collection-errors"]
    options += [] if find_spec("pytest_benchmark") else ["--override-ini=addopts=-ra --strict-markers"]
    if parallel and find_spec("xdist"):
        options += ["-n", str(machine.processes)]
    return Command([PYTHON, "-m", "pytest", *options, "-q", "--no-header", "-k", selection, *files])


def find_sanitizer() -> str | None:
    places = [os.environ.get("PATH", ""), *SANITIZER_PLACES]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))
