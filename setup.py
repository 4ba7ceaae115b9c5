"""Builds the operators. GEOLOSS_BUILD=auto|cpu|none: if there is a compiler, or else fail, or not at all."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    import torch
except ModuleNotFoundError:
    sys.exit(
        "geoloss-kernels builds against the torch that is installed: install torch >= 2.11 first, "
        "then run `pip install --no-build-isolation geoloss-kernels`."
    )

# LibTorch's stable ABI of 2.11: one library serves every later torch and every Python.
TORCH_TARGET_VERSION = "0x020b000000000000"
COMPILE_FLAGS = [
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
]
# The CPU kernels are compiled once per instruction set; the operators choose one at run time.
KERNELS = ["csrc/cpu/geo_sums_kernel.cpp", "csrc/cpu/distance_transform_kernel.cpp"]
VARIANTS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    VARIANTS |= {"avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}
OPERATORS = [
    "csrc/library.cpp",
    "csrc/cpu/instruction_set.cpp",
    "csrc/cpu/geo_sums.cpp",
    "csrc/cpu/geo_ratio.cpp",
    "csrc/cpu/distance_transform.cpp",
]


class BuildOperators(build_ext):
    """Compiles with the system's C++ compiler, each variant of the kernels with its own flags."""

    def build_extension(self, ext: Extension) -> None:
        torch_dir = Path(torch.__file__).parent
        include = ["-isystem", str(torch_dir / "include")]
        build = Path(self.build_temp)
        objects = self.compiler.compile(OPERATORS, str(build), extra_postargs=[*COMPILE_FLAGS, *include])
        for name, flags in VARIANTS.items():
            objects += self.compiler.compile(
                KERNELS, str(build / name), extra_postargs=[*COMPILE_FLAGS, *flags, f"-DGEOLOSS_ISA={name}"]
            )
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            libraries=["c10", "torch_cpu", "torch"],
            library_dirs=[str(torch_dir / "lib")],
            target_lang="c++",
        )


def wants_operators() -> bool:
    """What GEOLOSS_BUILD asks for; without a compiler, `auto` leaves the operators out and says so."""
    choice = os.environ.get("GEOLOSS_BUILD", "auto")
    if choice not in ("auto", "cpu", "none"):
        sys.exit(f"GEOLOSS_BUILD: expected auto, cpu or none, got {choice!r}")
    compiler = os.environ.get("CXX", "c++").split()[0]
    if choice == "auto" and shutil.which(compiler) is None:
        print(
            f"geoloss-kernels: no C++ compiler ({compiler}) found; installing without the fused operators. "
            "Losses will use the PyTorch reference.",
            file=sys.stderr,
        )
        return False
    return choice != "none"


build = wants_operators()
extension = Extension("geoloss_kernels._C", [*OPERATORS, *KERNELS], py_limited_api=True)
setup(
    ext_modules=[extension] if build else [],
    cmdclass={"build_ext": BuildOperators},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if build else {},
)
