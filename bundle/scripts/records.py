"""Reading a datalist: JSON in the Decathlon style that names the records of a dataset by section."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError
from .radiograph import AS_READ, check_orientations, check_scale

SECTIONS = ("training", "validation", "test")
IMAGE_FIELDS = ("frontal", "lateral", "ct")
FILM_FIELDS = ("film_scale", "film_orientation")
LABEL_FIELDS = ("name", "group", "patient")
KNOWN_FIELDS = (*IMAGE_FIELDS, *FILM_FIELDS, *LABEL_FIELDS)


def load_records(datalist: str, section: str, folder: str | None = None) -> list[dict[str, Any]]:
    """
    The records of one section, checked before any work begins.

    A record names `ct` alone, whose X-rays are then projected, or `frontal`, `lateral` and `ct`. Optional are `name`,
    by default the CT's path as one word, `group`, by default the section, and `patient`, by default the name;
    evaluation summarises each group by itself, and its intervals are over patients. `film_scale` and
    `film_orientation` go before those of the configuration, see :class:`~scripts.LoadRadiographsd`.

    Args:
        datalist: path of the JSON file.
        section: "training", "validation" or "test".
        folder: where relative paths start, by default the datalist's folder.

    Raises:
        InputError: when the file cannot be read, the section is missing or empty, a record has an unknown field, lacks
            a view or the CT, names a file that does not exist, leaves the folder by a relative path (by `..` or a
            link), has a name that cannot be a file's, or declares what its films cannot be.

    Warns:
        UserWarning: when absolute paths lie outside the folder; they are used as they are.
    """
    records = section_of(read_datalist(datalist), datalist, section)
    folder = os.path.abspath(folder or os.path.dirname(datalist))
    loaded = [resolve_record(record, datalist, section, i, folder) for i, record in enumerate(records)]
    warn_of_paths_outside(records, datalist, section, folder)
    return loaded


def read_datalist(datalist: str) -> dict[str, Any]:
    """
    The content of a datalist, its sections not yet checked.

    Raises:
        InputError: when the file is missing, is no JSON, or holds no object.
    """
    try:
        with open(datalist, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError as error:
        raise InputError(
            f"{datalist}: no such datalist; expected a JSON file with the sections {', '.join(SECTIONS)}. Build it by "
            f"`python -m scripts.datalist DIR` from the bundle's folder (see bundle/docs/quickstart.md)."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{datalist}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{datalist}: holds a {type(content).__name__}, expected an object with sections.")
    return content


def section_of(content: dict[str, Any], datalist: str, section: str) -> list[Any]:
    """
    The records of one section, each not yet checked.

    Raises:
        InputError: when the section is missing, empty or no list.
    """
    records = content.get(section)
    if not isinstance(records, list) or not records:
        raise InputError(
            f"{datalist}: section '{section}' is missing or empty; expected a list of records such as "
            f'{{"ct": "patient_1.nii.gz"}}.'
        )
    return records


def resolve_record(record: Any, datalist: str, section: str, index: int, folder: str) -> dict[str, Any]:
    """
    A record of a section with whole paths, which start at a folder, a name, a group and a patient. Raises
    :class:`InputError` as :func:`load_records` does.
    """
    where = f"{datalist}: {section}[{index}]"
    _check_fields(record, where)
    paths = {field: os.path.join(folder, record[field]) for field in IMAGE_FIELDS if field in record}
    for field, path in paths.items():
        if not os.path.isabs(record[field]) and not is_inside(path, folder):
            raise InputError(
                f"{where}: field '{field}' is '{record[field]}', which leads to {os.path.realpath(path)}, outside the "
                f"folder of the data; expected a path inside {folder}, or an absolute path. Move the file there."
            )
        if not os.path.exists(path):
            raise InputError(f"{where}: field '{field}' names {path}, which does not exist; correct the path.")
    name = record.get("name", _default_name(paths["ct"], folder))
    resolved = {"name": name, "group": section, "patient": name, **record, **paths}
    _check_names(resolved, where)
    return resolved


def warn_of_paths_outside(records: Sequence[Any], datalist: str, section: str, folder: str) -> None:
    """One warning for all absolute paths of a section's records that lie outside a folder."""
    outside = [
        f"{section}[{i}]: field '{field}' is {record[field]}"
        for i, record in enumerate(records)
        for field in IMAGE_FIELDS
        if isinstance(record, dict) and _is_absolute(record.get(field)) and not is_inside(record[field], folder)
    ]
    if outside:
        further = f" So do {len(outside) - 1} more of this section." if len(outside) > 1 else ""
        warnings.warn(
            f"{datalist}: {outside[0]}, outside the folder of the data; expected a path inside {folder}. It is used "
            f"as it is; a copy of the folder will lack it.{further}",
            stacklevel=3,
        )


def is_inside(path: str, folder: str) -> bool:
    """Whether a path, its links followed, lies in a folder or is that folder."""
    folder = os.path.realpath(folder)
    try:
        return os.path.commonpath([os.path.realpath(path), folder]) == folder
    except ValueError:  # two drives of Windows have no path in common
        return False


def _is_absolute(path: Any) -> bool:
    return isinstance(path, str) and os.path.isabs(path)


def _check_fields(record: Any, where: str) -> None:
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
    check_scale(record.get("film_scale"), f"{where}: field 'film_scale'")
    orientation = record.get("film_orientation", {})
    is_object = isinstance(orientation, dict) and not set(orientation) - set(AS_READ)
    if not is_object or not all(isinstance(letters, list) for letters in orientation.values()):
        raise InputError(
            f"{where}: field 'film_orientation' is {orientation!r}, expected an object with lists of two letters as "
            f"{' and '.join(AS_READ)}."
        )
    check_orientations({**AS_READ, **orientation}, f"{where}: field 'film_orientation'")


def _check_names(record: dict[str, Any], where: str) -> None:
    for field in LABEL_FIELDS:
        value = record[field]
        if not (isinstance(value, str) and value) or set(value) & set("/\\") or value in (".", ".."):
            raise InputError(f"{where}: field '{field}' is {value!r}, expected text that can name a file, such as 'case_1'.")


def _default_name(path: str, folder: str) -> str:
    """The path from the folder on, without its suffix, as one word; a folder's name has no suffix."""
    if os.path.isfile(path):
        path = os.path.splitext(path.removesuffix(".gz"))[0]
    return "_".join(part for part in Path(os.path.relpath(path, folder)).parts if part != os.pardir)
