"""What a study computes, and the file in its folder that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import read_json, require_file_name, write_text
from geoloss_kernels.lesions.study.methods import METHODS, TITLES
from geoloss_kernels.lesions.study.presets import PRESETS, Preset

SETTINGS = "study.json"
DEFAULT_PRESET = "smoke"


@dataclass(frozen=True)
class StudySettings:
    """Decides every number of a study but its times.

    Attributes:
        preset: Name in ``PRESETS``.
        seeds: Trainings of each row.
        rows: Names in ``TITLES``.
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
    data: Mapping[str, str]
    anatomies: str | None
    lesion_masks: str | None
    real_patients: str | None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"--preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.seeds < 1:
            raise InputError(f"--seeds: expected at least 1, got {self.seeds}")
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
        paths = dict.fromkeys(("anatomies", "lesion_masks", "real_patients"))
        defaults = {"preset": name, "seeds": seeds, "rows": tuple(METHODS), "data": {}, **paths}
        return cls(**{**defaults, **options})

    @property
    def size(self) -> Preset:
        """The preset itself."""
        return PRESETS[self.preset]

    def to_mapping(self) -> dict[str, Any]:
        """Everything, the preset's own numbers included, as JSON holds it."""
        return dict(json.loads(json.dumps({**asdict(self), "size": asdict(self.size)})))


def open_study(folder: Path, options: Mapping[str, Any]) -> StudySettings:
    """The settings of the study in ``folder``, or of a new one if the folder is new or empty; writes nothing.

    Args:
        folder: Of the study.
        options: The attributes of ``StudySettings`` that were asked for. Those of a study that is there have
            to be the same, except that it can be given more seeds; the others are taken from it.

    Raises:
        InputError: the study there is another one, which the message says in what; or there is something
            else.
    """
    path = folder / SETTINGS
    if path.is_file():
        return _continue(path, options)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out: expected a new or empty folder, or a study's, got {folder}")
    return StudySettings.of(options)


def save_settings(folder: Path, settings: StudySettings) -> None:
    """Makes ``folder`` the study's, or gives the study there its new number of seeds."""
    write_text(folder / SETTINGS, json.dumps(settings.to_mapping(), indent=2) + "\n")


def _continue(path: Path, options: Mapping[str, Any]) -> StudySettings:
    found = _read(path)
    stored = {name: found.pop(name, None) for name in StudySettings.__dataclass_fields__}
    stored["seeds"] = max(stored["seeds"], options.get("seeds", 0))
    settings = StudySettings(**{**stored, "rows": tuple(stored["rows"])})
    wanted = settings.to_mapping()["size"]
    difference = _difference(stored, dict(json.loads(json.dumps(options)))) or _difference(
        found.get("size", {}), wanted
    )
    if difference:
        raise InputError(f"{path.parent}: holds a study with other settings: {difference}")
    return settings


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not {"preset", "seeds", "rows", "data"} <= content.keys():
        raise InputError(f"{path}: expected the settings of a study")
    return content


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first wanted entry that is another one in ``found``, in words; empty if there is none."""
    for name, value in wanted.items():
        if found.get(name) != value:
            return f"{name} is {_shown(found.get(name))} there, not {_shown(value)}"
    return ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
