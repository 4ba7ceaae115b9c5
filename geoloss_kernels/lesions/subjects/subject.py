"""A subject: which files are its images and its mask, and which split it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geoloss_kernels.lesions.errors import InputError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Subject:
    """One subject: images by modality (the configuration's names), lesion mask if there is one, split."""

    name: str
    images: Mapping[str, Path]
    mask: Path | None = None
    split: str = ""

    def __post_init__(self) -> None:
        if self.split not in ("", *SPLITS):
            raise InputError(f"{self.name}: split: expected one of {', '.join(SPLITS)}, got {self.split!r}")
