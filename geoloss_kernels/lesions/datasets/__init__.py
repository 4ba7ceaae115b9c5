"""Data sets like those of Zhang et al., ISBI 2021, made up (optional extra ``datasets``)."""

from geoloss_kernels.lesions.datasets.difficulty import Difficulty
from geoloss_kernels.lesions.datasets.generation import make_dataset
from geoloss_kernels.lesions.datasets.recipe import DatasetRecipe

__all__ = ["make_dataset", "DatasetRecipe", "Difficulty"]
