"""What a DICOM file says of itself, as far as a search of a folder asks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pydicom
from pydicom.misc import is_dicom as is_dicom

from ..errors import InputError, one_line_message
from .dicom_tags import declared_plane, view_position
from .slice_places import acquisition_number

UNNAMED = "\\/"
"""Begins the patient, or the study, of DICOM files that do not name one; their folder follows. No Patient ID can begin
so, since DICOM PS3.5 6.2 allows no backslash in it, and no name of a folder, since that has no slash."""
UIDS = ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"]
TEXTS = ["ImageType", "Modality", "PatientID", "StudyDate", *UIDS]
VIEWS = ["ViewPosition", "ViewCodeSequence"]
PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6}
"""How many numbers say where a slice lies."""
TAGS = [*TEXTS, *VIEWS, *PLACE, "AcquisitionNumber"]


@dataclass(frozen=True)
class Header:
    """What a DICOM file says of itself."""

    path: str
    patient: str
    """Patient ID; empty where the file has none, until :func:`name_patients`."""
    study: str
    """Study Instance UID; empty where the file has none."""
    series: str
    frame: str
    day: str
    modality: str
    view_position: str
    plane: str | None
    is_localizer: bool
    acquisition: str
    position: tuple[float, ...]
    """Image Position (Patient) in mm; empty where the file has none of three finite numbers."""
    orientation: tuple[float, ...]

    @property
    def folder(self) -> str:
        return str(PurePosixPath(self.path).parent)

    @property
    def series_key(self) -> tuple[str, ...]:
        return self.patient, self.series, self.modality

    @property
    def study_key(self) -> str:
        """The study; without a Study Instance UID what lies in one folder is of one study."""
        return self.study or f"{UNNAMED}{self.folder}"

    @property
    def ties(self) -> list[tuple[str, str]]:
        """Folder, study, series and frame of reference: what has one of them in common is of one patient."""
        uids = (("study", self.study), ("series", self.series), ("frame", self.frame))
        return [("folder", self.folder), *((kind, uid) for kind, uid in uids if uid)]


def read_header(folder: Path, path: str) -> Header:
    """
    Args:
        folder: the searched folder.
        path: of a DICOM file, from there on, with slashes.

    Raises:
        InputError: with the reason alone, when the file cannot be read or is a CT's slice without a series.
    """
    try:
        header = pydicom.dcmread(folder / path, stop_before_pixels=True, specific_tags=TAGS)
        texts = {tag: str(header.get(tag) or "").strip() for tag in TEXTS}
        view, plane = view_position(header), declared_plane(header)
        acquisition, position, orientation = acquisition_number(header), *(_numbers(header, tag) for tag in PLACE)
    except Exception as error:  # a damaged header raises whatever the reader stumbled over
        raise InputError(f"cannot be read as DICOM ({one_line_message(error)})") from error
    if texts["Modality"].upper() == "CT" and not texts["SeriesInstanceUID"]:
        raise InputError("its SeriesInstanceUID is empty, so it is not known which slices belong together")
    return Header(
        path=path,
        patient=texts["PatientID"],
        study=texts["StudyInstanceUID"],
        series=texts["SeriesInstanceUID"],
        frame=texts["FrameOfReferenceUID"],
        day=texts["StudyDate"],
        modality=texts["Modality"].upper(),
        view_position=view,
        plane=plane,
        is_localizer="LOCALIZER" in texts["ImageType"].upper(),
        acquisition=acquisition,
        position=position,
        orientation=orientation,
    )


def _numbers(header: pydicom.Dataset, keyword: str) -> tuple[float, ...]:
    """Whatever is not as many numbers as it should be, the reader of the series names; here it counts as missing."""
    try:
        numbers = tuple(float(number) for number in header.get(keyword) or ())
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == PLACE[keyword] and np.isfinite(numbers).all() else ()


def patient_id(path: str | None) -> str:
    """Patient ID of a DICOM file, or of the first one in a folder; empty where there is none."""
    if path is None:
        return ""
    files = [path] if os.path.isfile(path) else sorted(entry.path for entry in os.scandir(path) if entry.is_file())
    first = next((file for file in files if is_dicom(file)), None)
    header = pydicom.dcmread(first, stop_before_pixels=True, specific_tags=["PatientID"]) if first else {}
    return str(header.get("PatientID") or "").strip()
