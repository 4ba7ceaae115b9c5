"""Registration and bias correction of a synthetic head whose position and bias field are known."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from training_helpers import write_image

from geoloss_kernels.lesions.cli import main
from geoloss_kernels.lesions.errors import InputError, InputWarning
from geoloss_kernels.lesions.imaging.bias_field import correct_bias
from geoloss_kernels.lesions.imaging.itk import from_sitk, to_sitk
from geoloss_kernels.lesions.imaging.registration import register_rigidly
from geoloss_kernels.lesions.imaging.resampling import resample
from geoloss_kernels.lesions.preprocessing.preprocessing import (
    PreprocessingOptions,
    correct_subject,
    preprocess,
)
from geoloss_kernels.lesions.subjects.subject import Subject

SIZE = (64, 72, 40)
SPACING = (2.0, 2.0, 3.0)
CENTRE = (64.0, 72.0, 60.0)
BRAIN_AFFINE = np.array([[1.0, 0, 0, -20], [0, 1, 0, -22], [0, 0, 1.5, -21], [0, 0, 0, 1]])
TISSUES = {"flair": (40.0, 90.0, 160.0), "t1": (130.0, 60.0, 20.0)}


def head(contrast: str) -> sitk.Image:
    """An ellipsoid with two inner structures, each of its own intensity, blurred by half a voxel."""
    z, y, x = (
        (index * size - middle)
        for index, size, middle in zip(np.indices(SIZE[::-1]), SPACING[::-1], CENTRE[::-1], strict=True)
    )
    outer, inner, lesion = TISSUES[contrast]
    volume = outer * ((x / 44) ** 2 + (y / 54) ** 2 + (z / 44) ** 2 < 1)
    volume[((x - 12) / 16) ** 2 + ((y + 10) / 26) ** 2 + ((z - 6) / 18) ** 2 < 1] = inner
    volume[((x + 16) / 9) ** 2 + ((y - 18) / 11) ** 2 + ((z + 9) / 12) ** 2 < 1] = lesion
    volume += np.random.default_rng(0).normal(0, 1, volume.shape)
    image = sitk.GetImageFromArray(volume.astype(np.float32))
    image.SetSpacing(SPACING)
    return sitk.DiscreteGaussian(image, 1.0)


def motion() -> sitk.Euler3DTransform:
    """From points of the fixed head to points of the moved one."""
    return sitk.Euler3DTransform(CENTRE, 0.06, -0.04, 0.08, (4.0, -3.0, 2.0))


def moved(image: sitk.Image) -> sitk.Image:
    return sitk.Resample(image, image, motion().GetInverse(), sitk.sitkLinear, 0.0)


def error(found: sitk.Transform) -> float:
    """Largest distance in mm between where ``found`` and the true motion take points of the head."""
    offsets = np.random.default_rng(0).uniform(-1, 1, (200, 3)) * (44, 54, 44)
    points = [CENTRE + offset for offset in offsets if np.linalg.norm(offset / (44, 54, 44)) < 1]
    pairs = [(found.TransformPoint(point), motion().TransformPoint(point)) for point in points]
    return max(float(np.linalg.norm(np.subtract(*pair))) for pair in pairs)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("raw") / "anna"
    folder.mkdir()
    flair = head("flair")
    images = {"flair": flair, "t1": moved(head("t1"))}
    for name, image in images.items():
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    sitk.WriteImage(sitk.Cast(flair > 130, sitk.sitkUInt8), str(folder / "mask.nii.gz"))
    return Subject(
        "anna", {name: folder / f"{name}.nii.gz" for name in images}, folder / "mask.nii.gz", "test"
    )


def test_registration_finds_the_motion() -> None:
    found = register_rigidly(head("flair"), moved(head("t1")))
    assert error(sitk.Euler3DTransform(CENTRE)) > 6
    assert error(found) < 1.0  # half a voxel


def test_registration_is_deterministic() -> None:
    first, second = (register_rigidly(head("flair"), moved(head("t1"))).GetParameters() for _ in range(2))
    assert first == second


def test_bias_field_is_removed() -> None:
    flair = head("flair")
    inside = sitk.GetArrayFromImage(flair) > 20
    x = np.indices(SIZE[::-1])[2] / SIZE[0]
    field = sitk.GetImageFromArray(np.exp(0.6 * (x - 0.5)).astype(np.float32))
    field.CopyInformation(flair)

    def unevenness(image: sitk.Image) -> float:
        ratio = sitk.GetArrayFromImage(image)[inside] / sitk.GetArrayFromImage(flair)[inside]
        return float(ratio.std() / ratio.mean())

    assert unevenness(correct_bias(flair * field)) < 0.4 * unevenness(flair * field)


def test_a_subject_is_corrected_on_its_own_grids(subject: Subject, tmp_path: Path) -> None:
    done = correct_subject(subject, ("t1",), tmp_path)
    original, corrected = (
        sitk.ReadImage(str(each.images["t1"]), sitk.sitkFloat32) for each in (subject, done)
    )
    assert list(done.images) == ["t1"]
    assert done.mask == subject.mask
    assert corrected.GetDirection() == pytest.approx(original.GetDirection())
    assert corrected.GetOrigin() == pytest.approx(original.GetOrigin())
    expected = sitk.GetArrayFromImage(correct_bias(original))
    np.testing.assert_allclose(sitk.GetArrayFromImage(corrected), expected, rtol=2e-7)


def test_images_come_to_lie_on_the_reference(subject: Subject, tmp_path: Path) -> None:
    lines: list[str] = []
    (done,) = preprocess([subject], tmp_path, PreprocessingOptions(correct_bias=False), lines.append)
    assert done.split == "test"
    assert len(lines) == 1
    assert lines[0].startswith("anna: t1 is turned by")
    expected = sitk.GetArrayFromImage(head("t1"))
    for name, path in done.images.items():
        image = sitk.ReadImage(str(path))
        assert image.GetSize() == SIZE
        assert image.GetSpacing() == pytest.approx(SPACING)
        if name == "t1":
            assert np.corrcoef(sitk.GetArrayFromImage(image).ravel(), expected.ravel())[0, 1] > 0.98
    assert done.mask is not None
    assert subject.mask is not None
    masks = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (done.mask, subject.mask))
    assert np.array_equal(*masks)


def test_command(subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(subject.images["flair"].parents[1])
    arguments = ["--modalities", "t1", "flair", "--out", str(tmp_path / "out")]
    assert main(["preprocess", source, *arguments]) == 0
    assert main(["scan", str(tmp_path / "out" / "subjects.csv"), "--modalities", "t1", "flair"]) == 0
    assert "anna" in capsys.readouterr().out


def test_reference_has_to_be_there(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="anna: expected an image pd, to register the others to"):
        preprocess([subject], tmp_path, PreprocessingOptions(reference="pd"))


def test_file_that_is_no_image(subject: Subject, tmp_path: Path) -> None:
    broken = tmp_path / "t1.nii.gz"
    broken.write_text("no image")
    with pytest.raises(InputError, match=r"t1\.nii\.gz: not a readable NIfTI file"):
        preprocess([Subject("bea", {**subject.images, "t1": broken})], tmp_path)


def brain_in_zeros(folder: Path, affine: np.ndarray = BRAIN_AFFINE) -> Subject:
    """A textured brain of positive, or for the T2 negative, values in a background of zeros, and a lesion."""
    x, y, z = np.indices((40, 44, 28)) - np.array([20, 22, 14])[:, None, None, None]
    brain = x**2 + y**2 + 2 * z**2 < 170
    images = {}
    for phase, name in enumerate(("t1", "t2", "flair")):
        texture = 300 + 50 * np.cos(x / 3 + phase) * np.cos(y / 4) * np.sin(z / 3)
        values = (texture if name != "t2" else -texture) * brain
        images[name] = write_image(folder / f"{name}.nii.gz", values.astype(np.float32), affine)
    lesion = np.zeros(brain.shape, np.uint8)
    lesion[17:22, 20:25, 12:16] = 1
    return Subject(folder.name, images, write_image(folder / "mask.nii.gz", lesion, affine))


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


def test_background_stays_background(tmp_path: Path) -> None:
    subject = brain_in_zeros(tmp_path / "raw")
    (done,) = preprocess([subject], tmp_path / "out", PreprocessingOptions(correct_bias=False), str)
    for name, path in subject.images.items():
        before, after = values_of(path), values_of(done.images[name])
        moved = (before != 0) ^ (after != 0)
        assert moved.mean() < 0.01  # the registration's share of a voxel, at the brain's surface
        assert (after[after != 0] > 0).all() == (name != "t2")
        inside = before[before != 0]
        assert inside.min() <= after[after != 0].min()
        assert after[after != 0].max() <= inside.max()


def test_resampling_by_known_steps() -> None:
    """Half a voxel and two voxels further, what is background is told by itself."""
    values = np.zeros((12, 10, 10), np.float32)
    values[4:8, 3:7, 3:7] = 100
    image = to_sitk(values, np.eye(4))
    shifts = {2.0: (6, 10), 0.4: (4, 8)}
    for shift, (first, end) in shifts.items():
        transform = sitk.TranslationTransform(3, (shift, 0.0, 0.0))  # LPS: towards smaller indices in x
        found = from_sitk(resample(image, image, transform))
        assert np.array_equal(np.flatnonzero(found.any((1, 2))), np.arange(first, end))
        assert set(np.unique(found)) <= {0, 100}
    assert not from_sitk(resample(image, image, sitk.TranslationTransform(3, (50.0, 0.0, 0.0)))).any()


def test_the_mask_stays_on_its_voxels_whatever_the_qforms_say(tmp_path: Path) -> None:
    subject = brain_in_zeros(tmp_path / "raw")
    shifted = BRAIN_AFFINE.copy()
    shifted[:2, 3] += 6, -4
    for path in (*subject.images.values(), subject.mask):
        assert path is not None
        image = nib.Nifti1Image(values_of(path), BRAIN_AFFINE)
        image.set_sform(BRAIN_AFFINE, 2)
        image.set_qform(None if path == subject.mask else shifted, 0 if path == subject.mask else 1)
        nib.save(image, path)
    with pytest.warns(
        InputWarning, match=r"flair.nii.gz: sform and qform put its corners up to 7.21 mm apart"
    ):
        (done,) = preprocess([subject], tmp_path / "out", PreprocessingOptions(correct_bias=False), str)
    assert done.mask is not None
    assert subject.mask is not None
    assert np.array_equal(values_of(done.mask), values_of(subject.mask))
    header = nib.Nifti1Image.from_filename(done.mask).header
    assert np.array_equal(header.get_sform(), BRAIN_AFFINE)
    np.testing.assert_allclose(header.get_qform(), shifted, atol=1e-6)


def test_labels_of_a_mask_are_kept(tmp_path: Path) -> None:
    subject = brain_in_zeros(tmp_path / "raw")
    assert subject.mask is not None
    write_image(subject.mask, 300 * values_of(subject.mask).astype(np.float32), BRAIN_AFFINE)
    (done,) = preprocess([subject], tmp_path / "out", PreprocessingOptions(correct_bias=False), str)
    assert done.mask is not None
    assert sorted(np.unique(values_of(done.mask))) == [0, 300]


@pytest.mark.parametrize("kind", ["mask elsewhere", "cut off", "zeros", "far apart"])
def test_nothing_is_written_of_what_does_not_fit(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = brain_in_zeros(tmp_path / "raw" / "anna")
    flair, t1 = subject.images["flair"], subject.images["t1"]
    assert subject.mask is not None
    if kind == "mask elsewhere":
        write_image(subject.mask, values_of(subject.mask), np.eye(4))
    elif kind == "cut off":
        flair.write_bytes(flair.read_bytes()[: flair.stat().st_size // 2])
    elif kind == "zeros":
        write_image(t1, 0 * values_of(t1), BRAIN_AFFINE)
    else:
        away = BRAIN_AFFINE.copy()
        away[:3, 3] += 5000
        write_image(t1, values_of(t1), away)
    named = {"mask elsewhere": "mask", "cut off": "flair"}.get(kind, "t1")
    arguments = ["--out", str(tmp_path / "out"), "--no-bias-correction"]
    assert main(["preprocess", str(tmp_path / "raw"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"geoloss: error: {tmp_path / 'raw' / 'anna' / named}.nii.gz: ")
    assert not (tmp_path / "out").exists()
