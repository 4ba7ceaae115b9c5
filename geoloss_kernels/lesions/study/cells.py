"""The cells of a study: one method on one data set with one seed, trained and measured or found done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.prediction.prediction import load_model, predict_subject
from geoloss_kernels.lesions.progress import Log
from geoloss_kernels.lesions.study.cost import Cost, peak_memory
from geoloss_kernels.lesions.study.data import StudyData
from geoloss_kernels.lesions.study.lga_row import MIN_LESION_VOLUME, choose_kappa, segmenter
from geoloss_kernels.lesions.study.measurements import Measurements, Segment, measure
from geoloss_kernels.lesions.study.methods import LST, METHODS, VARIANTS
from geoloss_kernels.lesions.study.paper import methods_of
from geoloss_kernels.lesions.study.presets import Preset
from geoloss_kernels.lesions.study.settings import StudyFolders
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.training.devices import resolve_device
from geoloss_kernels.lesions.training.loop import resume, train
from geoloss_kernels.lesions.training.run_folder import RunFolder

TestSets = Mapping[str, Sequence[Subject]]


@dataclass(frozen=True)
class Cell:
    """One method on one data set with one seed, and where its files are.

    In ``folder`` there are the training, ``run``, and the segmentations, ``masks``. In ``results`` there is
    ``training.json`` once the training is finished, and ``<test set>.csv`` once the subjects of that set are
    measured: such a set is done, whatever else is there.
    """

    data: StudyData
    method: str
    seed: int
    folder: Path
    results: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def cost_file(self) -> Path:
        return self.results / "training.json"

    @property
    def masks(self) -> Path:
        return self.folder / "masks"

    def measurements_file(self, test_set: str) -> Path:
        return self.results / f"{test_set}.csv"

    def thresholds_file(self, test_set: str) -> Path:
        return self.folder / f"{test_set}-thresholds.csv"

    def is_measured(self, test_set: str) -> bool:
        return self.measurements_file(test_set).is_file()

    def measurements(self, test_set: str) -> Measurements:
        """What was measured."""
        return Measurements.read(self.measurements_file(test_set), self.thresholds_file(test_set))

    def cost(self) -> Cost | None:
        """Of the training, if there was one."""
        return Cost.read(self.cost_file) if self.cost_file.is_file() else None


def make_cells(
    data: Sequence[StudyData], rows: Sequence[str], seeds: int, folders: StudyFolders
) -> list[Cell]:
    """The cells in the order in which they run: of each seed, the rows of each data set.

    LST has no seed and comes once.
    """
    return [
        Cell(dataset, method, seed, folders.out / name, folders.results / name)
        for seed in range(seeds)
        for dataset in data
        for method in rows
        if method in {*(methods_of(dataset.name) or METHODS), *VARIANTS} and (method != LST or seed == 0)
        for name in [f"{dataset.name}/{method}-{seed}"]
    ]


def run_cell(cell: Cell, size: Preset, test_sets: TestSets, log: Log = print) -> None:
    """Does what is left to do of a cell."""
    missing = {name: subjects for name, subjects in test_sets.items() if not cell.is_measured(name)}
    if not missing:
        log("done already")
        return
    segment, notes = _lga(cell, log) if cell.method == LST else (_network(cell, size, log), {})
    for name, subjects in missing.items():
        smallest = MIN_LESION_VOLUME if cell.method == LST else 0.0
        measured = measure(segment, subjects, cell.masks, min_lesion_volume=smallest, notes=notes)
        measured.write_thresholds(cell.thresholds_file(name))
        measured.write(cell.measurements_file(name))
        mean = measured.summary()
        log(f"{name}: DSC {mean.dice:.3f}, LPPV {mean.lppv:.3f}, LTPR {mean.ltpr:.3f}, L-F1 {mean.lf1:.3f}")


def _lga(cell: Cell, log: Log) -> tuple[Segment, dict[str, float]]:
    kappa = choose_kappa(cell.data.of_split("validation"))
    log(f"kappa {kappa:g} is best on the validation subjects")
    return segmenter(kappa), {"kappa": kappa}


def _network(cell: Cell, size: Preset, log: Log) -> Segment:
    if not (cell.cost_file.is_file() and RunFolder(cell.run).last_checkpoint.is_file()):
        _train(cell, size, log)
    model = load_model(cell.run)

    def segment(subject: Subject) -> tuple[NDArray[np.float32], Grid]:
        prediction = predict_subject(model, subject)
        return prediction.probability, prediction.grid

    return segment


def _train(cell: Cell, size: Preset, log: Log) -> None:
    """Trains from the start, or from the last finished epoch of a training that was interrupted."""
    config = size.config(cell.data.name, cell.method, cell.seed)
    if RunFolder(cell.run).config_file.is_file():
        result = resume(cell.run, log=log)
    else:
        result = train(config, cell.data.subjects, cell.run, log=log)
    memory = peak_memory(config, resolve_device(config.device))
    seconds = math.fsum(record.epoch_seconds for record in result.history)
    Cost(result.loss_seconds, result.step_seconds, memory, seconds).write(cell.cost_file)
