"""The cases of an evaluation: a section of a datalist, or every CT of a folder that has no datalist."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from ..errors import InputError
from ..io.sidecar import sidecar_path
from .datalist import load_records, read_datalist, resolve_records
from .datalist_builder import print_excluded, print_unnamed
from .folder_scan import find_records
from .met_records import INHERITED, NAME, without_met
from .study_pairing import patient_names

DATALIST = "datalist.json"


def evaluation_records(datalist: str, section: str, folder: str, weights: str | None = None) -> list[dict[str, Any]]:
    """
    The records to score: those of a section, or, where the folder has no `datalist.json`, one for each of its CTs;
    less those of patients whom the weights have met before their own training, which are named.

    CTs of a folder are found as `python -m scripts.datalist` finds them, with their radiographs where they have a pair;
    what is found, what is excluded, and which files without a Patient ID count as one patient is printed. Patients are
    numbered.

    Args:
        datalist: path of the JSON file.
        section: "training", "validation" or "test"; of a folder's CTs the group.
        folder: where relative paths start, and what is searched when `datalist` is its `datalist.json` and is missing.
        weights: those that are scored, see :func:`~scripts.data.met_records.without_met`; None leaves nobody out.

    Raises:
        InputError: as :func:`~scripts.load_records` does; also when neither a datalist nor a CT is there, or the
            weights have met every patient.
        CheckpointError: when the weights' file of what they have met cannot be used.
    """
    records = _found_records(datalist, section, folder)
    if weights is None:
        return records
    kept, met = without_met(records, weights, folder)
    if met:
        names = ", ".join(record["name"] for record in met)
        why = f"{weights} has met their patients before its own training"
        where = f"section '{INHERITED}' of {os.path.basename(sidecar_path(weights, NAME))}"
        if not kept:
            raise InputError(f"{datalist}: nothing of '{section}' can be scored: {why} ({where}). Take other patients.")
        if idist.get_rank() == 0:
            print(f"Not scored, since {why} ({where}): {names}")
    return kept


def _found_records(datalist: str, section: str, folder: str) -> list[dict[str, Any]]:
    if not _is_folder_alone(datalist, folder):
        return load_records(datalist, section, folder)
    folder = str(folder)
    found, excluded = find_records(Path(folder))
    if not found:
        raise InputError(
            f"{folder}: holds neither {DATALIST} nor a CT, expected one of them (how CTs are recognised: "
            f"bundle/docs/data.md). Another datalist is named by `--datalist FILE`."
        )
    if idist.get_rank() == 0:
        print(f"{folder}: no {DATALIST}, so that each of the {len(found)} CTs found there is a case.")
        print_excluded(excluded)
        print_unnamed(found)
    names = patient_names(found)
    records = [{**record.fields(), "patient": names[record.patient]} for record in found]
    return resolve_records(records, folder, section, folder)


def training_records(datalist: str, folder: str) -> list[dict[str, Any]]:
    """
    The records that the baselines are made from: the section `training`, none where there is no such section.

    Raises:
        InputError: as :func:`~scripts.load_records` does, when the section is there and something in it is wrong.
    """
    if _is_folder_alone(datalist, folder) or not read_datalist(datalist).get("training"):
        return []
    return load_records(datalist, "training", folder)


def _is_folder_alone(datalist: str, folder: str) -> bool:
    """Whether a datalist is not there and would be the folder's own: one of another name has been asked for."""
    is_own = os.path.abspath(datalist) == os.path.join(os.path.abspath(str(folder)), DATALIST)
    return is_own and not os.path.exists(datalist) and os.path.isdir(str(folder))
