"""What an argument of the command line may be."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_results_argument(parser: argparse.ArgumentParser, contents: str = "results") -> None:
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help=f"folder for the {contents}")


def folder(argument: str) -> Path:
    """A folder that exists or can be made."""
    path = Path(argument)
    existing = next(candidate for candidate in (path, *path.parents) if candidate.exists())
    if not existing.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, but {existing} is a file")
    return path


def existing_file(argument: str) -> Path:
    path = Path(argument)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {path}")
    return path
