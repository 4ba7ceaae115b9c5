"""The ``geoloss`` command: scan, preprocess, lga, train, predict, evaluate, make-dataset, reproduce, demo.

A user error is one line ``geoloss: error: ...`` on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from geoloss_kernels import __version__

if TYPE_CHECKING:
    from geoloss_kernels.training.evaluation import EvaluationTable
    from geoloss_kernels.training.inference import Prediction
    from geoloss_kernels.training.loop import TrainingResult

Commands: TypeAlias = "argparse._SubParsersAction[Any]"
Handler = Callable[[argparse.Namespace], int | None]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
TRAINING_PACKAGES = ("numpy", "scipy", "nibabel", "monai", "matplotlib", "tensorboard", "tqdm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _version_parser().parse_known_args(arguments[:1])  # needs none of the packages
    missing = [package for package in TRAINING_PACKAGES if find_spec(package) is None]
    if missing:
        return _fail(f"needs {', '.join(missing)}: pip install 'geoloss-kernels[train]'")
    from geoloss_kernels.training.errors import InputError

    options = build_parser(arguments).parse_args(arguments)
    handler: Handler = options.handler
    try:
        return handler(options) or 0
    except (InputError, OSError) as error:
        return _fail(_message(error, options))
    except KeyboardInterrupt:
        print(f"geoloss: interrupted ({options.continuation})", file=sys.stderr)
        return EXIT_INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Takes options in full only; so do its sub-parsers, which are of the same class."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(f"{message} (see {self.prog} --help)"))


def _version_parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    parser.add_argument("--version", action="version", version=f"geoloss {__version__}")
    return parser


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser; the options of demo and reproduce are there when ``arguments`` start with that."""
    parser = _Parser(
        prog="geoloss",
        description="Multiple sclerosis lesion segmentation with geometric losses.",
        parents=[_version_parser()],
    )
    parser.set_defaults(
        lesion_label_option="--lesion-label VALUE", continuation="train --resume RUN continues a run"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands, arguments)
    _add_reproduce(commands, arguments)
    _add_make_dataset(commands)
    _add_scan(commands)
    _add_preprocess(commands)
    _add_lga(commands)
    _add_train(commands)
    _add_predict(commands)
    _add_evaluate(commands)
    return parser


def _add_demo(commands: Commands, arguments: Sequence[str]) -> None:
    parser = commands.add_parser(
        "demo", help="make phantom subjects, train with Dice and Dice + FOG, compare"
    )
    if list(arguments[:1]) == ["demo"]:
        from geoloss_kernels.demo import command

        command.add_arguments(parser)
        parser.set_defaults(handler=command.run)


def _add_reproduce(commands: Commands, arguments: Sequence[str]) -> None:
    parser = commands.add_parser(
        "reproduce", help="repeat the paper's experiment: every row of its tables, its figures, a report"
    )
    if list(arguments[:1]) == ["reproduce"]:
        from geoloss_kernels.study import command

        command.add_arguments(parser)
        parser.set_defaults(handler=command.run, continuation="the same command continues the study")


def _add_make_dataset(commands: Commands) -> None:
    parser = commands.add_parser(
        "make-dataset",
        help="make subjects like the paper's, with training, validation and test splits",
        description="Makes T1, T2, FLAIR and lesion masks in nnU-Net's layout. Repeated after an "
        "interruption, it goes on where it was.",
    )
    parser.add_argument("--out", type=_folder, required=True, metavar="DIR", help="new folder, or one begun")
    parser.add_argument(
        "--like",
        required=True,
        metavar="ge30|si170",
        help="0.7 x 0.7 x 3 mm, 30 subjects | 1 mm, 170 subjects",
    )
    parser.add_argument("--subjects", type=int, metavar="N", help="default: as many as the paper has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes; the result does not depend on it")
    parser.add_argument(
        "--voxel-scale",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="coarser voxels, 1 to 4 times as wide",
    )
    parser.add_argument("--anatomies", type=Path, metavar="DIR", help="label maps with FreeSurfer's numbers")
    parser.add_argument("--lesion-masks", type=Path, metavar="DIR", help="lesion masks in the MNI space")
    parser.set_defaults(handler=_make_dataset, continuation="the same command continues the data set")


def _add_scan(commands: Commands) -> None:
    parser = commands.add_parser("scan", help="find and check subjects; print them as a CSV table")
    _add_source_arguments(parser)
    _add_modalities(parser)
    parser.add_argument("--lesion-label", type=int, help="value that marks lesions, if not 1")
    parser.add_argument(
        "--skip-incomplete",
        action="store_true",
        help="leave out subjects that do not pass the checks, and say so on standard error",
    )
    parser.set_defaults(handler=_scan)


def _add_preprocess(commands: Commands) -> None:
    parser = commands.add_parser(
        "preprocess", help="register each subject's images to its FLAIR and correct their bias fields"
    )
    _add_source_arguments(parser)
    _add_modalities(parser)
    parser.add_argument("--reference", default="flair", metavar="NAME", help="the image to register to")
    parser.add_argument("--no-bias-correction", action="store_true", help="leave the bias fields")
    parser.add_argument("--out", type=_folder, required=True, metavar="DIR", help="folder for the results")
    parser.set_defaults(handler=_preprocess)


def _add_lga(commands: Commands) -> None:
    parser = commands.add_parser(
        "lga", help="segment lesions without training: LST's lesion growth algorithm on T1 and FLAIR"
    )
    _add_source_arguments(parser, optional=True)
    parser.add_argument("--name", default="subject", help="file name stem when images are given one by one")
    for modality in ("t1", "flair"):
        parser.add_argument(f"--{modality}", type=Path, metavar="FILE", help=f"{modality.upper()} image")
    parser.add_argument(
        "--kappa", type=float, default=0.3, help="threshold of seeds; less finds more (default %(default)s)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="probability above which a voxel is lesion"
    )
    parser.add_argument(
        "--min-lesion-size", type=int, default=0, metavar="VOXELS", help="remove smaller lesions"
    )
    parser.add_argument("--out", type=_folder, required=True, metavar="DIR", help="folder for the results")
    parser.set_defaults(handler=_lga)


def _add_train(commands: Commands) -> None:
    from geoloss_kernels.training.config import TrainingConfig

    parser = commands.add_parser(
        "train",
        help="train a network",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"configuration keys with their defaults, as in a TOML file:\n{TrainingConfig().to_toml()}",
    )
    _add_source_arguments(parser, optional=True)
    parser.add_argument("--out", type=_folder, metavar="RUN", help="new folder for the run")
    parser.add_argument("--config", type=_file, metavar="FILE", help="TOML file with configuration keys")
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
    parser.set_defaults(handler=_train, lesion_label_option="--set lesion_label=VALUE")


def _add_predict(commands: Commands) -> None:
    parser = commands.add_parser("predict", help="write lesion masks and probability maps")
    _add_source_arguments(parser, optional=True)
    _add_model_arguments(parser, required=True)
    parser.add_argument("--name", default="subject", help="file name stem when images are given one by one")
    for modality in ("t1", "t2", "flair"):
        parser.add_argument(f"--{modality}", type=Path, metavar="FILE", help=f"{modality.upper()} image")
    parser.add_argument("--out", type=_folder, required=True, metavar="DIR", help="folder for the results")
    parser.set_defaults(handler=_predict)


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser("evaluate", help="compare predictions with reference masks; write tables")
    _add_source_arguments(parser, optional=True)
    _add_model_arguments(parser, required=False)
    parser.add_argument("--split", choices=("train", "validation", "test", "all"), default="test")
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="folder of masks, instead of a model")
    parser.add_argument("--references", type=Path, metavar="DIR", help="folder of reference masks")
    parser.add_argument("--lesion-label", type=int, help="value that marks lesions, if not 1")
    parser.add_argument("--out", type=_folder, required=True, metavar="DIR", help="folder for the tables")
    parser.set_defaults(handler=_evaluate)


def _add_source_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
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


def _add_modalities(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--modalities", nargs="+", default=["t1", "t2", "flair"], metavar="NAME")


def _add_model_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        required=required,
        metavar="RUN|CHECKPOINT",
        help="run folder or checkpoint file",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: as trained")
    parser.add_argument("--threshold", type=float, help="probability above which a voxel is lesion")
    parser.add_argument("--min-lesion-size", type=int, metavar="VOXELS", help="remove smaller lesions")


def _folder(argument: str) -> Path:
    """A folder that exists or can be made."""
    path = Path(argument)
    existing = next(candidate for candidate in (path, *path.parents) if candidate.exists())
    if not existing.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, but {existing} is a file")
    return path


def _file(argument: str) -> Path:
    path = Path(argument)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {path}")
    return path


def _make_dataset(options: argparse.Namespace) -> None:
    from geoloss_kernels.datasets import DatasetRecipe, make_dataset

    recipe = DatasetRecipe(
        options.like,
        options.subjects,
        options.seed,
        options.voxel_scale,
        options.anatomies,
        options.lesion_masks,
    )
    subjects = make_dataset(options.out, recipe, workers=options.workers)
    print(f"finished: {options.out}, {len(subjects)} subjects")


def _scan(options: argparse.Namespace) -> None:
    from geoloss_kernels.training.errors import InputError
    from geoloss_kernels.training.layouts import load_subjects
    from geoloss_kernels.training.subjects import Subject, format_table
    from geoloss_kernels.training.volumes import check_subject

    def check(subject: Subject) -> None:
        check_subject(subject, options.modalities, options.lesion_label)

    def skip(error: InputError) -> None:
        print(f"geoloss: skipped: {_message(error, options)}", file=sys.stderr)

    subjects = load_subjects(
        options.source,
        options.modalities,
        patterns=_patterns(options.pattern),
        fold=options.fold,
        masks_required=False,
        check=check,
        on_incomplete=skip if options.skip_incomplete else None,
    )
    print(format_table(subjects), end="")


def _preprocess(options: argparse.Namespace) -> None:
    from geoloss_kernels.training.errors import InputError
    from geoloss_kernels.training.layouts import load_subjects
    from geoloss_kernels.training.preprocessing import PreprocessingOptions, preprocess

    if find_spec("SimpleITK") is None:
        raise InputError("preprocess needs SimpleITK: pip install 'geoloss-kernels[preprocess]'")
    subjects = load_subjects(
        options.source,
        options.modalities,
        patterns=_patterns(options.pattern),
        fold=options.fold,
        masks_required=False,
    )
    preprocess(subjects, options.out, PreprocessingOptions(options.reference, not options.no_bias_correction))
    print(f"finished: {options.out / 'subjects.csv'}")


def _lga(options: argparse.Namespace) -> None:
    from geoloss_kernels import lga
    from geoloss_kernels.training import Prediction, Subject, TrainingConfig, load_subjects
    from geoloss_kernels.training.errors import InputError
    from geoloss_kernels.training.inference import to_mask

    TrainingConfig(threshold=options.threshold, min_lesion_size=options.min_lesion_size)  # checks both
    try:
        lga.GrowthOptions(options.kappa)
    except ValueError as error:
        raise InputError(str(error)) from None
    images = {name: getattr(options, name) for name in ("t1", "flair") if getattr(options, name)}
    if bool(images) == (options.source is not None):
        raise InputError("lga: expected either DIR|CSV or the images one by one (--t1 --flair)")
    subjects = [Subject(options.name, images)]
    if options.source is not None:
        patterns = _patterns(options.pattern)
        subjects = load_subjects(
            options.source, lga.MODALITIES, patterns=patterns, fold=options.fold, masks_required=False
        )
    for subject in subjects:
        preparation = lga.prepare(subject)
        probability = lga.grow(preparation, options.kappa)
        mask = to_mask(probability, options.threshold, options.min_lesion_size)
        prediction = Prediction(subject.name, probability, mask, preparation.grid)
        _report_prediction(prediction, options.out)


def _report_prediction(prediction: Prediction, out: Path) -> None:
    from geoloss_kernels.training import save_prediction

    mask_file, _ = save_prediction(prediction, out)
    millilitres = int(prediction.mask.sum()) * prediction.grid.voxel_volume / 1000
    print(f"{prediction.name}: {millilitres:.2f} ml of lesions, {mask_file}")


def _train(options: argparse.Namespace) -> None:
    from geoloss_kernels.training.processes import torchrun_processes

    with torchrun_processes() as processes:
        result = _train_or_resume(options)
        best = f", best epoch {result.best_epoch} (DSC {result.best_dice:.3f})" if result.best_epoch else ""
        if processes.is_first:
            print(f"finished: {result.run_dir}{best}")


def _train_or_resume(options: argparse.Namespace) -> TrainingResult:
    from geoloss_kernels.training import load_config, load_subjects, resume, train
    from geoloss_kernels.training.errors import InputError

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
    subjects = load_subjects(
        options.source, config.modalities, patterns=_patterns(options.pattern), fold=options.fold
    )
    return train(config, subjects, options.out)


def _predict(options: argparse.Namespace) -> None:
    from geoloss_kernels.training import Subject, load_model, load_subjects, predict_subject
    from geoloss_kernels.training.errors import InputError

    images = {name: getattr(options, name) for name in ("t1", "t2", "flair") if getattr(options, name)}
    if bool(images) == (options.source is not None):
        raise InputError("predict: expected either DIR|CSV or the images one by one (--t1 --t2 --flair)")
    model = load_model(options.model, options.device, options.precision)
    subjects = [Subject(options.name, images)]
    if options.source is not None:
        subjects = load_subjects(
            options.source,
            model.config.modalities,
            patterns=_patterns(options.pattern),
            fold=options.fold,
            masks_required=False,
        )
    for subject in subjects:
        prediction = predict_subject(
            model, subject, threshold=options.threshold, min_lesion_size=options.min_lesion_size
        )
        _report_prediction(prediction, options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from geoloss_kernels.training import evaluate_folders
    from geoloss_kernels.training.errors import InputError

    if options.model is not None and options.predictions is None and options.references is None:
        table = _evaluate_model(options)
    elif options.model is None and options.predictions and options.references and options.source is None:
        table = evaluate_folders(
            options.predictions, options.references, options.out, lesion_label=options.lesion_label
        )
    else:
        raise InputError("evaluate: expected --model RUN [DIR|CSV], or --predictions DIR --references DIR")
    print(table.to_markdown(), end="")


def _evaluate_model(options: argparse.Namespace) -> EvaluationTable:
    from geoloss_kernels.training import evaluate, load_model, load_subjects
    from geoloss_kernels.training.errors import InputError

    model = load_model(options.model, options.device, options.precision)
    source = _table_of_run(options.model) if options.source is None else options.source
    subjects = load_subjects(
        source, model.config.modalities, patterns=_patterns(options.pattern), fold=options.fold
    )
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
    )


def _table_of_run(model: Path) -> Path:
    """The table beside the checkpoint, or in the run folder."""
    from geoloss_kernels.training.errors import InputError
    from geoloss_kernels.training.run_folder import RunFolder

    table = RunFolder(model if model.is_dir() else model.parent).subjects_file
    if not table.is_file():
        raise InputError(f"evaluate: expected DIR|CSV, because there is no {table}")
    return table


def _patterns(assignments: Sequence[str]) -> dict[str, str]:
    from geoloss_kernels.training.errors import InputError

    patterns = {}
    for assignment in assignments:
        name, separator, pattern = assignment.partition("=")
        if not separator:
            raise InputError(f"--pattern {assignment}: expected NAME=REGEX")
        patterns[name.strip().lower()] = pattern
    return patterns


def _message(error: Exception, options: argparse.Namespace) -> str:
    from geoloss_kernels.training.errors import LesionLabelError

    if isinstance(error, LesionLabelError):
        return f"{error.problem}; give {options.lesion_label_option}"
    return str(error)


def _fail(message: str) -> int:
    print(f"geoloss: error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR
