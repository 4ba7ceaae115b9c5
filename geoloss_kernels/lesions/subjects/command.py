"""`geoloss scan`: find and check subjects, and tell everything that is wrong with them."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from geoloss_kernels.lesions.errors import InputError, message_of, recorded_warnings
from geoloss_kernels.lesions.subjects.arguments import (
    add_modalities_argument,
    add_source_arguments,
    patterns_of,
)
from geoloss_kernels.lesions.subjects.checks import problems_of
from geoloss_kernels.lesions.subjects.findings import raise_any
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.subjects.table import format_table


@dataclass(frozen=True)
class Finding:
    """A row of the table: a subject, or a folder or row that should be one, and what is wrong with it."""

    subject: str
    level: str
    """Errors keep the subject from being used, warnings do not."""
    finding: str


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
    """Prints the table of the subjects; or, where some cannot be used and are not skipped, of the findings.

    Raises:
        InputError: there are errors among the findings; says how many, and the first.
    """
    subjects, findings = find(options)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors and not options.skip_incomplete:
        print(format_findings(findings), end="")
        raise InputError(_summary(errors))
    for finding in findings:
        level = "skipped" if finding.level == "error" else finding.level
        print(f"geoloss: {level}: {finding.finding}", file=sys.stderr)
    if not subjects:
        raise InputError(f"{options.source}: no subject can be used")
    print(format_table(subjects), end="")


def find(options: argparse.Namespace) -> tuple[list[Subject], list[Finding]]:
    """The subjects that can be used, and what is wrong with any."""
    findings: list[Finding] = []

    def report(name: str, error: InputError) -> None:
        findings.append(Finding(name, "error", message_of(error, options.lesion_label_option)))

    def check(subject: Subject) -> None:
        with recorded_warnings() as warnings:
            errors = list(problems_of(subject, options.modalities, options.lesion_label))
        findings.extend(Finding(subject.name, "warning", warning) for warning in warnings)
        raise_any(errors, report, subject.name)

    try:
        with recorded_warnings() as warnings:
            subjects = load_subjects(
                options.source,
                options.modalities,
                patterns=patterns_of(options),
                fold=options.fold,
                masks_for=(),
                check=check,
                on_incomplete=report,
            )
    except InputError:
        if not findings:
            raise
        return [], findings
    findings.extend(Finding("", "warning", warning) for warning in warnings)
    return subjects, findings


def format_findings(findings: Sequence[Finding]) -> str:
    """The CSV table of ``findings``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Finding))
    writer.writerows(map(astuple, findings))
    return text.getvalue()


def _summary(errors: Sequence[Finding]) -> str:
    if len(errors) == 1:
        return errors[0].finding
    subjects = len({error.subject for error in errors})
    return f"{len(errors)} errors in {subjects} subjects, see the table; the first: {errors[0].finding}"
