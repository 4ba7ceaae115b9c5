"""What a data set is made of: its kind, its size, its seed, and where brains and lesions come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geoloss_kernels.lesions.datasets.difficulty import Difficulty
from geoloss_kernels.lesions.datasets.scans import Acquisition
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.subjects.subject import SPLITS

FEWEST_SUBJECTS = len(SPLITS)
LARGEST_SCALE = 4.0


@dataclass(frozen=True)
class Kind:
    """A data set of the paper: subjects of each split, and voxels in units of 1 mm x voxel_scale."""

    splits: tuple[int, int, int]
    acquisition: Acquisition


KINDS = {
    "ge30": Kind((15, 5, 10), Acquisition(in_plane=0.7, thickness=3)),
    "si170": Kind((119, 17, 34), Acquisition()),
}


@dataclass(frozen=True)
class DatasetRecipe:
    """Decides every voxel of a data set.

    Without the two folders, brains are deformed copies of the MNI152 template that nilearn ships, with
    simulated lesions. With them, brains are those of a folder of label maps, and lesions those of a folder of
    masks; no split shares a label map or a mask with another.

    Attributes:
        like: "ge30" (voxels of 0.7 x 0.7 x 3 mm) or "si170" (1 mm), the data sets of Zhang et al., ISBI 2021.
        subjects: How many; by default the paper's 30 or 170. Splits keep the paper's proportions.
        seed: Not negative.
        voxel_scale: Multiplies the edges of the voxels, 1 to 4.
        anatomies: Folder of whole-brain label maps with FreeSurfer's numbers, with cubic voxels.
        lesion_masks: Folder of lesion masks in the MNI space, with cubic voxels.
        test_subjects: As many test subjects instead; training and validation stay as they are.
        difficulty: How hard lesions are to find and to outline.

    Raises:
        InputError: names the attribute, what was expected and what came.
    """

    like: str = "ge30"
    subjects: int | None = None
    seed: int = 0
    voxel_scale: float = 1.0
    anatomies: Path | None = None
    lesion_masks: Path | None = None
    test_subjects: int | None = None
    difficulty: Difficulty = field(default_factory=Difficulty)

    def __post_init__(self) -> None:
        if self.like not in KINDS:
            raise InputError(f"like: expected one of {', '.join(KINDS)}, got {self.like!r}")
        if self.subjects is not None and self.subjects < FEWEST_SUBJECTS:
            raise InputError(
                f"subjects: expected at least {FEWEST_SUBJECTS}, one for each split, got {self.subjects}"
            )
        if self.test_subjects is not None and self.test_subjects < 1:
            raise InputError(f"test_subjects: expected at least 1, got {self.test_subjects}")
        if self.seed < 0:
            raise InputError(f"seed: expected an integer of at least 0, got {self.seed}")
        if not 1 <= self.voxel_scale <= LARGEST_SCALE:
            raise InputError(f"voxel_scale: expected 1 to {LARGEST_SCALE:g}, got {self.voxel_scale}")
        if (self.anatomies is None) != (self.lesion_masks is None):
            raise InputError("anatomies and lesion_masks: expected both or neither, got one of them")

    @property
    def acquisition(self) -> Acquisition:
        """The scanner's voxels, in units of the brain's, whose edge is `voxel_scale` mm."""
        return KINDS[self.like].acquisition

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Edges in mm of the voxels of the images."""
        in_plane = self.voxel_scale * self.acquisition.in_plane
        return (in_plane, in_plane, self.voxel_scale * self.acquisition.thickness)

    def split_sizes(self) -> dict[str, int]:
        """Subjects of each split; at least one in every split."""
        paper = KINDS[self.like].splits
        sizes = shares(sum(paper) if self.subjects is None else self.subjects, paper)
        if self.test_subjects is not None:
            sizes["test"] = self.test_subjects
        return sizes


def shares(total: int, proportions: Sequence[int]) -> dict[str, int]:
    """``total`` things shared among the splits in proportion, at least one for each."""
    _, validation, test = (max(1, math.floor(total * part / sum(proportions) + 0.5)) for part in proportions)
    return dict(zip(SPLITS, (total - validation - test, validation, test), strict=True))
