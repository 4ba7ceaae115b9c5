"""The table of subjects: a row per subject, a column per modality, mask, patient and split."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import read_text
from geoloss_kernels.lesions.subjects.findings import Report, reporting_to
from geoloss_kernels.lesions.subjects.subject import Subject

NOT_FILES = ("subject", "patient", "split")
"""Columns that hold something else."""


def read_table(path: Path, report: Report | None = None) -> list[Subject]:
    """Read a CSV table ``subject, <modality>..., mask, patient, split``.

    Relative paths are relative to the table; mask, patient and split may be absent.

    Args:
        path: UTF-8 text, with or without a byte order mark.
        report: takes the error of a row, which is then left out; by default the error is raised.

    Raises:
        InputError: names the table, and the line of a row at fault.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        columns = [column.strip() for column in next(reader, [])]
        _check_columns(columns, path)
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not a CSV table: {error}") from None
    subjects = []
    for line, row in rows:
        with reporting_to(report, row[0].strip()):
            try:
                subjects.append(_subject_of(row, columns, path))
            except InputError as error:
                raise InputError(f"{path}: line {line}: {error}") from None
    return subjects


def format_table(subjects: Sequence[Subject], *, relative_to: Path | None = None) -> str:
    """The CSV table of ``subjects`` with absolute paths, or paths relative to ``relative_to``.

    There is a column of patients where a name does not say it.
    """
    modalities = list(dict.fromkeys(modality for subject in subjects for modality in subject.images))
    with_patients = any(subject.patient for subject in subjects)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", *modalities, "mask", *(["patient"] if with_patients else []), "split"])
    for subject in subjects:
        paths = [*(subject.images.get(modality) for modality in modalities), subject.mask]
        cells = ["" if path is None else _show(path, relative_to) for path in paths]
        patient = [subject.patient] if with_patients else []
        writer.writerow([subject.name, *cells, *patient, subject.split])
    return text.getvalue()


def _check_columns(columns: Sequence[str], path: Path) -> None:
    if "subject" not in columns:
        raise InputError(f"{path}: expected a column named subject, got {', '.join(columns) or 'no columns'}")
    repeated = next((column for column in columns if column and columns.count(column) > 1), None)
    if repeated:
        raise InputError(f"{path}: expected columns of different names, got {repeated} more than once")


def _subject_of(row: Sequence[str], columns: Sequence[str], table: Path) -> Subject:
    if len(row) > len(columns):
        raise InputError(f"expected at most {len(columns)} cells, one for each column, got {len(row)}")
    cells: Mapping[str, str] = {column: cell.strip() for column, cell in zip(columns, row, strict=False)}
    name = cells.get("subject", "")
    if not name:
        raise InputError("a row has no subject name")
    files = {
        column: table.parent / cell for column, cell in cells.items() if cell and column not in NOT_FILES
    }
    mask = files.pop("mask", None)
    return Subject(name, files, mask, cells.get("split", ""), cells.get("patient", ""))


def _show(path: Path, relative_to: Path | None) -> str:
    absolute = path.resolve()
    return str(absolute if relative_to is None else absolute.relative_to(relative_to.resolve()))
