"""Files that are either whole or absent, also when the program is killed; folders that one program writes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geoloss_kernels.lesions.errors import InputError

_locked: set[int] = set()
"""Descriptors of the folders that are locked."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same ending) that takes its place once the block succeeds.

    An OSError that names no file, such as that of a write to a full disk, comes out naming ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        InputError: there is no file, or it holds something else, such as text in another encoding.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"the byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise InputError(f"{path}: expected text in UTF-8, got {found}; save it as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{path}: expected text in UTF-8, got a zero byte; save it as UTF-8")
    return text


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: there is no file, or it is not valid.
    """
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None


def require_file_name(name: str, what: str) -> None:
    """Raise InputError unless ``name`` can be part of the name of a file, in the folder that is meant."""
    if not name or name.startswith(".") or not name.isprintable() or {"/", "\\"} & set(name):
        raise InputError(f"{what}: expected a name that can be part of a file's name, got {name!r}")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other programs out of ``folder``; the lock goes with the process, also when that is killed.

    Raises:
        InputError: another program is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"{folder}: in use by another process") from None
    _locked.add(descriptor)
    try:
        yield
    finally:
        _locked.remove(descriptor)
        os.close(descriptor)


def _let_go() -> None:
    """In a child process, which would hold the locks for as long as it lives."""
    for descriptor in _locked:
        os.close(descriptor)
    _locked.clear()


os.register_at_fork(after_in_child=_let_go)
