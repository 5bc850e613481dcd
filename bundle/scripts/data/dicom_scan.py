"""CT series and radiographs among DICOM files, known by their headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from scipy.cluster.hierarchy import DisjointSet

from ..io.dicom_headers import UNNAMED, Header
from ..io.dicom_tags import MODALITIES, PLANE_OF_POSITION
from ..io.slice_places import described, overlaid_acquisitions, places_along
from .study_pairing import Excluded, Image


def name_patients(headers: Sequence[Header]) -> list[Header | Excluded]:
    """
    Patients for files without a Patient ID: one for each folder, and one for folders with a study, series or frame of
    reference in common. It is the patient of the Patient ID that such a folder, study, series or frame has elsewhere; a
    file that is tied to several of them is excluded.
    """
    ties = DisjointSet()
    for header in headers:
        for tie in header.ties if not header.patient else ():
            ties.add(tie)
            ties.merge(header.ties[0], tie)
    patients = _patients_by_root(headers, ties)
    return [header if header.patient else _named(header, patients[ties[header.ties[0]]]) for header in headers]


def _patients_by_root(headers: Sequence[Header], ties: DisjointSet) -> dict[tuple[str, str], set[str]]:
    """Patient IDs by the root of the ties that they share with files without one; where there are none the folder."""
    patients, folders = defaultdict(set), defaultdict(set)
    for header in headers:
        for root in {ties[tie] for tie in header.ties if tie in ties}:
            if header.patient:
                patients[root].add(header.patient)
            else:
                folders[root].add(header.folder)
    return {root: patients[root] or {f"{UNNAMED}{min(places)}"} for root, places in folders.items()}


def _named(header: Header, patients: set[str]) -> Header | Excluded:
    if len(patients) == 1:
        return replace(header, patient=min(patients))
    found = f"its folder, study, series or frame of reference is of {len(patients)} patients"
    return Excluded(header.path, f"its PatientID is empty, and {found}; whose it is is not known")


def patients_by_folder(headers: Iterable[Header]) -> dict[str, set[str]]:
    """The patients of all files below each first folder."""
    patients = defaultdict(set)
    for header in headers:
        patients[PurePosixPath(header.path).parts[0]].add(header.patient)
    return patients


def describe_headers(headers: Sequence[Header]) -> list[Image | Excluded]:
    """
    CT series and radiographs, and why others are excluded.

    A CT series has at least two slices, of one acquisition, lies in a folder that holds no other DICOM file, and is
    named by that folder. A radiograph is an image of one of :data:`MODALITIES`, and View Position or View Code Sequence
    say which view it is.
    """
    series, folders = defaultdict(list), defaultdict(set)
    for header in headers:
        series[header.series_key].append(header)
        folders[header.folder].add(header.series_key)
    found: list[Image | Excluded] = []
    for members in series.values():
        if members[0].modality == "CT":
            found.append(_describe_series(members, folders))
        else:
            found += [_describe_radiograph(header) for header in members]
    return found


def _describe_series(slices: Sequence[Header], folders: dict[str, set]) -> Image | Excluded:
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
    elif acquisitions := _acquisitions_of(slices):
        reason = described(acquisitions)
    else:
        return Image(first.patient, first.study_key, "ct", first.folder, first.day)
    path = first.path if len(slices) == 1 else places[0]
    return Excluded(path, f"CT series {first.series} ({len(slices)} files) {reason}")


def _acquisitions_of(slices: Sequence[Header]) -> dict[str, int]:
    """As :func:`overlaid_acquisitions`, for slices that say where they lie."""
    if not all(header.position and header.orientation for header in slices):
        return {}
    places = places_along([header.position for header in slices], slices[0].orientation)
    return overlaid_acquisitions([header.acquisition for header in slices], places)


def _describe_radiograph(header: Header) -> Image | Excluded:
    if header.modality not in MODALITIES:
        return Excluded(header.path, f"its modality is '{header.modality}', expected CT, {', '.join(MODALITIES)}")
    if header.plane is None:
        expected = f"one of {', '.join(PLANE_OF_POSITION)}, or a View Code Sequence"
        return Excluded(header.path, f"its View Position is '{header.view_position}', expected {expected}")
    return Image(header.patient, header.study_key, header.plane, header.path, header.day)
