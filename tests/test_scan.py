"""`geoloss scan` tells everything that is wrong, of all subjects, and goes on whatever a file holds."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from training_helpers import LAS_AFFINE, SHAPE, make_subject, write_image

from geoloss_kernels.lesions.cli import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two good subjects, and some of which each has something wrong."""
    root = tmp_path / "data"
    for seed, name in enumerate(("good1", "good2", "cut", "mask", "several", "complex", "zeros", "junk")):
        make_subject(root / name, seed)
    cut = root / "cut" / "t2.nii.gz"
    cut.write_bytes(cut.read_bytes()[:2000])
    write_image(root / "mask" / "mask.nii.gz", np.full(SHAPE, 7, np.uint8))
    write_image(root / "several" / "t1.nii.gz", np.ones(SHAPE, np.float32), np.eye(4))
    (root / "several" / "t2.nii.gz").write_bytes(b"\x1f\x8bnot gzip")
    write_image(root / "several" / "mask.nii.gz", np.zeros((3, 3, 3), np.uint8))
    write_image(root / "complex" / "flair.nii.gz", np.ones(SHAPE, np.complex64))
    write_image(root / "zeros" / "t1.nii.gz", np.zeros(SHAPE, np.int16))
    (root / "junk" / "t1.nii.gz").write_bytes(np.random.default_rng(0).bytes(5000))
    (root / "empty").mkdir()
    return root


WRONG = {
    "complex": ["flair.nii.gz: expected a real number in each voxel, got complex64"],
    "cut": ["t2.nii.gz: cannot read the voxels: "],
    "empty": ["empty: no NIfTI file (.nii or .nii.gz) in this subject folder"],
    "junk": ["t1.nii.gz: not a readable NIfTI file: "],
    "mask": ["mask.nii.gz: expected a mask of 0 and 1, got values 7; give --lesion-label VALUE"],
    "several": ["t2.nii.gz: ", "flair.nii.gz: affine differs by", "mask.nii.gz: shape (3, 3, 3) differs"],
    "zeros": ["t1.nii.gz: expected an image, got zeros only"],
}  # fmt: skip


def test_a_row_for_each_finding(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", str(data)]) == 2
    output = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(output.out)))
    assert {row["level"] for row in rows} == {"error"}
    found = {name: [row["finding"] for row in rows if row["subject"] == name] for name in WRONG}
    for name, expected in WRONG.items():
        assert len(found[name]) == len(expected)
        assert all(part in finding for part, finding in zip(expected, found[name], strict=True))
    assert len(rows) == 9
    (line,) = output.err.splitlines()
    assert line.startswith("geoloss: error: 9 errors in 7 subjects, see the table; the first: ")
    assert str(data) in line


def test_what_is_wrong_can_be_skipped(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", str(data), "--skip-incomplete"]) == 0
    output = capsys.readouterr()
    assert [row["subject"] for row in csv.DictReader(io.StringIO(output.out))] == ["good1", "good2"]
    lines = output.err.splitlines()
    assert len(lines) == 9
    assert all(line.startswith(f"geoloss: skipped: {data}") for line in lines)


def test_rows_of_a_table_are_findings_too(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ("t1", "t2", "flair", "mask")
    good = ",".join(str(data / "good1" / f"{column}.nii.gz") for column in columns)
    table = data / "t.csv"
    rows = [f"a,{good}", f"../b,{good}", f",{good}", "c,nowhere.nii,x,y,z", f"a,{good}", f"d,{good},e,f,g"]
    table.write_text("\n".join([",".join(["subject", *columns]), *rows]))
    assert main(["scan", str(table)]) == 2
    findings = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [finding["subject"] for finding in findings] == ["../b", "", "d", *4 * ["c"], "a"]
    assert findings[7]["finding"].endswith("two subjects are named a")
    assert main(["scan", str(table), "--skip-incomplete"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("a,")


def test_nothing_that_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_subject(tmp_path / "data" / "only", 0)
    (tmp_path / "data" / "only" / "t1.nii.gz").write_bytes(b"")
    assert main(["scan", str(tmp_path / "data"), "--skip-incomplete"]) == 2
    skipped, error = capsys.readouterr().err.splitlines()
    assert skipped.startswith("geoloss: skipped: ")
    assert error == f"geoloss: error: {tmp_path / 'data'}: no subject can be used"


def test_warnings_do_not_keep_a_subject_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = make_subject(tmp_path / "data" / "anna", 0)
    shutil.copytree(tmp_path / "data" / "anna", tmp_path / "data" / "bea")
    image = nib.Nifti1Image.from_filename(subject.images["t1"])
    image.set_qform(LAS_AFFINE + np.array([[0, 0, 0, 9.0], [0] * 4, [0] * 4, [0] * 4]), 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), subject.images["t1"])
    assert main(["scan", str(tmp_path / "data")]) == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 3
    (line,) = output.err.splitlines()
    assert line.startswith(
        f"geoloss: warning: {subject.images['t1']}: sform and qform put its corners up to 9 mm"
    )
    (tmp_path / "data" / "bea" / "t2.nii.gz").unlink()
    assert main(["scan", str(tmp_path / "data")]) == 2
    findings = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(finding["subject"], finding["level"]) for finding in findings} == {
        ("anna", "warning"),
        ("bea", "error"),
    }
