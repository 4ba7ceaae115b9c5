"""Arguments of the commands that take a trained network."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_model_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
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
