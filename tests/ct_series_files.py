"""DICOM CT series written by pydicom alone, sound or spoilt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset, validate_file_meta
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE, SPACING, INTERCEPT = (6, 5, 4), (2.0, 3.0, 5.0), -1024
ORIENTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def stored_values(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """`(columns, rows, slices)`, stored values of 0 to 3000, air and bone among them."""
    stored = np.random.default_rng(0).integers(0, 3000, shape)
    stored[0, 0] = 0
    return stored.astype(np.int16)


def ras_affine(orientation=ORIENTATION, spacing=SPACING, origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Of an array `(columns, rows, slices)`: DICOM PS3.3 C.7.6.2.1.1, with x and y flipped to RAS."""
    along_row, along_column = np.reshape(orientation, (2, 3))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([along_row, along_column, np.cross(along_row, along_column)], 1) * spacing
    affine[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def write_series(
    folder: Path,
    spoil: Callable[[Dataset, int], None] = lambda image, index: None,
    orientation=ORIENTATION,
    spacing=SPACING,
    origin=(0.0, 0.0, 0.0),
    name: Callable[[int], str] = lambda index: f"{index}.dcm",
    shape: tuple[int, int, int] = SHAPE,
) -> Path:
    """A series of :func:`stored_values`; `spoil` changes each image before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series = generate_uid(), generate_uid()
    step = np.cross(*np.reshape(orientation, (2, 3))) * spacing[2]
    stored = stored_values(shape)
    for index in range(shape[2]):
        image = _image(stored[..., index].T)
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.ImageOrientationPatient, image.PixelSpacing = list(orientation), [spacing[1], spacing[0]]
        image.ImagePositionPatient = [f"{number:.6f}" for number in np.add(origin, step * index)]
        image.InstanceNumber = index + 1
        spoil(image, index)
        image.save_as(folder / name(index))
    return folder


def _image(pixels: np.ndarray) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID, meta.FileMetaInformationGroupLength = ExplicitVRLittleEndian, 0
    validate_file_meta(meta)
    image = FileDataset("", {}, preamble=bytes(128), file_meta=meta, is_implicit_VR=False)
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleIntercept, image.RescaleSlope = INTERCEPT, 1
    image.Rows, image.Columns = pixels.shape
    image.PixelData = pixels.astype("<i2").tobytes()
    return image
