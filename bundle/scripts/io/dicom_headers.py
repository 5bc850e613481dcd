"""What a DICOM file says of itself, as far as a search of a folder asks."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pydicom

from ..errors import InputError, one_line_message
from .dicom_tags import declared_plane, view_position
from .slice_places import why_no_slice

UNNAMED = "\\/"
"""Begins the patient, or the study, of DICOM files that do not name one; their folder follows. No Patient ID can begin
so, since DICOM PS3.5 6.2 allows no backslash in it, and no name of a folder, since that has no slash."""
NOBODY = re.compile(r"anon(ym(ous|i[sz]ed)?)?|unknown|none|null|undefined|n/?a|no ?name|patient|[-x*?._ ]+", re.I)
"""What a Patient ID is that names nobody."""
UIDS = ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"]
TEXTS = ["ImageType", "Modality", "PatientID", "StudyDate", *UIDS]
VIEWS = ["ViewPosition", "ViewCodeSequence"]
DATA_SET_STARTS = {b"\x02\0": "little", b"\x08\0": "little", b"\0\x08": "big"}
"""First group of a DICOM file without a preamble, and the order of its bytes (PS3.5 7.1)."""
DATA_SET_ELEMENTS = range(0x20)
"""Its first element, such as Specific Character Set (0008,0005) or Image Type (0008,0008)."""
PLACE = ["SeriesInstanceUID", "InstanceNumber", "SOPInstanceUID"]
TAGS = [*TEXTS, *VIEWS, "SOPClassUID", "ImagePositionPatient"]


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
    no_slice: str | None
    """Why it is no slice of a CT, see :func:`~scripts.io.slice_places.why_no_slice`; None where it may be one."""

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


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file is DICOM, by its preamble, or without one by its first element and its SOP Class UID."""
    with open(path, "rb") as file:
        return has_dicom_start(file) and _has_class(file)


def has_dicom_start(file: BinaryIO) -> bool:
    """Whether a file begins as DICOM does, with a preamble or with a data set."""
    start = file.read(132)
    file.seek(0)
    order = DATA_SET_STARTS.get(start[:2])
    is_data_set = order is not None and int.from_bytes(start[2:4], order) in DATA_SET_ELEMENTS
    return start[128:] == b"DICM" or is_data_set


def _has_class(file: BinaryIO) -> bool:
    if file.read(132)[128:] == b"DICM":
        return True
    file.seek(0)
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["SOPClassUID"])
        return "SOPClassUID" in header
    except Exception:  # whatever follows in a file of another kind that happens to begin so
        return False


def read_header(folder: Path, path: str) -> Header:
    """
    Args:
        folder: the searched folder.
        path: of a DICOM file, from there on, with slashes.

    Raises:
        InputError: with the reason alone, when the file cannot be read or is a CT's slice without a series.
    """
    try:
        header = pydicom.dcmread(folder / path, stop_before_pixels=True, specific_tags=TAGS, force=True)
        texts = {tag: str(header.get(tag) or "").strip() for tag in TEXTS}
        view, plane, no_slice = view_position(header), declared_plane(header), why_no_slice(header)
    except Exception as error:  # a damaged header raises whatever the reader stumbled over
        raise InputError(f"cannot be read as DICOM ({one_line_message(error)})") from error
    if texts["Modality"].upper() == "CT" and not texts["SeriesInstanceUID"]:
        raise InputError("its SeriesInstanceUID is empty, so it is not known which slices belong together")
    return Header(
        path=path,
        patient=_patient(header),
        study=texts["StudyInstanceUID"],
        series=texts["SeriesInstanceUID"],
        frame=texts["FrameOfReferenceUID"],
        day=texts["StudyDate"],
        modality=texts["Modality"].upper(),
        view_position=view,
        plane=plane,
        no_slice=no_slice,
    )


def patient_id(path: str | None) -> str:
    """Patient ID of a DICOM file, or of the first one in a folder; empty where there is none."""
    if path is None:
        return ""
    files = [path] if os.path.isfile(path) else sorted(entry.path for entry in os.scandir(path) if entry.is_file())
    first = next((file for file in files if is_dicom(file)), None)
    header = pydicom.dcmread(first, stop_before_pixels=True, specific_tags=["PatientID"], force=True) if first else {}
    return _patient(header)


def _patient(header: pydicom.Dataset) -> str:
    """Patient ID; empty where it is a word that anonymisers put in its place, the same for everybody."""
    patient = str(header.get("PatientID") or "").strip()
    return "" if NOBODY.fullmatch(patient) else patient


def place_in_series(path: str | os.PathLike[str]) -> tuple[str, int, str]:
    """
    What orders DICOM images: Series Instance UID, Instance Number, and SOP Instance UID, which no two images share; of
    what a file does not say "" and 0.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=PLACE, force=True)
        series, number, image = (header.get(keyword) for keyword in PLACE)
        return str(series or ""), int(number or 0), str(image or "")
    except Exception:  # a damaged header raises whatever the reader stumbled over, and places nothing
        return "", 0, ""
