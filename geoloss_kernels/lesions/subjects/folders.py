"""The subjects of a folder of folders, BIDS included, recognised by the names of their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.subjects.findings import Report, reporting_to
from geoloss_kernels.lesions.subjects.people import holds_people
from geoloss_kernels.lesions.subjects.subject import Subject

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

_BIDS_NAME = re.compile(r"sub-[a-z0-9]+(?:_[a-z0-9]+-[a-z0-9]+)*_([a-z0-9]+)", re.IGNORECASE)
_SAYS_LESION = re.compile(r"(?<![a-z0-9])(lesions?|consensus|gt|wmh)(?![a-z0-9])", re.IGNORECASE)

_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def scan_folders(
    root: Path, modalities: Sequence[str], patterns: Mapping[str, str], report: Report | None
) -> list[Subject]:
    """The subjects of ``root``, or of its folders train, validation and test.

    Args:
        root: folder of subject folders.
        modalities: names of the images to look for.
        patterns: regular expressions of the modalities and of "mask", instead of ``DEFAULT_PATTERNS``.
        report: takes the error of a folder, which is then left out; by default the error is raised.

    Raises:
        InputError: names the folder or pattern at fault.
    """
    known = {**DEFAULT_PATTERNS, **patterns}
    unknown = [modality for modality in modalities if modality not in known]
    if unknown:
        raise InputError(f"{root}: modality {unknown[0]} has no file name pattern; give {unknown[0]}=REGEX")
    wanted = [_Wanted.of(name, known[name]) for name in (*modalities, "mask")]
    folders = _subject_folders(root)
    by_split = bool(folders) and all(folder.name.lower() in _SPLIT_FOLDERS for folder in folders)
    subjects = []
    for parent in folders if by_split else [root]:
        split = _SPLIT_FOLDERS[parent.name.lower()] if by_split else ""
        for folder in _subject_folders(parent):
            with reporting_to(report, folder.name):
                found = _Search(parent, wanted).subjects(folder)
                subjects += [replace(subject, split=split) for subject in found]
    return subjects


@dataclass(frozen=True)
class _Wanted:
    """A modality or the mask, and the names of its files."""

    name: str
    pattern: re.Pattern[str]
    is_default: bool

    @classmethod
    def of(cls, name: str, pattern: str) -> _Wanted:
        try:
            compiled = re.compile(pattern, re.IGNORECASE)
        except re.error as error:
            raise InputError(f"pattern {name}={pattern}: not a regular expression: {error}") from None
        return cls(name, compiled, pattern == DEFAULT_PATTERNS.get(name))

    def matches(self, path: Path, folder: Path) -> bool:
        """Whether a file below ``folder`` is one. In a BIDS name the suffix says what an image is of:
        ``sub-1_space-FLAIR_T1w`` is a T1."""
        text = _without_suffix(_inner_path(path, folder) if "/" in self.pattern.pattern else path.name)
        if self.is_default and self.name != "mask" and (bids := _BIDS_NAME.fullmatch(text)):
            text = bids[1]
        return self.pattern.search(text) is not None


@dataclass(frozen=True)
class _Search:
    """Below ``root``, for what is ``wanted``; the mask comes last."""

    root: Path
    wanted: Sequence[_Wanted]

    def subjects(self, folder: Path, prefix: str = "", patient: str = "") -> list[Subject]:
        """The subject of ``folder``, or those of its subfolders where it holds several images of one kind."""
        files = _images_below(folder) + self._bids_masks(folder)
        if not files:
            raise InputError(f"{folder}: no NIfTI file (.nii or .nii.gz) in this subject folder")
        found = self._match(files, folder)
        repeated = next((name for name, paths in found.items() if len(paths) > 1), None)
        if repeated is None:
            mask = found.pop("mask")
            images = {name: paths[0] for name, paths in found.items() if paths}
            return [Subject(prefix + folder.name, images, mask[0] if mask else None, patient=patient)]
        inside = _subfolders(folder)
        if any(path.parent == folder for path in files) or len(inside) < 2:
            names = ", ".join(_inner_path(path, folder) for path in found[repeated])
            raise InputError(
                f"{folder}: several files match {repeated}: {names}; give a pattern {repeated}=REGEX"
            )
        name = prefix + folder.name
        if not patient and not holds_people(folder.name, [sub.name for sub in inside]):
            patient = name
        return [subject for sub in inside for subject in self.subjects(sub, f"{name}_", patient)]

    def _bids_masks(self, folder: Path) -> list[Path]:
        """Masks of the same subject (and session) in ``derivatives/*/``."""
        derived = sorted(self.root.glob(f"derivatives/*/{folder.relative_to(self.root).as_posix()}"))
        files = [path for derived_folder in derived for path in _images_below(derived_folder)]
        return [path for path in files if self._is_mask(path, folder)]

    def _is_mask(self, path: Path, folder: Path) -> bool:
        """By its name, unless that is of BIDS and its suffix is that of an image."""
        *modalities, mask = self.wanted
        is_image = _BIDS_NAME.fullmatch(_without_suffix(path.name)) and any(
            wanted.is_default and wanted.matches(path, folder) for wanted in modalities
        )
        return mask.matches(path, folder) and not (mask.is_default and is_image)

    def _match(self, files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
        *modalities, mask = self.wanted
        masks = [path for path in files if self._is_mask(path, folder)]
        images = [path for path in files if path not in masks]
        found = {
            wanted.name: [path for path in images if wanted.matches(path, folder)] for wanted in modalities
        }
        for path in images:
            columns = [name for name, paths in found.items() if path in paths]
            if len(columns) > 1:
                named = " and ".join(columns)
                raise InputError(f"{path}: matches {named}; give a pattern {columns[0]}=REGEX that does not")
        return {**found, "mask": _lesion_masks(masks) if mask.is_default else masks}


def _lesion_masks(masks: Sequence[Path]) -> list[Path]:
    """Those that say they are of lesions, where some do: the others are of brains and the like."""
    of_lesions = [path for path in masks if _SAYS_LESION.search(_without_suffix(path.name))]
    return of_lesions or list(masks)


def _subject_folders(root: Path) -> list[Path]:
    """The folders of ``root``, without those of a BIDS data set that hold no raw subject."""
    folders = _subfolders(root)
    is_bids = any(folder.name.startswith("sub-") for folder in folders)
    return [folder for folder in folders if not (is_bids and folder.name in BIDS_SIDE_FOLDERS)]


def _images_below(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("[!.]*")) if path.name.lower().endswith(IMAGE_SUFFIXES)]


def _inner_path(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _without_suffix(name: str) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
