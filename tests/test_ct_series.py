from __future__ import annotations

from collections.abc import Callable
from math import cos, radians, sin
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from ct_series_files import INTERCEPT, SHAPE, ras_affine, stored_values, write_series
from monai.transforms import Compose, Orientationd
from pydicom import Dataset
from pydicom.uid import RLELossless, generate_uid
from scripts import InputError, LoadCTd, ResampleToCubed

CORONAL, TURNED = (1, 0, 0, 0, 0, -1), (cos(0.2), sin(0.2), 0, -sin(0.2), cos(0.2), 0)


def load(folder: Path):
    return LoadCTd("thorax")({"thorax": str(folder)})["thorax"]


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), CORONAL, TURNED, (0, 1, 0, 0, 0, -1)])
def test_a_series_is_read_in_hu_at_its_place(tmp_path: Path, orientation: tuple):
    place = {"orientation": orientation, "origin": (-30.0, 12.5, 140.0)}
    ct = load(write_series(tmp_path / "series", **place))
    np.testing.assert_array_equal(ct[0].numpy(), stored_values() + INTERCEPT)
    np.testing.assert_allclose(ct.affine.numpy(), ras_affine(**place), atol=1e-5)


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


SPOILT: dict[str, tuple[Callable[[Dataset, int], None], list[str]]] = {
    "two series": (two_series, ["several series", "1.2.3 (lung): 3 files", "1.2.4 (scout): 1 file", "folder of its own"]),
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


def test_one_slice_is_too_few(tmp_path: Path):
    with pytest.raises(InputError, match="holds 1 slice, expected at least 2"):
        load(write_series(tmp_path / "series", shape=(6, 5, 1)))


def test_a_folder_of_other_files_holds_no_dicom(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no slice")
    with pytest.raises(InputError, match=r"'thorax' holds no DICOM file \(1 other file"):
        load(tmp_path)


def test_a_file_that_is_not_dicom_among_slices_is_named(tmp_path: Path):
    folder = write_series(tmp_path / "series")
    (folder / "notes.txt").write_text("no slice")
    with pytest.raises(InputError, match=r"holds 1 file\(s\) beside 4 DICOM slices .* notes\.txt \(no DICOM file\)"):
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


def test_slices_that_itk_would_part_are_not_read_in_part(tmp_path: Path):
    folder = write_series(tmp_path / "series", lambda image, index: setattr(image, "SliceThickness", 5 + (index > 1)))
    with pytest.raises(InputError, match="ITK joins 2 of 4 slices.*Slice Thickness"):
        load(folder)


def test_one_slice_by_name_is_no_ct(tmp_path: Path):
    path = write_series(tmp_path / "series") / "0.dcm"
    with pytest.raises(InputError, match="expected the folder of a DICOM series") as caught:
        load(path)
    assert str(path) in str(caught.value)
