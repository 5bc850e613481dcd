"""Datalists: JSON in the Decathlon style that names the records of a dataset by section."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import InputError

SECTIONS = ("training", "validation", "test")
IMAGE_FIELDS = ("frontal", "lateral", "ct")
KNOWN_FIELDS = (*IMAGE_FIELDS, "name", "group")


def load_records(datalist: str, section: str) -> list[dict[str, Any]]:
    """
    The records of one section, checked before any work begins. Relative paths start at the datalist's folder.

    A record names `ct` alone, whose X-rays are then projected, or `frontal`, `lateral` and `ct`. Optional are `name`, by
    default the CT's path as one word, and `group`, by default the section; evaluation summarises each group by itself.

    Args:
        datalist: path of the JSON file.
        section: "training", "validation" or "test".

    Raises:
        InputError: when the file cannot be read, the section is missing or empty, a record has an unknown field, lacks
            a view or the CT, names a file that does not exist, or has a name that cannot be a file's.
    """
    records = _read(datalist).get(section)
    if not isinstance(records, list) or not records:
        raise InputError(
            f"{datalist}: section '{section}' is missing or empty; expected a list of records such as "
            f'{{"ct": "patient_1.nii.gz"}}.'
        )
    folder = os.path.dirname(os.path.abspath(datalist))
    return [_resolve(record, f"{datalist}: {section}[{i}]", folder, section) for i, record in enumerate(records)]


def _read(datalist: str) -> dict[str, Any]:
    try:
        with open(datalist, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError as error:
        raise InputError(
            f"{datalist}: no such datalist; expected a JSON file with the sections {', '.join(SECTIONS)} "
            f"(see bundle/docs/quickstart.md)."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{datalist}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{datalist}: holds a {type(content).__name__}, expected an object with sections.")
    return content


def _resolve(record: Any, where: str, folder: str, section: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise InputError(f"{where} is {record!r}, expected an object with the fields {', '.join(KNOWN_FIELDS)}.")
    unknown = sorted(set(record) - set(KNOWN_FIELDS))
    if unknown:
        raise InputError(f"{where} has the unknown field '{unknown[0]}', expected {', '.join(KNOWN_FIELDS)}.")
    if ("frontal" in record) != ("lateral" in record):
        missing = "lateral" if "frontal" in record else "frontal"
        raise InputError(f"{where} lacks field '{missing}'; both views are needed, or neither and a 'ct'.")
    if "ct" not in record:
        raise InputError(f"{where} lacks field 'ct', the truth to train on or to score against.")
    for field in IMAGE_FIELDS:
        if field in record and not (isinstance(record[field], str) and record[field]):
            raise InputError(f"{where}: field '{field}' is {record[field]!r}, expected the path of a file.")
    paths = {field: os.path.join(folder, record[field]) for field in IMAGE_FIELDS if field in record}
    for field, path in paths.items():
        if not os.path.exists(path):
            raise InputError(f"{where}: field '{field}' names {path}, which does not exist; correct the path.")
    record = {"name": _default_name(paths["ct"], folder), "group": section, **record, **paths}
    for field in ("name", "group"):
        value = record[field]
        if not (isinstance(value, str) and value) or set(value) & set("/\\") or value in (".", ".."):
            raise InputError(f"{where}: field '{field}' is {value!r}, expected text that can name a file, such as 'case_1'.")
    return record


def _default_name(path: str, folder: str) -> str:
    """The path from the datalist's folder on, without its suffix, as one word; a folder's name has no suffix."""
    if os.path.isfile(path):
        path = os.path.splitext(path.removesuffix(".gz"))[0]
    return "_".join(part for part in Path(os.path.relpath(path, folder)).parts if part != os.pardir)
