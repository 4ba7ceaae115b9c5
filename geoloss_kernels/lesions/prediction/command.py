"""`geoloss predict`: lesion masks and probability maps."""

from __future__ import annotations

import argparse

from geoloss_kernels.lesions.argument_types import add_results_argument
from geoloss_kernels.lesions.prediction.arguments import add_model_arguments
from geoloss_kernels.lesions.prediction.prediction import load_model, predict_subject, report_prediction
from geoloss_kernels.lesions.subjects.arguments import (
    add_image_arguments,
    add_source_arguments,
    images_or_subjects,
)

GIVEN_MODALITIES = ("t1", "t2", "flair")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` reads."""
    add_source_arguments(parser, optional=True)
    add_model_arguments(parser, required=True)
    add_image_arguments(parser, GIVEN_MODALITIES)
    add_results_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Predicts every subject."""
    model = load_model(options.model, options.device, options.precision)
    for subject in images_or_subjects(options, GIVEN_MODALITIES, model.config.modalities, "predict"):
        prediction = predict_subject(
            model, subject, threshold=options.threshold, min_lesion_size=options.min_lesion_size
        )
        report_prediction(prediction, options.out)
