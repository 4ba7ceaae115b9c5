"""The ``geoloss`` command: its commands, and what becomes of their errors.

A user error is one line ``geoloss: error: ...`` on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from geoloss_kernels import __version__
from geoloss_kernels.lesions.errors import InputError, message_of, one_line, warnings_shown_by

COMMANDS = {
    "demo": ("demo", "make phantom subjects, train with Dice and Dice + FOG, compare"),
    "reproduce": ("study", "repeat the paper's experiment: every row of its tables, its figures, a report"),
    "make-dataset": (
        "datasets",
        "make subjects like the paper's, with training, validation and test splits",
    ),
    "scan": ("subjects", "find and check subjects; print them as a CSV table"),
    "preprocess": (
        "preprocessing",
        "register each subject's images to its FLAIR and correct their bias fields",
    ),
    "lga": ("lga", "segment lesions without training: LST's lesion growth algorithm on T1 and FLAIR"),
    "train": ("training", "train a network"),
    "predict": ("prediction", "write lesion masks and probability maps"),
    "evaluate": ("evaluation", "compare predictions with reference masks; write tables"),
}
"""Name -> room whose ``command`` declares the arguments and runs it, and what it does."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
TRAINING_PACKAGES = ("numpy", "scipy", "nibabel", "monai", "matplotlib", "tensorboard", "tqdm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _version_parser().parse_known_args(arguments[:1])  # needs none of the packages
    missing = [package for package in TRAINING_PACKAGES if find_spec(package) is None]
    if missing:
        return _fail(f"needs {', '.join(missing)}: pip install 'geoloss-kernels[train]'")
    options = build_parser(arguments).parse_args(arguments)
    try:
        with warnings_shown_by(_show_warning):
            options.run(options)
    except (InputError, OSError) as error:
        return _fail(message_of(error, options.lesion_label_option))
    except KeyboardInterrupt:
        print(f"geoloss: interrupted ({options.continuation})", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


class _Parser(argparse.ArgumentParser):
    """Takes options in full only; so do its sub-parsers, which are of the same class."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(f"{message} (see {self.prog} --help)"))


def _version_parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    parser.add_argument("--version", action="version", version=f"geoloss {__version__}")
    return parser


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser; a command's own arguments are there where ``arguments`` name it, and its room is opened."""
    parser = _Parser(
        prog="geoloss",
        description="Multiple sclerosis lesion segmentation with geometric losses.",
        parents=[_version_parser()],
    )
    parser.set_defaults(
        lesion_label_option="--lesion-label VALUE", continuation="train --resume RUN continues a run"
    )
    chosen = next((argument for argument in arguments if argument in COMMANDS), None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (room, summary) in COMMANDS.items():
        command_parser = commands.add_parser(name, help=summary)
        if name == chosen:
            command = import_module(f"geoloss_kernels.lesions.{room}.command")
            command_parser.set_defaults(run=command.run)
            command.add_arguments(command_parser)
    return parser


def _show_warning(message: str) -> None:
    print(f"geoloss: warning: {one_line(message)}", file=sys.stderr)


def _fail(message: str) -> int:
    print(f"geoloss: error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR
