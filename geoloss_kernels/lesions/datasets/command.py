"""`geoloss make-dataset`: a data set like one of the paper's."""

from __future__ import annotations

import argparse
from pathlib import Path

from geoloss_kernels.lesions.argument_types import folder
from geoloss_kernels.lesions.datasets.generation import make_dataset
from geoloss_kernels.lesions.datasets.recipe import DatasetRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` reads."""
    parser.description = (
        "Makes T1, T2, FLAIR and lesion masks in nnU-Net's layout. Repeated after an "
        "interruption, it goes on where it was."
    )
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help="new folder, or one begun")
    parser.add_argument(
        "--like",
        required=True,
        metavar="ge30|si170",
        help="0.7 x 0.7 x 3 mm, 30 subjects | 1 mm, 170 subjects",
    )
    parser.add_argument("--subjects", type=int, metavar="N", help="default: as many as the paper has")
    parser.add_argument(
        "--test-subjects", type=int, metavar="N", help="default: the paper's share of --subjects"
    )
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
    parser.set_defaults(continuation="the same command continues the data set")


def run(options: argparse.Namespace) -> None:
    """Makes what is missing of the data set."""
    recipe = DatasetRecipe(
        options.like,
        options.subjects,
        options.seed,
        options.voxel_scale,
        options.anatomies,
        options.lesion_masks,
        options.test_subjects,
    )
    subjects = make_dataset(options.out, recipe, workers=options.workers)
    print(f"finished: {options.out}, {len(subjects)} subjects")
