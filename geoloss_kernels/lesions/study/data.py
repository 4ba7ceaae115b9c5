"""The data sets of a study: made for it, or there already."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from geoloss_kernels.lesions.datasets import DatasetRecipe, make_dataset
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.imaging.reading import load_images
from geoloss_kernels.lesions.progress import Log
from geoloss_kernels.lesions.study.presets import DataPlan
from geoloss_kernels.lesions.study.settings import StudySettings
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.subject import SPLITS, Subject

DATA_SEED = 0


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
