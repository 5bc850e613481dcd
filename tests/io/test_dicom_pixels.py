"""Stored values of DICOM images, against what was written and the formulas of PS3.3 and PS3.5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import ExplicitVRBigEndian

from ct_series_files import INTERCEPT, SHAPE, stored_values, write_series
from radiograph_files import write_dicom
from scripts import InputError, LoadCTd, read_radiograph

RAMP = np.arange(60, dtype=np.uint16).reshape(6, 10) * 60
"""Rises along rows and columns, in 12 bits."""

pytestmark = pytest.mark.filterwarnings("ignore:.*makes a radiograph of")


def image_of(path: str | Path) -> np.ndarray:
    return read_radiograph(str(path), "frontal").image


def changed(path: str, change: Callable[[Dataset], object]) -> str:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def load_ct(folder: Path) -> np.ndarray:
    return LoadCTd("ct")({"ct": str(folder)})["ct"][0].numpy()


# Bits


@pytest.mark.parametrize("overlay", [0, 1 << 12, 15 << 12])
def test_bits_above_those_stored_do_not_count(tmp_path: Path, overlay: int):
    """PS3.5 8.1.1: they may hold the planes of overlays."""
    path = write_dicom(tmp_path / "a.dcm", RAMP | overlay, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(image_of(path), RAMP)


def test_bits_stored_at_the_upper_end_are_brought_down(tmp_path: Path):
    """The example of PS3.5 8.1.1: High Bit 15, and the four lower bits are none of the pixel's."""
    path = write_dicom(tmp_path / "a.dcm", RAMP << 4 | 9, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(image_of(path), RAMP)


@pytest.mark.parametrize("fill", [0, 15 << 12])
def test_the_sign_is_the_highest_bit_stored(tmp_path: Path, fill: int):
    """Two's complement of 12 bits (PS3.5 8.1.1), whatever stands above it."""
    values = RAMP.astype(np.int16) - 1800
    cells = (values.astype(np.uint16) & 0xFFF) | np.uint16(fill)
    path = write_dicom(tmp_path / "a.dcm", cells, BitsStored=12, HighBit=11, PixelRepresentation=1)
    np.testing.assert_array_equal(image_of(path), values)


@pytest.mark.parametrize(("stored", "high"), [(12, 9), (16, 16), (12, 16)])
def test_bits_that_contradict_are_refused(tmp_path: Path, stored: int, high: int):
    path = write_dicom(tmp_path / "a.dcm", RAMP, BitsStored=stored, HighBit=high)
    with pytest.raises(InputError, match=rf"Bits Stored \(0028,0101\) {stored} and High Bit \(0028,0102\) {high}"):
        image_of(path)


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_big_endian_pixels_are_read_with_and_without_a_file_meta_header(tmp_path: Path, meta: bool, dtype: type):
    values = (RAMP // 60 * 4).astype(dtype)
    path = Path(write_dicom(tmp_path / "a.dcm", values))
    dataset = pydicom.dcmread(path)
    dataset.PixelData = values.astype(values.dtype.newbyteorder(">")).tobytes()
    dataset["PixelData"].VR = "OB" if dtype is np.uint8 else "OW"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    if not meta:
        del dataset.file_meta, dataset.preamble
    pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    np.testing.assert_array_equal(image_of(path), values)


# Padding


@pytest.mark.parametrize(
    ("vr", "padding", "limit", "padded"),
    [
        ("US", 0, None, RAMP == 0),
        ("US", 3540, None, RAMP == 3540),
        ("US", 3540, 3480, RAMP >= 3480),
        ("US", 0, 120, RAMP <= 120),
        ("SS", 60, None, RAMP == 60),
    ],
)
def test_padding_is_not_exposed_at_either_end_of_the_range(tmp_path: Path, vr, padding, limit, padded):
    def declare(dataset: Dataset) -> None:
        dataset.add_new("PixelPaddingValue", vr, padding)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", vr, limit)

    path = changed(write_dicom(tmp_path / "a.dcm", RAMP), declare)
    np.testing.assert_array_equal(read_radiograph(path, "frontal").exposed, ~padded)


@pytest.mark.parametrize(
    ("signed", "bits", "cell", "vr", "padding"),
    [
        (False, 16, 65535, "SS", -1),
        (False, 16, 63488, "SS", -2048),
        (False, 12, 4095, "SS", -1),
        (False, 12, 63536, "US", 63536),  # in the bits above those stored
        (True, 16, 63536, "US", 63536),
        (True, 16, 63536, "SS", -2000),
        (True, 12, 63536, "SS", -2000),
    ],
)
def test_padding_is_the_same_bits_signed_or_not(tmp_path: Path, signed, bits, cell, vr, padding):
    cells = RAMP // 4 + 1
    cells[:, :3] = cell
    tags = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    path = write_dicom(tmp_path / "a.dcm", cells, **tags)
    changed(path, lambda dataset: dataset.add_new("PixelPaddingValue", vr, padding))
    exposed = read_radiograph(path, "frontal").exposed
    assert not exposed[:, :3].any() and exposed[:, 3:].all()


@pytest.mark.parametrize(("vr", "padding", "cell"), [("SS", 2999, 2999), ("SS", -2000, -2000), ("US", 63536, -2000)])
def test_padding_of_a_ct_is_air(tmp_path: Path, vr: str, padding: int, cell: int):
    def pad(image: Dataset, index: int) -> None:
        pixels = image.pixel_array.copy()
        pixels[0] = cell
        image.PixelData = pixels.astype("<i2").tobytes()
        image.add_new("PixelPaddingValue", vr, padding)

    ct = load_ct(write_series(tmp_path / "ct", pad))
    assert (ct[:, 0] == -1024).all()
    expected = stored_values() + INTERCEPT
    is_padding = stored_values() == cell
    np.testing.assert_array_equal(ct[:, 1:], np.where(is_padding, -1024, expected)[:, 1:])


# Hounsfield units


def test_a_ct_that_is_shown_inverted_has_the_hu_of_its_rescale(tmp_path: Path):
    """MONOCHROME1 says how values are shown (PS3.3 C.7.6.3.1.2); HU are by Rescale Slope and Intercept (C.11.1.1.2)."""

    def invert(image: Dataset, index: int) -> None:
        image.PhotometricInterpretation = "MONOCHROME1"
        image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, 0

    folder = write_series(tmp_path / "ct", invert)
    slices = [pydicom.dcmread(folder / f"{index}.dcm") for index in range(SHAPE[2])]
    expected = np.stack([apply_modality_lut(image.pixel_array, image).T for image in slices], axis=-1)
    np.testing.assert_array_equal(load_ct(folder), expected)


def test_hu_by_a_table_are_refused(tmp_path: Path):
    def spoil(image: Dataset, index: int) -> None:
        image.ModalityLUTSequence = [Dataset()]

    with pytest.raises(InputError, match=r"0\.dcm: field 'ct': its HU are by a Modality LUT Sequence \(0028,3000\)"):
        load_ct(write_series(tmp_path / "ct", spoil))
