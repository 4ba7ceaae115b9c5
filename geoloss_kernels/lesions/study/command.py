"""`geoloss reproduce`: the paper's experiment, from nothing to a report."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import exclusive
from geoloss_kernels.lesions.study.cells import Cell, make_cells, run_cell
from geoloss_kernels.lesions.study.data import DATA_FILE, StudyData, prepare_data
from geoloss_kernels.lesions.study.methods import METHODS, TITLES
from geoloss_kernels.lesions.study.patients import load_patients
from geoloss_kernels.lesions.study.presets import PRESETS
from geoloss_kernels.lesions.study.report import PATIENTS, write_report
from geoloss_kernels.lesions.study.settings import (
    DEFAULT_PRESET,
    FOLDERS,
    StudyFolders,
    StudySettings,
    open_study,
    save_settings,
)
from geoloss_kernels.lesions.subjects.subject import Subject


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` reads."""
    sizes = "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
    parser.description = (
        "Trains every row of the paper's Tables 1 to 3, tests it, and writes report.html, report.md and "
        "results.csv. Repeated with the folder of a study that was interrupted, it goes on where that was; "
        "with more --seeds or --rows, it adds those."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder, or a study's")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="folder for settings, measurements and report, a few hundred kB from which a study goes on "
        "anywhere; --out then holds only data sets, trainings and segmentations (default: --out)",
    )
    parser.add_argument("--preset", metavar="NAME", help=f"{sizes} (default: {DEFAULT_PRESET})")
    parser.add_argument(
        "--data",
        action="append",
        metavar="[NAME=]DIR|CSV",
        help="subjects that are there, instead of made-up ones; NAME ge30 or si170 says which of the paper's "
        "data sets they stand for; may be repeated",
    )
    parser.add_argument(
        "--anatomies",
        type=Path,
        metavar="DIR",
        help="make the subjects of these label maps and of --lesion-masks, see make-dataset",
    )
    parser.add_argument("--lesion-masks", type=Path, metavar="DIR", help="lesions in the MNI space")
    parser.add_argument(
        "--real-patients", type=Path, metavar="DIR|CSV", help="further subjects to test every row on"
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="trainings of each row (default: the preset's)"
    )
    parser.add_argument(
        "--test-subjects", type=int, metavar="N", help="of each made data set (default: the preset's)"
    )
    parser.add_argument(
        "--only-report",
        action="store_true",
        help="train nothing, report the results that are there",
    )
    parser.add_argument(
        "--beside",
        type=Path,
        nargs="+",
        default=[],
        metavar="RESULTS",
        help="results of other studies, which the summary counts in",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help=f"of {' '.join(TITLES)} (default: the first {len(METHODS)}, the paper's)",
    )
    parser.set_defaults(continuation="the same command continues the study")


log = partial(print, flush=True)
"""Takes the lines that report progress."""


def run(args: argparse.Namespace) -> None:
    """Runs the study in `args.out`, or what is left of it.

    Raises:
        InputError: an option or a subject is at fault, or `args.out` holds something else or is in use.
    """
    started = time.perf_counter()
    folders = StudyFolders(args.out, args.results or args.out)
    settings = open_study(folders, given_options(args), only_report=args.only_report)
    beside = [cell for folder in args.beside for cell in _cells_beside(folder)]
    with ExitStack() as stack:
        for folder in {folders.out.resolve(), folders.results.resolve()}:
            stack.enter_context(exclusive(folder))
        if args.only_report:
            cells = _kept_cells(folders, settings)
        else:
            save_settings(folders, settings)
            cells = _run(settings, folders, started)
        report = write_report(folders, settings, cells, beside)
    log("\n".join(["", *map(str, report)]))
    log(f"Done in {(time.perf_counter() - started) / 60:.1f} min")


def _run(settings: StudySettings, folders: StudyFolders, started: float) -> list[Cell]:
    """Does what is left of the study."""
    log(f"preset {settings.preset}: {settings.size.summary}")
    data = prepare_data(settings, folders.out / "data", log)
    for dataset in data:
        dataset.write(folders.results / dataset.name / DATA_FILE)
    test_sets = {dataset.name: _test_sets(dataset, settings, folders.out) for dataset in data}
    cells = make_cells(data, settings.rows, settings.seeds, folders)
    for number, cell in enumerate(cells, 1):
        minutes = (time.perf_counter() - started) / 60
        title = f"{cell.data.name}, {TITLES[cell.method]}, seed {cell.seed}"
        log(f"\n[{number}/{len(cells)}, {minutes:.1f} min] {title}")
        run_cell(cell, settings.size, test_sets[cell.data.name], log)
    return cells


def _cells_beside(results: Path) -> list[Cell]:
    """The cells of another study, of which there are results."""
    folders = StudyFolders(results, results)
    return _kept_cells(folders, open_study(folders, {}, only_report=True))


def _kept_cells(folders: StudyFolders, settings: StudySettings) -> list[Cell]:
    """The cells of a study, done or not, without its subjects."""
    names = settings.data or [plan.like for plan in settings.size.data]
    data = [StudyData.read(name, folders.results / name / DATA_FILE) for name in names]
    return make_cells(data, settings.rows, settings.seeds, folders)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The attributes of ``StudySettings`` that the command line gives."""
    options = {
        "preset": args.preset,
        "seeds": args.seeds,
        "test_subjects": args.test_subjects,
        "rows": None if args.rows is None else tuple(args.rows),
        "data": None if args.data is None else dict(map(_named_source, args.data)),
        **{name: str(getattr(args, name).resolve()) for name in FOLDERS if getattr(args, name) is not None},
    }
    if args.data is not None and len(options["data"]) < len(args.data):
        raise InputError(f"--data: expected different names, got {' '.join(args.data)}")
    return {name: value for name, value in options.items() if value is not None}


def _named_source(text: str) -> tuple[str, str]:
    """Name and absolute path; without a name, that of the folder or table."""
    name, separator, source = text.partition("=")
    path = Path(source if separator else text).resolve()
    return (name if separator else path.stem), str(path)


def _test_sets(dataset: StudyData, settings: StudySettings, out: Path) -> dict[str, list[Subject]]:
    sets = {"test": dataset.of_split("test")}
    if settings.real_patients is not None:
        folder = out / PATIENTS / dataset.name
        sets[PATIENTS] = load_patients(Path(settings.real_patients), dataset.spacing, folder)
    return sets
