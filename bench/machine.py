"""What the numbers were measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

import geoloss_kernels as gk

ROOT = Path(__file__).parents[1]
SOURCES = ("bench", "csrc", "geoloss_kernels", "setup.py")
PACKAGES = ("torch", "monai", "numpy", "scipy")


def describe(device: str = "cpu") -> dict[str, str]:
    """Machine, versions, date and commit."""
    return {
        **(_describe_gpu() if device == "cuda" else {}),
        "machine": f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}".rstrip(", "),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        **({"triton": _version("triton")} if device == "cuda" else {}),
        **{name: _format(value) for name, value in gk.build_info().items() if name not in PACKAGES},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
    }


def slug(device: str = "cpu") -> str:
    """The machine's name as part of a file name."""
    name = gpu_model() if device == "cuda" else f"{cpu_model()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def has_gpu() -> bool:
    return torch.cuda.is_available()


def gpu_model() -> str:
    return torch.cuda.get_device_name()


def _describe_gpu() -> dict[str, str]:
    gpu = torch.cuda.get_device_properties()
    cache = getattr(gpu, "L2_cache_size", 0)
    return {
        "gpu": f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.multi_processor_count} multiprocessors, "
        f"{gpu.total_memory / 2**30:.0f} GiB, {cache / 2**20:.0f} MiB of second-level cache",
        "driver": _driver(),
        "cuda": str(torch.version.cuda),
    }


def _driver() -> str:
    command = [
        "nvidia-smi",
        "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.splitlines()[0] + " (version, highest clocks)"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def cpu_model() -> str:
    """The processor's name, with family and model number where Linux knows them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:
        return f"{name} family {fields['cpu family']} model {fields['model']}"
    return name


def commit() -> str:
    """The commit, with a mark if a source differs from it; "unknown" outside of a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", *SOURCES)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with uncommitted changes" if changed else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _format(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_format(entry)}" for key, entry in value.items())
    return "yes" if value is None else str(value)
