"""What a study computes, and the file in its folder that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import read_json, require_file_name, write_text
from geoloss_kernels.lesions.study.methods import METHODS, TITLES
from geoloss_kernels.lesions.study.presets import PRESETS, Preset
from geoloss_kernels.lesions.subjects.folders import IMAGE_SUFFIXES
from geoloss_kernels.lesions.subjects.layouts import load_subjects

DEFAULT_PRESET = "smoke"
FOLDERS = ("anatomies", "lesion_masks", "real_patients")
"""Attributes of ``StudySettings`` that are a folder or a table."""


@dataclass(frozen=True)
class StudySettings:
    """Decides every number of a study but its times.

    Attributes:
        preset: Name in ``PRESETS``.
        seeds: Trainings of each row.
        rows: Names in ``TITLES``.
        test_subjects: Of each data set that is made; None for the preset's.
        data: Data set -> folder or table of subjects that are there; without any, the preset's are made.
        anatomies: Folder of label maps to make subjects of; without one, of the MNI152 template.
        lesion_masks: Folder of the lesions that go with them.
        real_patients: Folder or table of further subjects to test every row on.

    Raises:
        InputError: names the option, what was expected and what came.
    """

    preset: str
    seeds: int
    rows: tuple[str, ...]
    test_subjects: int | None
    data: Mapping[str, str]
    anatomies: str | None
    lesion_masks: str | None
    real_patients: str | None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"--preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.seeds < 1:
            raise InputError(f"--seeds: expected at least 1, got {self.seeds}")
        if self.test_subjects is not None and self.test_subjects < 1:
            raise InputError(f"--test-subjects: expected at least 1, got {self.test_subjects}")
        if self.test_subjects is not None and self.data:
            raise InputError(
                "--data, --test-subjects: expected subjects that are there or to be made, got both"
            )
        for row in self.rows:
            if row not in TITLES:
                raise InputError(f"--rows: expected names of {', '.join(TITLES)}, got {row!r}")
        if len(set(self.rows)) < len(self.rows):
            raise InputError(f"--rows: expected different names, got {' '.join(self.rows)}")
        for name in self.data:
            require_file_name(name, "--data")
        if (self.anatomies is None) != (self.lesion_masks is None):
            raise InputError("--anatomies and --lesion-masks: expected both or neither, got one of them")
        if self.data and self.anatomies is not None:
            raise InputError("--data, --anatomies: expected subjects that are there or to be made, got both")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> StudySettings:
        """Settings of a new study: the options that were given, defaults for the others."""
        name = options.get("preset", DEFAULT_PRESET)
        seeds = PRESETS[name].seeds if name in PRESETS else 1
        absent = dict.fromkeys(("test_subjects", *FOLDERS))
        defaults = {"preset": name, "seeds": seeds, "rows": tuple(METHODS), "data": {}, **absent}
        return cls(**{**defaults, **options})

    @property
    def size(self) -> Preset:
        """The preset itself."""
        return PRESETS[self.preset]

    def sources(self) -> dict[str, str]:
        """Option -> folder or table on this machine."""
        folders = {name: path for name in FOLDERS if (path := getattr(self, name)) is not None}
        return folders | {f"data {name}": path for name, path in self.data.items()}

    def to_mapping(self) -> dict[str, Any]:
        """Everything, what the preset decides included, as JSON holds it; of sources only the names."""
        size = {name: value for name, value in asdict(self.size).items() if name not in ("summary", "seeds")}
        content = {**asdict(self), "size": size}
        for name in FOLDERS:
            content[name] = None if content[name] is None else Path(content[name]).name
        content["data"] = {name: Path(path).name for name, path in self.data.items()}
        return dict(json.loads(json.dumps(content)))


@dataclass(frozen=True)
class StudyFolders:
    """Where a study is: ``results`` can be taken to another machine, ``out`` need not be.

    Attributes:
        out: Data sets, trainings, segmentations.
        results: Settings, measurements and the report; may be the same folder.
    """

    out: Path
    results: Path

    @property
    def settings(self) -> Path:
        return self.results / "study.json"

    @property
    def sources(self) -> Path:
        """Where the data of the study are on this machine."""
        return self.out / "sources.json"


def open_study(
    folders: StudyFolders, options: Mapping[str, Any], *, only_report: bool = False
) -> StudySettings:
    """The settings of the study in a folder, or of a new one if the folder is new or empty; writes nothing.

    Args:
        folders: Of the study.
        options: The attributes of ``StudySettings`` that were asked for. Those of a study that is there have
            to be the same, except that it can be given more seeds and rows; the others are taken from it.
        only_report: The study has to be there; where its data are does not matter.

    Raises:
        InputError: the study there is another one, which the message says in what; or there is something
            else.
    """
    if folders.settings.is_file():
        return _continue(folders, options, only_report)
    for name, folder in (("--out", folders.out), ("--results", folders.results)):
        if only_report:
            raise InputError(f"{name}: expected a study's folder, got {folder}")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{name}: expected a new or empty folder, or a study's, got {folder}")
    return StudySettings.of(options)


def save_settings(folders: StudyFolders, settings: StudySettings) -> None:
    """Makes the folders the study's, or gives the study there its new seeds and rows."""
    inventories = {option: inventory(Path(source)) for option, source in settings.sources().items()}
    content = {**settings.to_mapping(), "inventories": inventories}
    write_text(folders.settings, json.dumps(content, indent=2) + "\n")
    write_text(folders.sources, json.dumps(settings.sources(), indent=2) + "\n")


def inventory(source: Path) -> str:
    """A digest of the names and sizes of a folder's or a table's images; the same on every machine."""
    if source.is_dir():
        files = [(path.relative_to(source).as_posix(), path) for path in source.rglob("*")]
    else:
        files = [
            (f"{subject.name} {modality}", path)
            for subject in load_subjects(source)
            for modality, path in {**subject.images, "mask": subject.mask}.items()
            if path is not None
        ]
    entries = sorted((name, path.stat().st_size) for name, path in files if _is_image(path))
    return sha256(json.dumps(entries).encode()).hexdigest()[:16]


def _is_image(path: Path) -> bool:
    return path.name.endswith(IMAGE_SUFFIXES) and path.is_file()


def _continue(folders: StudyFolders, options: Mapping[str, Any], only_report: bool) -> StudySettings:
    content = _read(folders.settings)
    stored: dict[str, Any] = {name: content.get(name) for name in StudySettings.__dataclass_fields__}
    stored["seeds"] = max(stored["seeds"], options.get("seeds", 0))
    wanted = {name: value for name, value in options.items() if name not in ("data", *FOLDERS)}
    asked = wanted.pop("rows", tuple(stored["rows"]))
    if not {*stored["rows"]} <= {*asked}:
        wanted["rows"] = list(asked)
    difference = _difference(stored, wanted)
    stored["rows"] = tuple(dict.fromkeys((*stored["rows"], *asked)))
    if not difference and not only_report:
        stored.update(_found_sources(folders, stored, options))
    settings = StudySettings(**stored)
    difference = difference or _difference(content.get("size", {}), settings.to_mapping()["size"])
    if not difference and not only_report:
        found = {option: inventory(Path(source)) for option, source in settings.sources().items()}
        difference = _difference(content.get("inventories", {}), found, "the inventory of ")
    if difference:
        raise InputError(f"{folders.results}: holds a study with other settings: {difference}")
    return settings


def _found_sources(
    folders: StudyFolders, stored: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Where the data of a study are on this machine: as given, or as they were when it ran in ``out``."""
    known = read_json(folders.sources) if folders.sources.is_file() else {}
    given = {name: options[name] for name in FOLDERS if name in options}
    given |= {f"data {name}": path for name, path in options.get("data", {}).items()}
    names = {name: stored[name] for name in FOLDERS if stored[name] is not None}
    names |= {f"data {name}": path for name, path in stored["data"].items()}
    for option in given.keys() - names.keys():
        raise InputError(f"{folders.results}: holds a study with other settings: it has no {option}")
    for option, name in names.items():
        if option not in given and option not in known:
            raise InputError(
                f"--{option.replace('_', '-')}: expected where {name!r} of this study is on this machine, "
                "got nothing"
            )
    paths = {option: given.get(option, known.get(option)) for option in names}
    data = {name: paths[f"data {name}"] for name in stored["data"]}
    return {"data": data, **{name: path for name, path in paths.items() if name in FOLDERS}}


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not {"preset", "seeds", "rows", "data"} <= content.keys():
        raise InputError(f"{path}: expected the settings of a study")
    return content


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    """The first wanted entry that is another one in ``found``, in words; empty if there is none."""
    for name, value in wanted.items():
        if found.get(name) != value:
            return f"{prefix}{name} is {_shown(found.get(name))} there, not {_shown(value)}"
    return ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
