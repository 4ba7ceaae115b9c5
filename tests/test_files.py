"""Files that are whole or absent, and folders that one program writes."""

from __future__ import annotations

import errno
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import exclusive, replacing, write_text


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    with pytest.raises(KeyError):
        write_half(path)
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_that_names_no_file_comes_out_naming_it(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*/file\.txt'") as raised,
        replacing(tmp_path / "file.txt"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError, match="absent"), replacing(tmp_path / "file.txt"):
        (tmp_path / "absent").read_text()
    assert not any(tmp_path.iterdir())


def test_a_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with exclusive(folder):
        with (
            pytest.raises(InputError, match=r"/run: in use by another process"),
            exclusive(folder),
        ):
            pass
        with exclusive(tmp_path / "other"):
            pass
    with exclusive(folder):
        pass


def test_a_child_process_does_not_keep_a_folder(tmp_path: Path) -> None:
    child = get_context("fork").Process(target=time.sleep, args=(60,))
    with exclusive(tmp_path):
        child.start()
    try:
        deadline = time.monotonic() + 30
        while not is_free(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)  # the child has yet to run
        assert child.is_alive()
        assert is_free(tmp_path)
    finally:
        child.kill()
        child.join()


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("sec")
        raise KeyError


def is_free(folder: Path) -> bool:
    try:
        with exclusive(folder):
            return True
    except InputError:
        return False
