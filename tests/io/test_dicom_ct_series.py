from __future__ import annotations

from collections.abc import Callable
from math import cos, radians, sin
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Orientationd, Spacing
from pydicom import Dataset, dcmread
from pydicom.uid import LegacyConvertedEnhancedCTImageStorage, RLELossless, generate_uid

from ct_series_files import INTERCEPT, SHAPE, SPACING, ras_affine, stored_values, write_series
from scripts import InputError, LoadCTd, ResampleToCubed

AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
PRONE, TURNED = (1, 0, 0, 0, -1, 0), (cos(0.2), sin(0.2), 0, -sin(0.2), cos(0.2), 0)


def load(folder: Path):
    return LoadCTd("thorax")({"thorax": str(folder)})["thorax"]


def points_by_headers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """LPS positions in mm of the pixels of a slice, `(N, 3)`, and their HU: DICOM PS3.3 C.7.6.2.1.1 and C.11.1."""
    image = dcmread(path)
    rows, columns = (axis.ravel() for axis in np.indices(image.pixel_array.shape))
    along_row, along_column = np.reshape(np.asarray(image.ImageOrientationPatient, float), (2, 3))
    rows_mm, columns_mm = image.PixelSpacing
    offsets = np.outer(columns * columns_mm, along_row) + np.outer(rows * rows_mm, along_column)
    hu = image.pixel_array.ravel() * float(image.RescaleSlope) + float(image.RescaleIntercept)
    return np.asarray(image.ImagePositionPatient, float) + offsets, hu


def points_by_simpleitk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The same by SimpleITK, of one slice alone, so that no step between slices has a part in it."""
    simpleitk = pytest.importorskip("SimpleITK")
    image = simpleitk.ReadImage(str(path))
    hu = simpleitk.GetArrayFromImage(image)[0]
    rows, columns = (axis.ravel().tolist() for axis in np.indices(hu.shape))
    return np.array([image.TransformIndexToPhysicalPoint((c, r, 0)) for r, c in zip(rows, columns)]), hu.ravel()


def assert_every_pixel_is_in_its_place(ct, folder: Path, points_of: Callable = points_by_headers) -> None:
    """Each pixel of each file has its HU at its position, and the CT has no other voxels."""
    points, hu = (np.concatenate(parts) for parts in zip(*map(points_of, sorted(folder.iterdir()))))
    to_voxels = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ ct.affine.numpy())
    voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    np.testing.assert_allclose(voxels, np.round(voxels), atol=1e-4)
    voxels = np.round(voxels).astype(int)
    assert len({tuple(voxel) for voxel in voxels.tolist()}) == len(voxels) == ct.numel()
    np.testing.assert_array_equal(ct[0].numpy()[tuple(voxels.T)], hu)


SPACINGS = {"none": None, "true": 5, "negative": -5, "wrong": 10, "wrong and negative": -1.5, "zero": 0}
"""Spacing Between Slices (0018,0088) of slices 5 mm apart."""


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, PRONE, TURNED])
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS.keys())
def test_every_voxel_is_where_image_position_and_orientation_put_it(tmp_path: Path, spacing, orientation):
    def spoil(image: Dataset, index: int) -> None:
        image.InstanceNumber = 9 - index
        if spacing is not None:
            image.SpacingBetweenSlices = spacing

    folder = write_series(tmp_path / "series", spoil, orientation, origin=(-30.0, 12.5, 140.0), name="zxwy".__getitem__)
    ct = load(folder)
    assert_every_pixel_is_in_its_place(ct, folder)
    if spacing != 0:  # SimpleITK does not read such a slice
        assert_every_pixel_is_in_its_place(ct, folder, points_by_simpleitk)


def test_a_table_that_drifts_sideways_takes_the_step_with_it(tmp_path: Path):
    """Half a degree of tilt is let through; the last slice lies where its header says, not straight above the first."""
    folder = write_series(tmp_path / "series", tilted(0.4))
    assert_every_pixel_is_in_its_place(load(folder), folder)


def test_slices_of_another_sop_class_lie_where_their_headers_say(tmp_path: Path):
    """ITK looks for the position of these in sequences that they lack, and puts all of them at one place."""

    def spoil(image: Dataset, index: int) -> None:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = LegacyConvertedEnhancedCTImageStorage

    folder = write_series(tmp_path / "series", spoil, origin=(-30.0, 12.5, 140.0))
    assert_every_pixel_is_in_its_place(load(folder), folder)


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, TURNED, SAGITTAL])
def test_a_series_is_read_in_hu_at_its_place(tmp_path: Path, orientation: tuple):
    place = {"orientation": orientation, "origin": (-30.0, 12.5, 140.0)}
    ct = load(write_series(tmp_path / "series", **place))
    np.testing.assert_array_equal(ct[0].numpy(), stored_values() + INTERCEPT)
    np.testing.assert_allclose(ct.affine.numpy(), ras_affine(**place), atol=1e-5)


def test_a_series_has_three_axes_for_monai_as_a_file_has(tmp_path: Path):
    folder = write_series(tmp_path / "series")
    ct = load(folder)
    nibabel.save(nibabel.Nifti1Image(ct[0].numpy(), ct.affine.numpy()), tmp_path / "ct.nii.gz")
    of_file = load(tmp_path / "ct.nii.gz")
    assert ct.pixdim.tolist() == of_file.pixdim.tolist() == list(SPACING)
    resample = Spacing((1.5, 1.5, 2.5))
    torch.testing.assert_close(resample(ct).as_tensor(), resample(of_file).as_tensor())


@pytest.mark.parametrize("name", [lambda i: "zyxw"[i], lambda i: f"IM{7 * i % 4}", lambda i: f"{10 ** (3 - i)}.ima"])
def test_names_and_their_order_do_not_matter(tmp_path: Path, name: Callable[[int], str]):
    ct = load(write_series(tmp_path / "series", name=name))
    np.testing.assert_array_equal(ct[0].numpy(), stored_values() + INTERCEPT)
    np.testing.assert_allclose(ct.affine.numpy(), ras_affine())


def test_the_place_and_not_the_instance_number_orders_the_slices(tmp_path: Path):
    ct = load(write_series(tmp_path / "series", lambda image, index: setattr(image, "InstanceNumber", 9 - index)))
    np.testing.assert_array_equal(ct[0].numpy(), stored_values() + INTERCEPT)


def test_each_slice_has_its_own_rescale(tmp_path: Path):
    ct = load(write_series(tmp_path / "series", lambda image, index: setattr(image, "RescaleIntercept", -index)))
    np.testing.assert_array_equal(ct[0].numpy(), stored_values() - np.arange(SHAPE[2]))


def test_a_fraction_in_the_rescale_of_a_later_slice_is_kept(tmp_path: Path):
    ct = load(write_series(tmp_path / "series", lambda image, index: setattr(image, "RescaleSlope", 1 - index / 4)))
    np.testing.assert_array_equal(ct[0].numpy(), stored_values() * (1 - np.arange(SHAPE[2]) / 4) + INTERCEPT)


def test_hidden_files_and_folders_are_left_out(tmp_path: Path):
    folder = write_series(tmp_path / "series")
    (folder / ".DS_Store").write_text("no slice")
    (folder / "other").mkdir()
    assert load(folder).shape == (1, *SHAPE)


def test_positions_rounded_to_a_tenth_are_no_gap_and_the_spacing_is_their_mean(tmp_path: Path):
    def rounded(image: Dataset, index: int) -> None:
        image.ImagePositionPatient = [0, 0, round(0.67 * index, 1)]

    ct = load(write_series(tmp_path / "series", rounded, shape=(6, 5, 11)))
    assert ct.affine[2, 2].item() == pytest.approx(0.67, rel=1e-6)


@pytest.mark.parametrize("orientation", [CORONAL, TURNED])
def test_a_series_and_its_nifti_give_the_same_cube(tmp_path: Path, orientation: tuple):
    """Finer than the cube along two axes, and smaller than it: averaged, with air around."""
    place = {"orientation": orientation, "spacing": (2.0, 2.0, 9.0), "origin": (-30.0, 12.5, 140.0)}
    write_series(tmp_path / "series", **place, shape=(40, 30, 8))
    hu = (stored_values((40, 30, 8)) + INTERCEPT).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, ras_affine(**place)), tmp_path / "ct.nii")
    to_cube = Compose([LoadCTd("ct"), Orientationd("ct", "RAS", labels=None), ResampleToCubed("ct", 24, 144.0)])
    with pytest.warns(UserWarning, match="of the cube"):
        series, volume = (to_cube({"ct": str(tmp_path / name)})["ct"] for name in ("series", "ct.nii"))
    torch.testing.assert_close(series.as_tensor(), volume.as_tensor(), rtol=0, atol=0.1)
    assert series.std() > 50 and series[0, 0, 0, 0] == -1000


def at(index: int, **values) -> Callable[[Dataset, int], None]:
    """Changes one slice."""

    def spoil(image: Dataset, current: int) -> None:
        for keyword, value in values.items() if current == index else ():
            setattr(image, keyword, value)

    return spoil


def without(keyword: str) -> Callable[[Dataset, int], None]:
    return lambda image, index: delattr(image, keyword)


def every(**values) -> Callable[[Dataset, int], None]:
    return lambda image, index: [setattr(image, keyword, value) for keyword, value in values.items()]


def tilted(degrees: float) -> Callable[[Dataset, int], None]:
    """Slices upright, the table moving askew."""
    return every_at(lambda index: [0, 5 * index * sin(radians(degrees)), 5 * index * cos(radians(degrees))])


def every_at(place: Callable[[int], list]) -> Callable[[Dataset, int], None]:
    return lambda image, index: setattr(image, "ImagePositionPatient", [f"{number:.6f}" for number in place(index)])


def two_series(image: Dataset, index: int) -> None:
    image.SeriesInstanceUID, image.SeriesDescription = ("1.2.3", "lung") if index < 3 else ("1.2.4", "scout")


def gap_and_acquisitions(slices: int) -> Callable[[Dataset, int], None]:
    """A slice is missing after the second; each acquisition has so many, as of a scanner that steps and shoots."""

    def spoil(image: Dataset, index: int) -> None:
        image.ImagePositionPatient, image.AcquisitionNumber = [0, 0, 5 * (index + (index > 1))], index // slices

    return spoil


SPOILT: dict[str, tuple[Callable[[Dataset, int], None], list[str]]] = {
    "two series": (
        two_series,
        ["several series", "1.2.3 (lung): 3 files", "1.2.4 (scout): 1 file", "folder of its own"],
    ),
    "a UID for each slice": (lambda image, i: setattr(image, "SeriesInstanceUID", generate_uid()), ["several series"]),
    "MR": (every(Modality="MR"), ["0.dcm", "Modality is 'MR'", "expected 'CT'"]),
    "no modality": (without("Modality"), ["Modality is None"]),
    "frames": (every(NumberOfFrames=3), ["0.dcm", "holds 3 frames"]),
    "not HU": (every(RescaleType="US"), ["RescaleType is 'US'", "expected 'HU'"]),
    "no intercept": (without("RescaleIntercept"), ["0.dcm", "RescaleIntercept is missing"]),
    "no slope": (without("RescaleSlope"), ["RescaleSlope is missing"]),
    "slope 0": (at(2, RescaleSlope=0), ["2.dcm", "RescaleSlope is 0"]),
    "no position": (without("ImagePositionPatient"), ["ImagePositionPatient is missing", "3 finite"]),
    "no orientation": (without("ImageOrientationPatient"), ["ImageOrientationPatient is missing", "6 finite"]),
    "half an orientation": (at(1, ImageOrientationPatient=[1, 0, 0]), ["1.dcm", "ImageOrientationPatient is [1"]),
    "no unit vectors": (every(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), ["at a right angle"]),
    "no spacing": (without("PixelSpacing"), ["PixelSpacing is missing"]),
    "spacing 0": (at(1, PixelSpacing=[0, 1]), ["1.dcm", "PixelSpacing is [0.0, 1.0]", "above 0 mm"]),
    "negative spacing": (every(PixelSpacing=[1, -1]), ["PixelSpacing is [1.0, -1.0]"]),
    "sizes": (at(3, Rows=2, PixelData=bytes(24)), ["different Rows: 5 in 0.dcm, but 2 in 3.dcm (1 of 4"]),
    "spacings": (at(2, PixelSpacing=[3, 2.5]), ["different PixelSpacing", "2.dcm (1 of 4"]),
    "orientations": (at(3, ImageOrientationPatient=list(CORONAL)), ["different ImageOrientationPatient", "3.dcm"]),
    "doubles": (at(2, ImagePositionPatient=[0, 0, 5]), ["1.dcm and 2.dcm at 5.00 mm", "place of another"]),
    "gap": (every_at(lambda i: [0, 0, 5 * i + 5 * (i > 1)]), ["10.000 mm from 1.dcm to 2.dcm (at 5.00", "5.000 mm as"]),
    "small gap": (every_at(lambda i: [0, 0, 5 * i + 0.3 * (i > 2)]), ["5.300 mm from 2.dcm to 3.dcm"]),
    "steps that grow": (every_at(lambda i: [0, 0, 5 * i + 0.08 * i**2]), ["uneven steps"]),
    "thicknesses": (lambda image, i: setattr(image, "SliceThickness", 5 + (i > 1)), ["SliceThickness: 5", "2 of 4"]),
    "a gap in one of many acquisitions": (gap_and_acquisitions(1), ["10.000 mm from 1.dcm", "fetch the missing"]),
    "a gap between two acquisitions": (gap_and_acquisitions(2), ["10.000 mm from 1.dcm to 2.dcm"]),
    "tilt": (tilted(12.0), ["tilted gantry", "12.0 degrees off their normal"]),
    "tilt other way": (tilted(-0.6), ["0.6 degrees"]),
}


@pytest.mark.parametrize(("spoil", "parts"), SPOILT.values(), ids=SPOILT.keys())
def test_what_is_no_ct_volume_is_refused_by_folder_field_and_finding(tmp_path: Path, spoil, parts: list[str]):
    folder = write_series(tmp_path / "series", spoil)
    with pytest.raises(InputError) as caught:
        load(folder)
    for part in (str(folder), "'thorax'", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("spoil", [tilted(0.4), every_at(lambda i: [0, 0, 5 * i + 0.04 * (i == 2)])])
def test_small_deviations_are_let_through(tmp_path: Path, spoil):
    assert load(write_series(tmp_path / "series", spoil)).shape == (1, *SHAPE)


def test_pointers_in_the_place_of_slices_are_called_so(tmp_path: Path):
    folder = write_series(tmp_path / "series")
    for path in folder.iterdir():
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match=r"field 'thorax' holds no DICOM file: '0\.dcm' is a pointer of Git LFS"):
        load(folder)


def test_one_slice_is_too_few(tmp_path: Path):
    with pytest.raises(InputError, match="holds 1 slice, expected at least 2"):
        load(write_series(tmp_path / "series", shape=(6, 5, 1)))


def test_a_folder_of_other_files_holds_no_dicom(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no slice")
    with pytest.raises(InputError, match=r"'thorax' holds no DICOM file \(1 other file"):
        load(tmp_path)


def test_a_file_that_is_not_dicom_among_slices_is_named(tmp_path: Path):
    folder = write_series(tmp_path / "series")
    (folder / "notes.dcm").write_text("no slice")
    with pytest.raises(InputError, match=r"holds 1 file\(s\) next to 4 DICOM slices .* notes\.dcm \(no DICOM file"):
        load(folder)


@pytest.mark.parametrize("slices", ["{}.dcm", "IM{:04d}", "1.2.840.{}", "{:08x}"])
@pytest.mark.parametrize("beside", ["DIRFILE", "Thumbs.db", "069.xml", "notes.txt", "LICENSE"])
def test_files_that_archives_and_systems_lay_beside_slices_are_passed_over(tmp_path: Path, slices: str, beside: str):
    folder = write_series(tmp_path / "series", name=lambda index: slices.format(index + 10))
    (folder / beside).write_bytes(bytes(64))
    np.testing.assert_array_equal(load(folder)[0].numpy(), stored_values() + INTERCEPT)


@pytest.mark.parametrize("slices", ["{}.dcm", "IM{:04d}", "1.2.840.{}", "{:08x}"])
def test_a_slice_that_came_as_another_file_is_named_by_whatever_name(tmp_path: Path, slices: str):
    folder = write_series(tmp_path / "series", name=lambda index: slices.format(index + 10))
    (folder / slices.format(14)).write_text("<html>")
    with pytest.raises(InputError, match="holds 1 file.*no DICOM file, though it is named as one"):
        load(folder)


def compressed(image: Dataset, index: int) -> None:
    image.compress(RLELossless)


def test_a_compressed_series_is_read_and_a_cut_in_it_is_found(tmp_path: Path):
    folder = write_series(tmp_path / "series", compressed, shape=(64, 64, 4))
    np.testing.assert_array_equal(load(folder)[0].numpy(), stored_values((64, 64, 4)) + INTERCEPT)
    (folder / "2.dcm").write_bytes((folder / "2.dcm").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"such as 2\.dcm \(no pixel data, or truncated"):
        load(folder)


@pytest.mark.parametrize("kept", [0, 100, 200, 400, -61, -1])
def test_a_truncated_slice_is_named_wherever_it_is_cut(tmp_path: Path, kept: int):
    folder = write_series(tmp_path / "series")
    cut = folder / "2.dcm"
    cut.write_bytes(cut.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"such as 2\.dcm"):
        load(folder)


def test_a_slice_without_pixels_is_named(tmp_path: Path):
    folder = write_series(tmp_path / "series", lambda image, index: index == 1 and image.__delattr__("PixelData"))
    with pytest.raises(InputError, match=r"1\.dcm \(no pixel data, or truncated"):
        load(folder)


PARTING: dict[str, Callable[[Dataset, int], None]] = {
    "midnight": lambda image, i: setattr(image, "SeriesDate", f"2024013{i // 2}"),
    "thickness as text": lambda image, i: setattr(image, "SliceThickness", ("0.625000", "0.625")[i % 2]),
    "thickness missing": lambda image, i: setattr(image, "SliceThickness", (None, "5")[i % 2]),
    "series number": lambda image, i: setattr(image, "SeriesNumber", i // 2),
    "sequence name": lambda image, i: setattr(image, "SequenceName", "ab"[i % 2]),
    "acquisitions along the table": lambda image, i: setattr(image, "AcquisitionNumber", i // 2),
    "acquisitions that take turns": lambda image, i: setattr(image, "AcquisitionNumber", i % 2),
}


@pytest.mark.parametrize("spoil", PARTING.values(), ids=PARTING.keys())
def test_what_itk_would_part_is_one_series_by_its_uid_and_its_even_steps(tmp_path: Path, spoil):
    folder = write_series(tmp_path / "series", spoil)
    assert_every_pixel_is_in_its_place(load(folder), folder)


ACQUISITIONS = {
    "the same places": lambda acquisition, i: 5.0 * i,
    "places between the others": lambda acquisition, i: 5.0 * i + acquisition,
    "places that overlap in part": lambda acquisition, i: 5.0 * i + 12.0 * acquisition,
    "one place in common": lambda acquisition, i: 5.0 * i + 15.0 * acquisition,
}


@pytest.mark.parametrize("place", ACQUISITIONS.values(), ids=ACQUISITIONS.keys())
def test_several_acquisitions_in_one_series_are_called_so(tmp_path: Path, place: Callable[[int, int], float]):
    def spoil(image: Dataset, index: int) -> None:
        image.AcquisitionNumber = index // 4 + 1
        image.ImagePositionPatient = [0, 0, place(index // 4, index % 4)]

    folder = write_series(tmp_path / "series", spoil, shape=(6, 5, 11))
    with pytest.raises(InputError, match="'thorax' holds 3 acquisitions") as caught:
        load(folder)
    assert "(Acquisition Number 1: 4 slices, 2: 4 slices, 3: 3 slices), expected one; move" in str(caught.value)


@pytest.mark.parametrize("number", [None, 7])
def test_doubles_of_one_acquisition_are_called_doubles(tmp_path: Path, number: int | None):
    def spoil(image: Dataset, index: int) -> None:
        image.ImagePositionPatient, image.AcquisitionNumber = [0, 0, 5 * (index % 4)], number

    with pytest.raises(InputError, match="holds 4 slice.s. at the place of another"):
        load(write_series(tmp_path / "series", spoil, shape=(6, 5, 8)))


def test_one_slice_by_name_is_no_ct(tmp_path: Path):
    path = write_series(tmp_path / "series") / "0.dcm"
    with pytest.raises(InputError, match="expected the folder of a DICOM series") as caught:
        load(path)
    assert str(path) in str(caught.value)
