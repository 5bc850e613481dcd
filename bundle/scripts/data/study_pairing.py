"""Studies: which CT and which radiographs belong together, and why the others are excluded from a datalist."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Image:
    """A CT or a radiograph that was found, with the study and the patient that it belongs to."""

    patient: str
    study: str
    field: str
    """What it is in a record: "ct", "frontal" or "lateral"."""
    path: str
    """From the searched folder on, with slashes; a DICOM series by its folder."""
    day: str = ""
    """Date of the study as DICOM has it, such as "20240131"; empty where it is not known."""


@dataclass(frozen=True, order=True)
class Excluded:
    """Something that is in no record, and why."""

    path: str
    reason: str


@dataclass(frozen=True, order=True)
class PatientRecord:
    """A record of a datalist with its patient, who decides its section."""

    patient: str
    ct: str
    radiographs: tuple[str, str] | None
    """Frontal and lateral, of the CT's study."""

    def fields(self) -> dict[str, str]:
        """The record as it stands in a datalist."""
        return {"ct": self.ct, **dict(zip(("frontal", "lateral"), self.radiographs or ()))}


@dataclass(frozen=True)
class RadiographPair:
    """The biplanar pair of a study."""

    frontal: str
    lateral: str
    ct: str | None
    """The study's CT, where it has one alone."""


def patient_names(records: Iterable[PatientRecord]) -> dict[str, str]:
    """What patients are called in results, by their identity in the files, which may be a DICOM Patient ID: numbers."""
    patients = dict.fromkeys(record.patient for record in sorted(records))
    return {patient: f"patient_{number}" for number, patient in enumerate(patients, 1)}


def pair_radiographs(images: Iterable[Image]) -> list[RadiographPair]:
    """The studies with one frontal and one lateral radiograph, in order; whether they have a CT does not matter."""
    pairs = []
    for members in _join_days(sorted(images)).values():
        by_field = _paths_by_field(members)
        if len(by_field["frontal"]) == len(by_field["lateral"]) == 1:
            ct = by_field["ct"][0] if len(by_field["ct"]) == 1 else None
            pairs.append(RadiographPair(by_field["frontal"][0], by_field["lateral"][0], ct))
    return sorted(pairs, key=lambda pair: pair.frontal)


def unpaired_studies(images: Iterable[Image]) -> list[tuple[Image, str]]:
    """The first radiograph of each study that has radiographs, but not one of each view, and that as a sentence."""
    found = []
    for members in _join_days(sorted(images)).values():
        radiographs = [image for image in members if image.field != "ct"]
        frontal, lateral = (sum(image.field == view for image in members) for view in ("frontal", "lateral"))
        if radiographs and (frontal != 1 or lateral != 1):
            found.append((radiographs[0], _unequal(frontal, lateral)))
    return found


def pair_by_study(images: Iterable[Image]) -> tuple[list[PatientRecord], list[Excluded]]:
    """
    The records of all studies, in order, and the radiographs that are in none.

    Each CT makes a record. A study with one CT, one frontal and one lateral radiograph makes a record of all three.
    Radiographs of any other study are excluded, since it is not known what belongs together; its CTs stay. Hospitals
    file CT and radiographs as two studies: a study of radiographs alone joins the patient's study of the same day,
    where they are the only two.
    """
    records, excluded = [], []
    for (patient, _), members in _join_days(sorted(images)).items():
        by_field = _paths_by_field(members)
        obstacle = _obstacle(**{field: len(paths) for field, paths in by_field.items()})
        radiographs = (by_field["frontal"][0], by_field["lateral"][0]) if obstacle is None else None
        records += [PatientRecord(patient, ct, radiographs) for ct in by_field["ct"]]
        if obstacle:
            excluded += [Excluded(path, obstacle) for view in ("frontal", "lateral") for path in by_field[view]]
    return sorted(records), excluded


def _paths_by_field(members: Iterable[Image]) -> dict[str, list[str]]:
    by_field: dict[str, list[str]] = {"ct": [], "frontal": [], "lateral": []}
    for image in members:
        by_field[image.field].append(image.path)
    return by_field


def _join_days(images: Iterable[Image]) -> dict[tuple[str, str], list[Image]]:
    """Images by patient and study; a patient's two studies of one day, one of CTs and one of radiographs, as one."""
    studies, days = defaultdict(list), defaultdict(set)
    for image in images:
        studies[image.patient, image.study].append(image)
        if image.day:
            days[image.patient, image.day].add(image.study)
    for (patient, _), names in days.items():
        radiographs = [name for name in names if all(image.field != "ct" for image in studies[patient, name])]
        cts = [name for name in names if all(image.field == "ct" for image in studies[patient, name])]
        if len(radiographs) == len(cts) == 1 and len(names) == 2:
            studies[patient, cts[0]] += studies.pop((patient, radiographs[0]))
    return studies


def _obstacle(ct: int, frontal: int, lateral: int) -> str | None:
    """Why radiographs cannot be paired, by the number of images of a study; None when they can."""
    if frontal != 1 or lateral != 1:
        return _unequal(frontal, lateral)
    if ct == 0:
        return "its study has no CT"
    return None if ct == 1 else f"its study has {ct} CTs; which of them the radiographs belong to is not known"


def _unequal(frontal: int, lateral: int) -> str:
    return f"its study has {frontal} frontal and {lateral} lateral radiographs, expected one of each"
