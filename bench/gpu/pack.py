"""What travels to a machine with a GPU and no package index: the operators built for it, and packages."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.gpu.commands import ROOT

LARGEST = 64 * 2**20  # bytes
MANIFEST = "manifest.json"
LIBRARIES = "operators"
PACKAGES = "packages"
SOURCES = ("csrc", "setup.py")
# What the tests and the rivals import, beyond numpy, scipy, matplotlib, pytest, hypothesis and tensorboard.
NEEDED = ("monai", "nibabel", "nilearn", "lesion-metrics", "edt", "pybind11", "sybil")
GLIBC = (17, 24, 27, 28, 31, 34)


class PackError(Exception):
    """The pack cannot be made, or does not belong to this tree."""


def make(folder: Path, python: str, architectures: str) -> str:
    """Build and gather everything into ``folder``; what is in it, in a line.

    Raises:
        PackError: something cannot be built or is not to be had, or the whole is larger than `LARGEST`.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        new = Path(place) / folder.name
        _build(new / LIBRARIES, Path(place) / "build", architectures)
        _download(new / PACKAGES, python)
        manifest = {"sources": digest_of_sources(), "architectures": architectures, "python": python}
        (new / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        size = sum(file.stat().st_size for file in new.rglob("*") if file.is_file())
        if size > LARGEST:
            raise PackError(f"{folder}: expected at most {LARGEST / 2**20:.0f} MiB, got {size / 2**20:.1f}")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    files = ", ".join(sorted(file.name for file in folder.rglob("*") if file.is_file()))
    return f"{folder}: {size / 2**20:.1f} MiB: {files}"


def unpack(folder: Path, site: Path) -> None:
    """Put the operators into this tree, and install the packages into ``site``.

    Raises:
        PackError: there is no pack, or it was made of other sources.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise PackError(f"{folder}: expected a folder that `python -m bench.gpu pack` made")
    if json.loads(manifest.read_text(encoding="utf-8"))["sources"] != digest_of_sources():
        raise PackError(f"{folder}: made of other sources than {', '.join(SOURCES)} of this tree: pack again")
    shutil.unpack_archive(f"{folder / LIBRARIES}.zip", ROOT / "geoloss_kernels")
    wheels = [str(wheel) for wheel in (folder / PACKAGES).glob("*.whl")]
    install = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
    _run([sys.executable, "-m", "pip", *install, "--target", str(site), *wheels], dict(os.environ))


def digest_of_sources() -> str:
    """Of what the operators are built from."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def _build(archive: Path, built: Path, architectures: str) -> None:
    """A zip file with the libraries of both devices, built beside the torch that is installed here."""
    environment = {**os.environ, "GEOLOSS_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": architectures}
    build = ["build_ext", "--build-lib", str(built), "--build-temp", "build/gpu-pack"]
    _run([sys.executable, "setup.py", *build], environment)
    shutil.make_archive(str(archive), "zip", built / "geoloss_kernels")


def _download(folder: Path, python: str) -> None:
    """Wheels for the machine's Python, without what they need in turn."""
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC] + [
        "--platform=manylinux2014_x86_64"
    ]
    chosen = ["--no-deps", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    _run([*pip, *chosen, *platforms, *NEEDED], dict(os.environ))


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise PackError(
            f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
