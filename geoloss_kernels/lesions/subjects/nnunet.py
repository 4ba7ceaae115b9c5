"""The subjects of nnU-Net's raw data: channel names from dataset.json, splits from splits_final.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import read_json
from geoloss_kernels.lesions.subjects.findings import Report, reporting_to
from geoloss_kernels.lesions.subjects.splits import assign_splits
from geoloss_kernels.lesions.subjects.subject import Subject

DESCRIPTION = "dataset.json"
SPLITS_FILE = "splits_final.json"


def scan_nnunet(root: Path, fold: int, report: Report | None) -> list[Subject]:
    """The cases of ``imagesTr``, and as test subjects those of ``imagesTs``, whose masks may be absent.

    Args:
        root: folder with ``dataset.json``.
        fold: entry of ``splits_final.json``; without that file, people are split at random.
        report: takes the error of a file, which is then left out; by default the error is raised.

    Raises:
        InputError: names the file and what it should hold.
    """
    modalities, ending = _channels(root / DESCRIPTION)
    training = _cases(root, "Tr", modalities, ending, report)
    held_out = [replace(case, split="test") for case in _cases(root, "Ts", modalities, ending, report)]
    splits_file = root / SPLITS_FILE
    if splits_file.is_file():
        return _split(training, splits_file, fold) + held_out
    if held_out:
        return assign_splits(training, test_fraction=0.0) + held_out
    return training


def _channels(path: Path) -> tuple[dict[str, str], str]:
    """Number, as file names have it -> modality; and how the names of files end."""
    description = read_json(path)
    if not isinstance(description, dict):
        raise InputError(f"{path}: expected a mapping, got {type(description).__name__}")
    channels = next((description[key] for key in ("channel_names", "modality") if key in description), None)
    if not isinstance(channels, dict) or not all(str(number).isdecimal() for number in channels):
        raise InputError(f"{path}: expected channel_names, a mapping from number to name")
    named = [(f"{int(number):04d}", str(name).strip().lower()) for number, name in channels.items()]
    modalities = dict(named)
    if len(modalities) < len(named):
        raise InputError(f"{path}: expected channel_names of different numbers, got {', '.join(channels)}")
    repeated = next((name for _, name in named if sum(name == other for _, other in named) > 1), None)
    if repeated is not None:
        shared = ", ".join(str(int(number)) for number, name in named if name == repeated)
        raise InputError(
            f"{path}: expected channel_names that differ, got {repeated!r} for channels {shared}, "
            "of which one would be used"
        )
    return modalities, str(description.get("file_ending", ".nii.gz"))


def _cases(
    root: Path, part: str, modalities: Mapping[str, str], ending: str, report: Report | None
) -> list[Subject]:
    images: dict[str, dict[str, Path]] = {}
    for path in sorted(path for path in (root / f"images{part}").glob("[!.]*") if path.name.endswith(ending)):
        case, _, number = path.name.removesuffix(ending).rpartition("_")
        with reporting_to(report, case):
            if number not in modalities:
                raise InputError(f"{path}: channel {number} is not in {DESCRIPTION}")
            images.setdefault(case, {})[modalities[number]] = path
    subjects = []
    for case, found in images.items():
        label = root / f"labels{part}" / f"{case}{ending}"
        with reporting_to(report, case):
            subjects.append(Subject(case, found, label if label.is_file() else None))
    return subjects


def _split(subjects: Sequence[Subject], path: Path, fold: int) -> list[Subject]:
    folds = read_json(path)
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
