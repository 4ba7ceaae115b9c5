"""Whatever files hold, a command ends in a right result or in one line, and leaves nothing half-written.

Bytes of valid files are flipped and cut, headers get random fields, tables random encodings. ``GEOLOSS_FUZZ``
says how many inputs are tried, of all kinds together.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from training_helpers import make_arrays, make_subject, make_subjects, write_image

from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.imaging.reading import read_voxels
from geoloss_kernels.lesions.subjects.table import format_table

COUNT = int(os.environ.get("GEOLOSS_FUZZ", "300"))
CHUNK = 20
FILES = ("t1", "t2", "flair", "mask")
ENCODINGS = (
    "utf-8",
    "utf-8-sig",
    "latin-1",
    "cp1252",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "cp500",
    "shift_jis",
    "utf-7",
)
NAMES = ("anna", "rené", "bea")

Random = np.random.Generator


@dataclass(frozen=True)
class Base:
    """Valid files, to be damaged in copies: a subject, a table, nnU-Net's data and a trained network."""

    subject: Path
    nnunet: Path
    model: Path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    root = tmp_path_factory.mktemp("valid")
    make_subject(root / "subject", 0)
    for name in FILES:  # as a file whose header can be changed
        (root / "subject" / f"{name}.nii").write_bytes(
            gzip.decompress((root / "subject" / f"{name}.nii.gz").read_bytes())
        )
    nnunet = root / "nnunet"
    for case in range(3):
        arrays = make_arrays(case)
        for channel, name in enumerate(FILES[:3]):
            write_image(nnunet / "imagesTr" / f"c{case}_{channel:04d}.nii.gz", arrays[name])
        write_image(nnunet / "labelsTr" / f"c{case}.nii.gz", arrays["mask"])
    channels = {"0": "T1", "1": "T2", "2": "FLAIR"}
    (nnunet / "dataset.json").write_text(json.dumps({"channel_names": channels, "file_ending": ".nii.gz"}))
    (nnunet / "splits_final.json").write_text(json.dumps([{"train": ["c0", "c1"], "val": ["c2"]}]))
    table = root / "table.csv"
    table.write_text(format_table(make_subjects(root / "subjects", ("train",))))
    tiny = (
        "patch_size=16",
        "batch_size=2",
        "channels=[4, 8]",
        "strides=[2]",
        "device=cpu",
        "epochs=1",
        "steps_per_epoch=1",
    )
    assert main(["train", str(table), "--out", str(root / "run"), *(f"--set={each}" for each in tiny)]) == 0
    return Base(root / "subject", nnunet, root / "run")


def flip_or_cut(content: bytes, random: Random) -> bytes:
    """Some bits of it changed, or its end, its middle or nothing of it left."""
    changed = bytearray(content)
    if random.random() < 0.6:
        for position in random.integers(0, len(content), random.integers(1, 6)):
            changed[position] ^= int(random.integers(1, 256))
        return bytes(changed)
    first, last = sorted(random.integers(0, len(content), 2))
    return content[:first] if random.random() < 0.7 else content[:first] + content[last:]


def random_fields(content: bytes, random: Random) -> bytes:
    """One to four fields of the header with other values: of the odd kind, or of any bits."""
    header = nib.Nifti1Header(content[:348], check=False)
    block = np.frombuffer(bytearray(header.binaryblock), header.template_dtype).copy()
    for name in random.choice(block.dtype.names, random.integers(1, 5), replace=False):
        field = block[name]
        if field.dtype.kind == "f" and random.random() < 0.6:
            field.flat[random.integers(field.size)] = random.choice(
                [0, -1, 1, 0.9, np.nan, np.inf, 1e30, 1e-30, 2.5]
            )
        elif field.dtype.kind in "iu" and random.random() < 0.6:
            field.flat[random.integers(field.size)] = random.choice([0, 1, 2, 3, 7, 16, 100])
        else:
            block[name] = np.frombuffer(random.bytes(field.nbytes), field.dtype).reshape(field.shape)
    return block.tobytes() + content[348:]


def damage_image(copy: Path, random: Random) -> Path:
    """Damages one file of a subject, which holds it compressed or, for its header, as it is."""
    name = str(random.choice(FILES))
    path = copy / f"{name}.nii.gz"
    if random.random() < 0.5:
        path.write_bytes(flip_or_cut(path.read_bytes(), random))
    else:
        content = random_fields((copy / f"{name}.nii").read_bytes(), random)
        path.write_bytes(gzip.compress(content) if random.random() < 0.5 else content)
    for each in FILES:
        (copy / f"{each}.nii").unlink()
    return path


def is_right(path: Path) -> bool:
    """Whether nibabel sees the same in a file that was accepted; its checksum has to be right."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        kind = nib.Nifti2Image if content[4:8] == b"n+2\x00" else nib.Nifti1Image
        image = kind.from_bytes(content)
        voxels = read_voxels(path)
        values = np.asarray(image.dataobj).reshape(voxels.grid.shape)
    return np.array_equal(values, voxels.values) and np.allclose(image.affine, voxels.grid.affine)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    errors: list[str]
    """Without warnings."""


def outcome(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit_request:
        code = int(str(exit_request.code))
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if not line.startswith("geoloss: warning: ")]
    return Outcome(code, output.out, lines)


def require_one_line(found: Outcome, place: Path) -> None:
    assert found.code in (0, 2)
    assert len(found.errors) == (1 if found.code else 0), found.errors
    assert all(line.startswith("geoloss: error: ") and str(place) in line for line in found.errors), (
        found.errors
    )


def require_whole(out: Path, found: Outcome) -> None:
    """No file where there was an error, and never a temporary one."""
    files = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.startswith(".")]
    assert bool(files) == (found.code == 0)
    for path in files:
        if path.name.endswith(".nii.gz"):
            assert np.isfinite(np.asarray(nib.Nifti1Image.from_filename(path).dataobj)).all()


def try_image(base: Base, place: Path, random: Random, capsys: pytest.CaptureFixture[str]) -> None:
    subject = Path(shutil.copytree(base.subject, place / "data" / "anna"))
    damaged = damage_image(subject, random)
    command = random.choice(["scan", "predict", "evaluate", "preprocess"], p=[0.5, 0.2, 0.2, 0.1])
    out = place / "out"
    if command == "scan":
        found = outcome(capsys, "scan", place / "data")
        skipping = outcome(capsys, "scan", place / "data", "--skip-incomplete")
        assert skipping.code == found.code  # there is but one subject
    elif command == "predict":
        found = outcome(capsys, "predict", place / "data", "--model", base.model, "--out", out)
    elif command == "preprocess":
        found = outcome(capsys, "preprocess", place / "data", "--no-bias-correction", "--out", out)
    else:
        folders = place / "a", place / "b"
        for folder, name in zip(folders, (damaged.name, "mask.nii.gz"), strict=True):
            folder.mkdir()
            shutil.copy(subject / name, folder / "anna.nii.gz")
        damaged = folders[0] / "anna.nii.gz"
        found = outcome(
            capsys, "evaluate", "--predictions", folders[0], "--references", folders[1], "--out", out
        )
    require_one_line(found, place)
    if command != "scan":
        require_whole(out, found)
    if found.code == 0 and not (command == "predict" and damaged.name == "mask.nii.gz"):
        assert is_right(damaged)


def try_table(base: Base, place: Path, random: Random, capsys: pytest.CaptureFixture[str]) -> None:
    """Right is what a reader of CSV finds in the text, if it is text."""
    paths = [str(base.subject / f"{name}.nii.gz") for name in FILES]
    text = io.StringIO()
    csv.writer(text).writerows([("subject", *FILES), *((name, *paths) for name in NAMES)])
    content = text.getvalue().encode(str(random.choice(ENCODINGS)), errors="replace")
    if random.random() < 0.6:
        content = flip_or_cut(content, random)
    table = place / "table.csv"
    table.write_bytes(content)
    found = outcome(capsys, "scan", table)
    require_one_line(found, table if "expected text" in "".join(found.errors) else Path("/"))
    if found.code == 0:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
        subject = [cell.strip() for cell in rows[0]].index("subject")
        named = [row[0] for row in csv.reader(io.StringIO(found.out))][1:]
        assert named == [row[subject].strip() for row in rows[1:] if any(row)]


def try_description(base: Base, place: Path, random: Random, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(base.nnunet, place / "data"))
    path = root / str(random.choice(["dataset.json", "splits_final.json"]))
    path.write_bytes(flip_or_cut(path.read_bytes(), random))
    found = outcome(capsys, "scan", root)
    require_one_line(found, root)
    if found.code == 0:
        assert {row["subject"] for row in csv.DictReader(io.StringIO(found.out))} <= {"c0", "c1", "c2"}


KINDS: tuple[tuple[Callable[[Base, Path, Random, pytest.CaptureFixture[str]], None], float], ...] = (
    (try_image, 0.7),
    (try_table, 0.2),
    (try_description, 0.1),
)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A folder for an input, in place of the one before."""

    def place(index: int) -> Path:
        shutil.rmtree(tmp_path / "input", ignore_errors=True)
        folder = tmp_path / "input" / str(index)
        folder.mkdir(parents=True)
        return folder

    yield place
    shutil.rmtree(tmp_path / "input", ignore_errors=True)


@pytest.mark.parametrize("first", range(0, COUNT, CHUNK))
def test_every_input_ends_well(
    first: int, base: Base, places: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tries, shares = zip(*KINDS, strict=True)
    failures = []
    for index in range(first, min(first + CHUNK, COUNT)):
        random = np.random.default_rng([2021, index])
        attempt = tries[random.choice(len(tries), p=shares)]
        try:
            attempt(base, places(index), random, capsys)
        except Exception as error:
            failures.append(f"input {index}, {attempt.__name__}: {type(error).__name__}: {error}")
    assert failures == []
