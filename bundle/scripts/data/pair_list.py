"""Pairs of radiographs without a CT, to be reconstructed: those of a folder of studies, or of a table in CSV."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError, one_line_message, shown
from ..io.radiograph import PLANE_OF_VIEW, XRAY_KEYS
from .datalist import alike, check_file_name, default_name, name_with_hash
from .datalist_builder import print_excluded
from .folder_scan import find_images
from .study_pairing import pair_radiographs, unpaired_studies

COLUMNS = (*XRAY_KEYS, "id", "views")
MOST_BYTES = 2**26
"""Of a table: hundreds of thousands of rows."""


@dataclass(frozen=True)
class ListedPair:
    """
    Attributes:
        name: its id, which can name a folder on every system.
        radiographs: whole paths by `frontal` and `lateral`, or one of them alone.
        views: View Positions to take where the radiographs do not say, such as `("AP", "LL")`; None for the config's.
        obstacle: why it cannot be reconstructed, as far as that is known of the list alone; None where nothing is.
    """

    name: str
    radiographs: Mapping[str, str]
    views: tuple[str, str] | None = None
    obstacle: str | None = None


def listed_pairs(place: str, reserved: Sequence[str] = ()) -> list[ListedPair]:
    """
    The pairs of a folder or of a table, each with an id of its own.

    In a folder they are found as for a datalist, see :mod:`~scripts.data.name_conventions`, with a CT or without; a
    study whose radiographs are not one of each view is listed with that obstacle, and what is excluded is printed. A
    table has a row for each pair, and the columns `frontal` and `lateral`, paths from its folder on or whole ones, and
    where wanted `id` and `views`, such as `AP LL`; a row with one of the two has that radiograph alone. A pair without
    an id is called as the folder that it lies in alone (from the searched folder, or the table's, on, as one word), or
    else as its frontal radiograph.

    Args:
        place: the folder or the CSV file.
        reserved: ids that no pair may have, since other files have these names.

    Raises:
        InputError: when there is nothing at `place`, the table cannot be read or has other columns, an id cannot be a
            folder's name, or is another pair's, or views are none; or when there is no pair.
    """
    if os.path.isdir(place):
        pairs = _pairs_of_folder(Path(place))
    else:
        pairs = _pairs_of_table(place)
    if not pairs:
        raise InputError(f"{shown(place)}: no pair of radiographs found, expected at least one (bundle/docs/data.md).")
    root = place if os.path.isdir(place) else os.path.dirname(os.path.abspath(place))
    named = _with_ids(pairs, root)
    _check_ids(named, place, reserved)
    return named


def _pairs_of_folder(folder: Path) -> list[ListedPair]:
    """Without ids."""
    images, excluded = find_images(folder)
    print_excluded(excluded)
    found = [({"frontal": pair.frontal, "lateral": pair.lateral}, None) for pair in pair_radiographs(images)]
    found += [({entry.field: entry.path}, reason) for entry, reason in unpaired_studies(images)]
    whole = [
        ListedPair("", {view: os.path.join(folder.absolute(), path) for view, path in paths.items()}, None, reason)
        for paths, reason in found
    ]
    return sorted(whole, key=lambda pair: list(pair.radiographs.values()))


def _pairs_of_table(path: str) -> list[ListedPair]:
    """With the ids that the table has."""
    folder = os.path.dirname(os.path.abspath(path))
    pairs = []
    for number, row in enumerate(_rows(path), start=1):
        where = f"{shown(path)}: row {number}"
        given = [view for view in XRAY_KEYS if row[view]]
        if not given:
            raise InputError(f"{where}: 'frontal' and 'lateral' are empty, expected the path of a radiograph in one.")
        name = row.get("id", "")
        if name:
            check_file_name(name, f"{where}: column 'id'")
        radiographs = {view: os.path.normpath(os.path.join(folder, row[view])) for view in given}
        pairs.append(ListedPair(name, radiographs, _views(row.get("views", ""), where)))
    return pairs


def _rows(path: str) -> list[dict[str, str]]:
    if not os.path.isfile(path):
        found = "is no file and no folder" if os.path.exists(path) else "no such file or folder"
        raise InputError(f"{shown(path)}: {found}, expected a folder of studies, or a table in CSV.")
    if os.path.getsize(path) > MOST_BYTES:
        raise InputError(f"{shown(path)}: has more than {MOST_BYTES // 2**20} MiB, expected a table of paths in CSV.")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets put a byte order mark first
            table = csv.DictReader(file, strict=True, restval="")
            columns, rows = [name.strip() for name in table.fieldnames or ()], list(table)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{shown(path)}: cannot be read as CSV in UTF-8 ({one_line_message(error)}).") from error
    if not set(XRAY_KEYS) <= set(columns) <= set(COLUMNS) or len(set(columns)) != len(columns):
        raise InputError(
            f"{shown(path)}: its first row is {columns[:9]}, expected the names of its columns, divided by commas: "
            f"frontal and lateral, and where wanted id and views."
        )
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise InputError(f"{shown(path)}: row {number} has more cells than the {len(columns)} columns.")
        if any("\0" in cell for cell in row.values()):
            raise InputError(f"{shown(path)}: row {number} holds a NUL byte, expected text.")
    return [dict(zip(columns, (cell.strip() for cell in row.values()))) for row in rows]


def _views(text: str, where: str) -> tuple[str, str] | None:
    views = text.upper().replace("/", " ").split()
    if not views:
        return None
    if tuple(map(PLANE_OF_VIEW.get, views)) != XRAY_KEYS:
        raise InputError(f"{where}: column 'views' is {text!r}, expected AP or PA, then LL or RL, such as 'AP LL'.")
    return views[0], views[1]


def _with_ids(pairs: Sequence[ListedPair], root: str) -> list[ListedPair]:
    """Names those that have no id; where two would be called alike, each gets its path's hash behind it."""
    folders = Counter(folder for pair in pairs for folder in _folders(pair))
    defaults = [_default_id(pair, root, folders) for pair in pairs]
    count = Counter(map(alike, [pair.name or default for pair, default in zip(pairs, defaults)]))
    named = []
    for pair, default in zip(pairs, defaults):
        own = default if count[alike(default)] == 1 else name_with_hash(default, "\n".join(pair.radiographs.values()))
        named.append(pair if pair.name else replace(pair, name=own))
    return named


def _folders(pair: ListedPair) -> set[str]:
    return {os.path.dirname(path) for path in pair.radiographs.values()}


def _default_id(pair: ListedPair, root: str, folders: Mapping[str, int]) -> str:
    own, first = _folders(pair), next(iter(pair.radiographs.values()))
    (folder,) = own if len(own) == 1 else (root,)
    is_alone = folders[folder] == 1 and os.path.abspath(folder) != os.path.abspath(root)
    name = default_name(folder if is_alone else first, root)
    return f"_{name}" if name.startswith(".") else name


def _check_ids(pairs: Iterable[ListedPair], place: str, reserved: Sequence[str]) -> None:
    first: dict[str, int] = {}
    names = [pair.name for pair in pairs]
    for number, name in enumerate(names):
        if name.startswith(".") or alike(name) in map(alike, reserved):
            raise InputError(
                f"{shown(place)}: id {name!r} is hidden, or the name of a file that is written next to the pairs' "
                f"folders; expected another one, such as 'patient_1'."
            )
        earlier = first.setdefault(alike(name), number)
        if earlier != number:
            raise InputError(
                f"{shown(place)}: two pairs have the ids {names[earlier]!r} and {name!r}, expected ids that differ by "
                f"more than capitals; name one of them otherwise, or remove it."
            )
