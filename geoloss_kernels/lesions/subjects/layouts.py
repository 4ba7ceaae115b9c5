"""Finding the subjects of a table or a folder: a folder per subject, BIDS, or nnU-Net's raw data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from geoloss_kernels.lesions.errors import InputError, warn
from geoloss_kernels.lesions.subjects.findings import Report, raise_any, reporting_to
from geoloss_kernels.lesions.subjects.folders import IMAGE_SUFFIXES, scan_folders
from geoloss_kernels.lesions.subjects.nnunet import DESCRIPTION, scan_nnunet
from geoloss_kernels.lesions.subjects.splits import assign_splits, shared_people
from geoloss_kernels.lesions.subjects.subject import SPLITS, Subject
from geoloss_kernels.lesions.subjects.table import read_table


def load_subjects(
    source: Path,
    modalities: Sequence[str] = ("t1", "t2", "flair"),
    *,
    patterns: Mapping[str, str] | None = None,
    fold: int = 0,
    masks_for: Collection[str] = SPLITS,
    check: Callable[[Subject], None] | None = None,
    on_incomplete: Report | None = None,
) -> list[Subject]:
    """Read the subjects of a CSV table or a folder; the layout of a folder is recognised.

    If no subject comes with a split, ``assign_splits`` gives each one; a subject that alone lacks a split is
    used for nothing. Where splits are given, and sessions of one person are in several, a warning says so.

    Args:
        source: a ``.csv`` file, a folder with nnU-Net's ``dataset.json``, or a folder of subject folders
            (BIDS included), which may lie in folders named train, validation and test.
        modalities: names of the images every subject must have.
        patterns: replacements for entries of ``DEFAULT_PATTERNS``, and patterns of other modalities.
        fold: entry of nnU-Net's ``splits_final.json``.
        masks_for: splits in which a subject without a mask is an error.
        check: raises InputError for a subject that cannot be used, for example ``check_subject``.
        on_incomplete: takes the error of a subject, which is then left out; by default the error is raised.

    Raises:
        InputError: names the folder or file that is missing, ambiguous or empty.
    """
    found = _find(source, modalities, patterns or {}, fold, on_incomplete)
    subjects: list[Subject] = []
    for subject in found:
        with reporting_to(on_incomplete, subject.name):
            raise_any(list(_problems_of_files(subject, modalities, source)), on_incomplete, subject.name)
            if any(subject.name == other.name for other in subjects):
                raise InputError(f"{source}: two subjects are named {subject.name}")
            if check is not None:
                check(subject)
            subjects.append(subject)
    if not subjects:
        raise InputError(f"{source}: no subjects found{_advice(source, modalities)}")
    if not any(subject.split for subject in subjects):
        subjects = assign_splits(subjects)
    elif shared := shared_people(subjects):
        warn(f"{source}: {shared}")
    return _with_masks(subjects, masks_for, source, on_incomplete)


def _find(
    source: Path, modalities: Sequence[str], patterns: Mapping[str, str], fold: int, report: Report | None
) -> list[Subject]:
    if source.suffix.lower() == ".csv":
        return read_table(source, report)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder or CSV table")
    if (source / DESCRIPTION).is_file():
        return scan_nnunet(source, fold, report)
    return scan_folders(source, modalities, patterns, report)


def _with_masks(
    subjects: Sequence[Subject], splits: Collection[str], source: Path, report: Report | None
) -> list[Subject]:
    kept = []
    for subject in subjects:
        with reporting_to(report, subject.name):
            if subject.mask is None and subject.split in splits:
                raise InputError(f"{source}: subject {subject.name} has no lesion mask")
            kept.append(subject)
    return kept


def _problems_of_files(subject: Subject, modalities: Sequence[str], source: Path) -> Iterator[InputError]:
    """Images that are missing, and files that are none or that fill two columns."""
    for modality in modalities:
        if modality not in subject.images:
            yield InputError(f"{source}: subject {subject.name} has no {modality} image")
    columns = {**subject.images, **({"mask": subject.mask} if subject.mask else {})}
    named: dict[Path, str] = {}
    for column, path in columns.items():
        first = named.setdefault(path.resolve(), column)
        if not str(path).isprintable():
            yield InputError(f"{source}: expected a path that prints as {column}, got {str(path)!r}")
        elif not path.is_file():
            yield InputError(f"{path}: no such file (subject {subject.name})")
        elif first != column:
            yield InputError(f"{path}: is both {first} and {column} of subject {subject.name}")


def _advice(source: Path, modalities: Sequence[str]) -> str:
    """What a folder without subjects was expected to hold; nothing for a table or nnU-Net's data."""
    if not source.is_dir() or (source / DESCRIPTION).is_file():
        return ""
    looked_for = f"; looked for folders in it with files matching {', '.join(modalities)} and mask"
    if not any(path.name.lower().endswith(IMAGE_SUFFIXES) for path in source.iterdir()):
        return looked_for
    return (
        f"{looked_for}; this looks like the folder of one subject: give its parent {source.resolve().parent}"
    )
