"""`geoloss lga`: lesions without training."""

from __future__ import annotations

import argparse

from geoloss_kernels.lesions.argument_types import add_results_argument
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.lga.growth import GrowthOptions
from geoloss_kernels.lesions.lga.segmentation import MODALITIES, grow, prepare
from geoloss_kernels.lesions.prediction.prediction import Prediction, report_prediction
from geoloss_kernels.lesions.subjects.arguments import (
    add_image_arguments,
    add_source_arguments,
    images_or_subjects,
)
from geoloss_kernels.lesions.training.config import TrainingConfig
from geoloss_kernels.lesions.training.inference import to_mask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` reads."""
    add_source_arguments(parser, optional=True)
    add_image_arguments(parser, MODALITIES)
    parser.add_argument(
        "--kappa", type=float, default=0.3, help="threshold of seeds; less finds more (default %(default)s)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="probability above which a voxel is lesion"
    )
    parser.add_argument(
        "--min-lesion-size", type=int, default=0, metavar="VOXELS", help="remove smaller lesions"
    )
    add_results_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Segments every subject."""
    TrainingConfig(threshold=options.threshold, min_lesion_size=options.min_lesion_size)  # checks both
    try:
        GrowthOptions(options.kappa)
    except ValueError as error:
        raise InputError(str(error)) from None
    for subject in images_or_subjects(options, MODALITIES, MODALITIES, "lga"):
        preparation = prepare(subject)
        probability = grow(preparation, options.kappa)
        mask = to_mask(probability, options.threshold, options.min_lesion_size)
        report_prediction(Prediction(subject.name, probability, mask, preparation.grid), options.out)
