"""The data sets of a study: made for it, or there already."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from geoloss_kernels.datasets import DatasetRecipe, make_dataset
from geoloss_kernels.study.presets import DataPlan
from geoloss_kernels.study.settings import StudySettings
from geoloss_kernels.training.errors import InputError
from geoloss_kernels.training.layouts import load_subjects
from geoloss_kernels.training.subjects import SPLITS, Subject
from geoloss_kernels.training.volumes import load_images

DATA_SEED = 0

Log = Callable[[str], None]


@dataclass(frozen=True)
class StudyData:
    """A data set with its split.

    Attributes:
        name: "ge30", "si170", or another name given by the user.
        subjects: All of them.
        origin: Where they come from, in words.
    """

    name: str
    subjects: tuple[Subject, ...]
    origin: str

    def of_split(self, split: str) -> list[Subject]:
        return [subject for subject in self.subjects if subject.split == split]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along R, A and S, of the first subject."""
        return spacing_of(self.subjects[0])

    def describe(self) -> str:
        """Origin, subjects of each split, and voxel size of the first subject, in words."""
        sizes = ", ".join(f"{len(self.of_split(split))} {split}" for split in SPLITS)
        edges = " × ".join(f"{edge:.3g}" for edge in self.spacing)
        return f"{self.name}: {self.origin}; {sizes} subjects; voxels of {edges} mm"


def prepare_data(settings: StudySettings, folder: Path, log: Log = print) -> list[StudyData]:
    """The data sets of a study; those that are made go into ``folder``.

    Raises:
        InputError: a subject cannot be used, or a split has none.
    """
    if settings.data:
        data = [
            StudyData(name, tuple(load_subjects(Path(source))), f"subjects of {Path(source).name}")
            for name, source in settings.data.items()
        ]
    else:
        data = [_make(plan, settings, folder / plan.like, log) for plan in settings.size.data]
    for dataset in data:
        for split in SPLITS:
            if not dataset.of_split(split):
                source = settings.data.get(dataset.name, folder / dataset.name)
                raise InputError(f"{source}: expected subjects of every split, got none of {split}")
    return data


def spacing_of(subject: Subject) -> tuple[float, float, float]:
    """Voxel spacing in mm along R, A and S."""
    modality, path = next(iter(subject.images.items()))
    return load_images({modality: path})[1].spacing


def _make(plan: DataPlan, settings: StudySettings, folder: Path, log: Log) -> StudyData:
    anatomies, lesion_masks = (
        None if path is None else Path(path) for path in (settings.anatomies, settings.lesion_masks)
    )
    recipe = DatasetRecipe(
        like=plan.like,
        subjects=plan.subjects,
        seed=DATA_SEED,
        voxel_scale=plan.voxel_scale,
        anatomies=anatomies,
        lesion_masks=lesion_masks,
    )
    subjects = make_dataset(folder, recipe, workers=os.cpu_count() or 1, log=log)
    origin = (
        "made-up lesions in made-up brains" if anatomies is None else "real lesions in painted label maps"
    )
    return StudyData(plan.like, tuple(subjects), origin)
