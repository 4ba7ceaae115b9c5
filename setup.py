"""Builds the operators.

GEOLOSS_BUILD=auto   what can be built here: CPU operators if there is a C++ compiler, CUDA operators if there
                     is a CUDA build of torch and nvcc
              cpu    CPU operators, or fail
              cuda   CPU and CUDA operators, or fail
              none   nothing
TORCH_CUDA_ARCH_LIST names the architectures, as for every extension of PyTorch ("9.0" or "8.0;9.0+PTX");
without it they are those of the GPUs in this machine, or all if it has none. With it, GEOLOSS_BUILD=cuda also
builds beside a torch without CUDA, for another machine's torch with CUDA.

GEOLOSS_LOCAL_VERSION=cu130 is appended to the version, 0.1.0+cu130, as wheels of torch name their variant.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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

TORCH = Path(torch.__file__).parent
# LibTorch's stable ABI of 2.11: one library serves every later torch and every Python.
TORCH_TARGET_VERSION = "-DTORCH_TARGET_VERSION=0x020b000000000000"
COMPILE_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    TORCH_TARGET_VERSION,
    "-isystem",
    str(TORCH / "include"),
]
if sys.platform == "linux":
    COMPILE_FLAGS += ["-include", "csrc/glibc_2_28.h"]
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
    "csrc/cpu/geo_loss.cpp",
    "csrc/cpu/distance_transform.cpp",
]

NVCC_FLAGS = [
    "-std=c++20",
    "-O3",
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
    "-DUSE_CUDA",
    TORCH_TARGET_VERSION,
    "-isystem",
    str(TORCH / "include"),
]
CUDA_SOURCES = sorted(str(file) for file in Path("csrc/cuda").glob("*.cu"))
CUDA_ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")


class BuildOperators(build_ext):
    """Compiles with the system's C++ compiler and nvcc."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name.endswith("_cuda"):
            self.build_cuda(ext)
        else:
            self.build_cpu(ext)

    def build_cpu(self, ext: Extension) -> None:
        """Each variant of the kernels is compiled with its own flags."""
        build = Path(self.build_temp)
        objects = self.compiler.compile(OPERATORS, str(build), extra_postargs=COMPILE_FLAGS)
        for name, flags in VARIANTS.items():
            objects += self.compiler.compile(
                KERNELS, str(build / name), extra_postargs=[*COMPILE_FLAGS, *flags, f"-DGEOLOSS_ISA={name}"]
            )
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            libraries=["c10", "torch_cpu", "torch"],
            library_dirs=[str(TORCH / "lib")],
            target_lang="c++",
        )

    def build_cuda(self, ext: Extension) -> None:
        build = Path(self.build_temp)
        build.mkdir(parents=True, exist_ok=True)
        nvcc = find_nvcc()
        architectures = cuda_architectures()
        objects = {source: str(build / f"{Path(source).stem}.cuda.o") for source in ext.sources}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = [nvcc_compile(nvcc, *each, architectures) for each in objects.items()]
            list(pool.map(subprocess.check_call, commands))
        subprocess.check_call(nvcc_link(nvcc, list(objects.values()), self.get_ext_fullpath(ext.name)))


def find_nvcc() -> str | None:
    """nvcc of $CUDA_HOME, else on the PATH, else where toolkits are installed."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes if home]
    found = shutil.which("nvcc")
    candidates += [Path(found)] if found else []
    candidates += [Path("/usr/local/cuda/bin/nvcc")]
    return next((str(each) for each in candidates if each.exists()), None)


def cuda_architectures() -> list[str]:
    """As TORCH_CUDA_ARCH_LIST writes them, "8.0" or "9.0+PTX"."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if named:
        return named.replace(";", " ").split()
    devices = range(torch.cuda.device_count() if torch.version.cuda else 0)
    present = {"{}.{}".format(*torch.cuda.get_device_capability(device)) for device in devices}
    return sorted(present) or list(CUDA_ARCHITECTURES)


def code_generation(architecture: str) -> list[str]:
    """The flags for one of `cuda_architectures`."""
    number = architecture.removesuffix("+PTX").replace(".", "")
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}"]
    if architecture.endswith("+PTX"):
        flags += [f"-gencode=arch=compute_{number},code=compute_{number}"]
    return flags


def nvcc_compile(nvcc: str, source: str, to: str, architectures: list[str]) -> list[str]:
    """The command that compiles one of `CUDA_SOURCES`."""
    targets = [flag for each in architectures for flag in code_generation(each)]
    return [nvcc, *NVCC_FLAGS, *targets, "-c", source, "-o", to]


def nvcc_link(nvcc: str, objects: list[str], to: str) -> list[str]:
    """The command that links them.

    torch's CUDA library is in the scope of -ltorch, which has to stay although no symbol asks for it by name.
    """
    libraries = ["-lc10", "-ltorch_cpu", "-Xlinker=--no-as-needed", "-ltorch", "-Xlinker=--as-needed"]
    return [nvcc, "-shared", "-cudart=static", *objects, "-o", to, f"-L{TORCH / 'lib'}", *libraries]


def reason_against_cpu() -> str | None:
    compiler = os.environ.get("CXX", "c++").split()[0]
    return None if shutil.which(compiler) else f"no C++ compiler ({compiler}) found"


def reason_against_cuda(for_another_machine: bool) -> str | None:
    if torch.version.cuda is None and not for_another_machine:
        return f"torch {torch.__version__} is built without CUDA"
    nvcc = find_nvcc()
    if nvcc is None:
        return "no CUDA compiler (nvcc) found in $CUDA_HOME, on the PATH or in /usr/local/cuda"
    return None


def say(text: str) -> None:
    print(f"geoloss-kernels: {text}", file=sys.stderr)


def extensions() -> list[Extension]:
    """What GEOLOSS_BUILD asks for; what `auto` leaves out, it says."""
    choice = os.environ.get("GEOLOSS_BUILD", "auto")
    if choice not in ("auto", "cpu", "cuda", "none"):
        sys.exit(f"GEOLOSS_BUILD: expected auto, cpu, cuda or none, got {choice!r}")
    if choice == "none":
        return []
    if choice == "auto" and (reason := reason_against_cpu()):
        say(
            f"{reason}; installing without the fused operators. "
            "Losses will use the PyTorch reference, and on GPUs Triton."
        )
        return []
    built = [Extension("geoloss_kernels._C", [*OPERATORS, *KERNELS], py_limited_api=True)]
    if choice == "cpu":
        return built
    for_another_machine = choice == "cuda" and "TORCH_CUDA_ARCH_LIST" in os.environ
    reason = reason_against_cuda(for_another_machine)
    if reason is None:
        built += [Extension("geoloss_kernels._C_cuda", CUDA_SOURCES, py_limited_api=True)]
    elif choice == "cuda":
        sys.exit(f"GEOLOSS_BUILD=cuda: {reason}")
    elif torch.version.cuda is not None:
        say(f"{reason}; installing without the CUDA operators. Losses of CUDA tensors will use Triton.")
    return built


def command_options(built: list[Extension]) -> dict[str, dict[str, str]]:
    """The wheel's tag and the variant in its version."""
    options = {"bdist_wheel": {"py_limited_api": "cp310"}} if built else {}
    if variant := os.environ.get("GEOLOSS_LOCAL_VERSION"):
        options["egg_info"] = {"tag_build": f"+{variant}"}
    return options


built = extensions()
setup(ext_modules=built, cmdclass={"build_ext": BuildOperators}, options=command_options(built))
