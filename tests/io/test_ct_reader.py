from __future__ import annotations

import re
import warnings
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from scripts import InputError, LoadCTd

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0]) + np.array([[0, 0, 0, -7.0], [0, 0, 0, 5.0], [0, 0, 0, 90.0], [0] * 4])


def hu(*shape: int) -> np.ndarray:
    return np.linspace(-1000, 1500, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def by_itk(path: Path, array: np.ndarray) -> Path:
    """The grid of `AFFINE`, which ITK writes in LPS."""
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing([2.0, 3.0, 4.0])
    image.SetOrigin([7.0, -5.0, 90.0])
    image.SetDirection(np.diag([-1.0, -1.0, 1.0]))
    itk.imwrite(image, str(path))
    return path


def load(path: Path):
    return LoadCTd("thorax")({"thorax": str(path)})["thorax"]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "'thorax'" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_every_format_gives_the_same_values_at_the_same_place(tmp_path: Path, name: str):
    array = hu(5, 6, 7)
    ct = load(nifti(tmp_path / name, array) if "nii" in name.lower() else by_itk(tmp_path / name, array))
    np.testing.assert_allclose(ct[0].numpy(), array)
    np.testing.assert_allclose(ct.affine.numpy(), AFFINE, atol=1e-5)


@pytest.mark.parametrize("name", ["a.npy", "a.png", "a.dcm", "a"])
def test_what_has_no_place_in_space_by_its_format_is_no_ct(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"anything")
    assert "expected the folder of a DICOM series or a file .nii, .nii.gz, .nrrd" in refusal(tmp_path / name)


@pytest.mark.parametrize(("shear", "angle"), [(0.1, 84.3), (-0.5, 63.4)])
def test_a_sheared_grid_is_refused_with_its_angle(tmp_path: Path, shear: float, angle: float):
    affine = AFFINE.copy()
    affine[1, 2] = 4 * shear
    assert f"axes meet at {angle} degrees, expected 90" in refusal(nifti(tmp_path / "a.nii", hu(4, 5, 6), affine))


def test_a_turned_grid_is_no_sheared_one(tmp_path: Path):
    turn = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert load(nifti(tmp_path / "a.nii", hu(4, 5, 6), turn @ AFFINE)).shape == (1, 4, 5, 6)


@pytest.mark.parametrize("row", [[0, 0, 0], [np.nan, 0, 4], [np.inf, 0, 4]])
def test_a_nifti_whose_voxels_have_no_sides_is_refused(tmp_path: Path, row: list[float]):
    """The sform's last row, spoilt in the header's bytes."""
    path = nifti(tmp_path / "a.nii", hu(4, 5, 6))
    header = bytearray(path.read_bytes())
    header[312:324] = np.asarray(row, "<f4").tobytes()
    path.write_bytes(header)
    assert "expected finite lengths above 0" in refusal(path)


@pytest.mark.parametrize("spacing", ["2 3 0", "2 3 nan"])
def test_a_meta_image_whose_voxels_have_no_sides_is_refused(tmp_path: Path, spacing: str):
    path = by_itk(tmp_path / "a.mhd", hu(4, 5, 6))
    path.write_text(re.sub("ElementSpacing = .*", f"ElementSpacing = {spacing}", path.read_text()))
    refusal(path)


def test_itk_takes_a_negative_spacing_as_an_axis_that_runs_the_other_way(tmp_path: Path):
    path = by_itk(tmp_path / "a.mhd", hu(4, 5, 6))
    path.write_text(re.sub("ElementSpacing = .*", "ElementSpacing = 2 3 -4", path.read_text()))
    np.testing.assert_allclose(load(path).affine.numpy()[2], [0, 0, -4, 90], atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 5, 1), (1, 5, 6), (4, 1, 6)])
def test_a_single_slice_is_no_volume(tmp_path: Path, shape: tuple):
    assert "expected at least 2 slices along each axis" in refusal(nifti(tmp_path / "a.nii", hu(*shape)))


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_a_nifti_needs_one_orientation(tmp_path: Path, form: str):
    image = nibabel.Nifti1Image(hu(4, 5, 6), AFFINE)
    image.set_sform(AFFINE, code=1 if form == "sform" else 0)
    image.set_qform(AFFINE, code=1 if form == "qform" else 0)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(load(tmp_path / "a.nii").affine.numpy(), AFFINE, atol=1e-5)
    image.set_sform(AFFINE, code=0)
    image.set_qform(AFFINE, code=0)
    nibabel.save(image, tmp_path / "b.nii")
    assert "sform_code 0 and qform_code 0" in refusal(tmp_path / "b.nii")


def test_stored_values_without_their_rescale_are_refused(tmp_path: Path):
    message = refusal(nifti(tmp_path / "a.nii", hu(4, 5, 6) + 1000))
    assert "values from 0 to 2500, expected HU" in message
    assert "rescale slope and intercept" in message


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-199, 3000)])
def test_a_volume_without_air_is_named_in_a_warning(tmp_path: Path, low: float, high: float):
    path = nifti(tmp_path / "a.nii", np.linspace(low, high, 120, dtype=np.float32).reshape(4, 5, 6))
    with pytest.warns(UserWarning, match=f"values from {low} to {high}: no air") as caught:
        load(path)
    assert any(str(path) in str(warning.message) for warning in caught)


def test_a_volume_with_air_and_metal_passes_without_a_warning(tmp_path: Path):
    path = nifti(tmp_path / "a.nii", hu(4, 5, 6) * 10)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no air")
        load(path)


@pytest.mark.parametrize(
    "damage", [(b"\n\n", b"\x86\n"), (b"NRRD", b"NRID"), (b"\n\n", b"\n")], ids=["byte", "magic", "end"]
)
def test_a_damaged_nrrd_header_never_reaches_itk(tmp_path: Path, damage: tuple[bytes, bytes]):
    path = by_itk(tmp_path / "a.nrrd", hu(4, 5, 6))
    path.write_bytes(path.read_bytes().replace(*damage, 1))
    assert "damaged header" in refusal(path)


# What headers declare


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("mm", 1.0), ("micron", 0.001), ("unknown", 1.0)])
def test_a_nifti_lies_where_simpleitk_puts_it_in_any_unit(tmp_path: Path, unit: str, mm: float):
    affine = np.diag([1 / mm, 1 / mm, 1 / mm, 1.0]) @ AFFINE
    image = nibabel.Nifti1Image(hu(5, 6, 7), affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    found, expected = load(tmp_path / "a.nii").affine.numpy(), sitk.ReadImage(str(tmp_path / "a.nii"))
    np.testing.assert_allclose(found, AFFINE, rtol=1e-5)
    np.testing.assert_allclose(np.diag(found)[:3], expected.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(found[:3, 3] * [-1, -1, 1], expected.GetOrigin(), rtol=1e-5)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_a_nifti_of_either_byte_order_is_read(tmp_path: Path, byte_order: str):
    array = hu(5, 6, 7).astype(f"{byte_order}i2")
    header = nibabel.Nifti1Header(endianness=byte_order)
    header.set_data_dtype(array.dtype)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE, header), tmp_path / "a.nii")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii"))).T
    np.testing.assert_array_equal(load(tmp_path / "a.nii")[0].numpy(), expected)


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_that_says_nothing_leaves_the_values_as_they_are(tmp_path: Path, slope: float):
    """NIfTI-1: of scl_slope 0 the values are not scaled; nibabel writes NaN for the same."""
    path = nifti(tmp_path / "a.nii", hu(5, 6, 7).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[112:120] = np.asarray([slope, 77.0], "<f4").tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(load(path)[0].numpy(), hu(5, 6, 7).astype(np.int16))


TURN = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("qform", "codes", "told"),
    [
        (np.diag([-1.0, 1, 1, 1]) @ AFFINE, (1, 1), "one of them mirrored"),
        (np.diag([1.0, -1, 1, 1]) @ AFFINE, (2, 1), "one of them mirrored"),
        (TURN @ AFFINE, (1, 1), "its sform and its qform, codes 1 and 1, put voxels up to"),
        (TURN @ AFFINE, (4, 1), None),  # in two spaces, of which one is an atlas
        (AFFINE, (1, 1), None),
    ],
)
def test_a_nifti_that_lies_in_two_places_is_refused(tmp_path: Path, qform: np.ndarray, codes: tuple, told: str | None):
    image = nibabel.Nifti1Image(hu(5, 6, 7), AFFINE)
    image.set_sform(AFFINE, codes[0])
    image.set_qform(qform, codes[1])
    nibabel.save(image, tmp_path / "a.nii")
    if told is None:
        np.testing.assert_allclose(load(tmp_path / "a.nii").affine.numpy(), AFFINE, atol=1e-5)
    else:
        assert told in refusal(tmp_path / "a.nii")


def test_a_nifti_whose_voxels_have_two_sizes_is_refused(tmp_path: Path):
    path = nifti(tmp_path / "a.nii", hu(5, 6, 7))
    content = bytearray(path.read_bytes())
    content[80:92] = np.asarray([1, 1, 1], "<f4").tobytes()
    path.write_bytes(content)
    assert "by its sform voxels are of 2 x 3 x 4, by its pixdim of 1 x 1 x 1" in refusal(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mhd", "a.mha"])
def test_a_pointer_in_the_place_of_a_ct_is_called_so(tmp_path: Path, name: str):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert f"'{name}' is a pointer of Git LFS and not the file itself; fetch it by `git lfs pull`" in refusal(
        tmp_path / name
    )


def test_a_pointer_in_the_place_of_the_voxels_is_called_so(tmp_path: Path):
    path = by_itk(tmp_path / "a.mhd", hu(5, 6, 7))
    path.with_suffix(".raw").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "'a.raw' is a pointer of Git LFS" in refusal(path)
