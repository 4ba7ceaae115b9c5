from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training_helpers import make_subjects, tiny_config

from geoloss_kernels.lesions.imaging.grid import Grid
from geoloss_kernels.lesions.training.augmentation import augment, elastic_deformation, intensity_shift
from geoloss_kernels.lesions.training.sampling import (
    CropDataset,
    EpochBatches,
    VolumeStore,
    random_crop,
    torch_generator,
)
from geoloss_kernels.lesions.training.volumes import Volume


def coordinate_volume(shape: tuple[int, int, int], lesion: tuple[int, int, int] | None) -> Volume:
    """Voxels hold their own coordinates, so that a crop shows where it came from."""
    image = torch.from_numpy(np.indices(shape).astype(np.float32))
    mask = torch.zeros(1, *shape, dtype=torch.uint8)
    if lesion is not None:
        mask[(0, *lesion)] = 1
    return Volume("coordinates", image, mask, Grid(shape, np.eye(4)))


@pytest.mark.parametrize(
    ("lesion", "positions"), [((0, 0, 0), 1), ((11, 9, 10), 1), ((5, 0, 10), 4), ((5, 1, 10), 8)]
)
def test_lesion_crops_contain_the_lesion_wherever_it_is(lesion: tuple[int, int, int], positions: int) -> None:
    generator = np.random.default_rng(0)
    volume = coordinate_volume((12, 10, 11), lesion)
    starts = set()
    for _ in range(60):
        image, mask = random_crop(volume, (4, 4, 4), 1.0, generator)
        assert image.shape == (3, 4, 4, 4)
        assert tuple(image[:, mask[0] == 1].flatten().tolist()) == lesion
        starts.add(tuple(image[:, 0, 0, 0].tolist()))
    assert len(starts) == positions


def test_uniform_crops_cover_the_volume() -> None:
    generator = np.random.default_rng(0)
    volume = coordinate_volume((6, 6, 6), None)
    starts = np.array(
        [random_crop(volume, (4, 4, 4), 1.0, generator)[0][:, 0, 0, 0].numpy() for _ in range(200)]
    )
    assert starts.min() == 0
    assert starts.max() == 2
    assert len(np.unique(starts, axis=0)) == 27


def test_small_volumes_are_padded_with_zeros() -> None:
    volume = coordinate_volume((3, 8, 4), (1, 1, 1))
    image, mask = random_crop(volume, (8, 8, 4), 1.0, np.random.default_rng(0))
    assert image.shape == (3, 8, 8, 4)
    assert torch.equal(image[:, 2:5], volume.image)
    assert mask.nonzero().tolist() == [[0, 3, 1, 1]]
    assert not image[:, :2].any()
    assert not image[:, 5:].any()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_crops_depend_on_seed_and_number_alone(tmp_path: Path, num_workers: int) -> None:
    subjects = make_subjects(tmp_path, ("train",) * 3)

    def epoch(number: int, seed: int = 7, workers: int = 0) -> torch.Tensor:
        config = tiny_config(seed=seed, cache=workers == 0)
        batches = EpochBatches(3, 2)
        batches.epoch = number
        dataset = CropDataset(VolumeStore(subjects, config), config)
        loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers)
        return torch.cat([image for image, _ in loader])

    first = epoch(1)
    torch.manual_seed(123)
    assert torch.equal(first, epoch(1, workers=num_workers))
    assert not torch.equal(first, epoch(0))
    assert not torch.equal(first, epoch(1, seed=8))


def test_processes_share_every_batch_among_them() -> None:
    whole, first, second = EpochBatches(3, 4), EpochBatches(3, 4, 0, 2), EpochBatches(3, 4, 1, 2)
    for batches in (whole, first, second):
        batches.epoch = 2
    assert list(whole) == [list(range(start, start + 4)) for start in (24, 28, 32)]
    assert [a + b for a, b in zip(first, second, strict=True)] == list(whole)
    assert len(first) == 3


def test_every_subject_is_drawn_once_a_round(tmp_path: Path) -> None:
    config = tiny_config()
    volumes = [coordinate_volume((16, 16, 16), None) for _ in range(4)]
    for number, volume in enumerate(volumes):
        volume.image.fill_(number + 1)
    dataset = CropDataset(volumes, config)  # type: ignore[arg-type]
    rounds = [[int(dataset[4 * turn + i][0].max()) for i in range(4)] for turn in range(5)]
    assert all(sorted(subjects) == [1, 2, 3, 4] for subjects in rounds)
    assert len(set(map(tuple, rounds))) > 1


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.randn(4, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    image[:, :, :3] = 0
    mask = (image[:, :1] > 1).to(torch.uint8)
    return image, mask


def generators(seed: int, count: int) -> list[torch.Generator]:
    return [torch_generator(seed, number) for number in range(count)]


def test_intensity_shift_is_one_value_per_channel_and_spares_the_background() -> None:
    image, _ = batch()
    shifted = intensity_shift(image, 0.1, generators(1, len(image)))
    difference = shifted - image
    assert not difference[:, :, :3].any()
    inside = difference[:, :, 3:].flatten(2)
    assert (inside.amax(2) - inside.amin(2)).max() < 1e-6
    assert inside.abs().max() <= 0.1
    assert inside.mean(2).unique().numel() == 8


def test_elastic_deformation_of_coordinates_is_smooth_and_keeps_the_faces() -> None:
    size, points = 31, 6
    coordinates = torch.stack(torch.meshgrid(*[torch.arange(float(size))] * 3, indexing="ij"))[None]
    mask = (coordinates[:, :1] > 15).to(torch.uint8)
    config = tiny_config(elastic_probability=1.0, elastic_strength=0.4, elastic_control_points=points)
    moved, moved_mask = elastic_deformation(coordinates, mask, config, generators(3, 1))
    displacement = moved - coordinates
    limit = 0.4 * (size - 1) / (points - 1)
    assert 0.5 * limit < displacement.abs().max() <= limit + 1e-3
    for axis in (2, 3, 4):
        for face in (0, -1):
            assert displacement.select(axis, face).abs().max() < 1e-3
    for axis in range(3):
        assert moved[0, axis].diff(dim=axis).min() > 0  # no folds
    assert set(moved_mask.unique().tolist()) == {0, 1}
    assert moved_mask.dtype == torch.uint8
    assert torch.equal(moved_mask[0, 0] == 1, moved[0, 0].round() > 15)


def test_augmentation_is_seeded_and_partial() -> None:
    image, mask = batch()
    config = tiny_config(intensity_shift=0.0, elastic_probability=0.5)
    first, again, other = (augment(image, mask, config, generators(n, 4)) for n in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    untouched = [torch.equal(a, b) for a, b in zip(first[0], image, strict=True)]
    assert 0 < sum(untouched) < 4


@pytest.mark.parametrize("seed", range(6))
def test_augmentation_of_a_crop_does_not_depend_on_the_rest_of_the_batch(seed: int) -> None:
    image, mask = batch()
    config = tiny_config(elastic_probability=0.5)
    whole = augment(image, mask, config, generators(seed, 4))
    alone = [
        augment(image[n : n + 1], mask[n : n + 1], config, generators(seed, 4)[n : n + 1]) for n in range(4)
    ]
    for position, tensor in enumerate(whole):
        torch.testing.assert_close(torch.cat([single[position] for single in alone]), tensor)


def test_augmentation_can_be_off() -> None:
    image, mask = batch()
    same_image, same_mask = augment(
        image, mask, tiny_config(intensity_shift=0, elastic_probability=0), generators(0, 4)
    )
    assert torch.equal(same_image, image)
    assert torch.equal(same_mask, mask)
