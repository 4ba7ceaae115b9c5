"""Compiles csrc/cuda with the host's compiler, and keeps the results by a hash of all that went into them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, repeat
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "cuda_on_host"

WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")  # of nvcc: #pragma unroll
# What a GPU has to inline need not be here: code that is not is a tenth as large, with sanitizers a fiftieth.
CALLS = ("-Dalways_inline=unused",)
COMMON = ("-std=c++20", "-g1", "-fPIC", *CALLS, *WARNINGS)
RUNTIME = ("cuda_on_host.cpp", "fiber.cpp")


def compiler() -> str:
    return os.environ.get("CXX", "c++")


def run(*command: str) -> str:
    """What a command prints; RuntimeError with all of it if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def module() -> Path:
    """The extension module `cuda_on_host`."""
    import pybind11

    name = "cuda_on_host" + sysconfig.get_config_var("EXT_SUFFIX")
    python = ("-isystem", sysconfig.get_path("include"), "-isystem", pybind11.get_include())
    return Target(name, ("-O2",), main="module.cpp", main_flags=(*python, "-fvisibility=hidden")).build(
        "-shared"
    )


def launches(sanitizer: str, csrc: Path) -> Path:
    """The executable of `launches.cpp` with the sanitizers "address" (and undefined behaviour) or "thread".

    Args:
        csrc: the kernels, with bugs from `planted_bugs.plant`.
    """
    flags: tuple[str, ...] = {
        "address": ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
        "thread": ("-O1", "-fsanitize=thread"),
    }[sanitizer]
    # ThreadSanitizer would take the scheduler's own data for the kernels'.
    runtime = ("-O2", "-DCUDA_ON_HOST_TSAN") if sanitizer == "thread" else flags
    planted = (*flags, "-include", str(HERE / "planted.h"))
    return Target("launches", planted, "launches.cpp", runtime_flags=runtime, csrc=csrc).build()


def language(*flags: str) -> Path:
    """The executable of `language.cpp`: kernels about the stand-in itself."""
    return Target("language", ("-O1", *flags), "language.cpp", csrc=HERE).build()


class Target:
    """A library or an executable of the kernels, the runtime and a ``main`` source.

    Args:
        flags: for the kernels and ``main``.
        runtime_flags: for the runtime; None = ``flags``.
        csrc: where the kernels are; a test may have changed a copy.
    """

    def __init__(
        self,
        name: str,
        flags: Sequence[str],
        main: str,
        main_flags: Sequence[str] = (),
        runtime_flags: Sequence[str] | None = None,
        csrc: Path = ROOT / "csrc",
    ) -> None:
        self.name, self.flags, self.csrc = name, flags, csrc
        kernels = (*flags, f"-I{csrc}", "-xc++")
        instances = sorted([*csrc.glob("cuda/march_*.cu"), *csrc.glob("cuda/passes_*.cu")])
        self.units = [
            *((source, kernels) for source in instances),
            (HERE / main, (*kernels, *main_flags)),
            *((HERE / source, flags if runtime_flags is None else runtime_flags) for source in RUNTIME),
        ]

    def build(self, *link_flags: str) -> Path:
        folder = BUILD / self._hash(link_flags)
        result = folder / self.name
        if result.exists():
            return result
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(self._compile, repeat(folder), count(), self.units))
        run(compiler(), *COMMON, *self.flags, *link_flags, *objects, "-o", f"{result}.new")
        os.replace(f"{result}.new", result)
        (folder / "seconds").write_text(f"{time.monotonic() - start:.1f}\n")
        return result

    def _compile(self, folder: Path, number: int, unit: tuple[Path, Sequence[str]]) -> str:
        source, flags = unit
        compiled = str(folder / f"{number}.o")
        run(compiler(), *COMMON, *flags, f"-I{HERE}", "-c", str(source), "-o", compiled)
        return compiled

    def _hash(self, link_flags: Sequence[str]) -> str:
        sources = [*self.csrc.rglob("*.h"), *self.csrc.rglob("*.cuh"), *self.csrc.rglob("*.cu")]
        sources += [*HERE.glob("*.h"), *HERE.glob("*.cpp")]
        digest = hashlib.sha256(repr((run(compiler(), "--version"), COMMON, self.units, link_flags)).encode())
        for source in sorted(sources):
            digest.update(source.read_bytes())
        return digest.hexdigest()[:16]
