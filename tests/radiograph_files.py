"""Radiographs in DICOM for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForProcessing, ExplicitVRLittleEndian, generate_uid

TAGS = {
    "Modality": "DX",
    "PatientID": "one",
    "PresentationIntentType": "FOR PROCESSING",
    "PhotometricInterpretation": "MONOCHROME2",
    "ViewPosition": "PA",
    "PatientOrientation": ["L", "F"],
    "ImagerPixelSpacing": [3.75, 3.75],
    "DistanceSourceToDetector": 1800,
    "DistanceSourceToPatient": 1600,
}
"""A frontal radiograph of the default geometry, oriented as it is read."""
LATERAL = {"ViewPosition": "LL", "PatientOrientation": ["P", "F"]}
"""What differs in its lateral radiograph."""


def write_dicom(path: Path, stored: np.ndarray, **tags: Any) -> str:
    """
    A radiograph of these stored values, `(H, W)`, with :data:`TAGS`; further tags override them, None removes one.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForProcessing
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False, is_little_endian=True)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = stored.tobytes()
    for keyword, value in {**TAGS, **tags}.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    dataset.save_as(path)
    return str(path)


def write_line_integrals(path: Path, radiograph: np.ndarray, photometric: str = "MONOCHROME2", **tags: Any) -> str:
    """Line integrals in 16 bits, high ones bright: Pixel Intensity Relationship LOG with a Rescale Slope of its own."""
    step = float(radiograph.max()) / 65535
    stored = np.rint(radiograph / step).astype(np.uint16)
    rescale = {"RescaleSlope": f"{step:.9e}", "RescaleIntercept": "0", "PixelIntensityRelationshipSign": -1}
    if photometric == "MONOCHROME1":
        stored = 65535 - stored
        rescale = {
            "RescaleSlope": f"{-step:.9e}",
            "RescaleIntercept": f"{65535 * step:.9e}",
            "PixelIntensityRelationshipSign": 1,
        }
    relationship = {"PixelIntensityRelationship": "LOG", "PhotometricInterpretation": photometric}
    return write_dicom(path, stored, **rescale, **relationship, **tags)


def compress(path: str | Path, syntax: int) -> None:
    """Brings a file to one of GDCM's transfer syntaxes, such as `gdcm.TransferSyntax.JPEGLosslessProcess14_1`."""
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
