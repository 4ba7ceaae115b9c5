"""Making a data set: one subject after the other or several at a time, into a folder of nnU-Net's layout."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from geoloss_kernels import __version__
from geoloss_kernels.lesions.datasets.anatomy import make_anatomy
from geoloss_kernels.lesions.datasets.label_maps import deform_label_map, read_label_map
from geoloss_kernels.lesions.datasets.mni_registration import ToMni, register_to_mni
from geoloss_kernels.lesions.datasets.recipe import DatasetRecipe, shares
from geoloss_kernels.lesions.datasets.scans import MODALITIES, Scan, make_scan, write_image, write_mask
from geoloss_kernels.lesions.datasets.simulated_lesions import make_lesions
from geoloss_kernels.lesions.datasets.transplants import transplant_lesions
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import exclusive, read_json, write_text
from geoloss_kernels.lesions.progress import Log
from geoloss_kernels.lesions.subjects.folders import IMAGE_SUFFIXES
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.subject import SPLITS, Subject

CARD = "dataset_card.json"

Job = TypeVar("Job")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Donors:
    """A label map, and a lesion mask in the MNI space."""

    anatomy: Path
    lesion_mask: Path


@dataclass(frozen=True)
class SubjectPlan:
    """One subject to make: its number in the data set, and whose brain and lesions it gets if real ones."""

    index: int
    name: str
    split: str
    donors: Donors | None = None


@dataclass(frozen=True)
class Files:
    """Where the files of one subject go."""

    images: dict[str, Path]
    mask: Path

    def exist(self) -> bool:
        return all(path.is_file() for path in (*self.images.values(), self.mask))


def make_dataset(folder: Path, recipe: DatasetRecipe, *, workers: int = 1, log: Log = print) -> list[Subject]:
    """Makes the data set of `recipe` in `folder`, in nnU-Net's layout, and returns its subjects.

    `imagesTr` and `labelsTr` hold the training and validation subjects, told apart by `splits_final.json`,
    `imagesTs` and `labelsTs` the test subjects; `dataset_card.json` holds the recipe. Subjects that are there
    already are kept, so that an interrupted call can be repeated. The recipe and a subject's number alone
    decide its voxels, bit for bit.

    Args:
        folder: New, empty, or begun with the same recipe.
        recipe: What to make.
        workers: Processes that make subjects at the same time.
        log: Takes a line per subject.

    Raises:
        InputError: `folder` holds something else, or a data set of another recipe, or is in use; a package
            is missing; a folder of the recipe holds fewer than three files; a label map or a mask is not
            usable.
    """
    if workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}")
    _require_packages(recipe)
    plans = make_plans(recipe)
    _claim(folder, card(recipe, plans))
    with exclusive(folder):
        _make_missing(folder, recipe, plans, workers, log)
        _describe(folder, recipe, plans)
    return load_subjects(folder, MODALITIES)


def _make_missing(
    folder: Path, recipe: DatasetRecipe, plans: Sequence[SubjectPlan], workers: int, log: Log
) -> None:
    """Makes the subjects of `plans` whose files are not all there."""
    _remove_leftovers(folder)
    files = [subject_files(folder, plan) for plan in plans]
    missing = [(plan, paths) for plan, paths in zip(plans, files, strict=True) if not paths.exist()]
    if len(missing) < len(plans):
        log(f"{len(plans) - len(missing)} of {len(plans)} subjects are there already")
    started = time.perf_counter()
    with _mapper(min(workers, len(missing))) as run:
        anatomies = sorted({plan.donors.anatomy for plan, _ in missing if plan.donors})
        to_mni = dict(zip(anatomies, run(register_to_mni, anatomies), strict=True))
        # Subjects of one anatomy come one after the other, because its label map is kept in memory.
        missing.sort(key=lambda job: anatomies.index(job[0].donors.anatomy) if job[0].donors else 0)
        jobs = [
            (recipe, plan, to_mni[plan.donors.anatomy] if plan.donors else None, paths)
            for plan, paths in missing
        ]
        for done, message in enumerate(run(_make_subject, jobs), 1):
            log(f"{message} ({done}/{len(jobs)}, {time.perf_counter() - started:.0f} s)")


def make_plans(recipe: DatasetRecipe) -> list[SubjectPlan]:
    """The subjects of a data set, in the order of their numbers: training, validation, test."""
    sizes = recipe.split_sizes()
    splits = [split for split in SPLITS for _ in range(sizes[split])]
    names = [f"{recipe.like}_{index:03d}" for index in range(len(splits))]
    if recipe.anatomies is None or recipe.lesion_masks is None:
        return [SubjectPlan(index, *named) for index, named in enumerate(zip(names, splits, strict=True))]
    anatomies = _share_out(recipe.anatomies, "anatomies", recipe)
    masks = _share_out(recipe.lesion_masks, "lesion_masks", recipe)
    plans = []
    for index, (name, split) in enumerate(zip(names, splits, strict=True)):
        number = index - splits.index(split)
        # Every pair of an anatomy and a mask comes once before any comes again.
        turn, anatomy = divmod(number, len(anatomies[split]))
        mask = (turn + anatomy) % len(masks[split])
        plans.append(SubjectPlan(index, name, split, Donors(anatomies[split][anatomy], masks[split][mask])))
    return plans


def make_subject(recipe: DatasetRecipe, plan: SubjectPlan, to_mni: ToMni | None = None) -> Scan:
    """Makes one subject of a data set.

    Args:
        recipe: The data set's.
        plan: The subject's.
        to_mni: `register_to_mni` of the subject's label map, where that is known already.
    """
    generator = np.random.default_rng([recipe.seed, plan.index])
    if plan.donors is None:
        anatomy = make_anatomy(recipe.voxel_scale, generator)
        lesions = make_lesions(anatomy, recipe.difficulty, generator)
    else:
        if to_mni is None:
            to_mni = register_to_mni(plan.donors.anatomy)
        label_map = read_label_map(plan.donors.anatomy)
        anatomy, points = deform_label_map(label_map, recipe.voxel_scale, generator)
        lesions = transplant_lesions(
            plan.donors.lesion_mask, anatomy, to_mni.at(points), recipe.difficulty, generator
        )
    return make_scan(anatomy, lesions, recipe.difficulty, recipe.acquisition, generator)


def card(recipe: DatasetRecipe, plans: Sequence[SubjectPlan]) -> dict[str, Any]:
    """What decides the voxels of a data set, and what each subject was made of."""
    settings = asdict(recipe) | {"subjects": len(plans)}
    for name in ("anatomies", "lesion_masks"):
        path = settings[name]
        settings[name] = [file.name for file in _images(path, name)] if path else None
    sources = {
        plan.name: {"anatomy": plan.donors.anatomy.name, "lesion_mask": plan.donors.lesion_mask.name}
        for plan in plans
        if plan.donors
    }
    content = {
        "made_by": f"geoloss make-dataset {__version__}",
        "recipe": settings,
        "voxel_size_mm": recipe.voxel_size,
        "splits": recipe.split_sizes(),
        "sources": sources or "MNI152 template of nilearn, simulated lesions",
    }
    return dict(json.loads(json.dumps(content)))


def subject_files(folder: Path, plan: SubjectPlan) -> Files:
    """Where a subject's files go in nnU-Net's layout."""
    part = "Ts" if plan.split == "test" else "Tr"
    images = {
        modality: folder / f"images{part}" / f"{plan.name}_{channel:04d}.nii.gz"
        for channel, modality in enumerate(MODALITIES)
    }
    return Files(images, folder / f"labels{part}" / f"{plan.name}.nii.gz")


def _make_subject(job: tuple[DatasetRecipe, SubjectPlan, ToMni | None, Files]) -> str:
    """Makes and writes one subject; returns a line about it."""
    recipe, plan, to_mni, files = job
    scan = make_subject(recipe, plan, to_mni)
    for modality, image in scan.images.items():
        write_image(files.images[modality], image, scan.affine)
    write_mask(files.mask, scan.mask, scan.affine)
    millilitres = scan.mask.sum() * np.prod(recipe.voxel_size) / 1000
    return f"{plan.name}: {plan.split}, {millilitres:.1f} ml of lesions"


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[[Callable[[Job], Done], Sequence[Job]], Iterator[Done]]]:
    """A lazy `map` in this process, or in several that share nothing and have one thread each."""
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _require_packages(recipe: DatasetRecipe) -> None:
    needed = ["nilearn", *(["SimpleITK"] if recipe.anatomies else [])]
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        raise InputError(f"make-dataset needs {missing[0]}: pip install 'geoloss-kernels[datasets]'")


def _share_out(folder: Path, name: str, recipe: DatasetRecipe) -> dict[str, list[Path]]:
    """The files of a folder, shuffled and shared among the splits in proportion, at least one for each."""
    files = _images(folder, name)
    if len(files) < len(SPLITS):
        raise InputError(
            f"{name}: expected at least {len(SPLITS)} files {' or '.join(IMAGE_SUFFIXES)} in {folder}, one "
            f"for each split, found {len(files)}"
        )
    shuffled = np.random.default_rng([recipe.seed, len(files)]).permutation(len(files))
    sizes = shares(len(files), list(recipe.split_sizes().values()))
    ends = np.cumsum(list(sizes.values()))
    parts = np.split(shuffled, ends[:-1])
    return {split: [files[number] for number in part] for split, part in zip(sizes, parts, strict=True)}


def _images(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{name}: expected a folder, got {folder}")
    return sorted(path.resolve() for path in folder.iterdir() if path.name.endswith(IMAGE_SUFFIXES))


def _claim(folder: Path, content: dict[str, Any]) -> None:
    """Writes the card into a new or empty folder; accepts a folder that has the same one."""
    path = folder / CARD
    if path.is_file():
        difference = _difference(read_json(path), content)
        if difference:
            raise InputError(f"{folder}: holds another data set: {difference}")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder, or one that make-dataset has begun")
    else:
        write_text(path, json.dumps(content, indent=2) + "\n")


def _remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of a call that was killed while it wrote them."""
    for part in ("imagesTr", "imagesTs", "labelsTr", "labelsTs"):
        for path in (folder / part).glob(".*.nii.gz"):
            path.unlink()


def _difference(found: Any, wanted: Any, name: str = "card") -> str:
    """The first entry in which two cards differ, in words; empty if there is none."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = dict.fromkeys((*wanted, *found))
        differences = (_difference(found.get(key), wanted.get(key), key) for key in keys)
        return next(filter(None, differences), "")
    return "" if found == wanted else f"{name} is {found} there, not {wanted}"


def _describe(folder: Path, recipe: DatasetRecipe, plans: Sequence[SubjectPlan]) -> None:
    """Writes what nnU-Net reads: splits_final.json, and dataset.json last, which makes the data set whole."""
    names = {split: [plan.name for plan in plans if plan.split == split] for split in SPLITS}
    splits = [{"train": names["train"], "val": names["validation"]}]
    description = {
        "name": f"like {recipe.like}",
        "description": "made-up subjects with multiple sclerosis lesions",
        "channel_names": {str(channel): modality.upper() for channel, modality in enumerate(MODALITIES)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(names["train"]) + len(names["validation"]),
        "file_ending": ".nii.gz",
    }
    write_text(folder / "splits_final.json", json.dumps(splits, indent=2) + "\n")
    write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")
