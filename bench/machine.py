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


def describe() -> dict[str, str]:
    """Machine, versions, date and commit."""
    return {
        "machine": f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}".rstrip(", "),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        **{name: _format(value) for name, value in gk.build_info().items() if name not in PACKAGES},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
    }


def slug() -> str:
    """The machine's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu_model()} {os.cpu_count()} cores".lower()).strip("-")


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
