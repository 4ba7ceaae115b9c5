"""Random crops, drawn so that crop ``i`` of a run depends on the seed and ``i`` alone.

Nothing but the epoch number has to be saved to continue a run with the very same crops, whatever the number
of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, Sampler

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.training.config import TrainingConfig
from geoloss_kernels.lesions.training.volumes import Volume, load_volume

# Separate random streams of one seed.
ORDER_STREAM, CROP_STREAM, AUGMENTATION_STREAM = range(3)


class VolumeStore:
    """The preprocessed volumes of a list of subjects, loaded on demand or once and kept in memory."""

    def __init__(self, subjects: Sequence[Subject], config: TrainingConfig) -> None:
        self._subjects = list(subjects)
        self._config = config
        self._cached = [self._load(subject) for subject in subjects] if config.cache else None

    def __len__(self) -> int:
        return len(self._subjects)

    def __getitem__(self, index: int) -> Volume:
        return self._load(self._subjects[index]) if self._cached is None else self._cached[index]

    def _load(self, subject: Subject) -> Volume:
        return load_volume(subject, self._config.modalities, self._config.lesion_label)


Crop = tuple[Tensor, Tensor]


class CropDataset(Dataset[Crop | InputError]):
    """Crop ``i`` of a run: image ``[modalities, *patch_size]`` float32 and mask ``[1, *patch_size]`` uint8.

    Crops go through the subjects in a new random order each time round. The error of a file takes the place
    of its crops: raised in a worker process, it would come out with the traceback of that as its message.
    """

    def __init__(self, volumes: VolumeStore, config: TrainingConfig) -> None:
        self._volumes = volumes
        self._config = config

    def __getitem__(self, index: int) -> Crop | InputError:
        seed = self._config.seed
        round_number, position = divmod(index, len(self._volumes))
        order = np.random.default_rng((seed, ORDER_STREAM, round_number)).permutation(len(self._volumes))
        try:
            volume = self._volumes[int(order[position])]
        except InputError as error:
            return error
        generator = np.random.default_rng((seed, CROP_STREAM, index))
        return random_crop(volume, self._config.patch_size, self._config.lesion_crop_fraction, generator)


def collate(crops: Sequence[Crop | InputError]) -> Crop | InputError:
    """The batch of some crops, or the first error among them."""
    whole: list[Crop] = []
    for crop in crops:
        if isinstance(crop, InputError):
            return crop
        whole.append(crop)
    images, masks = zip(*whole, strict=True)
    return torch.stack(images), torch.stack(masks)


class EpochBatches(Sampler[list[int]]):
    """Numbers of the crops of each step of an epoch; set ``epoch`` (0-based) before iterating.

    Of ``processes`` that train together each has an equal part of every batch, process ``rank`` the
    ``rank``-th.
    """

    def __init__(self, steps: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self.epoch = 0
        self._steps = steps
        self._batch_size = batch_size
        self._part = range(rank * batch_size // processes, (rank + 1) * batch_size // processes)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.crops, range(self._steps))

    def crops(self, step: int) -> list[int]:
        """Of one step of the epoch."""
        first = (self.epoch * self._steps + step) * self._batch_size
        return [first + position for position in self._part]


def random_crop(
    volume: Volume, size: Sequence[int], lesion_fraction: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Cut a box out of a volume, zero-padded where the volume is smaller.

    With probability ``lesion_fraction`` the box is uniform among those that contain a randomly drawn lesion
    voxel, otherwise (and in a volume without lesions) uniform over the volume.
    """
    if volume.mask is None:
        raise ValueError(f"volume: expected a lesion mask, {volume.name} has none")
    margin = [
        max(wanted - length, 0) // 2 for wanted, length in zip(size, volume.mask.shape[1:], strict=True)
    ]
    image, mask = (_pad_to(tensor, size, margin) for tensor in (volume.image, volume.mask))
    last_starts = np.array(mask.shape[1:]) - np.array(size)
    starts = generator.integers(0, last_starts, endpoint=True)
    lesion_voxels = volume.lesion_voxels
    if generator.random() < lesion_fraction and len(lesion_voxels) > 0:
        voxel = lesion_voxels[generator.integers(len(lesion_voxels))].numpy() + margin
        first_starts = np.maximum(voxel - np.array(size) + 1, 0)
        starts = generator.integers(first_starts, np.minimum(voxel, last_starts), endpoint=True)
    box = (slice(None), *(slice(start, start + length) for start, length in zip(starts, size, strict=True)))
    return image[box], mask[box]


def torch_generator(*key: int) -> torch.Generator:
    """A generator of the CPU whose state depends on ``key`` alone."""
    (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)


def _pad_to(tensor: Tensor, size: Sequence[int], margin: Sequence[int]) -> Tensor:
    """Zeros around ``[C, x, y, z]`` up to ``size``, ``margin`` of them before each axis."""
    padding: list[int] = []
    for length, wanted, before in zip(tensor.shape[:0:-1], reversed(size), reversed(margin), strict=True):
        padding += [before, max(wanted - length, 0) - before]
    return functional.pad(tensor, padding) if any(padding) else tensor
