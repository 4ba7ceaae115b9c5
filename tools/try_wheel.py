"""Installs a wheel, or a source distribution, in fresh environments and checks its losses there.

    python tools/try_wheel.py dist/*.whl --python python3.10 python3.13 --torch 2.13.0 2.14.1

Each pair of a Python and a torch is one environment, made in a temporary folder and removed. The exit code is
1 if any fails; what it printed is then shown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

CHECK = Path(__file__).with_name("check_installation.py")
CHOICES = ("GEOLOSS_BACKEND", "GEOLOSS_BUILD", "GEOLOSS_CPU", "PYTHONPATH")
"""Variables that would decide what the environment is to show."""


def run(*command: str | Path, folder: Path) -> str:
    """The last line that ``command`` prints; CalledProcessError if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout.strip().rpartition("\n")[2]


def try_in(python: str, torch: str, distribution: Path) -> str:
    """What the check says in an environment of its own."""
    with tempfile.TemporaryDirectory(prefix="geoloss-wheel-") as name:
        folder = Path(name)
        run(python, "-m", "venv", "environment", folder=folder)
        own = folder / "environment" / "bin" / "python"
        install = (own, "-m", "pip", "install", "--quiet")
        from_source = distribution.suffix != ".whl"
        run(*install, f"torch=={torch}", *(["setuptools>=77", "numpy"] if from_source else []), folder=folder)
        run(*install, "--no-deps", "--no-build-isolation", distribution.resolve(), folder=folder)
        run(own, "-m", "pip", "check", folder=folder)
        return run(own, "-W", "ignore", CHECK, folder=folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("distributions", nargs="+", type=Path, help="wheels or source distributions")
    parser.add_argument("--python", nargs="+", default=[sys.executable], metavar="PROGRAM")
    parser.add_argument("--torch", nargs="+", default=["2.13.0"], metavar="VERSION")
    options = parser.parse_args()
    failures = 0
    for distribution, python, torch in product(options.distributions, options.python, options.torch):
        if shutil.which(python) is None:
            parser.error(f"--python: no program {python!r}")
        try:
            outcome = try_in(python, torch, distribution)
        except subprocess.CalledProcessError as error:
            failures += 1
            outcome = f"failed: {' '.join(error.cmd)}\n{error.stdout}"
        print(f"{distribution.name} | {python} | torch {torch} | {outcome}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
