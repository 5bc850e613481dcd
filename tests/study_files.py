"""Small files as they lie in folders of studies."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SLICE = {
    "SOPClassUID": CTImageStorage,
    "Rows": 2,
    "Columns": 2,
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "PixelSpacing": [5, 5],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "ImagePositionPatient": [0, 0, 0],
    "RescaleIntercept": "-1024",
    "RescaleSlope": "1",
    "PixelData": bytes(8),
}
"""What makes a DICOM file a slice."""


def write_volume(path: Path, shape: tuple[int, ...] = (2, 3, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), np.eye(4)), path)


def write_png(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)


def write_header(path: Path, **elements: str | list | None) -> None:
    """A DICOM file of 2 x 2 pixels: a CT slice of patient P, study 1.1, series 1.1.1, but for what is given or None."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    preamble = b"\0" * 128
    file = FileDataset(str(path), {}, preamble, meta, is_implicit_VR=False, is_little_endian=True)
    common = {"Modality": "CT", "PatientID": "P", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"}
    for keyword, value in {**common, **SLICE, **elements}.items():
        if value is not None:
            setattr(file, keyword, value)
    if "PixelData" in file:
        file["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path)


def write_series(folder: Path, slices: int = 2, **elements: str | list | None) -> None:
    for number in range(slices):
        write_header(folder / f"{number}.dcm", **{"ImagePositionPatient": [0, 0, 5 * number], **elements})


def write_dicom_radiograph(path: Path, view: str, **elements: str) -> None:
    write_header(path, **{"Modality": "DX", "ViewPosition": view, "SeriesInstanceUID": "1.1.99", **elements})
