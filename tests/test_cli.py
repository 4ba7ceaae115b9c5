from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from training_helpers import LAS_AFFINE, SHAPE, make_subjects, write_image

from geoloss_kernels import __version__
from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.subjects.table import format_table, read_table

TINY = [
    f"--set={assignment}"
    for assignment in (
        "patch_size=16",
        "batch_size=2",
        "steps_per_epoch=1",
        "epochs=2",
        "channels=[4, 8]",
        "strides=[2]",
        "device=cpu",
    )
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    path = root / "table.csv"
    path.write_text(format_table(make_subjects(root / "subjects")))
    return path


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(table), "--out", str(run), *TINY, "--loss", "dice"]) == 0
    return run


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line a user error prints."""
    code = 0
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit_request:
        code = int(str(exit_request.code))
    output = capsys.readouterr()
    assert code == 2
    (line,) = output.err.splitlines()
    assert line.startswith("geoloss: error: ")
    return line.removeprefix("geoloss: error: ")


def test_scan_prints_a_table_that_can_be_read_back(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", str(table.parent / "subjects")]) == 0
    (tmp_path / "scan.csv").write_text(capsys.readouterr().out)
    scanned = read_table(tmp_path / "scan.csv")
    assert [(s.name, s.images, s.mask) for s in scanned] == [
        (s.name, s.images, s.mask) for s in read_table(table)
    ]
    assert sorted({s.split for s in scanned}) == ["test", "train", "validation"]


def test_scan_can_skip_what_is_incomplete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_subjects(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["scan", str(tmp_path), "--skip-incomplete"]) == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 5
    assert (
        output.err
        == f"geoloss: skipped: {tmp_path / 'empty'}: no NIfTI file (.nii or .nii.gz) in this subject folder\n"
    )


def test_train_help_lists_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "learning_rate = 0.001\n" in capsys.readouterr().out


def test_train_with_a_file_and_overrides(run: Path) -> None:
    text = (run / "config.toml").read_text()
    assert 'loss = "dice"' in text
    assert "epochs = 2" in text
    assert (run / "best.pt").is_file()


def test_train_resume(run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("epochs = 1\nseed = 3\n")
    again = tmp_path / "again"
    assert main(["train", str(table), "--out", str(again), "--config", str(tmp_path / "c.toml"), *TINY]) == 0
    assert "seed = 3" in (again / "config.toml").read_text()
    assert "epochs = 2" in (again / "config.toml").read_text()
    assert main(["train", "--resume", str(again)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"finished: {again}, best epoch 2 (DSC ")


def test_predict_a_table(run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--model", str(run), str(table), "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("subject0: ")
    assert lines[0].endswith(str(tmp_path / "subject0_mask.nii.gz"))
    mask = nib.Nifti1Image.from_filename(tmp_path / "subject3_mask.nii.gz")
    assert mask.shape == SHAPE
    assert np.array_equal(mask.affine, LAS_AFFINE)


def test_predict_single_images(run: Path, table: Path, tmp_path: Path) -> None:
    subject = read_table(table)[0]
    images = [argument for name, path in subject.images.items() for argument in (f"--{name}", str(path))]
    model = str(run / "last.pt")
    assert main(["predict", "--model", model, *images, "--name", "anna", "--out", str(tmp_path / "one")]) == 0
    assert main(["predict", "--model", model, str(table), "--out", str(tmp_path / "all")]) == 0
    one, same = (
        np.asarray(nib.Nifti1Image.from_filename(tmp_path / name).dataobj)
        for name in ("one/anna_probability.nii.gz", "all/subject0_probability.nii.gz")
    )
    assert np.array_equal(one, same)
    assert one.max() > 0


def test_evaluate_a_model_on_its_test_split(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model", str(run), "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in output.splitlines()] == [
        "subject",
        "---",
        "subject3",
        "mean",
        "mean (undefined as 0)",
        "subjects in mean",
    ]
    assert (tmp_path / "metrics.md").read_text() == output
    assert main(["evaluate", "--model", str(run), "--split", "all", "--out", str(tmp_path / "all")]) == 0
    assert len((tmp_path / "all" / "metrics.csv").read_text().splitlines()) == 8


def test_evaluate_folders(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("predictions", "references"):
        (tmp_path / folder).mkdir()
        for subject in read_table(table):
            assert subject.mask is not None
            (tmp_path / folder / f"{subject.name}.nii.gz").write_bytes(subject.mask.read_bytes())
    folders = ["--predictions", str(tmp_path / "predictions"), "--references", str(tmp_path / "references")]
    assert main(["evaluate", *folders, "--out", str(tmp_path / "out")]) == 0
    mean, with_zeros, defined = capsys.readouterr().out.splitlines()[-3:]
    assert mean.startswith("| mean | 1.000 | 1.000 |")
    assert with_zeros.startswith("| mean (undefined as 0) | 1.000 | 1.000 |")
    assert defined.startswith("| subjects in mean | 4 | 4 | 4 | – | 4 | – | 4 | 4 |")


def test_evaluate_a_checkpoint_on_the_table_beside_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model", str(run / "last.pt"), "--out", str(tmp_path / "out")]) == 0
    assert "| subject3 |" in capsys.readouterr().out
    alone = shutil.copy(run / "last.pt", tmp_path)
    message = error_of(capsys, "evaluate", "--model", alone, "--out", tmp_path)
    assert message == f"evaluate: expected DIR|CSV, because there is no {tmp_path / 'subjects.csv'}"


def test_options_are_written_in_full(
    run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    out = ("--out", tmp_path / "out")
    for arguments in (
        ("train", table, *out, *TINY, "--los", "dice"),
        ("scan", table, "--skip"),
        ("predict", table, "--model", run, *out, "--dev", "cpu"),
        ("evaluate", "--model", run, *out, "--spl", "all"),
        ("demo", *out, "--qui"),
        ("--vers", "scan", table),
    ):
        assert "unrecognized arguments: --" in error_of(capsys, *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "demo"])
def test_out_is_no_file(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    message = error_of(capsys, command, "--out", file)
    assert "--out: expected a" in message
    assert str(file) in message


def test_out_is_not_inside_a_file(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "train", table, "--out", table / "deep" / "run")
    assert f"argument --out: expected a folder, but {table} is a file" in message


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Subjects whose masks hold 0 and 2."""
    for subject in make_subjects(tmp_path / "labelled"):
        assert subject.mask is not None
        write_image(subject.mask, 2 * np.asarray(nib.Nifti1Image.from_filename(subject.mask).dataobj))
    return tmp_path / "labelled"


def test_mask_errors_name_the_option_of_the_command(
    labelled: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out")
    capsys.readouterr()
    for arguments, option in (
        (("scan", labelled), "--lesion-label VALUE"),
        (("train", labelled, *out, *TINY), "--set lesion_label=VALUE"),
        (("evaluate", labelled, "--model", run, *out), "--lesion-label VALUE"),
    ):
        message = error_of(capsys, *arguments)
        assert message.endswith(f"expected a mask of 0 and 1, got values 0, 2; give {option}")
    assert main(["scan", str(labelled), "--lesion-label", "2"]) == 0


def test_skipped_subjects_name_the_option_too(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_subjects(labelled, ("train",))
    assert main(["scan", str(labelled), "--skip-incomplete"]) == 0
    skipped = capsys.readouterr().err.splitlines()
    assert len(skipped) == 3
    assert all(line.endswith("; give --lesion-label VALUE") for line in skipped)


def test_version_needs_no_other_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("geoloss_kernels.lesions.cli.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit_request:
        main(["--version"])
    assert (exit_request.value.code, capsys.readouterr().out) == (0, f"geoloss {__version__}\n")


def test_user_errors_are_one_line(
    run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    cases: list[tuple[str, tuple[object, ...]]] = [
        ("no such folder or CSV table", ("scan", tmp_path / "nowhere")),
        ("invalid choice: 'tran'", ("tran",)),
        ("the following arguments are required: DIR|CSV", ("scan",)),
        ("expected DIR|CSV and --out RUN, or --resume RUN", ("train", table)),
        ("argument --config: no such file", ("train", table, "--out", tmp_path / "r", "--config", "c.toml")),
        (
            "not a checkpoint written by geoloss train",
            ("predict", table, "--model", table, "--out", tmp_path),
        ),
        ("epoch: unknown configuration key", ("train", table, "--out", tmp_path / "r", "--set", "epoch=3")),
        ("loss: expected one of dice,", ("train", table, "--out", tmp_path / "r", "--loss", "dise")),
        ("already holds a run", ("train", table, "--out", run, *TINY)),
        ("--resume: continues with the run's own", ("train", "--resume", run, "--set", "epochs=3")),
        ("no run here", ("train", "--resume", tmp_path)),
        ("--pattern t1: expected NAME=REGEX", ("scan", table.parent / "subjects", "--pattern", "t1")),
        ("pattern t1=(: not a regular expression", ("scan", table.parent / "subjects", "--pattern", "t1=(")),
        ("expected either DIR|CSV or the images one by one", ("predict", "--model", run, "--out", tmp_path)),
        ("device: expected auto", ("predict", "--model", run, table, "--out", tmp_path, "--device", "gpu")),
        ("threshold: expected", ("predict", "--model", run, table, "--out", tmp_path, "--threshold", "2")),
        ("no run here", ("evaluate", "--model", tmp_path, "--out", tmp_path)),
        ("expected --model RUN [DIR|CSV], or", ("evaluate", "--predictions", tmp_path, "--out", tmp_path)),
    ]
    for message, arguments in cases:
        assert message in error_of(capsys, *arguments)
    assert not (tmp_path / "r").exists()


def test_no_subject_of_the_split(
    table: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training_only = tmp_path / "train.csv"
    training_only.write_text("".join(table.read_text().splitlines(keepends=True)[:2]))
    capsys.readouterr()
    message = error_of(capsys, "evaluate", "--model", run, training_only, "--out", tmp_path)
    assert message == f"{training_only}: no subject of split test"


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "geoloss_kernels.lesions.cli.find_spec", lambda name: None if name == "monai" else object()
    )
    assert error_of(capsys, "scan", "x") == "needs monai: pip install 'geoloss-kernels[train]'"


def test_core_import_needs_none_of_the_training_packages() -> None:
    check = (
        "import sys, geoloss_kernels; "
        "found = {'monai', 'nibabel', 'scipy', 'matplotlib'} & set(sys.modules); "
        "assert not found, found"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_package_runs_as_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "geoloss_kernels"]
    usage = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert (usage.returncode, usage.stdout) == (0, capsys.readouterr().out)
    typo = subprocess.run([*command, "tran"], capture_output=True, text=True, check=False)
    assert typo.returncode == 2
    assert typo.stderr.startswith("geoloss: error: ")
