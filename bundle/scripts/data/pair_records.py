"""The records of a benchmark on radiographs that have a CT of the same patient, and whom it leaves out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..io.radiograph import XRAY_KEYS
from .datalist import EXCLUDED, PAIR_SECTIONS, read_datalist, resolve_record, resolve_records, section_of
from .met_patients import met_patients
from .met_records import all_met_records, same_patient

SECTION, MET = PAIR_SECTIONS


@dataclass(frozen=True)
class Pairs:
    """
    Args:
        records: to score, with whole paths, `name`, `patient` and `group`.
        unusable: why, a sentence, by the patient of each record that cannot be scored.
        met: patients whom the shipped weights, or those that are scored, were trained on or chosen by; none of the
            records is theirs.
        excluded: `patient` and `reason` of what the datalist itself leaves out.
    """

    records: list[dict[str, Any]]
    unusable: dict[str, str]
    met: list[str]
    excluded: list[dict[str, str]]


def read_pairs(datalist: str, folder: str, weights: str | None = None) -> Pairs:
    """
    The sections `pairs`, `met` and `excluded` of a datalist, as `python launch.py fetch --pairs` writes it. A record
    of `pairs` whose patient the shipped weights or those that are scored have met counts as one of `met`.

    Args:
        datalist: path of the JSON file.
        folder: where relative paths start.
        weights: those that are scored, with `NAME_training.json` next to them, if they have it; None for none.

    Raises:
        InputError: when the datalist cannot be read, has no `pairs`, or two records are of one name; a record that is
            wrong by itself is in :attr:`Pairs.unusable`.
    """
    content, folder = read_datalist(datalist), os.path.abspath(str(folder))
    of_weights = map(same_patient, all_met_records(weights))
    known = {*met_patients(), *(name for collection, name in of_weights if collection)}
    found, unusable, met = [], {}, [_patient(record, MET, i) for i, record in enumerate(content.get(MET) or [])]
    for i, record in enumerate(section_of(content, datalist, SECTION)):
        patient = _patient(record, SECTION, i)
        if patient in known or patient in met:
            met.append(patient)
            continue
        try:
            _check_views(record, f"{datalist}: {SECTION}[{i}]")
            resolve_record(record, datalist, SECTION, i, folder)
            found.append(record)
        except InputError as error:
            unusable[patient] = str(error)
    records = resolve_records(found, datalist, SECTION, folder)
    return Pairs(records, unusable, sorted(set(met)), _excluded(content, datalist))


def _patient(record: Any, section: str, index: int) -> str:
    named = record.get("patient") if isinstance(record, dict) else None
    return named if isinstance(named, str) else f"{section}[{index}]"


def _check_views(record: Any, where: str) -> None:
    missing = [view for view in XRAY_KEYS if isinstance(record, dict) and view not in record]
    if missing:
        raise InputError(f"{where} lacks field '{missing[0]}'; a pair is two radiographs and a CT of one patient.")


def _excluded(content: dict[str, Any], datalist: str) -> list[dict[str, str]]:
    listed = content.get(EXCLUDED) or []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise InputError(
            f"{datalist}: '{EXCLUDED}' is {type(listed).__name__}, expected a list of objects with 'patient' and "
            f"'reason'."
        )
    return [{name: str(each.get(name, "")) for name in ("patient", "reason")} for each in listed]
