"""CT series and radiographs among DICOM files, known by their headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from scipy.cluster.hierarchy import DisjointSet

from ..errors import InputError, one_line_message
from ..io.dicom_ct_series import check_ct_series
from ..io.dicom_headers import UNNAMED, Header
from ..io.dicom_tags import MODALITIES, PLANE_OF_POSITION
from .name_conventions import patient_folder
from .study_pairing import Excluded, Image


def name_patients(headers: Sequence[Header]) -> list[Header | Excluded]:
    """
    Patients for files without a Patient ID: one for each folder of a patient, see
    :func:`~scripts.data.name_conventions.patient_folder`, and one for folders with a study, series or frame of
    reference in common. It is the patient of the Patient ID that such a folder, study, series or frame has elsewhere; a
    file that is tied to several of them is excluded.
    """
    ties = DisjointSet()
    for header in headers:
        for tie in _ties(header) if not header.patient else ():
            ties.add(tie)
            ties.merge(header.ties[0], tie)
    patients = _patients_by_root(headers, ties)
    return [header if header.patient else _named(header, patients[ties[header.ties[0]]]) for header in headers]


def _ties(header: Header) -> list[tuple[str, str]]:
    folder = patient_folder(header.path)
    return [*header.ties, *([("patient's folder", folder)] if folder else [])]


def _patients_by_root(headers: Sequence[Header], ties: DisjointSet) -> dict[tuple[str, str], set[str]]:
    """Patient IDs by the root of the ties that they share with files without one; where there are none the folder."""
    patients, folders = defaultdict(set), defaultdict(set)
    for header in headers:
        for root in {ties[tie] for tie in _ties(header) if tie in ties}:
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
    """The patients of all files below each folder of a patient, see :mod:`~scripts.data.name_conventions`."""
    patients = defaultdict(set)
    for header in headers:
        patients[patient_folder(header.path) or PurePosixPath(header.path).parts[0]].add(header.patient)
    return patients


def describe_headers(folder: Path, headers: Sequence[Header]) -> list[Image | Excluded]:
    """
    CT series and radiographs, and why others are excluded.

    The slices of a CT series lie in a folder that holds no other series' slices, and is named by it; they make one CT
    volume, see :func:`~scripts.io.dicom_ct_series.check_ct_series`, so that every record is one that can be read. A
    radiograph is an image of one of :data:`MODALITIES`, and View Position or View Code Sequence say which view it is.

    Args:
        folder: the searched folder, from which the headers' paths start.
        headers: each with a patient.
    """
    series, folders = defaultdict(list), defaultdict(set)
    found: list[Image | Excluded] = []
    for header in headers:
        if header.modality != "CT":
            found.append(_describe_radiograph(header))
        elif header.no_slice:
            found.append(Excluded(header.path, header.no_slice))
        else:
            series[header.series_key].append(header)
            folders[header.folder].add(header.series_key)
    return found + [_describe_series(folder, members, folders) for members in series.values()]


def _describe_series(folder: Path, slices: Sequence[Header], folders: dict[str, set]) -> Image | Excluded:
    first, places = slices[0], sorted({header.folder for header in slices})
    if len(slices) < 2:
        reason = "is a single file, expected at least two slices"
    elif len(places) > 1:
        reason = f"is spread over {len(places)} folders, expected one of its own"
    elif places == ["."]:
        reason = "lies directly in the searched folder, expected a folder of its own"
    elif len(folders[first.folder]) > 1:
        reason = f"shares its folder with {len(folders[first.folder]) - 1} other series, expected a folder of its own"
    else:
        reason = _reason_of_reader(folder / first.folder)
    if not reason:
        return Image(first.patient, first.study_key, "ct", first.folder, first.day)
    path = first.path if len(slices) == 1 else places[0]
    return Excluded(path, f"CT series {first.series} ({len(slices)} files) {reason}")


def _reason_of_reader(series: Path) -> str | None:
    """Why the reader refuses a series; None where it takes it."""
    try:
        check_ct_series(str(series), "ct")
    except InputError as error:
        return str(error).removeprefix(f"{series}: field 'ct' ")
    except Exception as error:  # a damaged header raises whatever the reader stumbled over
        return f"cannot be read ({one_line_message(error)})"
    return None


def _describe_radiograph(header: Header) -> Image | Excluded:
    if header.modality not in MODALITIES:
        return Excluded(header.path, f"its modality is '{header.modality}', expected CT, {', '.join(MODALITIES)}")
    if header.plane is None:
        expected = f"one of {', '.join(PLANE_OF_POSITION)}, or a View Code Sequence"
        return Excluded(header.path, f"its View Position is '{header.view_position}', expected {expected}")
    return Image(header.patient, header.study_key, header.plane, header.path, header.day)
