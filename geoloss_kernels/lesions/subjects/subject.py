"""A subject: which files are its images and its mask, whose they are, and which split it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import require_file_name
from geoloss_kernels.lesions.subjects.people import person_in

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Subject:
    """One subject, or one session of a person who has several.

    Attributes:
        name: what its results are called; part of the names of files.
        images: modality (the configuration's names) -> file.
        mask: the lesion mask, if there is one.
        split: one of ``SPLITS``, or nothing.
        patient: whose sessions stay in one split; without it, who the name says (`person_in`).

    Raises:
        InputError: a name cannot be part of a file's name, or the split is another one.
    """

    name: str
    images: Mapping[str, Path]
    mask: Path | None = None
    split: str = ""
    patient: str = ""

    def __post_init__(self) -> None:
        require_file_name(self.name, "subject")
        for modality in self.images:
            require_file_name(modality, f"{self.name}: modality")
        if self.split not in ("", *SPLITS):
            raise InputError(f"{self.name}: split: expected one of {', '.join(SPLITS)}, got {self.split!r}")

    @property
    def person(self) -> str:
        """Whoever has the same is in the same split."""
        return self.patient or person_in(self.name)
