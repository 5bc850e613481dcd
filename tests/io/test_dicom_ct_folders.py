"""Folders of slices as archives, scanners and copies leave them: the CT is what SimpleITK reads of the slices."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)

from ct_series_files import SHAPE, write_series
from scripts import InputError, LoadCTd
from scripts.data.folder_scan import find_records
from study_files import write_header


def by_simple_itk(paths: list[Path]) -> np.ndarray:
    """HU, `(columns, rows, slices)`, of slices in order."""
    return sitk.GetArrayFromImage(sitk.ReadImage([str(path) for path in paths], sitk.sitkFloat32)).T


def loaded(folder: Path) -> np.ndarray:
    return np.asarray(LoadCTd("ct")({"ct": str(folder)})["ct"])[0]


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "p" / "ct", lambda image, _: setattr(image, "PatientID", "P"))


@pytest.fixture
def expected(series: Path) -> np.ndarray:
    return by_simple_itk([series / f"{number}.dcm" for number in range(SHAPE[2])])


def is_listed(series: Path) -> bool:
    return [record.ct for record in find_records(series.parents[1])[0]] == ["p/ct"]


OTHERS = {
    "a structured report": {"Modality": "SR", "SOPClassUID": BasicTextSRStorage},
    "a segmentation": {"Modality": "SEG", "SOPClassUID": SegmentationStorage},
    "a structure set": {"Modality": "RTSTRUCT", "SOPClassUID": RTStructureSetStorage},
    "a presentation state": {"Modality": "PR", "SOPClassUID": GrayscaleSoftcopyPresentationStateStorage},
    "a document": {"Modality": "DOC", "SOPClassUID": EncapsulatedPDFStorage},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_a_dicom_file_of_another_modality_is_no_slice(series: Path, expected: np.ndarray, other: dict):
    uids = {"PatientID": "P", "StudyInstanceUID": "1.2", "SeriesInstanceUID": generate_uid()}
    write_header(series / "other.dcm", **{**other, **uids, "PixelData": None, "ImagePositionPatient": None})
    np.testing.assert_allclose(loaded(series), expected)
    assert is_listed(series)


def test_a_dose_report_is_no_slice_though_its_modality_is_ct(series: Path, expected: np.ndarray):
    uid = pydicom.dcmread(series / "0.dcm").SeriesInstanceUID
    for number, series_uid in enumerate((uid, generate_uid())):
        capture = {"SOPClassUID": SecondaryCaptureImageStorage, "ImagePositionPatient": None, "PatientID": "P"}
        write_header(series / f"dose{number}.dcm", SeriesInstanceUID=series_uid, **capture)
    np.testing.assert_allclose(loaded(series), expected)
    assert is_listed(series)


@pytest.mark.parametrize("is_of_the_series", [True, False])
def test_a_scout_is_no_slice(series: Path, expected: np.ndarray, is_of_the_series: bool):
    """PS3.3 C.8.2.1.1.1: value 3 of its Image Type is LOCALIZER."""
    scout = pydicom.dcmread(series / "2.dcm")
    scout.ImageType, scout.SOPInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], generate_uid()
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    if not is_of_the_series:
        scout.SeriesInstanceUID = generate_uid()
    scout.save_as(series / "scout.dcm")
    np.testing.assert_allclose(loaded(series), expected)
    assert is_listed(series)


def test_a_dicomdir_and_what_archives_lay_next_to_slices_are_passed_over(series: Path, expected: np.ndarray):
    files = FileSet()
    for path in series.glob("*.dcm"):
        slice_of = pydicom.dcmread(path)
        slice_of.PatientName, slice_of.StudyDate, slice_of.StudyTime = "P", "20240131", "120000"
        slice_of.StudyID, slice_of.SeriesNumber = "1", 1
        files.add(slice_of)
    files.write(series.parent / "disc")
    shutil.copy(series.parent / "disc" / "DICOMDIR", series / "DICOMDIR")
    shutil.rmtree(series.parent / "disc")
    texts = ("DIRFILE", "Thumbs.db", ".DS_Store", "._0.dcm", "LICENSE", "checksums.sha256", "069.xml", "index.html")
    for name in texts:
        (series / name).write_bytes(b"\0" * 64)
    np.testing.assert_allclose(loaded(series), expected)
    assert is_listed(series)


def test_a_copy_of_a_slice_counts_once_and_another_image_of_its_uid_does_not_pass(series: Path, expected: np.ndarray):
    shutil.copy(series / "1.dcm", series / "1 (1).dcm")
    np.testing.assert_allclose(loaded(series), expected)
    assert is_listed(series)
    other = pydicom.dcmread(series / "1.dcm")
    other.PixelData = other.PixelData[::-1]
    other.save_as(series / "1 (1).dcm")
    with pytest.raises(InputError, match=r"1 \(1\).dcm and 1.dcm at"):
        loaded(series)
    assert not is_listed(series)


def change(image: Dataset, **elements) -> None:
    for keyword, value in elements.items():
        if value is None and keyword in image:
            delattr(image, keyword)
        elif value is not None:
            setattr(image, keyword, value)


ALIKE: dict[str, Callable[[int], dict]] = {
    "thickness": lambda i: {"SliceThickness": "5.000000" if i % 2 else "5"},
    "thickness missing": lambda i: {"SliceThickness": "5" if i else None},
    "thickness empty": lambda i: {"SliceThickness": "5" if i else ""},
    "spacing": lambda i: {"PixelSpacing": ["3.000000", "2.0"] if i % 2 else ["3", "2.00"]},
    "orientation": lambda i: {"ImageOrientationPatient": list("10001") + ["-0.0"] if i % 2 else list("100010")},
    "midnight": lambda i: {
        "SeriesDate": f"2024013{i // 2}", "AcquisitionDate": f"2024013{i // 2}", "ContentDate": f"2024013{i // 2}",
        "SeriesTime": f"{23 if i < 2 else 0:02d}5959",
    },
    "texts": lambda i: {"SeriesDescription": f"a{i}", "ProtocolName": f"b{i}", "SeriesNumber": i, "StudyID": str(i)},
    "acquisitions in turn": lambda i: {"AcquisitionNumber": i},
    "numbers all alike": lambda i: {"InstanceNumber": 1},
    "no numbers": lambda i: {"InstanceNumber": None},
    "no patient in one": lambda i: {"PatientID": "P" if i else ""},
}  # fmt: skip


@pytest.mark.parametrize("elements", ALIKE.values(), ids=ALIKE.keys())
def test_slices_that_differ_in_text_alone_are_one_ct(tmp_path: Path, elements: Callable[[int], dict]):
    """PS3.5 6.2: a decimal string is a number; PS3.3 C.7.6.2: positions say where a slice lies."""
    plain = write_series(tmp_path / "plain")
    expected = by_simple_itk([plain / f"{number}.dcm" for number in range(SHAPE[2])])
    series = write_series(
        tmp_path / "data" / "p" / "ct", lambda image, i: change(image, **{"PatientID": "P", **elements(i)})
    )
    np.testing.assert_allclose(loaded(series), expected)
    assert is_listed(series)


APART: dict[str, tuple[Callable[[int], dict], str]] = {
    "two kernels": (lambda i: {"ConvolutionKernel": "B70f" if i % 2 else "B30f"}, "place of another"),
    "two acquisitions": (lambda i: {"AcquisitionNumber": i % 2}, "2 acquisitions"),
    "two thicknesses": (lambda i: {"SliceThickness": 5 if i % 2 else 1}, "different SliceThickness"),
    "two matrices": (lambda i: {"Rows": 5 if i % 2 else 4}, "different Rows"),
}


@pytest.mark.parametrize(("elements", "told"), APART.values(), ids=APART.keys())
def test_two_reconstructions_of_one_series_uid_are_refused_and_not_listed(tmp_path: Path, elements, told: str):
    """Each has its slices at the same places."""

    def spoil(image: Dataset, i: int) -> None:
        change(image, ImagePositionPatient=[0, 0, 5 * (i // 2)], PatientID="P", **elements(i))

    series = write_series(tmp_path / "p" / "ct", spoil, shape=(*SHAPE[:2], 8))
    with pytest.raises(InputError, match=told):
        loaded(series)
    records, excluded = find_records(tmp_path)
    assert records == [] and told in next(entry.reason for entry in excluded if entry.path == "p/ct")


@pytest.mark.parametrize("thickness", ["5 mm", "abc"])
def test_a_thickness_that_is_no_number_is_named(tmp_path: Path, thickness: str):
    series = write_series(tmp_path / "ct", lambda image, i: setattr(image, "SliceThickness", "5"))
    content = (series / "1.dcm").read_bytes()
    tag = b"\x18\x00\x50\x00DS\x02\x00" + b"5 "
    assert tag in content
    spoilt = thickness.encode() + b" " * (len(thickness) % 2)
    (series / "1.dcm").write_bytes(content.replace(tag, tag[:6] + len(spoilt).to_bytes(2, "little") + spoilt))
    with pytest.raises(InputError, match="SliceThickness"):
        loaded(series)


@pytest.mark.parametrize("is_implicit", [True, False])
def test_slices_without_a_preamble_under_their_uids_are_read(tmp_path: Path, is_implicit: bool):
    """PS3.5 A.1 and A.2: little endian; pydicom reads them by force."""
    plain = write_series(tmp_path / "plain")
    expected = by_simple_itk([plain / f"{number}.dcm" for number in range(SHAPE[2])])
    series = tmp_path / "data" / "p" / "ct"
    series.mkdir(parents=True)
    for path in plain.glob("*.dcm"):
        image = pydicom.dcmread(path)
        image.PatientID = "P"
        del image.file_meta
        name = f"1.2.840.99.{int(path.stem) + 1}"
        image.save_as(series / name, implicit_vr=is_implicit, little_endian=True, enforce_file_format=False)
    np.testing.assert_allclose(loaded(series), expected)
    assert is_listed(series)
