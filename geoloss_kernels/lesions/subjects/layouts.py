"""Finding the subjects of a folder: a folder per subject, BIDS, or nnU-Net's raw data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.subjects.splits import assign_splits
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.subjects.table import read_table

IMAGE_SUFFIXES = (".nii", ".nii.gz")

# Words of a file name are separated by anything but letters and digits: T1KS or a brainmask is no match.
DEFAULT_PATTERNS: dict[str, str] = {
    "t1": r"(?<![a-z0-9])(t1|t1w|mprage)(?![a-z0-9])",
    "t2": r"(?<![a-z0-9])(t2|t2w)(?![a-z0-9])",
    "flair": r"(?<![a-z0-9])flair(?![a-z0-9])",
    "mask": r"^(?!.*brain).*(?<![a-z0-9])(mask|lesions?|consensus|gt|wmh|seg)(?![a-z0-9])",
}
"""Regular expressions searched, ignoring case, in the file name (in the path below the subject's folder if
they contain a slash). A file that matches "mask" is no image."""

BIDS_SIDE_FOLDERS = ("derivatives", "sourcedata", "code")

_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def load_subjects(
    source: Path,
    modalities: Sequence[str] = ("t1", "t2", "flair"),
    *,
    patterns: Mapping[str, str] | None = None,
    fold: int = 0,
    masks_required: bool = True,
    check: Callable[[Subject], None] | None = None,
    on_incomplete: Callable[[InputError], None] | None = None,
) -> list[Subject]:
    """Read the subjects of a CSV table or a folder; the layout of a folder is recognised.

    If no subject comes with a split, ``assign_splits`` gives each one; a subject that alone lacks a split is
    used for nothing.

    Args:
        source: a ``.csv`` file, a folder with nnU-Net's ``dataset.json``, or a folder of subject folders
            (BIDS included), which may lie in folders named train, validation and test.
        modalities: names of the images every subject must have.
        patterns: replacements for entries of ``DEFAULT_PATTERNS``, and patterns of other modalities.
        fold: entry of nnU-Net's ``splits_final.json``.
        masks_required: whether a subject without a mask is an error.
        check: raises InputError for a subject that cannot be used, for example ``check_subject``.
        on_incomplete: takes the error of a subject, which is then left out; by default the error is raised.

    Raises:
        InputError: names the folder or file that is missing, ambiguous or empty.
    """
    if source.suffix.lower() == ".csv":
        subjects = read_table(source)
    elif not source.is_dir():
        raise InputError(f"{source}: no such folder or CSV table")
    elif (source / "dataset.json").is_file():
        subjects = _scan_nnunet(source, fold)
    else:
        all_patterns = {**DEFAULT_PATTERNS, **(patterns or {})}
        subjects = _scan_folders(source, modalities, all_patterns, on_incomplete)

    def usable(subject: Subject) -> bool:
        with _reporting_to(on_incomplete):
            _require_files(subject, modalities, masks_required, source)
            if check is not None:
                check(subject)
            return True
        return False

    subjects = [subject for subject in subjects if usable(subject)]
    if not subjects:
        raise InputError(f"{source}: no subjects found{_advice(source, modalities)}")
    _require_unique_names(subjects, source)
    return assign_splits(subjects) if not any(subject.split for subject in subjects) else subjects


def _advice(source: Path, modalities: Sequence[str]) -> str:
    """What a folder without subjects was expected to hold; nothing for a table or nnU-Net's data."""
    if not source.is_dir() or (source / "dataset.json").is_file():
        return ""
    looked_for = f"; looked for folders in it with files matching {', '.join(modalities)} and mask"
    if not any(path.name.lower().endswith(IMAGE_SUFFIXES) for path in source.iterdir()):
        return looked_for
    return (
        f"{looked_for}; this looks like the folder of one subject: give its parent {source.resolve().parent}"
    )


def _scan_folders(
    root: Path,
    modalities: Sequence[str],
    patterns: Mapping[str, str],
    on_incomplete: Callable[[InputError], None] | None,
) -> list[Subject]:
    unknown = [modality for modality in modalities if modality not in patterns]
    if unknown:
        raise InputError(f"{root}: modality {unknown[0]} has no file name pattern; give {unknown[0]}=REGEX")
    wanted = {name: _compile(name, patterns[name]) for name in (*modalities, "mask")}
    folders = _subject_folders(root)
    by_split = bool(folders) and all(folder.name.lower() in _SPLIT_FOLDERS for folder in folders)
    subjects = []
    for parent in folders if by_split else [root]:
        split = _SPLIT_FOLDERS[parent.name.lower()] if by_split else ""
        for folder in _subject_folders(parent):
            with _reporting_to(on_incomplete):
                found = _scan_subject(folder, parent, wanted, prefix="")
                subjects += [replace(subject, split=split) for subject in found]
    return subjects


def _compile(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"pattern {name}={pattern}: not a regular expression: {error}") from None


@contextmanager
def _reporting_to(report: Callable[[InputError], None] | None) -> Iterator[None]:
    """Hand InputErrors to ``report`` and go on after the block; without a report let them pass."""
    try:
        yield
    except InputError as error:
        if report is None:
            raise
        report(error)


def _subject_folders(root: Path) -> list[Path]:
    """The folders of ``root``, without those of a BIDS data set that hold no raw subject."""
    folders = _subfolders(root)
    is_bids = any(folder.name.startswith("sub-") for folder in folders)
    return [folder for folder in folders if not (is_bids and folder.name in BIDS_SIDE_FOLDERS)]


def _scan_subject(
    folder: Path, root: Path, wanted: Mapping[str, re.Pattern[str]], prefix: str
) -> list[Subject]:
    """The subject of ``folder``, or those of its subfolders when it holds several images of a modality."""
    files = _images_below(folder) + _bids_masks(folder, root, wanted["mask"])
    if not files:
        raise InputError(f"{folder}: no NIfTI file (.nii or .nii.gz) in this subject folder")
    found = _match(files, folder, wanted)
    repeated = next((name for name, paths in found.items() if len(paths) > 1), None)
    if repeated is None:
        mask = found.pop("mask")
        images = {name: paths[0] for name, paths in found.items() if paths}
        return [Subject(prefix + folder.name, images, mask[0] if mask else None)]
    if any(path.parent == folder for path in files) or len(_subfolders(folder)) < 2:
        names = ", ".join(_inner_path(path, folder) for path in found[repeated])
        raise InputError(
            f"{folder}: several files match {repeated}: {names}; give a pattern {repeated}=REGEX"
        )
    prefix = f"{prefix}{folder.name}_"
    return [s for sub in _subfolders(folder) for s in _scan_subject(sub, root, wanted, prefix)]


def _images_below(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("[!.]*")) if path.name.lower().endswith(IMAGE_SUFFIXES)]


def _bids_masks(folder: Path, root: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Masks of the same subject (and session) in ``derivatives/*/``."""
    derived = sorted(root.glob(f"derivatives/*/{folder.relative_to(root).as_posix()}"))
    files = [path for derived_folder in derived for path in _images_below(derived_folder)]
    return [path for path in files if pattern.search(_without_suffix(path.name))]


def _inner_path(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _match(
    files: Sequence[Path], folder: Path, wanted: Mapping[str, re.Pattern[str]]
) -> dict[str, list[Path]]:
    def matches(path: Path, pattern: re.Pattern[str]) -> bool:
        text = _inner_path(path, folder) if "/" in pattern.pattern else path.name
        return pattern.search(_without_suffix(text)) is not None

    masks = [path for path in files if matches(path, wanted["mask"])]
    images = [path for path in files if path not in masks]
    found = {
        name: [p for p in images if matches(p, pattern)] for name, pattern in wanted.items() if name != "mask"
    }
    return {**found, "mask": masks}


def _scan_nnunet(root: Path, fold: int) -> list[Subject]:
    """nnU-Net's raw data: channel names from dataset.json, the split from splits_final.json if there."""
    description = _read_json(root / "dataset.json")
    keys = ("channel_names", "modality")
    channels = next((description[key] for key in keys if key in description), None)
    if not isinstance(channels, dict):
        raise InputError(f"{root / 'dataset.json'}: expected channel_names, a mapping from number to name")
    modalities = {f"{int(number):04d}": str(name).lower() for number, name in channels.items()}
    ending = str(description.get("file_ending", ".nii.gz"))
    training = _nnunet_cases(root, "Tr", modalities, ending)
    held_out = [replace(case, split="test") for case in _nnunet_cases(root, "Ts", modalities, ending)]
    splits_file = root / "splits_final.json"
    if splits_file.is_file():
        return _nnunet_split(training, splits_file, fold) + held_out
    if held_out:
        return assign_splits(training, test_fraction=0.0) + held_out
    return training


def _nnunet_cases(root: Path, part: str, modalities: Mapping[str, str], ending: str) -> list[Subject]:
    images: dict[str, dict[str, Path]] = {}
    for path in sorted((root / f"images{part}").glob(f"[!.]*{ending}")):
        case, _, number = path.name.removesuffix(ending).rpartition("_")
        if number not in modalities:
            raise InputError(f"{path}: channel {number} is not in dataset.json")
        images.setdefault(case, {})[modalities[number]] = path
    labels = {case: root / f"labels{part}" / f"{case}{ending}" for case in images}
    return [
        Subject(case, found, labels[case] if labels[case].is_file() else None)
        for case, found in images.items()
    ]


def _nnunet_split(subjects: Sequence[Subject], path: Path, fold: int) -> list[Subject]:
    folds = _read_json(path)
    if not isinstance(folds, list) or not 0 <= fold < len(folds):
        raise InputError(f"{path}: no fold {fold}")
    training, validation = (_names_in_fold(folds[fold], key, fold, path) for key in ("train", "val"))
    shared = sorted(set(training) & set(validation))
    if shared:
        raise InputError(f"{path}: fold {fold} names {shared[0]} in train and in val")
    split = dict.fromkeys(training, "train") | dict.fromkeys(validation, "validation")
    names = {subject.name for subject in subjects}
    absent = sorted(set(split) - names)
    if absent:
        raise InputError(f"{path}: fold {fold} names {absent[0]}, which has no images")
    return [replace(subject, split=split[subject.name]) for subject in subjects if subject.name in split]


def _names_in_fold(fold: Any, key: str, number: int, path: Path) -> list[str]:
    names = fold.get(key) if isinstance(fold, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: expected a list of names {key} in fold {number}, got {names!r}")
    return names


def _require_files(subject: Subject, modalities: Sequence[str], mask_required: bool, source: Path) -> None:
    missing = [modality for modality in modalities if modality not in subject.images]
    if missing:
        raise InputError(f"{source}: subject {subject.name} has no {missing[0]} image")
    if mask_required and subject.mask is None:
        raise InputError(f"{source}: subject {subject.name} has no lesion mask")
    for path in (*subject.images.values(), *([subject.mask] if subject.mask else [])):
        if not path.is_file():
            raise InputError(f"{path}: no such file (subject {subject.name})")


def _require_unique_names(subjects: Sequence[Subject], source: Path) -> None:
    seen: set[str] = set()
    for subject in subjects:
        if subject.name in seen:
            raise InputError(f"{source}: two subjects are named {subject.name}")
        seen.add(subject.name)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _without_suffix(name: str) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
