"""The table of subjects: a row per subject, a column per modality, mask and split."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.subjects.subject import Subject


def read_table(path: Path) -> list[Subject]:
    """Read a CSV table ``subject, <modality>..., mask, split``; relative paths are relative to the table."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        if "subject" not in columns:
            raise InputError(
                f"{path}: expected a column named subject, got {', '.join(columns) or 'no columns'}"
            )
        return [_table_row(path, row) for row in reader]


def _table_row(table: Path, row: Mapping[str, str | None]) -> Subject:
    cells = {column: (value or "").strip() for column, value in row.items() if isinstance(value, str)}
    name = cells.pop("subject", "")
    if not name:
        raise InputError(f"{table}: a row has no subject name")
    split, mask = cells.pop("split", ""), cells.pop("mask", "")
    images = {modality: table.parent / value for modality, value in cells.items() if value}
    return Subject(name, images, table.parent / mask if mask else None, split)


def format_table(subjects: Sequence[Subject], *, relative_to: Path | None = None) -> str:
    """The CSV table of ``subjects`` with absolute paths, or paths relative to ``relative_to``."""
    modalities = list(dict.fromkeys(modality for subject in subjects for modality in subject.images))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", *modalities, "mask", "split"])
    for subject in subjects:
        paths = [*(subject.images.get(modality) for modality in modalities), subject.mask]
        cells = ["" if path is None else _show(path, relative_to) for path in paths]
        writer.writerow([subject.name, *cells, subject.split])
    return text.getvalue()


def _show(path: Path, relative_to: Path | None) -> str:
    absolute = path.resolve()
    return str(absolute if relative_to is None else absolute.relative_to(relative_to.resolve()))
