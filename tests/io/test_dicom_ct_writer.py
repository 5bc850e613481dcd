from __future__ import annotations

import errno
import os
from collections.abc import Callable
from math import cos, sin
from pathlib import Path

import itk
import numpy as np
import pydicom
import pytest
import torch
from monai.data import ITKReader, MetaTensor, PydicomReader
from monai.transforms import LoadImage, Orientation

from ct_series_files import ras_affine, write_series
from scripts import InputError, LoadCTd, OutputError, read_identification, write_ct_series
from scripts.io.image_writer import cube_affine

AFFINES = {
    "cube": cube_affine(5, 12.3, torch.tensor([1.0, -2.0, 1 / 3])),
    "LPS": torch.tensor(ras_affine(spacing=(1.1, 2.2, 3.3), origin=(-20.0, 4.0, 7.5))),
    "coronal": torch.tensor(ras_affine((1, 0, 0, 0, 0, -1), (1.0, 2.0, 3.0))),
    "turned": torch.tensor(ras_affine((0.8, 0.6, 0, -0.6, 0.8, 0), (1.0, 2.0, 3.0))),
}
TURN = [[cos(0.3), -sin(0.3), 0, 0], [sin(0.3), cos(0.3), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def volume(*shape: int) -> torch.Tensor:
    return torch.linspace(-1024, 2500.25, int(np.prod(shape))).reshape(shape)


def images(folder: Path) -> list[pydicom.FileDataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


@pytest.fixture
def series(tmp_path: Path) -> list[pydicom.FileDataset]:
    write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), AFFINES["cube"])
    return images(tmp_path / "ct")


READERS: dict[str, Callable[[str], torch.Tensor]] = {
    "the bundle": lambda folder: LoadCTd("ct")({"ct": folder})["ct"][0],
    "ITK through MONAI": lambda folder: LoadImage()(folder, reader=ITKReader()),
    "pydicom through MONAI": lambda folder: LoadImage()(folder, reader=PydicomReader(swap_ij=True)),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_the_series_reads_back_in_hu_at_its_place(tmp_path: Path, read, affine: torch.Tensor):
    hu = volume(5, 6, 7)
    write_ct_series(str(tmp_path / "ct"), hu, affine)
    to_ras = Orientation("RAS", labels=None)
    found, expected = to_ras(read(str(tmp_path / "ct"))[None]), to_ras(MetaTensor(hu[None], affine=affine))
    torch.testing.assert_close(found.affine.double(), expected.affine.double(), atol=1e-6, rtol=1e-6)
    assert torch.equal(found.as_tensor().float(), expected.as_tensor().round())


def test_itk_alone_reads_the_same_hu_and_grid(tmp_path: Path):
    write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), AFFINES["cube"])
    names = itk.GDCMSeriesFileNames.New(Directory=str(tmp_path / "ct")).GetInputFileNames()
    image = itk.imread(list(names))
    hu = itk.array_from_image(image).T
    np.testing.assert_array_equal(hu, volume(5, 6, 7).round().numpy()[::-1, ::-1])
    np.testing.assert_allclose(image.GetSpacing(), 12.3 / 5)
    np.testing.assert_allclose(itk.array_from_matrix(image.GetDirection()), np.eye(3))
    corner = AFFINES["cube"].numpy() @ [4, 5, 0, 1]
    np.testing.assert_allclose(image.GetOrigin(), corner[:3] * [-1, -1, 1], atol=1e-9)


def test_pydicom_alone_reads_the_same_hu_slice_by_slice(series):
    for index, image in enumerate(series):
        hu = image.pixel_array * image.RescaleSlope + image.RescaleIntercept
        np.testing.assert_array_equal(hu, volume(5, 6, 7).round().numpy()[::-1, ::-1, index].T)
        assert image.InstanceNumber == index + 1


def test_slices_lie_upright_from_inferior_to_superior(series):
    heights = [float(image.ImagePositionPatient[2]) for image in series]
    np.testing.assert_allclose(np.diff(heights), 12.3 / 5)
    assert heights[0] == pytest.approx(AFFINES["cube"][2, 3].item())
    for image in series:
        assert image.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        assert float(image.SliceLocation) == pytest.approx(image.ImagePositionPatient[2])
        assert [*image.PixelSpacing, image.SliceThickness, image.SpacingBetweenSlices] == [2.46] * 4


def test_every_image_says_what_it_is(series):
    for image in series:
        assert image.SOPClassUID == image.file_meta.MediaStorageSOPClassUID == pydicom.uid.CTImageStorage
        assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
        assert image.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert (image.Modality, image.BodyPartExamined, image.RescaleType) == ("CT", "CHEST", "HU")
        assert "not for diagnosis" in image.SeriesDescription and len(image.SeriesDescription) <= 64
        assert "neural network" in image.DerivationDescription and "not for diagnosis" in image.DerivationDescription
        assert (image.BurnedInAnnotation, image.LossyImageCompression) == ("NO", "00")
        assert image.Manufacturer and image.ManufacturerModelName and image.SoftwareVersions


CT_IMAGE_NEEDS = {
    "with a value": "ImageType SOPClassUID SOPInstanceUID Modality StudyInstanceUID SeriesInstanceUID "
    "FrameOfReferenceUID InstanceNumber PixelSpacing ImageOrientationPatient ImagePositionPatient SliceThickness "
    "SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation "
    "RescaleIntercept "
    "RescaleSlope PixelData",
    "perhaps empty": "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName SeriesNumber PatientPosition PositionReferenceIndicator Manufacturer KVP AcquisitionNumber",
}
"""Attributes of type 1 and 2 in DICOM PS3.3 A.3, the CT Image IOD."""


def test_every_attribute_that_a_ct_image_needs_is_there(series):
    for image in series:
        for keyword in CT_IMAGE_NEEDS["with a value"].split():
            assert image.get(keyword) not in (None, "", []), keyword
        assert all(keyword in image for keyword in CT_IMAGE_NEEDS["perhaps empty"].split())


def test_every_value_is_valid_also_where_the_numbers_do_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Decimal strings have 16 characters at most."""
    affine = cube_affine(5, 10 / 3, torch.tensor([-100 / 3, 1e-7, 1 / 3]))
    write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), torch.tensor(TURN).double() @ affine)
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    for image in images(tmp_path / "ct"):
        assert len([element.value for element in image]) > 50
        numbers = [*image.ImagePositionPatient, *image.ImageOrientationPatient, *image.PixelSpacing]
        assert max(len(str(number)) for number in numbers) <= 16


def test_uids_are_valid_and_no_two_are_the_same(series, tmp_path: Path):
    write_ct_series(str(tmp_path / "again"), volume(5, 6, 7), AFFINES["cube"])
    other = images(tmp_path / "again")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        first, second = ({image[keyword].value for image in run} for run in (series, other))
        assert len(first) == len(second) == 1 and first != second
    uids = [image.SOPInstanceUID for image in series + other]
    assert len(set(uids)) == 14
    assert all(pydicom.uid.UID(uid).is_valid for uid in [*uids, *first, *second])


def test_by_default_the_series_names_nobody(series):
    for image in series:
        assert (image.PatientName, image.PatientID, image.PatientIdentityRemoved) == ("Anonymous", "ANONYMOUS", "YES")
        for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName", "StudyID"):
            assert not image[keyword].value


def radiograph(folder: Path, **values) -> Path:
    def identified(image: pydicom.Dataset, index: int) -> None:
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientName, image.PatientID, image.PatientBirthDate = "Müller^Zoë", "4711", "19560102"
        image.StudyInstanceUID, image.StudyDate, image.AccessionNumber = "1.2.3.4", "20200304", "A17"
        image.InstitutionName = "Hospital"
        for keyword, value in values.items():
            setattr(image, keyword, value)

    return write_series(folder, identified, shape=(6, 5, 1)) / "0.dcm"


def test_the_patient_and_the_study_are_copied_when_asked_and_nothing_else(tmp_path: Path):
    identification = read_identification(str(radiograph(tmp_path / "radiograph")))
    write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), AFFINES["cube"], identification)
    for image in images(tmp_path / "ct"):
        assert (str(image.PatientName), image.PatientID, image.PatientBirthDate) == ("Müller^Zoë", "4711", "19560102")
        assert (image.StudyInstanceUID, image.StudyDate, image.AccessionNumber) == ("1.2.3.4", "20200304", "A17")
        assert image.SeriesInstanceUID != "1.2.3.4" and "not for diagnosis" in image.SeriesDescription
        assert image.PatientSex == "" and "PatientSex" in image
        assert "PatientIdentityRemoved" not in image and "InstitutionName" not in image


@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 100", "Müller^Zoë"), ("ISO 2022 IR 87", "Yamada^Tarou=山田^太郎")]
)
def test_a_copied_name_keeps_its_letters(tmp_path: Path, charset: str, name: str):
    charsets = ["", charset] if "2022" in charset else charset
    path = radiograph(tmp_path / "radiograph", SpecificCharacterSet=charsets, PatientName=name)
    write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), AFFINES["cube"], read_identification(str(path)))
    assert {str(image.PatientName) for image in images(tmp_path / "ct")} == {name}


def test_a_patient_cannot_be_copied_from_what_names_no_study(tmp_path: Path):
    (tmp_path / "radiograph.png").write_bytes(b"no DICOM")
    with pytest.raises(InputError, match="radiograph.png: the patient's data cannot be copied.*expected a DICOM file"):
        read_identification(str(tmp_path / "radiograph.png"))
    with pytest.raises(InputError, match="0.dcm: StudyInstanceUID is missing"):
        read_identification(str(radiograph(tmp_path / "radiograph", StudyInstanceUID="")))


@pytest.mark.parametrize("value", [40000.0, -40000.0, float("nan"), float("inf")])
def test_values_that_do_not_fit_16_bits_are_refused(tmp_path: Path, value: float):
    hu = volume(5, 6, 7)
    hu[1, 2, 3] = value
    with pytest.raises(InputError, match="expected finite values that fit 16 bits"):
        write_ct_series(str(tmp_path / "ct"), hu, AFFINES["cube"])
    assert not list(tmp_path.iterdir())


def test_a_sheared_volume_cannot_be_a_ct_image(tmp_path: Path):
    affine = AFFINES["cube"].clone()
    affine[0, 2] = 1.0
    with pytest.raises(InputError, match="is sheared"):
        write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), affine)
    assert not list(tmp_path.iterdir())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_earlier_series_is_replaced_as_a_whole(tmp_path: Path):
    write_ct_series(str(tmp_path / "ct"), volume(5, 6, 9), AFFINES["cube"])
    write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), AFFINES["cube"])
    assert names(tmp_path) == ["ct"]
    assert names(tmp_path / "ct") == [f"slice_{number:04d}.dcm" for number in range(1, 8)]
    assert len({image.SeriesInstanceUID for image in images(tmp_path / "ct")}) == 1


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path):
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="such as notes.txt"):
        write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), AFFINES["cube"])
    assert names(tmp_path / "ct") == ["notes.txt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_the_earlier_series(tmp_path: Path, monkeypatch, error: BaseException):
    write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), AFFINES["cube"])
    before = images(tmp_path / "ct")
    save = pydicom.FileDataset.save_as

    def fail_later(image: pydicom.FileDataset, path: str) -> None:
        if image.InstanceNumber == 4:
            raise error
        save(image, path)

    monkeypatch.setattr(pydicom.FileDataset, "save_as", fail_later)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7) + 1, AFFINES["cube"])
    assert names(tmp_path) == ["ct"]
    assert images(tmp_path / "ct") == before
    if isinstance(error, OSError):
        assert f"{tmp_path}/ct: cannot be written (No space left on device)" in str(caught.value)


def test_a_file_in_the_way_is_left_as_it_is(tmp_path: Path):
    (tmp_path / "ct").write_text("mine")
    with pytest.raises(OutputError, match="ct: cannot be written"):
        write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), AFFINES["cube"])
    assert names(tmp_path) == ["ct"]
    assert (tmp_path / "ct").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "results").write_text("a file, as good as a read-only folder, which root may write to")
    with pytest.raises(OutputError, match="results/ct: cannot be written"):
        write_ct_series(str(tmp_path / "results" / "ct"), volume(5, 6, 7), AFFINES["cube"])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_is_named_and_nothing_is_left(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="ct: cannot be written"):
        write_ct_series(str(tmp_path / "ct"), volume(5, 6, 7), AFFINES["cube"])
    tmp_path.chmod(0o700)
    assert names(tmp_path) == []
