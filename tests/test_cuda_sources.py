"""What nvcc makes of csrc/cuda: no warnings, no spills, few enough registers, vectors as wide as meant."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import setuptools
import torch

ROOT = Path(__file__).parents[1]
CUDA = ROOT / "csrc" / "cuda"
BUILD = ROOT / "build" / "cuda_sources"
NVCC = shutil.which("nvcc")
BINARIES = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"  # of the nvidia-cuda-* packages

pytestmark = [
    pytest.mark.skipif(NVCC is None, reason="no nvcc on the PATH"),
    pytest.mark.timeout(900),
]

FLAGS = (
    *("-std=c++20", "-O3", "--expt-relaxed-constexpr", "--Werror=all-warnings", "-Xcompiler=-Wall,-Wextra"),
    *("-Xptxas=-v,--warn-on-spills,-Werror",),
)
TORCH = Path(torch.__file__).parent / "include"
TORCH_FLAGS = ("-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-isystem", str(TORCH))

MARCH = sorted(path.name for path in CUDA.glob("march_*.cu"))
PASSES = sorted(path.name for path in CUDA.glob("passes_*.cu"))
OPERATORS = sorted(path.name for path in CUDA.glob("*.cu") if path.name not in (*MARCH, *PASSES))
# The passes never come near the limit of registers: the oldest GPU and one of today's. Which of the 16-bit
# types an input has makes little difference: every GPU for one of them.
COMPILED = (
    *((source, architecture) for source in PASSES for architecture in (75, 90)),
    *((source, architecture) for source in MARCH for architecture in (90, 120)),
    *(
        (source, architecture)
        for source in ("march_float32.cu", "march_bfloat16.cu")
        for architecture in (75, 80, 100)
    ),
    *((source, 90) for source in OPERATORS),
)

LINKED = 90
"""The architecture for which everything is compiled, also the host's side."""

# Registers per thread. A processor has 65536: a block of 384 threads fits twice with 80, one of 256 with 128,
# and three times with 80.
BUDGET = {
    r"geo_sums_march_\w+_kernel<.*(float|Half|BFloat16|unsigned char), geoloss::stencil::FirstOrder": 80,
    r"geo_sums_march_\w+_kernel<.*(float|Half|BFloat16|unsigned char), geoloss::cuda::NoStencil": 80,
    r"geo_sums_march_\w+_kernel<.*AnyElement.*, 1>": 128,
    r"geo_sums_march_\w+_kernel<.*AnyElement.*, [234]>": 255,  # of a softmax: one block has a processor
    r"geo_sums_tile_\w+_kernel<float>": 128,
    r"geo_sums_tile_\w+_kernel<double>": 168,
    r"geo_(sums_reduce|loss_reduce|ratio)_kernel": 64,
    r"distance_(rows|columns)_kernel": 64,
}


def run(*command: str) -> str:
    """What a command prints, errors and all; it has to succeed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


def compiled(source: str, architecture: int) -> Path:
    """The cubin, or for `LINKED` the object file; what ptxas says of it lies beside, as .txt."""
    assert NVCC is not None
    torch_flags = TORCH_FLAGS if source in OPERATORS else ()
    kind = ("-c", "-Xcompiler=-fPIC") if architecture == LINKED else ("-cubin",)
    command = (NVCC, *FLAGS, *torch_flags, f"-arch=sm_{architecture}", *kind, str(CUDA / source))
    digest = hashlib.sha256(repr((command, run(NVCC, "--version"))).encode())
    for path in sorted(path for path in CUDA.parent.rglob("*") if path.suffix in (".h", ".cuh", ".cu")):
        digest.update(path.read_bytes())
    suffix = "o" if architecture == LINKED else "cubin"
    cubin = BUILD / f"{source}.{architecture}.{digest.hexdigest()[:16]}.{suffix}"
    if not cubin.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        cubin.with_suffix(".txt").write_text(run(*command, "-o", f"{cubin}.new"))
        os.replace(f"{cubin}.new", cubin)
    return cubin


def demangled(names: Sequence[str]) -> list[str]:
    return run("c++filt", *names).splitlines() if names else []


@pytest.fixture(scope="module")
def cubins() -> Iterator[dict[tuple[str, int], Future[Path]]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {each: pool.submit(compiled, *each) for each in COMPILED}


LOAD = """
import sys, torch, geoloss_kernels
torch.ops.load_library(sys.argv[1])
names = [f"geoloss::{name}" for name in dir(torch.ops.geoloss) if name.startswith(("geo_", "distance_"))]
print({name: torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA") for name in names})
"""


def test_library_links_and_has_every_operator(cubins, tmp_path, monkeypatch):
    """It loads also beside a torch without CUDA, and has a kernel for each operator of the CPU's."""
    assert NVCC is not None
    objects = [str(cubins[source, LINKED].result()) for source in (*OPERATORS, *MARCH, *PASSES)]
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    build = runpy.run_path(str(ROOT / "setup.py"))
    library = tmp_path / "_C_cuda.so"
    run(*build["nvcc_link"](NVCC, objects, str(library)))
    loaded = ast.literal_eval(run(sys.executable, "-c", LOAD, str(library)).splitlines()[-1])
    expected = (
        "geo_sums",
        "geo_sums_backward",
        "geo_ratio",
        "geo_ratio_backward",
        "geo_loss",
        "geo_loss_backward",
        "distance_transform",
        "distance_transform_with_indices",
    )
    assert loaded == {f"geoloss::{name}": True for name in expected}


@pytest.mark.parametrize(
    ("source", "architecture"), [each for each in COMPILED if not each[0].startswith("geo_")]
)
def test_registers(cubins, source, architecture):
    text = cubins[source, architecture].result().with_suffix(".txt").read_text()
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", text, re.S
    )
    assert found, text
    kernels = demangled([name for name, _, _ in found])
    for kernel, (_, spilled, registers) in zip(kernels, found, strict=True):
        (budget,) = (limit for pattern, limit in BUDGET.items() if re.search(pattern, kernel))
        assert int(spilled) == 0, kernel
        assert int(registers) <= budget, f"{kernel}: {registers} registers, expected at most {budget}"


ELEMENT_BYTES = {"float": 4, "geoloss::Half": 2, "geoloss::BFloat16": 2, "unsigned char": 1}
SUFFIX = {16: ".128", 8: ".64", 4: ""}


def accesses_of_global_memory(cubin: Path) -> dict[str, list[str]]:
    """LDG and STG instructions of each kernel, by its demangled name."""
    listing = run(str(BINARIES / "cuobjdump"), "-sass", str(cubin))
    parts = re.split(r"Function : (\w+)", listing)[1:]
    accesses = [re.findall(r"\b(?:LDG|STG)\.E[.\w]*", code) for code in parts[1::2]]
    return dict(zip(demangled(parts[::2]), accesses, strict=True))


def without_cache_hints(access: str) -> str:
    return re.sub(r"\.(CONSTANT|SYS|EF|STRONG|GPU|LTC\w+)", "", access)


@pytest.mark.parametrize(("source", "architecture"), [each for each in COMPILED if each[0] in MARCH])
def test_lean_marching_kernels_move_whole_vectors(cubins, source, architecture):
    """Four voxels at once of input, target and gradient: nothing narrower than a vector of the target."""
    lean = 0
    for kernel, accesses in accesses_of_global_memory(cubins[source, architecture].result()).items():
        types = re.search(r"MarchTraits<([\w:]+), ([\w: ]+), ", kernel)
        assert types, kernel
        if types[2].endswith("AnyElement"):
            continue
        lean += 1
        of_input, of_target = (SUFFIX[4 * ELEMENT_BYTES[each]] for each in types.groups())
        moved = {without_cache_hints(access) for access in accesses}
        # Partial sums and weights are single words.
        expected = {f"LDG.E{of_input}", f"LDG.E{of_target}", "STG.E"}
        if "backward" in kernel:
            expected = {f"LDG.E{of_input}", f"LDG.E{of_target}", f"STG.E{of_input}", "LDG.E"}
        assert moved == expected, f"{kernel}: {sorted(moved)}"
    assert lean > 0
