"""Reading a datalist: JSON in the Decathlon style that names the records of a dataset by section."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, one_line_message, shown
from ..io.former_ids import with_present_fields
from ..io.licences import check_source
from ..io.radiograph import DISPLAY_ORIENTATION, check_orientations, check_scale

SECTIONS = ("training", "validation", "test")
PAIR_SECTIONS = ("pairs", "met")
"""Of a datalist of fetched pairs: records that may be scored, and those of patients whom the weights have met."""
EXCLUDED = "excluded"
"""Of the same: a list of who is no pair, and why."""
IMAGE_FIELDS = ("frontal", "lateral", "ct")
RADIOGRAPH_FIELDS = ("radiograph_scale", "radiograph_orientation")
LABEL_FIELDS = ("name", "group", "patient")
SOURCE_FIELDS = ("collection", "licence")
PAIR_FIELDS = ("source", "view_told")
"""Of a fetched pair: the addresses of its series, and by what each radiograph's view was told; objects of texts."""
LONGEST_NAME = 200
"""Bytes of a name in UTF-8: a file's name may have 255, and a suffix stands behind it."""
FORMULA_SIGNS, CONFIG_SIGNS = "=+-@", "$%"
"""What a cell of a table that is a formula begins with, and an expression or a macro of a MONAI config."""
RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?:\..*)?", re.I | re.S)
"""Names that Windows gives to devices."""
NOT_IN_A_NAME = '/\\<>:"|?*'
"""What separates folders, or what Windows has in no file's name."""
KNOWN_FIELDS = (*IMAGE_FIELDS, *RADIOGRAPH_FIELDS, *LABEL_FIELDS, *SOURCE_FIELDS, *PAIR_FIELDS)


def load_records(datalist: str, section: str, folder: str | None = None) -> list[dict[str, Any]]:
    """
    The records of one section, checked before any work begins.

    A record names `ct` alone, whose X-rays are then projected, or `frontal`, `lateral` and `ct`. Optional are `name`,
    by default the CT's path as one word, see :func:`default_name`, `group`, by default the section, and `patient`, by
    default the name; evaluation summarises each group by itself, and its intervals are over patients.
    `radiograph_scale` and `radiograph_orientation` override those of the configuration, see
    :class:`~scripts.LoadRadiographsd`; under their former names they are read with a `FutureWarning`. `collection` and
    `licence` say where a record comes from and what may be done with it, see :mod:`scripts.io.licences`; `source` and
    `view_told` are notes of a fetched pair, see :mod:`scripts.data.pair_datalist`.

    Args:
        datalist: path of the JSON file.
        section: "training", "validation" or "test"; of a datalist of fetched pairs "pairs" or "met".
        folder: where relative paths start, by default the datalist's folder.

    Raises:
        InputError: when the file cannot be read, the section is missing or empty, a record has an unknown field, lacks
            a view or the CT, names a file that does not exist, leaves the folder by a relative path (by `..` or a
            link), has a name that cannot be a file's on every system (see :func:`check_label`) or that another record
            of the section has, or declares what its radiographs cannot be.

    Warns:
        UserWarning: when absolute paths lie outside the folder; they are used as they are.
    """
    records = section_of(read_datalist(datalist), datalist, section)
    folder = os.path.abspath(str(folder or os.path.dirname(datalist)))  # a name such as 2024 is a number on a line
    loaded = resolve_records(records, datalist, section, folder)
    warn_of_paths_outside(records, datalist, section, folder)
    return loaded


def read_datalist(datalist: str) -> dict[str, Any]:
    """
    The content of a datalist, its sections not yet checked.

    Raises:
        InputError: when the file is missing, is no file, is no JSON in UTF-8, or holds no object.
    """
    if os.path.exists(datalist) and not os.path.isfile(datalist):
        raise InputError(f"{datalist}: is a folder, a pipe or a device, expected a JSON file.")
    try:
        with open(datalist, encoding="utf-8-sig") as file:  # Windows puts a byte order mark first
            content = json.load(file)
    except FileNotFoundError as error:
        raise InputError(
            f"{datalist}: no such datalist; expected a JSON file with the sections {', '.join(SECTIONS)}. Build it by "
            f"`python -m scripts.datalist DIR` from the bundle's folder (see bundle/docs/data.md)."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{datalist}: cannot be read as JSON in UTF-8 ({one_line_message(error)}).") from error
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


def resolve_records(records: Sequence[Any], datalist: str, section: str, folder: str) -> list[dict[str, Any]]:
    """
    :func:`resolve_record` of a section, each record with a name of its own. Where the defaults of two files are alike,
    as those of `a/b.nii` and `a_b.nii`, each gets the beginning of its path's SHA-256 behind it, whatever their order;
    the records of one CT, of one patient, are numbered from the second on.

    Raises:
        InputError: also when two records are called alike, see :func:`check_distinct_names`.
    """
    resolved = [resolve_record(record, datalist, section, i, folder) for i, record in enumerate(records)]
    cts: dict[str, set[str]] = {}
    for record in resolved:
        cts.setdefault(alike(record["name"]), set()).add(record["ct"])
    count: Counter[str] = Counter()
    for record in (record for given, record in zip(records, resolved) if "name" not in given):
        name = record["name"]
        if len(cts[alike(name)]) > 1:
            own = name_with_hash(name, os.path.relpath(record["ct"], folder))
            record |= {"name": own, "patient": own if record["patient"] == name else record["patient"]}
        count[record["ct"]] += 1
        record["name"] += f"_{count[record['ct']]}" if count[record["ct"]] > 1 else ""
    check_distinct_names(resolved, datalist, section)
    return resolved


def check_distinct_names(records: Sequence[Any], datalist: str, section: str) -> None:
    """
    Args:
        records: those of a section; what has no name yet is passed over.
        datalist: for messages.
        section: for messages.

    Raises:
        InputError: when two names are alike in a file system that does not tell capitals or ways to compose a letter.
    """
    first: dict[str, int] = {}
    for i, record in enumerate(records):
        name = record.get("name") if isinstance(record, dict) else None
        other = first.setdefault(alike(name), i) if isinstance(name, str) else i
        if other != i:
            raise InputError(
                f"{datalist}: {section}[{other}] and {section}[{i}]: field 'name' is {records[other]['name']!r} and "
                f"{name!r}, expected names that differ by more than capitals; name one of them otherwise, or remove it."
            )


def resolve_record(record: Any, datalist: str, section: str, index: int, folder: str) -> dict[str, Any]:
    """
    A record of a section with whole paths, which start at a folder, a name, a group and a patient. Raises
    :class:`InputError` as :func:`load_records` does.
    """
    where = f"{datalist}: {section}[{index}]"
    if isinstance(record, dict):
        record = with_present_fields(record, f"{datalist}: a record of '{section}'")
    _check_fields(record, where)
    paths = {field: os.path.join(folder, record[field]) for field in IMAGE_FIELDS if field in record}
    for field, path in paths.items():
        if not os.path.isabs(record[field]) and not is_inside(path, folder):
            raise InputError(
                f"{where}: field '{field}' is {record[field]!r}, which leads to {os.path.realpath(path)}, outside the "
                f"folder of the data; expected a path inside {folder}, or an absolute path. Move the file there."
            )
        if not os.path.exists(path):
            raise InputError(f"{where}: field '{field}' names {shown(path)}, which does not exist; correct the path.")
    name = record.get("name", default_name(paths["ct"], folder))
    resolved = {"name": name, "group": section, "patient": name, **record, **paths}
    _check_names(resolved, where)
    return resolved


def warn_of_paths_outside(records: Sequence[Any], datalist: str, section: str, folder: str) -> None:
    """One warning for all absolute paths of a section's records that lie outside a folder."""
    outside = [
        f"{section}[{i}]: field '{field}' is {shown(record[field])}"
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
    """
    Whether a path, its links followed, lies in a folder, or is that folder; or in the store of the cache that the
    folder is part of, where Hugging Face and git-annex keep what their links lead to.
    """
    folder, path = os.path.realpath(folder), os.path.realpath(path)
    try:
        return any(os.path.commonpath([path, place]) == place for place in (folder, *_stores(folder)))
    except ValueError:  # two drives of Windows have no path in common
        return False


def _stores(folder: str) -> list[str]:
    """`blobs` next to Hugging Face's `snapshots`, and git-annex's objects, of the repository that a folder lies in."""
    places = [Path(folder), *Path(folder).parents]
    stores = [place.parent / "blobs" for place in places if place.name == "snapshots"]
    stores += [place / ".git" / "annex" / "objects" for place in places]
    return [os.path.realpath(store) for store in stores if store.is_dir()]


def _is_absolute(path: Any) -> bool:
    return isinstance(path, str) and os.path.isabs(path)


def _is_path(path: Any) -> bool:
    """Whether a field holds what an operating system can take for a path."""
    try:
        return isinstance(path, str) and bool(path) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


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
        if field in record and not _is_path(record[field]):
            raise InputError(f"{where}: field '{field}' is {record[field]!r}, expected the path of a file.")
    check_scale(record.get("radiograph_scale"), f"{where}: field 'radiograph_scale'")
    orientation = record.get("radiograph_orientation", {})
    is_object = isinstance(orientation, dict) and not set(orientation) - set(DISPLAY_ORIENTATION)
    if not is_object or not all(isinstance(letters, list) for letters in orientation.values()):
        raise InputError(
            f"{where}: field 'radiograph_orientation' is {orientation!r}, expected an object with lists of two letters "
            f"as {' and '.join(DISPLAY_ORIENTATION)}."
        )
    check_orientations({**DISPLAY_ORIENTATION, **orientation}, f"{where}: field 'radiograph_orientation'")
    for field in SOURCE_FIELDS:
        if field in record:
            check_source(record[field], f"{where}: field '{field}'")
    for field in PAIR_FIELDS:
        notes = record.get(field, {})
        if not isinstance(notes, dict):
            raise InputError(f"{where}: field '{field}' is {notes!r}, expected an object of texts.")
        for name, text in notes.items():
            check_source(text, f"{where}: field '{field}.{name}'")


def _check_names(record: dict[str, Any], where: str) -> None:
    for field in LABEL_FIELDS:
        check_label(record[field], f"{where}: field '{field}'")
    check_file_name(record["name"], f"{where}: field 'name'")


def check_file_name(name: Any, where: str) -> None:
    """
    Args:
        name: of a file or a folder of results.
        where: start of the message.

    Raises:
        InputError: when it cannot be one on every system; or as :func:`check_label` does.
    """
    check_label(name, where)
    if set(name) & set(NOT_IN_A_NAME) or name.endswith(".") or RESERVED.fullmatch(name):
        raise InputError(
            f"{where} is {name!r}, expected text that can name a file on every system, such as 'case_1': "
            f"no {NOT_IN_A_NAME}, no dot at the end, and no device of Windows."
        )


def check_label(label: Any, where: str) -> None:
    """
    Args:
        label: a name of a case, a group or a patient, which become cells of a table and, the first, a folder.
        where: start of the message.

    Raises:
        InputError: when it is no text, is a path, holds what does not print, is longer than :data:`LONGEST_NAME`, or
            begins as a formula or as an expression.
    """
    if not (isinstance(label, str) and label) or set(label) & set("/\\") or label in (".", ".."):
        expected = "text that can name a file, such as 'case_1'"
    elif not all(map(_prints, label)) or label != label.strip():
        expected = "letters that print, and no blank at an end"
    elif _begins_as_code(label):
        expected = f"none of {FORMULA_SIGNS}{CONFIG_SIGNS} in front, which make a formula of a cell or an expression"
    elif len(label.encode()) > LONGEST_NAME:
        expected = f"at most {LONGEST_NAME} bytes in UTF-8, not {len(label.encode())}"
    else:
        return
    raise InputError(f"{where} is {label!r}, expected {expected}.")


def default_name(path: str, folder: str) -> str:
    """
    What a case is called that has no name: its CT's path from the folder on, without its suffix, as one word; a
    folder's name has no suffix. A letter that no name may have becomes `_`, and what is too long ends in its path's
    hash.
    """
    if os.path.isfile(path):
        path = os.path.splitext(path[:-3] if path.lower().endswith(".gz") else path)[0]
    parts = [part for part in Path(os.path.relpath(path, folder)).parts if part != os.pardir]
    safe = ["_" if letter in NOT_IN_A_NAME or not _prints(letter) else letter for letter in "_".join(parts)]
    name = "".join(safe).strip().rstrip(". ") or "_"
    name = f"_{name}" if _begins_as_code(name) or RESERVED.fullmatch(name) else name
    return name if len(name.encode()) <= LONGEST_NAME else name_with_hash(name, os.path.relpath(path, folder))


def _prints(letter: str) -> bool:
    """Whether a letter is one to see, or a blank of any script."""
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def _begins_as_code(label: str) -> bool:
    """Also in the wide signs of Chinese and Japanese, which tables take for the others."""
    return unicodedata.normalize("NFKC", label[0]).startswith(tuple(FORMULA_SIGNS + CONFIG_SIGNS))


def name_with_hash(name: str, path: str) -> str:
    short = name.encode()[: LONGEST_NAME - 8].decode(errors="ignore")
    return f"{short}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"


def alike(name: str) -> str:
    """The same for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()
