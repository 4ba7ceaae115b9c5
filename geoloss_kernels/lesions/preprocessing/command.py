"""`geoloss preprocess`: every image on the FLAIR's grid, without its bias field."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from geoloss_kernels.lesions.argument_types import add_results_argument
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.preprocessing.preprocessing import PreprocessingOptions, preprocess
from geoloss_kernels.lesions.subjects.arguments import (
    add_modalities_argument,
    add_source_arguments,
    subjects_of,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` reads."""
    add_source_arguments(parser)
    add_modalities_argument(parser)
    parser.add_argument("--reference", default="flair", metavar="NAME", help="the image to register to")
    parser.add_argument("--no-bias-correction", action="store_true", help="leave the bias fields")
    add_results_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Writes the images and a table of them."""
    if find_spec("SimpleITK") is None:
        raise InputError("preprocess needs SimpleITK: pip install 'geoloss-kernels[preprocess]'")
    subjects = subjects_of(options, options.source, options.modalities, masks_for=())
    preprocess(subjects, options.out, PreprocessingOptions(options.reference, not options.no_bias_correction))
    print(f"finished: {options.out / 'subjects.csv'}")
