"""`geoloss scan`: find and check subjects."""

from __future__ import annotations

import argparse
import sys

from geoloss_kernels.lesions.errors import InputError, message_of
from geoloss_kernels.lesions.subjects.arguments import (
    add_modalities_argument,
    add_source_arguments,
    patterns_of,
)
from geoloss_kernels.lesions.subjects.checks import check_subject
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.subjects.table import format_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` reads."""
    add_source_arguments(parser)
    add_modalities_argument(parser)
    parser.add_argument("--lesion-label", type=int, help="value that marks lesions, if not 1")
    parser.add_argument(
        "--skip-incomplete",
        action="store_true",
        help="leave out subjects that do not pass the checks, and say so on standard error",
    )


def run(options: argparse.Namespace) -> None:
    """Prints the table of the subjects."""

    def check(subject: Subject) -> None:
        check_subject(subject, options.modalities, options.lesion_label)

    def skip(error: InputError) -> None:
        print(f"geoloss: skipped: {message_of(error, options.lesion_label_option)}", file=sys.stderr)

    subjects = load_subjects(
        options.source,
        options.modalities,
        patterns=patterns_of(options),
        fold=options.fold,
        masks_required=False,
        check=check,
        on_incomplete=skip if options.skip_incomplete else None,
    )
    print(format_table(subjects), end="")
