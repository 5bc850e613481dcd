"""Reconstructions as DICOM CT series: derived images, marked as not for diagnosis."""

from __future__ import annotations

import os
from datetime import datetime

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from pydicom import Dataset, FileDataset, dcmread
from pydicom.dataset import FileMetaDataset, validate_file_meta
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from ..errors import InputError
from .atomic_write import write_folder_atomically
from .ct_reader import check_axes
from .metadata import bundle_metadata

SERIES_DESCRIPTION = "CT estimated from {}, not for diagnosis"
DERIVATION = (
    "Estimated by a neural network from {}; not acquired by a CT scanner. Structures "
    "can be invented or missing. Research use only, not for diagnosis."
)
RESCALE_INTERCEPT = -1024
IDENTIFICATION = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""What :func:`read_identification` copies, and nothing else."""
UNKNOWN = (
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientPosition",
    "PositionReferenceIndicator",
    "KVP",
    "AcquisitionNumber",
)
"""What a CT image has to name, if only as empty."""


def read_identification(path: str) -> Dataset:
    """
    Who a DICOM file is of, and of which study: those of :data:`IDENTIFICATION` that it has.

    Raises:
        InputError: when the file is no DICOM file, or names no study.
    """
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(IDENTIFICATION))
    except Exception as error:
        raise InputError(
            f"{path}: the patient's data cannot be copied from it, expected a DICOM file; name the radiograph as "
            f"DICOM, or do not ask for the patient."
        ) from error
    if not header.get("StudyInstanceUID"):
        raise InputError(f"{path}: StudyInstanceUID is missing, expected it for copying the patient's data.")
    identification = Dataset()
    for keyword in IDENTIFICATION:
        if keyword in header:
            identification[keyword] = header[keyword]
    return identification


def check_series_folder(folder: str) -> None:
    """
    Raises:
        InputError: when a folder where a series is to be written holds other files than `.dcm`.
    """
    others = [name for name in os.listdir(folder) if not name.endswith(".dcm")] if os.path.isdir(folder) else []
    if others:
        raise InputError(
            f"{folder}: holds {len(others)} files that are no series, such as {others[0]}; it would be replaced: move "
            f"them or choose another output folder."
        )


def write_ct_series(
    folder: str,
    hu: torch.Tensor,
    affine: torch.Tensor,
    identification: Dataset | None = None,
    only: str | None = None,
) -> None:
    """
    Writes axial slices from inferior to superior, `slice_0001.dcm` and so on, as 16-bit CT images of a new series in a
    new frame of reference. The folder gets its name when it is whole; an earlier series there is replaced.

    Args:
        folder: where to.
        hu: `(X, Y, Z)` in HU, rounded to whole HU.
        affine: `(4, 4)`, voxel index to RAS+ in mm, its axes at right angles.
        identification: whose it is, from :func:`read_identification`; by default nobody's, in a study of its own.
        only: "frontal" or "lateral" where that X-ray is all that it was estimated from, which the series says.

    Raises:
        InputError: when the volume cannot be a CT image, or the folder holds other files than `.dcm`.
        OutputError: when the folder cannot be written.
    """
    check_series_folder(folder)
    check_axes(affine[:3, :3].double(), f"{folder}: the volume to write")
    ct = Orientation("LPS", labels=None)(MetaTensor(hu[None], affine=affine.double()))
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ct.affine.numpy()
    stored = _stored_values(ct[0].cpu().numpy(), folder)
    series = _series_attributes(to_lps, identification or _nobody(), only)

    def write(temporary: str) -> None:
        for index in range(stored.shape[2]):
            image = _slice(series, stored[..., index].T, to_lps, index)
            image.save_as(os.path.join(temporary, f"slice_{index + 1:04d}.dcm"))

    write_folder_atomically(folder, write)


def _stored_values(hu: np.ndarray, folder: str) -> np.ndarray:
    stored = np.round(hu.astype(np.float64)) - RESCALE_INTERCEPT
    limits = np.iinfo(np.int16)
    if not np.isfinite(stored).all() or stored.min() < limits.min or stored.max() > limits.max:
        raise InputError(
            f"{folder}: the volume to write holds NaN or values from {np.nanmin(hu):g} to {np.nanmax(hu):g} HU, "
            f"expected finite values that fit 16 bits."
        )
    return stored.astype("<i2")


def _nobody() -> Dataset:
    identification = Dataset()
    identification.PatientName = "Anonymous"
    identification.PatientID = "ANONYMOUS"
    identification.PatientIdentityRemoved = "YES"
    identification.DeidentificationMethod = "Identification of the X-rays was not copied"
    return identification


def _series_attributes(to_lps: np.ndarray, identification: Dataset, only: str | None) -> Dataset:
    """What all slices share."""
    series, now = Dataset(), datetime.now()
    for keyword in UNKNOWN:
        setattr(series, keyword, None)
    series.StudyInstanceUID = generate_uid()
    series.StudyDate, series.StudyTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    series.update(identification)
    series.SOPClassUID = CTImageStorage
    series.Modality = "CT"
    series.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    series.SeriesInstanceUID, series.FrameOfReferenceUID = generate_uid(), generate_uid()
    series.SeriesNumber = 1
    series.SeriesDate = series.ContentDate = series.InstanceCreationDate = f"{now:%Y%m%d}"
    series.SeriesTime = series.ContentTime = series.InstanceCreationTime = f"{now:%H%M%S}"
    series.SeriesDescription = SERIES_DESCRIPTION.format("one X-ray" if only else "two X-rays")
    source = f"a {only} chest X-ray alone" if only else "a frontal and a lateral chest X-ray"
    series.DerivationDescription = DERIVATION.format(source)
    series.BodyPartExamined = "CHEST"
    series.BurnedInAnnotation, series.LossyImageCompression = "NO", "00"
    _add_equipment(series)
    _add_grid(series, to_lps)
    _add_pixel_format(series)
    return series


def _add_equipment(series: Dataset) -> None:
    metadata = bundle_metadata()
    series.Manufacturer = metadata["authors"]
    series.ManufacturerModelName = metadata["name"]
    series.SoftwareVersions = metadata["version"]


def _add_grid(series: Dataset, to_lps: np.ndarray) -> None:
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    series.PixelSpacing = _decimals(spacing[[1, 0]])  # between rows, then between columns
    series.SliceThickness = series.SpacingBetweenSlices = _decimals(spacing[2:])[0]
    series.ImageOrientationPatient = _decimals((to_lps[:3, :2] / spacing[:2]).T.ravel())


def _add_pixel_format(series: Dataset) -> None:
    series.SamplesPerPixel, series.PhotometricInterpretation = 1, "MONOCHROME2"
    series.BitsAllocated, series.BitsStored, series.HighBit, series.PixelRepresentation = 16, 16, 15, 1
    series.RescaleIntercept, series.RescaleSlope, series.RescaleType = RESCALE_INTERCEPT, 1, "HU"
    series.WindowCenter, series.WindowWidth = [40, -600], [400, 1500]
    series.WindowCenterWidthExplanation = ["SOFT TISSUE", "LUNG"]


def _slice(series: Dataset, pixels: np.ndarray, to_lps: np.ndarray, index: int) -> FileDataset:
    """One image with its file's header; `pixels`: `(rows, columns)`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID, meta.FileMetaInformationGroupLength = ExplicitVRLittleEndian, 0
    validate_file_meta(meta)
    image = FileDataset("", {}, preamble=bytes(128), file_meta=meta, is_implicit_VR=False)
    image.update(series)
    image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    image.InstanceNumber = index + 1
    image.ImagePositionPatient = _decimals(to_lps[:3, 2] * index + to_lps[:3, 3])
    image.SliceLocation = _decimals([to_lps[2, 2] * index + to_lps[2, 3]])[0]
    image.Rows, image.Columns = pixels.shape
    image.add_new("PixelData", "OW", pixels.tobytes())
    return image


def _decimals(numbers: np.ndarray | list[float]) -> list[str]:
    return [format_number_as_ds(float(number)) for number in numbers]
