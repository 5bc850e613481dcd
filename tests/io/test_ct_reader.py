from __future__ import annotations

import re
import warnings
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest

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
