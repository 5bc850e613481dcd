"""What weights have met: a sidecar file that is a datalist, carried on by every training that starts from them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..io.sidecar import sha256_of, sidecar_path, write_sidecar
from .datalist import PAIR_SECTIONS, is_inside, read_datalist
from .met_patients import MET as OWN
from .met_patients import public_patient

NAME = "training"
INHERITED = PAIR_SECTIONS[1]
"""The section of records that weights have met before this training, by those that it started from."""
SECTIONS = (*OWN, INHERITED)
KEPT = ("name", "patient", "collection", "licence")
"""Fields of a record that the sidecar file keeps beside its CT's path in the folder of the data."""
Sections = dict[str, list[dict[str, str]]]


def records_of_training(
    training: Iterable[Mapping[str, Any]],
    validation: Iterable[Mapping[str, Any]],
    folder: str,
    start_from: str | None = None,
    base: str | None = None,
) -> Sections:
    """
    The sections of the sidecar file of a training: its own, and `met`, what the weights have met that it starts from.

    Args:
        training: its records, with whole paths.
        validation: those by which its weights are chosen.
        folder: of the data.
        start_from: the weights that the trained stage starts from; None for none.
        base: those of the stages before; None for none.

    Raises:
        CheckpointError: when a sidecar file of these weights cannot be used.

    Warns:
        UserWarning: when `start_from` has no such sidecar file, so that whom they have met is not known.
    """
    own = [[_kept(record, str(folder)) for record in records] for records in (training, validation)]
    known = [record for records in own for record in records]
    met: list[dict[str, str]] = []
    for record in [*all_met_records(base), *all_met_records(start_from)]:
        if record not in known and record not in met:
            met.append(record)
    if start_from is not None and read_met_records(start_from) is None:
        warnings.warn(
            f"{start_from}: has no {os.path.basename(sidecar_path(start_from, NAME))} next to it, expected a datalist "
            f"of what these weights have met. None of their patients can be left out of an evaluation, and their "
            f"licences are not checked. Put that file there where you have it.",
            stacklevel=2,
        )
    return dict(zip(SECTIONS, (*own, met)))


def write_met_records(weights: str, sections: Sections) -> None:
    """
    Writes `NAME_training.json` next to weights, a sidecar file: the records that they have met.

    Raises:
        OutputError: when it cannot be written.
    """
    write_sidecar(sidecar_path(weights, NAME), weights, sections)


def read_met_records(weights: str) -> Sections | None:
    """
    The records that weights have met by their sidecar file `NAME_training.json`, by section; None without one. A file
    that names no weights counts as theirs by its own name.

    Raises:
        CheckpointError: when the file was made for other weights, or a section is no list of records with a `ct`.
        InputError: when it cannot be read as a datalist.
    """
    path = sidecar_path(weights, NAME)
    if not os.path.isfile(path):
        return None
    content = read_datalist(path)
    next_step = "Train again, or move it away: whom the weights have met is then not known."
    if content.get("weights_sha256", sha256 := sha256_of(weights)) != sha256:
        raise CheckpointError(f"{path}: field 'weights_sha256' is of other weights than {weights}. {next_step}")
    sections = {section: content.get(section, []) for section in SECTIONS}
    for section, records in sections.items():
        if not isinstance(records, list) or not all(map(_is_record, records)):
            raise CheckpointError(f"{path}: section '{section}' is no list of records with a 'ct'. {next_step}")
    return sections


def all_met_records(weights: str | None) -> list[dict[str, str]]:
    """
    The records of all sections of :func:`read_met_records`; none where weights or their sidecar file are not there.
    """
    sections = read_met_records(weights) if weights is not None and os.path.isfile(weights) else None
    return [record for records in (sections or {}).values() for record in records]


def without_met(
    records: Sequence[dict[str, Any]], weights: str, folder: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Records to score, and those whose patients weights have met before their own training, see :func:`same_patient`.

    Args:
        records: with whole paths.
        weights: the file; its own training's sections play no part, since the datalist keeps them apart.
        folder: of the data.

    Raises:
        CheckpointError: as :func:`read_met_records`, which may also raise an :class:`InputError`.
    """
    met = {same_patient(record) for record in (read_met_records(weights) or {}).get(INHERITED, [])}
    left: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for record in records:
        left[same_patient(_kept(record, str(folder))) in met].append(record)
    return left


def same_patient(record: Mapping[str, str]) -> tuple[str, str]:
    """
    What is alike for records of one patient, in whatever datalist they are: the collection and the patient's name in
    it; of a record that names no collection the path of its CT, since the numbers of patients are those of a datalist.
    """
    if "collection" not in record:
        return "", record["ct"]
    name = Path(record["ct"]).name.split(".")[0]
    return record["collection"], public_patient(record) or record.get("patient") or record.get("name") or name


def _kept(record: Mapping[str, Any], folder: str) -> dict[str, str]:
    """The record as a datalist of this folder would have it."""
    ct = record["ct"]
    path = os.path.relpath(ct, os.path.abspath(folder)) if is_inside(ct, folder) else os.path.basename(ct)
    return {"ct": Path(path).as_posix(), **{field: record[field] for field in KEPT if field in record}}


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("ct"), str)
