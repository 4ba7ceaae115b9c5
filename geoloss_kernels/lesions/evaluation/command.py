"""`geoloss evaluate`: compare predictions with reference masks."""

from __future__ import annotations

import argparse
from pathlib import Path

from geoloss_kernels.lesions.argument_types import add_results_argument
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.evaluation.evaluation import CONNECTIVITY, evaluate, evaluate_folders
from geoloss_kernels.lesions.evaluation.table import EvaluationTable
from geoloss_kernels.lesions.prediction.arguments import add_model_arguments
from geoloss_kernels.lesions.prediction.prediction import load_model
from geoloss_kernels.lesions.subjects.arguments import add_source_arguments, subjects_of
from geoloss_kernels.lesions.training.run_folder import RunFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` reads."""
    add_source_arguments(parser, optional=True)
    add_model_arguments(parser, required=False)
    parser.add_argument("--split", choices=("train", "validation", "test", "all"), default="test")
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="folder of masks, instead of a model")
    parser.add_argument("--references", type=Path, metavar="DIR", help="folder of reference masks")
    parser.add_argument("--lesion-label", type=int, help="value that marks lesions, if not 1")
    parser.add_argument(
        "--connectivity",
        type=int,
        choices=(6, 18, 26),
        default=CONNECTIVITY,
        help="neighbours that join voxels to one lesion (default %(default)s)",
    )
    add_results_argument(parser, "tables")


def run(options: argparse.Namespace) -> None:
    """Writes the table and prints it."""
    if options.model is not None and options.predictions is None and options.references is None:
        table = _evaluate_model(options)
    elif options.model is None and options.predictions and options.references and options.source is None:
        table = evaluate_folders(
            options.predictions,
            options.references,
            options.out,
            lesion_label=options.lesion_label,
            connectivity=options.connectivity,
        )
    else:
        raise InputError("evaluate: expected --model RUN [DIR|CSV], or --predictions DIR --references DIR")
    print(table.to_markdown(), end="")


def _evaluate_model(options: argparse.Namespace) -> EvaluationTable:
    model = load_model(options.model, options.device, options.precision)
    source = _table_of_run(options.model) if options.source is None else options.source
    subjects = subjects_of(options, source, model.config.modalities, masks_for=())
    chosen = [subject for subject in subjects if options.split in ("all", subject.split)]
    if not chosen:
        raise InputError(f"{source}: no subject of split {options.split}")
    return evaluate(
        model,
        chosen,
        options.out,
        threshold=options.threshold,
        min_lesion_size=options.min_lesion_size,
        lesion_label=options.lesion_label,
        connectivity=options.connectivity,
    )


def _table_of_run(model: Path) -> Path:
    """The table beside the checkpoint, or in the run folder."""
    table = RunFolder(model if model.is_dir() else model.parent).subjects_file
    if not table.is_file():
        raise InputError(f"evaluate: expected DIR|CSV, because there is no {table}")
    return table
