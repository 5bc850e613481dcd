"""CT series and films among DICOM files, known by their headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pydicom

from .dicom_tags import MODALITIES, PLANE_OF_POSITION, plane_told, view_position
from .errors import told
from .studies import Image, LeftOut

TEXTS = ["ImageType", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate"]
VIEWS = ["ViewPosition", "ViewCodeSequence"]


@dataclass(frozen=True)
class Header:
    """What a DICOM file says of itself."""

    path: str
    patient: str
    study: str
    series: str
    day: str
    modality: str
    view_position: str
    plane: str | None
    is_localizer: bool

    @property
    def folder(self) -> str:
        return str(PurePosixPath(self.path).parent)

    @property
    def series_key(self) -> tuple[str, ...]:
        return self.patient, self.study, self.series, self.modality


def read_header(folder: Path, path: str) -> Header | LeftOut:
    """
    Args:
        folder: the searched folder.
        path: of a DICOM file, from there on, with slashes.
    """
    try:
        header = pydicom.dcmread(folder / path, stop_before_pixels=True, specific_tags=TEXTS + VIEWS)
        texts = {tag: str(header.get(tag) or "").strip() for tag in TEXTS}
        view, plane = view_position(header), plane_told(header)
    except Exception as error:  # a damaged header raises whatever the reader stumbled over
        return LeftOut(path, f"cannot be read as DICOM ({told(error)})")
    for tag in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not texts[tag]:
            return LeftOut(path, f"its {tag} is empty, so it is not known whose it is")
    return Header(
        path,
        texts["PatientID"],
        texts["StudyInstanceUID"],
        texts["SeriesInstanceUID"],
        texts["StudyDate"],
        texts["Modality"].upper(),
        view,
        plane,
        "LOCALIZER" in texts["ImageType"].upper(),
    )


def patients_by_folder(headers: Iterable[Header]) -> dict[str, set[str]]:
    """The patients of all files below each first folder."""
    patients = defaultdict(set)
    for header in headers:
        patients[PurePosixPath(header.path).parts[0]].add(header.patient)
    return patients


def describe_headers(headers: Sequence[Header]) -> list[Image | LeftOut]:
    """
    CT series and films, and why others are left out.

    A CT series has at least two slices, lies in a folder that holds no other DICOM file, and is named by that folder. A
    film is an image of a radiograph's modality, and View Position or View Code Sequence say which view it is.
    """
    series, folders = defaultdict(list), defaultdict(set)
    for header in headers:
        series[header.series_key].append(header)
        folders[header.folder].add(header.series_key)
    found: list[Image | LeftOut] = []
    for members in series.values():
        if members[0].modality == "CT":
            found.append(_describe_series(members, folders))
        else:
            found += [_describe_film(header) for header in members]
    return found


def _describe_series(slices: Sequence[Header], folders: dict[str, set]) -> Image | LeftOut:
    first, places = slices[0], sorted({header.folder for header in slices})
    if any(header.is_localizer for header in slices):
        reason = "holds localizer images"
    elif len(slices) < 2:
        reason = "is a single file, expected at least two slices"
    elif len(places) > 1:
        reason = f"is spread over {len(places)} folders, expected one of its own"
    elif places == ["."]:
        reason = "lies directly in the searched folder, expected a folder of its own"
    elif len(folders[first.folder]) > 1:
        reason = f"shares its folder with {len(folders[first.folder]) - 1} other series, expected a folder of its own"
    else:
        return Image(first.patient, first.study, "ct", first.folder, first.day)
    path = first.path if len(slices) == 1 else places[0]
    return LeftOut(path, f"CT series {first.series} ({len(slices)} files) {reason}")


def _describe_film(header: Header) -> Image | LeftOut:
    if header.modality not in MODALITIES:
        return LeftOut(header.path, f"its modality is '{header.modality}', expected CT, {', '.join(MODALITIES)}")
    if header.plane is None:
        expected = f"one of {', '.join(PLANE_OF_POSITION)}, or a View Code Sequence"
        return LeftOut(header.path, f"its View Position is '{header.view_position}', expected {expected}")
    return Image(header.patient, header.study, header.plane, header.path, header.day)
