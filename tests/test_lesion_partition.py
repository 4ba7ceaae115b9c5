"""Connected components and the Voronoi partition of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from geoloss_kernels.distance import connected_components, voronoi
from geoloss_kernels.metrics import label_lesions

SPACING = (3.0, 0.7, 1.1)


def lesions(shape: tuple[int, ...], fraction: float = 0.02) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < fraction


class TestConnectedComponents:
    @pytest.mark.parametrize(
        ("shape", "connectivity"),
        [((2, 2, 9, 10), 4), ((2, 2, 9, 10), None), ((2, 3, 7, 8, 9), 6), ((2, 3, 7, 8, 9), None)],
    )
    def test_are_those_of_the_metrics(self, shape, connectivity):
        mask = lesions(shape, 0.3)
        labels = connected_components(mask.float(), connectivity)
        assert labels.dtype == torch.int64
        for n in range(shape[0]):
            for c in range(shape[1]):
                expected, count = label_lesions(mask[n, c], connectivity or 3 ** (len(shape) - 2) - 1)
                assert np.array_equal(labels[n, c].numpy(), expected)
                assert labels[n, c].max() == count

    def test_connectivity_is_checked(self):
        with pytest.raises(ValueError, match=r"connectivity: expected one of .* got 8"):
            connected_components(torch.zeros(1, 1, 2, 2, 2), 8)


class TestVoronoi:
    @pytest.mark.parametrize("spacing", [None, SPACING])
    def test_every_voxel_takes_a_nearest_lesion(self, spacing):
        """The distance to the lesion that a voxel was given is the distance to any lesion."""
        labels = connected_components(lesions((2, 2, 9, 12, 11)))
        cells = voronoi(labels, spacing)
        for given, cell in zip(labels.flatten(0, 1).numpy(), cells.flatten(0, 1).numpy(), strict=True):
            to_any = ndimage.distance_transform_edt(given == 0, sampling=spacing)
            for lesion in range(1, given.max() + 1):
                to_this = ndimage.distance_transform_edt(given != lesion, sampling=spacing)
                np.testing.assert_allclose(to_this[cell == lesion], to_any[cell == lesion], rtol=1e-12)
            assert set(np.unique(cell)) == set(range(1, given.max() + 1))
            assert np.array_equal(cell[given > 0], given[given > 0])

    def test_spacing_decides(self):
        labels = torch.zeros(1, 1, 5, 9, dtype=torch.int32)
        labels[0, 0, 4, 4], labels[0, 0, 0, 0] = 1, 2
        assert voronoi(labels)[0, 0, 0, 4] == 1
        labels[0, 0, 0, 0], labels[0, 0, 0, 7] = 0, 2
        assert voronoi(labels)[0, 0, 0, 4] == 2
        assert voronoi(labels, (0.5, 1.0))[0, 0, 0, 4] == 1

    def test_without_lesions(self):
        labels = torch.zeros(2, 1, 3, 4, dtype=torch.uint8)
        labels[1, 0, 2, 2] = 7
        cells = voronoi(labels)
        assert cells.dtype == torch.uint8
        assert cells[0].count_nonzero() == 0
        assert (cells[1] == 7).all()

    def test_probabilities_are_no_labels(self):
        with pytest.raises(TypeError, match=r"labels: expected integers, got torch\.float32"):
            voronoi(torch.rand(1, 1, 2, 2))
