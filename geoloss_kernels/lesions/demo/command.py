"""`geoloss demo`: made-up subjects, two trainings that differ in the loss alone, a table and pictures."""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geoloss_kernels.lesions.demo.phantom import write_phantoms
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.evaluation.evaluation import EvaluationTable, evaluate
from geoloss_kernels.lesions.files import write_text
from geoloss_kernels.lesions.prediction.prediction import load_model
from geoloss_kernels.lesions.reporting.subject_figures import (
    draw_subject,
    draw_subject_transforms,
    largest_load,
)
from geoloss_kernels.lesions.reporting.tables import markdown_table
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.training.config import TrainingConfig
from geoloss_kernels.lesions.training.loop import TrainingResult, train

DEMONSTRATED = {"Dice": "dice", "Dice + FOG": "dice+fog"}


@dataclass(frozen=True)
class Extent:
    """How much the demonstration does: subjects per split, voxels in mm, and steps of a training."""

    subjects: Mapping[str, int]
    voxel_size: float
    patch_size: int
    epochs: int
    steps_per_epoch: int

    def config(self, loss: str, seed: int) -> TrainingConfig:
        return TrainingConfig(
            loss=loss,
            seed=seed,
            patch_size=(self.patch_size,) * 3,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            validation_interval=max(1, self.epochs // 3),
            learning_rate=3e-3,  # three times the paper's: a run has a few hundred steps only
        )


FULL = Extent({"train": 8, "validation": 2, "test": 4}, 1.5, patch_size=48, epochs=6, steps_per_epoch=50)
QUICK = Extent({"train": 1, "validation": 1, "test": 1}, 3.0, patch_size=32, epochs=2, steps_per_epoch=4)


@dataclass(frozen=True)
class Outcome:
    """A trained network's run and its results on the test subjects."""

    training: TrainingResult
    table: EvaluationTable
    folder: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` reads."""
    parser.add_argument(
        "--out", type=Path, default=Path("geoloss-demo"), help="new or empty folder (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the subjects and the trainings")
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see that everything runs")


def run(args: argparse.Namespace) -> None:
    """Runs the demonstration and writes everything to `args.out`.

    Raises:
        InputError: `args.out` holds something already, or `args.seed` is negative.
    """
    started = time.perf_counter()
    out, plan = args.out, QUICK if args.quick else FULL
    _check(out, args.seed)
    subjects = _make_subjects(out / "subjects", plan, args.seed)
    outcomes = {
        title: _train_and_evaluate(title, plan.config(loss, args.seed), subjects, out / loss)
        for title, loss in DEMONSTRATED.items()
    }
    table = markdown_table(result_rows(outcomes))
    print(f"\nResults on the test subjects ({plan.subjects['test']}), not seen in training\n\n{table}")
    _write_results(out, result_rows(outcomes))
    pictures = _draw(out, [subject for subject in subjects if subject.split == "test"], outcomes)
    print(*(out / "results.md", out / "results.csv", *pictures), sep="\n")
    print(f"Done in {time.perf_counter() - started:.0f} s")


def result_rows(outcomes: Mapping[str, Outcome]) -> list[list[str]]:
    """Header and a row per method: mean rates over the test subjects, median milliseconds per step."""
    rates = ["DSC", "LPPV", "LPPV (usual)", "LTPR", "L-F1", "L-F1 (usual)"]
    rows = [["loss", *rates, "loss ms/step", "step ms"]]
    for title, outcome in outcomes.items():
        mean = outcome.table.summary
        values = (mean.dice, mean.lppv, mean.lppv_predicted, mean.ltpr, mean.lf1, mean.lf1_predicted)
        seconds = (outcome.training.loss_seconds, outcome.training.step_seconds)
        rows.append([title, *(f"{value:.3f}" for value in values), *(f"{1000 * s:.1f}" for s in seconds)])
    return rows


def _check(out: Path, seed: int) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out: expected a new or empty folder, got {out}")
    if seed < 0:
        raise InputError(f"--seed: expected an integer of at least 0, got {seed}")


def _make_subjects(folder: Path, plan: Extent, seed: int) -> list[Subject]:
    started = time.perf_counter()
    table = write_phantoms(folder, plan.subjects, seed, plan.voxel_size)
    subjects = load_subjects(table)
    print(f"{len(subjects)} made-up subjects in {time.perf_counter() - started:.0f} s: {table}")
    return subjects


def _train_and_evaluate(
    title: str, config: TrainingConfig, subjects: Sequence[Subject], run_dir: Path
) -> Outcome:
    print(f"\nTraining with {title}: {run_dir}")
    training = train(config, subjects, run_dir)
    tested = [subject for subject in subjects if subject.split == "test"]
    folder = run_dir / "test"
    return Outcome(training, evaluate(load_model(run_dir), tested, folder), folder)


def _write_results(out: Path, rows: Sequence[Sequence[str]]) -> None:
    """Writes results.md and results.csv."""
    notes = (
        "Means over made-up subjects that were not trained on: they show that the trainer works, not which "
        "loss is better.\n\n"
        "LPPV is the paper's, reference lesions found / predicted lesions; LPPV (usual) is predicted lesions "
        "that touch a reference lesion / predicted lesions. Times are medians per training step; those of "
        "the loss count its forward and backward pass.\n"
    )
    write_text(out / "results.md", f"# Demonstration\n\n{markdown_table(rows)}\n{notes}")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(out / "results.csv", text.getvalue())


def _draw(out: Path, subjects: Sequence[Subject], outcomes: Mapping[str, Outcome]) -> list[Path]:
    """A picture of every subject's segmentations, and one of the transforms of the largest lesion load."""
    pictures = [
        draw_subject(
            out / f"segmentation-{subject.name}.png",
            subject,
            {
                title: outcome.folder / "predictions" / f"{subject.name}_mask.nii.gz"
                for title, outcome in outcomes.items()
            },
            f"{subject.name}, not seen in training",
        )
        for subject in subjects
    ]
    return [*pictures, draw_subject_transforms(out / "transforms.png", largest_load(subjects))]
