"""Manifests: which series of a public collection a data set is made of, and where their files lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.licences import check_source
from .datalist import read_datalist

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LIDC_PAIRS = CONFIGS / "lidc_pairs.json"
"""Patients of LIDC-IDRI with radiographs next to their CT."""
SERIES = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""How Imaging Data Commons names what a bucket holds: a UUID for a series, and one for each of its files."""
PATIENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
KINDS = ("radiographs", "ct")
"""Of series, and the folders that they get within a patient's."""
RADIOGRAPHS, CT = KINDS
TEXTS = ("collection", "doi", "licence", "licence_url", "attribution", "address")
"""Fields that each manifest has."""
MAX_CITATION_LETTERS = 2000
MAX_SERIES_BYTES, MAX_SERIES_OBJECTS = 2**33, 10_000


@dataclass(frozen=True)
class Series:
    """
    Args:
        name: prefix of its objects' keys.
        objects: their number.
        size: of all together, in bytes.
    """

    name: str
    objects: int
    size: int


@dataclass(frozen=True)
class Patient:
    """
    Args:
        name: the collection's, such as "LIDC-IDRI-0001".
        series: by :data:`KINDS`.
    """

    name: str
    series: dict[str, Series]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(each.size for each in self.series.values())


@dataclass(frozen=True)
class Manifest:
    """
    Args:
        collection: its name.
        doi: address of its digital object identifier.
        licence: such as "CC BY 3.0".
        licence_url: where that can be read.
        attribution: what to name it by.
        address: of the bucket.
        patients: in the order of the file.
        excluded: patients of whom nothing is fetched, each with `patient` and `reason`.
        citation: of the collection, with its authors; empty where the file has none.
    """

    collection: str
    doi: str
    licence: str
    licence_url: str
    attribution: str
    address: str
    patients: list[Patient]
    excluded: list[dict[str, str]] = field(default_factory=list)
    citation: str = ""

    def chosen(self, count: int | None, last: Sequence[str] = ()) -> list[Patient]:
        """
        The first patients.

        Args:
            count: how many; None for all.
            last: patients that come after all others.

        Raises:
            InputError: when there are fewer.
        """
        if count is not None and not 0 < count <= len(self.patients):
            raise InputError(f"patients {count}: expected a number from 1 to {len(self.patients)}.")
        return sorted(self.patients, key=lambda patient: patient.name in last)[:count]


def read_manifest(path: str | Path = LIDC_PAIRS, kinds: Sequence[str] = KINDS) -> Manifest:
    """
    Args:
        path: of the file.
        kinds: of series that each patient has.

    Raises:
        InputError: when the file is missing, is no JSON, or a field is not what it has to be.
    """
    return as_manifest(read_datalist(str(path)), str(path), kinds)


def as_manifest(content: dict[str, Any], where: str, kinds: Sequence[str]) -> Manifest:
    """
    Args:
        content: of a manifest's file.
        where: start of each message.
        kinds: as of :func:`read_manifest`.

    Raises:
        InputError: when a field is not what it has to be.
    """
    texts = {name: content.get(name) for name in TEXTS}
    for name, text in texts.items():
        check_source(text, f"{where}: field '{name}'")
    patients, excluded, citation = (content.get(name) for name in ("patients", "excluded", "citation"))
    if not isinstance(patients, list) or not patients:
        raise InputError(f"{where}: field 'patients' is missing or empty; expected a list of objects.")
    read = [_patient(entry, f"{where}: patients[{i}]", kinds) for i, entry in enumerate(patients)]
    if len({patient.name for patient in read}) < len(read):
        raise InputError(f"{where}: names a patient twice, expected each once.")
    if citation is not None and not (
        isinstance(citation, str) and citation.isprintable() and len(citation) <= MAX_CITATION_LETTERS
    ):
        raise InputError(f"{where}: field 'citation' is no line of at most {MAX_CITATION_LETTERS} letters.")
    return Manifest(**texts, patients=read, excluded=_excluded(excluded or [], where), citation=citation or "")


def _excluded(entries: Any, where: str) -> list[dict[str, str]]:
    fields = {"patient", "reason"}
    for entry in entries if isinstance(entries, list) else [entries]:
        texts = entry.values() if isinstance(entry, dict) and set(entry) == fields else [None]
        if not all(isinstance(text, str) and text.isprintable() for text in texts):
            raise InputError(f"{where}: field 'excluded' holds {entry!r}, expected objects with patient and reason.")
    return entries


def _patient(entry: Any, where: str, kinds: Sequence[str]) -> Patient:
    name = entry.get("patient") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not PATIENT.fullmatch(name):
        raise InputError(f"{where}: field 'patient' is {name!r}, expected letters, digits, -, _ and dots.")
    return Patient(name, {kind: _series(entry.get(kind), f"{where}: field '{kind}'") for kind in kinds})


def _series(entry: Any, where: str) -> Series:
    fields = entry if isinstance(entry, dict) else {}
    name, objects, size = (fields.get(field) for field in ("series", "objects", "bytes"))
    is_named = isinstance(name, str) and SERIES.fullmatch(name) is not None
    if not (is_named and _is_count(objects, MAX_SERIES_OBJECTS) and _is_count(size, MAX_SERIES_BYTES)):
        raise InputError(f"{where} is {entry!r}, expected an object with series (a UUID), objects and bytes.")
    return Series(name, objects, size)


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most
