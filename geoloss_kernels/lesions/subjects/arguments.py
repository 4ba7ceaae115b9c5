"""Arguments of the commands that take subjects, and what they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.subject import Subject


def add_source_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Declares what `subjects_of` reads."""
    parser.add_argument(
        "source",
        type=Path,
        nargs="?" if optional else None,
        metavar="DIR|CSV",
        help="folder of subject folders, nnU-Net data set, or table subject,t1,t2,flair,mask,split",
    )
    parser.add_argument(
        "--pattern",
        action="append",
        default=[],
        metavar="NAME=REGEX",
        help="file name pattern of a modality or of the mask, e.g. flair=FLAIR_N4; may be repeated",
    )
    parser.add_argument("--fold", type=int, default=0, help="fold of nnU-Net's splits_final.json (default 0)")


def add_modalities_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--modalities", nargs="+", default=["t1", "t2", "flair"], metavar="NAME")


def add_image_arguments(parser: argparse.ArgumentParser, modalities: Sequence[str]) -> None:
    """Declares what `images_or_subjects` reads beside the source: one subject's images, one by one."""
    parser.add_argument("--name", default="subject", help="file name stem when images are given one by one")
    for modality in modalities:
        parser.add_argument(f"--{modality}", type=Path, metavar="FILE", help=f"{modality.upper()} image")


def subjects_of(
    options: argparse.Namespace, source: Path, modalities: Sequence[str], *, masks_for: Collection[str]
) -> list[Subject]:
    """The subjects of ``source``, as the options of `add_source_arguments` say; with masks in some splits."""
    return load_subjects(
        source,
        modalities,
        patterns=patterns_of(options),
        fold=options.fold,
        masks_for=masks_for,
    )


def images_or_subjects(
    options: argparse.Namespace, given: Sequence[str], modalities: Sequence[str], command: str
) -> list[Subject]:
    """One subject of the images of ``given`` modalities, or those of the source; masks are not needed.

    Raises:
        InputError: there is neither or both.
    """
    images = {name: getattr(options, name) for name in given if getattr(options, name)}
    if bool(images) == (options.source is not None):
        one_by_one = " ".join(f"--{name}" for name in given)
        raise InputError(f"{command}: expected either DIR|CSV or the images one by one ({one_by_one})")
    if images:
        return [Subject(options.name, images)]
    return subjects_of(options, options.source, modalities, masks_for=())


def patterns_of(options: argparse.Namespace) -> dict[str, str]:
    """Name -> regular expression.

    Raises:
        InputError: one is not NAME=REGEX.
    """
    patterns = {}
    for assignment in options.pattern:
        name, separator, pattern = assignment.partition("=")
        if not separator:
            raise InputError(f"--pattern {assignment}: expected NAME=REGEX")
        patterns[name.strip().lower()] = pattern
    return patterns
