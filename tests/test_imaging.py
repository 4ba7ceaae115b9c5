"""Image files: what is read is what the file says, and what cannot be believed is an error that names it."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from training_helpers import LAS_AFFINE, SHAPE, write_image

from geoloss_kernels.lesions.errors import InputError, InputWarning
from geoloss_kernels.lesions.imaging.grid import Grid, require_same_grid, shift_between
from geoloss_kernels.lesions.imaging.itk import from_sitk, to_sitk
from geoloss_kernels.lesions.imaging.reading import load_image, load_labels, load_mask, read_grid
from geoloss_kernels.lesions.imaging.writing import save_image

SHIFTED = LAS_AFFINE + np.array([[0, 0, 0, 6.0], [0, 0, 0, -4], [0, 0, 0, 0], [0, 0, 0, 0]])
VALUES = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)


def write_with(path: Path, change: Callable[[nib.Nifti1Header], None]) -> Path:
    """An image whose header is placed by the sform of LAS_AFFINE, and then changed: stored as it is, where
    nibabel would mend it."""
    content = write_image(path.with_name("whole.nii"), VALUES).read_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    header.set_sform(LAS_AFFINE, 1)
    header.set_qform(None, 0)
    change(header)
    content = header.binaryblock + content[348:]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def set_fields(**fields: object) -> Callable[[nib.Nifti1Header], None]:
    def change(header: nib.Nifti1Header) -> None:
        for name, value in fields.items():
            header[name] = value

    return change


def two_transforms(header: nib.Nifti1Header) -> None:
    header.set_sform(LAS_AFFINE, 2)
    header.set_qform(SHIFTED, 1)


def only_qform(header: nib.Nifti1Header) -> None:
    header.set_sform(None, 0)
    header.set_qform(SHIFTED, 1)


def neither(header: nib.Nifti1Header) -> None:
    header.set_sform(None, 0)
    header["pixdim"][1:4] = 1, 2, 3


class TestTransforms:
    def test_the_sform_counts_and_a_qform_elsewhere_is_told(self, tmp_path: Path) -> None:
        path = write_with(tmp_path / "a.nii.gz", two_transforms)
        for read in (read_grid, lambda path: load_image(path)[1]):
            with pytest.warns(
                InputWarning, match=r"a.nii.gz: sform and qform put its corners up to 7.21 mm apart"
            ):
                grid = read(path)
            assert np.array_equal(grid.affine, LAS_AFFINE)

    def test_the_qform_counts_where_it_is_alone(self, tmp_path: Path) -> None:
        grid = read_grid(write_with(tmp_path / "a.nii.gz", only_qform))
        np.testing.assert_allclose(grid.affine, SHIFTED, atol=1e-6)

    def test_voxel_sizes_count_where_there_is_no_transform(self, tmp_path: Path) -> None:
        path = write_with(tmp_path / "a.nii.gz", neither)
        assert np.array_equal(read_grid(path).affine, nib.Nifti1Image.from_filename(path).affine)
        assert read_grid(path).file_spacing == (1, 2, 3)

    def test_rounded_transforms_are_the_same(self, tmp_path: Path) -> None:
        """A quaternion in single precision turns an oblique image by some millionths."""
        oblique = np.eye(4)
        oblique[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([0.7, 0.7, 3])

        def both(header: nib.Nifti1Header) -> None:
            header.set_sform(oblique, 1)
            header.set_qform(oblique, 1)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_grid(write_with(tmp_path / "a.nii.gz", both))

    @pytest.mark.parametrize("change", [two_transforms, only_qform, neither])
    def test_what_is_written_has_both_transforms_of_its_file(
        self, tmp_path: Path, change: Callable[[nib.Nifti1Header], None]
    ) -> None:
        source = write_with(tmp_path / "in.nii.gz", change)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            _, grid = load_image(source)
        save_image(tmp_path / "out.nii.gz", np.zeros(SHAPE, np.uint8), grid)
        before, after = (
            nib.Nifti1Image.from_filename(tmp_path / name).header for name in ("in.nii.gz", "out.nii.gz")
        )
        for form in ("sform", "qform"):
            assert int(after[f"{form}_code"]) == int(before[f"{form}_code"])
            assert np.array_equal(getattr(after, f"get_{form}")(), getattr(before, f"get_{form}")())
        assert after.get_zooms() == before.get_zooms()
        assert after.get_data_dtype() == np.uint8

    def test_fields_that_mean_nothing_do_not_hurt(self, tmp_path: Path) -> None:
        path = write_with(
            tmp_path / "in.nii", set_fields(xyzt_units=4, pixdim=[1, np.nan, 0, -1, 1, 1, 1, 1])
        )
        save_image(tmp_path / "out.nii.gz", VALUES, load_image(path)[1])
        values, grid = load_image(tmp_path / "out.nii.gz")
        assert np.array_equal(values, VALUES)
        assert np.array_equal(grid.affine, LAS_AFFINE)
        assert nib.Nifti1Image.from_filename(tmp_path / "out.nii.gz").header.get_zooms() == (1, 1, 1.5)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"srow_x": 0, "srow_y": 0, "srow_z": 0},
                "sform: expected voxels of 0.001 to 1000 mm, got 0 x 0",
            ),
            ({"srow_x": [np.nan, 0, 0, 0]}, "sform: expected finite numbers, got NaN or infinity"),
            ({"srow_z": [0, 0, np.inf, 0]}, "sform: expected finite numbers"),
            (
                {"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0]},
                "sform: expected a matrix that can be inverted",
            ),
            ({"qform_code": 1, "quatern_b": 0.9, "quatern_c": 0.9, "quatern_d": 0.9}, "qform: w2 should be"),
            ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, "qform: "),
            (
                {"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 1, 1, 1, 1, 1, 1]},
                "qform: expected voxels",
            ),
            ({"sform_code": 0, "qform_code": 1, "pixdim": [1, -2, 1, 1, 1, 1, 1, 1]}, "qform: pixdims"),
            ({"sform_code": 0, "pixdim": [1, 1, np.nan, 1, 1, 1, 1, 1]}, "voxel sizes: "),
            ({"sform_code": 77}, "sform_code: expected 0 to 5, got 77"),
            ({"qform_code": -3}, "qform_code: expected 0 to 5, got -3"),
        ],
    )
    def test_transforms_that_place_nothing(
        self, tmp_path: Path, fields: dict[str, object], message: str
    ) -> None:
        path = write_with(tmp_path / "a.nii.gz", set_fields(**fields))
        for read in (read_grid, load_image):
            with pytest.raises(InputError, match=f"a.nii.gz: {message}"):
                read(path)

    def test_a_zero_for_the_handedness_is_a_one(self, tmp_path: Path) -> None:
        """As the format says, and many programs write."""
        turned = dict.fromkeys(("quatern_b", "quatern_c", "quatern_d"), 0)
        fields = {**turned, "sform_code": 0, "qform_code": 1, "pixdim": [0, 1, 2, 3, 1, 1, 1, 1]}
        path = write_with(tmp_path / "a.nii", set_fields(**fields))
        assert np.array_equal(read_grid(path).affine[:3, :3], np.diag([1, 2, 3]))
        assert np.array_equal(read_grid(path).affine, nib.Nifti1Image.from_filename(path).affine)


class TestGrids:
    @pytest.mark.parametrize(
        ("size", "count", "same"),
        [
            (1.0095, 256, False),
            (1.0005, 256, False),
            (1.0002, 256, True),
            (1.002, 40, True),
            (1.01, 40, False),
        ],
    )
    def test_what_counts_is_how_far_the_corners_are_apart(self, size: float, count: int, same: bool) -> None:
        shape = (count, 8, 8)
        grid, other = Grid(shape, np.eye(4)), Grid(shape, np.diag([size, 1, 1, 1]))
        millimetres, voxels = shift_between(shape, grid.affine, other.affine)
        assert (millimetres, voxels) == pytest.approx(((size - 1) * (count - 1),) * 2)
        if same:
            require_same_grid(other, Path("b"), grid, Path("a"))
        else:
            with pytest.raises(
                InputError, match=r"b: affine differs by up to .* mm from that of a: expected corners"
            ):
                require_same_grid(other, Path("b"), grid, Path("a"))

    def test_turning_counts_too(self) -> None:
        turned = np.eye(4)
        turned[:3, :3] = nib.eulerangles.euler2mat(np.radians(0.5), 0, 0)
        shape = (200, 200, 10)
        with pytest.raises(InputError, match=r"within 0\.1 voxels of each other, got 1\.7"):
            require_same_grid(Grid(shape, turned), Path("b"), Grid(shape, np.eye(4)), Path("a"))

    def test_thick_slices_are_wide_voxels(self) -> None:
        thick = np.diag([0.7, 0.7, 3, 1])
        moved = thick + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0.2], [0, 0, 0, 0]])
        require_same_grid(Grid(SHAPE, moved), Path("b"), Grid(SHAPE, thick), Path("a"))


class TestVoxels:
    def damaged(self, tmp_path: Path, name: str = "a.nii.gz") -> tuple[Path, bytearray]:
        path = write_image(tmp_path / name, VALUES)
        return path, bytearray(path.read_bytes())

    def test_a_flipped_byte_is_found_wherever_it_is(self, tmp_path: Path) -> None:
        path, content = self.damaged(tmp_path)
        for position in np.linspace(20, len(content) - 9, 25).astype(int):
            changed = bytearray(content)
            changed[position] ^= 0x55
            path.write_bytes(changed)
            with pytest.raises(
                InputError, match=r"a.nii.gz: (cannot read the voxels|not a readable NIfTI file): "
            ):
                load_image(path)

    @pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
    @pytest.mark.parametrize("share", [0.01, 0.3, 0.999])
    def test_a_file_that_is_cut_off(self, tmp_path: Path, name: str, share: float) -> None:
        path, content = self.damaged(tmp_path, name)
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=f"{name}: "):
            load_image(path)

    def test_missing_checksum(self, tmp_path: Path) -> None:
        path, content = self.damaged(tmp_path)
        path.write_bytes(content[:-8])
        with pytest.raises(InputError, match="cannot read the voxels: Compressed file ended"):
            load_image(path)

    def test_a_header_does_not_ask_for_memory_that_no_file_fills(self, tmp_path: Path) -> None:
        path, content = self.damaged(tmp_path, "a.nii")
        content[40:48] = np.array([3, 32000, 32000, 32000], "<i2").tobytes()
        path.write_bytes(content)
        with pytest.raises(
            InputError, match=r"a.nii: cannot read the voxels: expected 1310720\d+ bytes, got 54112"
        ):
            load_image(path)

    @pytest.mark.parametrize("byte_order", ["<", ">"])
    @pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
    def test_every_kind_of_nifti(self, tmp_path: Path, kind: type[nib.Nifti1Image], byte_order: str) -> None:
        header = kind.header_class(endianness=byte_order)
        nib.save(kind(VALUES.astype(f"{byte_order}f4"), LAS_AFFINE, header), tmp_path / "a.nii.gz")
        values, grid = load_image(tmp_path / "a.nii.gz")
        assert np.array_equal(values, VALUES)
        assert np.array_equal(grid.affine, LAS_AFFINE)

    def test_compression_is_seen_by_the_content(self, tmp_path: Path) -> None:
        compressed = write_image(tmp_path / "a.nii.gz", VALUES)
        (tmp_path / "b.nii").write_bytes(compressed.read_bytes())
        (tmp_path / "c.nii.gz").write_bytes(gzip.decompress(compressed.read_bytes()))
        for name in ("b.nii", "c.nii.gz"):
            assert np.array_equal(load_image(tmp_path / name)[0], VALUES)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (VALUES.astype(np.complex64), "expected a real number in each voxel, got complex64"),
            (np.zeros(SHAPE, [(colour, "u1") for colour in "RGB"]), "expected a real number .* got RGB"),
            (np.zeros((*SHAPE, 2), np.float32), r"expected a 3-D image, got shape \(24, 28, 20, 2\)"),
            (np.zeros(SHAPE[:2], np.float32), r"expected a 3-D image, got shape \(24, 28\)"),
            (np.full(SHAPE, 1e300), r"expected voxels that fit into single precision, got 1e\+300"),
            (np.full(SHAPE, -np.inf), "expected finite voxels, got NaN or infinity"),
        ],
    )  # fmt: skip
    def test_voxels_that_are_no_image(self, tmp_path: Path, values: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=f"a.nii.gz: {message}"):
            load_image(write_image(tmp_path / "a.nii.gz", values))

    def test_other_formats_and_no_files(self, tmp_path: Path) -> None:
        nib.save(nib.MGHImage(VALUES, LAS_AFFINE), tmp_path / "a.mgz")
        nib.save(nib.Nifti1Pair(VALUES, LAS_AFFINE), tmp_path / "a.img")
        (tmp_path / "empty.nii").touch()
        (tmp_path / "folder.nii").mkdir()
        for name in ("a.mgz", "a.img", "a.hdr", "empty.nii"):
            with pytest.raises(
                InputError, match=f"{name}: not a readable NIfTI file: expected .nii or .nii.gz"
            ):
                load_image(tmp_path / name)
        for name in ("folder.nii", "absent.nii"):
            with pytest.raises(InputError, match=f"{name}: no such file"):
                load_image(tmp_path / name)


class TestMasks:
    MASK = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3 == 0

    @pytest.mark.parametrize("one", [np.float32(0.99999994), np.float32(1.0000001), np.float64(1) - 1e-16])
    def test_ones_as_exact_as_their_type(self, tmp_path: Path, one: np.floating) -> None:
        path = write_image(tmp_path / "m.nii.gz", np.where(self.MASK, one, one.dtype.type(0)))
        assert np.array_equal(load_mask(path), self.MASK)

    @pytest.mark.parametrize(
        ("slope", "stored"), [(0.00392, 255), (1 / 256, 255), (1 / 32767, 32767), (0.05, 20), (0.3333, 3)]
    )
    def test_ones_as_exact_as_their_slope(self, tmp_path: Path, slope: float, stored: int) -> None:
        path = self.scaled(tmp_path, slope, stored)
        assert np.array_equal(load_mask(path), self.MASK)

    def test_steps_of_a_slope_are_told_apart(self, tmp_path: Path) -> None:
        path = self.scaled(tmp_path, 1 / 255, 250)
        with pytest.raises(InputError, match=r"expected a mask of 0 and 1, got values 0, 0.98039\d*; give"):
            load_mask(path)

    @pytest.mark.parametrize(
        ("values", "shown"),
        [(np.float32([0, 0.999999]), "0, 0.999999"), (np.float64([0, 0.99999994]), "0, 0.99999994"),
         (np.int16([0, 1, 2, 3, 4, 5, 6, 7]), "0, 1, 2, 3, 4, 5, ...")],
    )  # fmt: skip
    def test_digits_enough_to_see_what_is_wrong(self, tmp_path: Path, values: np.ndarray, shown: str) -> None:
        path = write_image(tmp_path / "m.nii.gz", np.resize(values, SHAPE))
        with pytest.raises(InputError, match=f"got values {shown}; give lesion_label"):
            load_mask(path)

    def test_labels_of_large_integers_are_not_rounded(self, tmp_path: Path) -> None:
        labels = np.where(self.MASK, 2**24 + 1, 2**24).astype(np.int32)
        path = write_image(tmp_path / "m.nii.gz", labels)
        assert np.array_equal(load_mask(path, lesion_label=2**24 + 1), self.MASK)

    def test_labels_keep_their_values(self, tmp_path: Path) -> None:
        grid = Grid(SHAPE, LAS_AFFINE)
        path = write_image(tmp_path / "m.nii.gz", 300 * self.MASK.astype(np.float32))
        labels = load_labels(path, like=(grid, path))
        assert labels.dtype == np.int16
        assert np.array_equal(labels, 300 * self.MASK)
        huge = write_image(path, 1e30 * self.MASK)
        with pytest.raises(
            InputError, match=r"m.nii.gz: expected labels that fit into 64 bits, got 0 to 1000"
        ):
            load_labels(huge, like=(grid, path))
        with pytest.raises(InputError, match=r"m.nii.gz: expected whole numbers as labels, got 0.5"):
            load_labels(write_image(path, 0.5 * self.MASK.astype(np.float32)), like=(grid, path))

    def scaled(self, tmp_path: Path, slope: float, stored: int) -> Path:
        """A mask of 0 and ``stored``, times ``slope``."""
        path = write_image(tmp_path / "m.nii", (stored * self.MASK).astype(np.int16))
        content = bytearray(path.read_bytes())
        content[112:120] = np.array([slope, 0], "<f4").tobytes()
        path.write_bytes(content)
        assert np.asarray(nib.Nifti1Image.from_filename(path).dataobj).max() == pytest.approx(
            slope * stored, rel=1e-6
        )
        return path


def test_itk_gets_the_same_place(tmp_path: Path) -> None:
    """What nibabel and SimpleITK read of one file is in one place."""
    oblique = np.eye(4)
    oblique[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([0.7, 0.7, 3])
    oblique[:3, 3] = 5, -7, 11
    values, grid = load_image(write_image(tmp_path / "a.nii.gz", VALUES, oblique))
    ours, theirs = to_sitk(values, grid.affine), sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    index = (3, 5, 7)
    assert ours.TransformIndexToPhysicalPoint(index) == pytest.approx(
        theirs.TransformIndexToPhysicalPoint(index), abs=1e-4
    )
    assert np.array_equal(from_sitk(ours), from_sitk(theirs))
