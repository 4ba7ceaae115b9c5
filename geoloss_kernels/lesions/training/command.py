"""`geoloss train`: train a network, or continue a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from geoloss_kernels.lesions.argument_types import existing_file, folder
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.subjects.arguments import add_source_arguments, subjects_of
from geoloss_kernels.lesions.training.config import TrainingConfig, load_config
from geoloss_kernels.lesions.training.loop import TrainingResult, resume, train
from geoloss_kernels.lesions.training.processes import torchrun_processes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` reads."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        f"configuration keys with their defaults, as in a TOML file:\n{TrainingConfig().to_toml()}"
    )
    add_source_arguments(parser, optional=True)
    parser.add_argument("--out", type=folder, metavar="RUN", help="new folder for the run")
    parser.add_argument(
        "--config", type=existing_file, metavar="FILE", help="TOML file with configuration keys"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override a configuration key (TOML value); may be repeated",
    )
    parser.add_argument("--loss", metavar="NAME", help="short for --set loss=NAME")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue an interrupted run")
    parser.set_defaults(lesion_label_option="--set lesion_label=VALUE")


def run(options: argparse.Namespace) -> None:
    """Trains, in all processes that torchrun has started."""
    with torchrun_processes() as processes:
        result = _train_or_resume(options)
        best = f", best epoch {result.best_epoch} (DSC {result.best_dice:.3f})" if result.best_epoch else ""
        if processes.is_first:
            print(f"finished: {result.run_dir}{best}")


def _train_or_resume(options: argparse.Namespace) -> TrainingResult:
    if options.resume is not None:
        given = (options.source, options.out, options.config, options.loss, *options.overrides)
        if any(value is not None for value in given):
            raise InputError(
                "--resume: continues with the run's own data and configuration; give nothing else"
            )
        return resume(options.resume)
    if options.source is None or options.out is None:
        raise InputError("train: expected DIR|CSV and --out RUN, or --resume RUN")
    loss = [] if options.loss is None else [f"loss={options.loss}"]
    config = load_config(options.config, [*options.overrides, *loss])
    subjects = subjects_of(options, options.source, config.modalities, masks_for=("train", "validation"))
    return train(config, subjects, options.out)
