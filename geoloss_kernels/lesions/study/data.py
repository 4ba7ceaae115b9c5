"""The data sets of a study: made for it, or there already."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geoloss_kernels.lesions.datasets import DatasetRecipe, make_dataset
from geoloss_kernels.lesions.datasets.generation import make_plans
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import read_json, write_text
from geoloss_kernels.lesions.imaging.reading import load_images
from geoloss_kernels.lesions.progress import Log
from geoloss_kernels.lesions.study.presets import DataPlan
from geoloss_kernels.lesions.study.settings import StudySettings
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.subject import SPLITS, Subject

DATA_FILE = "data.json"
DATA_SEED = 0


@dataclass(frozen=True)
class StudyData:
    """A data set with its split.

    Attributes:
        name: "ge30", "si170", or another name given by the user.
        description: Origin, subjects of each split, and voxel size, in words.
        units: Test subject -> what it shares with others, such as the person or the lesions: the sample of a
            statistic is one of units.
        subjects: All of them; none where only results are there.
    """

    name: str
    description: str
    units: Mapping[str, str]
    subjects: tuple[Subject, ...] = ()

    @classmethod
    def of(cls, name: str, subjects: Sequence[Subject], origin: str, units: Mapping[str, str]) -> StudyData:
        """Of subjects that are there, from ``origin``; ``units`` of the test subjects."""
        counts = [f"{sum(subject.split == split for subject in subjects)} {split}" for split in SPLITS]
        edges = " × ".join(f"{edge:.3g}" for edge in spacing_of(subjects[0]))
        description = f"{name}: {origin}; {', '.join(counts)} subjects; voxels of {edges} mm"
        return cls(name, description, units, tuple(subjects))

    def of_split(self, split: str) -> list[Subject]:
        return [subject for subject in self.subjects if subject.split == split]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along R, A and S, of the first subject."""
        return spacing_of(self.subjects[0])

    def write(self, path: Path) -> None:
        """Writes JSON of all but the subjects: what a report needs."""
        content = {"description": self.description, "units": dict(self.units)}
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, name: str, path: Path) -> StudyData:
        """Reads what ``write`` has written.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.keys() != {"description", "units"}:
            raise InputError(f"{path}: expected the description and the units of a data set")
        return cls(name, content["description"], content["units"])


def prepare_data(settings: StudySettings, folder: Path, log: Log = print) -> list[StudyData]:
    """The data sets of a study; those that are made go into ``folder``.

    Raises:
        InputError: a subject cannot be used, or a split has none.
    """
    if settings.data:
        data = [
            _found(name, load_subjects(Path(source)), f"subjects of {Path(source).name}")
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


def _found(name: str, subjects: Sequence[Subject], origin: str) -> StudyData:
    """A data set that was there: sessions of one person are one unit."""
    if not subjects:
        raise InputError(f"--data {name}: expected subjects, got none")
    units = {subject.name: subject.person for subject in subjects if subject.split == "test"}
    return StudyData.of(name, subjects, origin, units)


def _make(plan: DataPlan, settings: StudySettings, folder: Path, log: Log) -> StudyData:
    """A made data set: subjects with lesions of one mask are one unit."""
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
        test_subjects=settings.test_subjects,
    )
    subjects = make_dataset(folder, recipe, workers=os.cpu_count() or 1, log=log)
    origin = (
        "made-up lesions in made-up brains" if anatomies is None else "real lesions in painted label maps"
    )
    units = {
        subject.name: subject.donors.lesion_mask.name if subject.donors else subject.name
        for subject in make_plans(recipe)
        if subject.split == "test"
    }
    return StudyData.of(plan.like, subjects, origin, units)
