"""distance_transform_edt against scipy in float64: every voxel, and the voxel that each distance leads to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numerics import DEVICES, fewer, library
from scipy import ndimage
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import geoloss_kernels as gk
from geoloss_kernels.distance import distance_transform_edt, signed_distance_map

FOREGROUND, BOTH, SIGNED = range(3)  # of the operators' `side`
RANDOM_MASKS = 1000
MASKS_PER_TEST = 100
# Half a unit in the last place of float32 is 6.0e-8 of the number at most.
FLOAT32_ROUNDING = 6.0e-8


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def random_case(generator: np.random.Generator) -> tuple[np.ndarray, tuple[float, ...]]:
    """A mask [N, C, *spatial] of any density, often with axes of 1, and a spacing."""
    spatial = tuple(int(generator.choice([1, 2, 3, 7, 16, 33, 70])) for _ in range(generator.integers(2, 4)))
    if np.prod(spatial) > 60_000:
        spatial = tuple(min(size, 33) for size in spatial)
    shape = (*generator.integers(1, 3, size=2), *spatial)
    density = generator.choice([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    mask = generator.random(shape) < density
    spacing = tuple(generator.uniform(0.3, 5, size=len(spatial)).tolist())
    kind = generator.integers(3)
    return mask, (1.0,) * len(spatial) if kind == 0 else spacing[:1] * len(spatial) if kind == 1 else spacing


def structured_masks() -> Iterator[tuple[str, np.ndarray]]:
    z, y, x = np.indices((21, 34, 67))
    ones = np.ones((21, 34, 67), bool)
    for position in [(0, 0, 0), (20, 33, 66), (10, 17, 33)]:
        hole = ones.copy()
        hole[position] = False
        yield f"all but {position}", hole
        yield f"only {position}", ~hole
    yield "checkerboard", (z + y + x) % 2 == 0
    for axis, index in enumerate((z, y, x)):
        yield f"planes across axis {axis}", index % 9 != 4
        yield f"half space along axis {axis}", index > 7
    radius = np.sqrt((z - 10) ** 2 + (y - 17) ** 2 + (x - 30) ** 2)
    yield "ball", radius < 9
    yield "shell", (radius > 6) & (radius < 8)
    yield "outside of a ball", radius > 3
    yield "diagonal", (z != y) | (y != x)
    yield "two far corners", ones & ~((z + y + x == 0) | (z + y + x == 20 + 33 + 66))
    yield "staircase of sites", y * 7 % 34 != x % 34
    yield "empty", ~ones


STRUCTURED = dict(structured_masks())


def of_scipy(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Infinite where there is no background, unlike scipy's."""
    volumes = mask.reshape(-1, *mask.shape[2:])
    distances = [
        np.full(volume.shape, np.inf)
        if volume.all()
        else ndimage.distance_transform_edt(volume, sampling=spacing)
        for volume in volumes
    ]
    return np.stack(distances).reshape(mask.shape)


def distance_to(indices: Tensor, spacing: tuple[float, ...]) -> np.ndarray:
    """From every voxel to the one with its index, infinite for -1."""
    spatial = tuple(indices.shape[2:])
    coordinates = torch.stack(torch.unravel_index(indices.cpu().clamp(min=0), spatial), -1)
    here = torch.stack(torch.meshgrid(*map(torch.arange, spatial), indexing="ij"), -1)
    offsets = (coordinates - here).double() * torch.tensor(spacing, dtype=torch.float64)
    return torch.where(indices.cpu() < 0, torch.inf, offsets.square().sum(-1).sqrt()).numpy()


def assert_exact(mask: np.ndarray, spacing: tuple[float, ...], device: str) -> None:
    """Distances are scipy's, rounded; each index is of a background voxel at exactly that distance."""
    expected = of_scipy(mask, spacing)
    tensor = torch.from_numpy(mask).to(device)
    for dtype, tolerance in ((torch.float32, FLOAT32_ROUNDING), (torch.float64, 1e-15)):
        distance = distance_transform_edt(tensor, spacing, dtype=dtype)
        assert distance.dtype == dtype
        np.testing.assert_allclose(distance.cpu().numpy(), expected, rtol=tolerance, atol=0)
        again, indices = distance_transform_edt(tensor, spacing, return_indices=True, dtype=dtype)
        assert torch.equal(distance, again)
    np.testing.assert_allclose(distance_to(indices, spacing), expected, rtol=1e-14, atol=0)
    in_foreground = torch.from_numpy(mask).flatten(2).gather(2, indices.cpu().flatten(2).clamp(min=0))
    assert torch.equal(in_foreground.view(mask.shape), indices.cpu() < 0)


class TestAgainstScipy:
    @pytest.mark.parametrize("first", range(0, RANDOM_MASKS, MASKS_PER_TEST))
    def test_random_masks(self, backend, first):
        for seed in fewer(range(first, first + MASKS_PER_TEST)):
            assert_exact(*random_case(np.random.default_rng(seed)), DEVICES[backend])

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 0.7), (3.0, 0.7, 0.7), (0.3, 5.0, 1.1)])
    @pytest.mark.parametrize("name", STRUCTURED)
    def test_structured_masks(self, backend, name, spacing):
        assert_exact(STRUCTURED[name][None, None], spacing, DEVICES[backend])

    @pytest.mark.parametrize(
        "shape", [(1, 1, 300, 4), (1, 1, 3, 260, 5), (1, 1, 2, 3, 600), (2, 1, 270, 2, 9)], ids=str
    )
    def test_distances_beyond_16_bits(self, backend, shape):
        """More than 255 voxels, whose squares do not fit into the narrow arithmetic."""
        mask = np.ones(shape, bool)
        mask[..., 0, 0] = False
        mask[(0, 0, *[slice(1, None)] * (mask.ndim - 2))] = True
        assert_exact(mask, (1.0,) * (mask.ndim - 2), DEVICES[backend])

    def test_squares_beyond_24_bits(self, backend):
        mask = np.ones((1, 1, 1, 5000), bool)
        mask[..., 0] = False
        assert_exact(mask, (1.0, 1.0), DEVICES[backend])

    def test_volumes_of_a_batch_are_independent(self, backend):
        density = torch.linspace(0, 1, 15).view(5, 3, 1, 1, 1)
        masks = (torch.rand(5, 3, 9, 8, 7) < density).to(DEVICES[backend])
        whole = distance_transform_edt(masks, (1.0, 2.0, 3.0))
        for n in range(5):
            for c in range(3):
                one = distance_transform_edt(masks[n : n + 1, c : c + 1], (1.0, 2.0, 3.0))
                assert torch.equal(whole[n : n + 1, c : c + 1], one)


class TestSigned:
    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7)])
    @pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
    def test_is_kervadecs_map(self, backend, density, spacing):
        mask = np.random.default_rng(0).random((1, 1, 12, 30, 41)) < density
        outside, inside = of_scipy(~mask, spacing), of_scipy(mask, spacing)
        expected = np.where(mask, 1 - inside, outside)
        tensor = torch.from_numpy(mask).to(DEVICES[backend])
        for dtype, rtol in ((torch.float32, FLOAT32_ROUNDING), (torch.float64, 1e-15)):
            signed, indices = distance_transform_edt(
                tensor, spacing, signed=True, return_indices=True, dtype=dtype
            )
            np.testing.assert_allclose(signed.cpu().numpy(), expected, rtol=rtol, atol=1e-15)
        np.testing.assert_allclose(distance_to(indices, spacing), np.where(mask, inside, outside), rtol=1e-14)

    def test_without_boundary(self, backend):
        masks = torch.stack([torch.zeros(3, 4), torch.ones(3, 4)])[None].to(DEVICES[backend])
        signed, indices = distance_transform_edt(masks, signed=True, return_indices=True)
        assert torch.all(signed[:, 0] == torch.inf)
        assert torch.all(signed[:, 1] == -torch.inf)
        assert torch.all(indices == -1)

    def test_foreground_alone_without_boundary(self, backend):
        masks = torch.stack([torch.zeros(3, 4), torch.ones(3, 4)])[None].to(DEVICES[backend])
        distance, indices = distance_transform_edt(masks, return_indices=True)
        assert torch.all(distance[:, 0] == 0)
        assert torch.equal(indices[0, 0].flatten().cpu(), torch.arange(12))
        assert torch.all(distance[:, 1] == torch.inf)
        assert torch.all(indices[:, 1] == -1)


class TestMasks:
    @pytest.mark.parametrize(
        "dtype",
        [
            *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
            *(torch.uint16, torch.uint32, torch.uint64),
            *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        ],
        ids=str,
    )
    def test_nonzero_is_foreground(self, backend, dtype):
        mask = torch.rand(1, 2, 6, 7, 8, device=DEVICES[backend]) < 0.7
        expected = distance_transform_edt(mask, dtype=torch.float32)
        values = torch.tensor([0, 1]).to(dtype).to(mask.device)[mask.to(torch.int64)]
        assert torch.equal(distance_transform_edt(values, dtype=torch.float32), expected)

    def test_tiny_negative_and_nan_are_foreground_and_negative_zero_is_not(self, backend):
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            tiny = torch.finfo(dtype).smallest_normal / 4
            values = torch.tensor([[tiny, -1.0, torch.nan, torch.inf, -0.0]], dtype=dtype)[None, None]
            assert distance_transform_edt(values.to(DEVICES[backend])).tolist() == [[[[4, 3, 2, 1, 0]]]]

    def test_any_strides(self, backend):
        base = torch.rand(3, 4, 12, 10, 22, device=DEVICES[backend]) < 0.8
        for view in (
            base.transpose(2, 4),
            base[..., ::2],
            base[:, 1:, 3:, ::3],
            base.to(memory_format=torch.channels_last_3d),
            base[:1].expand(2, -1, -1, -1, -1),
            base.transpose(0, 1),
        ):
            assert torch.equal(distance_transform_edt(view), distance_transform_edt(view.contiguous()))

    def test_empty_batch(self, backend):
        distance, indices = distance_transform_edt(
            torch.zeros(0, 1, 3, 4, device=DEVICES[backend]), return_indices=True
        )
        assert distance.shape == indices.shape == (0, 1, 3, 4)

    def test_every_voxel_is_written(self, backend, poisoned):
        mask = torch.zeros(3, 1, 9, 10, 35, device=DEVICES[backend])
        mask[1] = 1
        mask[2, :, 4, 5, 6] = 1
        for signed in (False, True):
            assert not distance_transform_edt(mask, signed=signed).isnan().any()

    @pytest.mark.parametrize(
        ("error", "message", "arguments"),
        [
            (TypeError, "mask: expected a tensor", {"mask": [[1]]}),
            (ValueError, r"mask: .*\(2, 2\)", {"mask": torch.zeros(2, 2)}),
            (ValueError, "spacing: expected 2 ", {"spacing": (1.0, 1.0, 1.0)}),
            (ValueError, "spacing: ", {"spacing": (1.0, 0.0)}),
            (TypeError, "dtype: .*int64", {"dtype": torch.int64}),
        ],
    )
    def test_bad_arguments_are_named(self, error, message, arguments):
        with pytest.raises(error, match=message):
            distance_transform_edt(**{"mask": torch.zeros(1, 1, 2, 2), **arguments})

    @pytest.mark.parametrize(
        ("message", "position", "value"),
        [
            ("mask: expected", 0, torch.zeros(2, 2)),
            ("spacing: expected 2 numbers, got 3", 1, [1.0, 1.0, 1.0]),
            ("spacing: expected positive numbers", 1, [1.0, -1.0]),
            (r"side: expected 0 \(foreground\), 1 \(both\) or 2 \(signed\), got 3", 2, 3),
            ("side: expected .* got -1", 2, -1),
            ("dtype: expected", 4, torch.float16),
        ],
    )
    def test_the_operator_checks_its_arguments(self, backend, message, position, value):
        mask = torch.zeros(1, 1, 2, 2, device=DEVICES[backend])
        arguments = [mask, [1.0, 1.0], SIGNED, 0.0, torch.float32]
        arguments[position] = value
        with pytest.raises(RuntimeError, match=message):
            library(backend).distance_transform(*arguments)


class TestDeterminism:
    def test_number_of_threads(self, backend):
        mask = torch.rand(2, 2, 17, 30, 40, device=DEVICES[backend]) < 0.9
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(distance_transform_edt(mask, signed=True, return_indices=True))
        torch.set_num_threads(1)
        for distance, indices in results[1:]:
            assert torch.equal(distance, results[0][0])
            assert torch.equal(indices, results[0][1])

    @pytest.mark.parametrize("instructions", ["baseline", "avx2"])
    def test_instruction_sets_agree_bit_for_bit(self, instructions, tmp_path):
        """All arithmetic is exact or in float64, so the width of a vector shows nowhere."""
        program = (
            "import sys, torch; from geoloss_kernels.distance import distance_transform_edt as edt; "
            "torch.manual_seed(0); mask = torch.rand(2, 1, 9, 20, 75) < 0.97; "
            "wide = torch.ones(1, 1, 2, 300); wide[..., 0] = 0; "
            "cases = [(mask, None), (mask, (3.0, 0.7, 0.7)), (wide, None)]; "
            "torch.save([edt(m, h, signed=True, return_indices=True) for m, h in cases], sys.argv[1])"
        )
        results = []
        for choice in (instructions, ""):
            path = tmp_path / f"results-{choice}.pt"
            environment = {**os.environ, "GEOLOSS_CPU": choice, "GEOLOSS_BACKEND": ""}
            done = subprocess.run(
                [sys.executable, "-c", program, str(path)], env=environment, capture_output=True, text=True
            )
            if "GEOLOSS_CPU: expected" in done.stderr:
                pytest.skip(f"this processor has no {instructions}")
            assert done.returncode == 0, done.stderr
            results.append(torch.load(path))
        for (distance, indices), (expected, expected_indices) in zip(*results, strict=True):
            assert torch.equal(distance, expected)
            assert torch.equal(indices, expected_indices)


class TestInsidePyTorch:
    @pytest.mark.parametrize("name", ["distance_transform", "distance_transform_with_indices"])
    @pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 1, 4, 5, 6)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_opcheck(self, backend, name, shape, dtype):
        mask = torch.rand(shape, device=DEVICES[backend]) < 0.7
        spacing = [1.0, 0.5, 2.0][: mask.ndim - 2]
        opcheck(getattr(library(backend), name).default, (mask, spacing, SIGNED, 3.0, dtype))
        opcheck(
            getattr(library(backend), name).default,
            (mask.float().transpose(2, 3), spacing, BOTH, 0.0, dtype),
        )

    @pytest.mark.parametrize("loss", [gk.BoundaryLoss, gk.HausdorffDTLoss, gk.DiceHausdorffDTLoss])
    @pytest.mark.parametrize("shape", [(2, 1, 4, 5, 6), (2, 3, 5, 7)], ids=str)
    def test_losses_compile_as_one_graph(self, backend, loss, shape):
        module = loss(include_background=True, sigmoid=True, spacing=(1.0, 2.0, 0.5)[: len(shape) - 2])
        logits = torch.randn(shape, device=DEVICES[backend], requires_grad=True)
        target = (torch.rand(shape, device=DEVICES[backend]) > 0.6).float()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        ours, theirs = compiled(logits, target), module(logits, target)
        torch.testing.assert_close(ours, theirs)
        (slope,), (expected,) = (torch.autograd.grad(loss, logits) for loss in (ours, theirs))
        torch.testing.assert_close(slope, expected)

    def test_vmap(self, backend):
        masks = torch.rand(3, 2, 4, 2, 5, 6, device=DEVICES[backend]) < 0.7
        for dim in (0, 3):
            rows = masks.unbind(dim)
            batched = torch.vmap(signed_distance_map, in_dims=dim)(masks)
            assert torch.equal(batched, torch.stack([signed_distance_map(row) for row in rows]))
            several = torch.vmap(
                lambda mask: library(backend).distance_transform_with_indices(
                    mask, [1.0, 2.0, 3.0], FOREGROUND, 0.0, torch.float32
                ),
                in_dims=dim,
            )(masks)
            for index, row in enumerate(rows):
                one = distance_transform_edt(row, (1.0, 2.0, 3.0), return_indices=True)
                finite = one[0].isfinite()
                assert torch.equal(several[0][index][finite], one[0][finite])
                assert torch.equal(several[1][index], one[1])

    def test_fake_tensors(self, backend):
        with FakeTensorMode():
            mask = torch.zeros(2, 3, 4, 5, dtype=torch.uint8, device=DEVICES[backend])
            distance, indices = distance_transform_edt(mask, return_indices=True)
        assert distance.shape == indices.shape == (2, 3, 4, 5)
        assert (distance.dtype, indices.dtype) == (torch.float32, torch.int64)

    def test_has_no_derivative(self, backend):
        mask = torch.rand(1, 1, 3, 4, device=DEVICES[backend], requires_grad=True)
        assert not distance_transform_edt(mask).requires_grad
        result = library(backend).distance_transform(mask, [1.0, 1.0], BOTH, 0.0, torch.float32)
        with pytest.raises(RuntimeError, match="has no derivative; detach the mask"):
            result.sum().backward()
