"""Checking a datalist before any training: every record is loaded as training does, and every problem is listed."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.transforms import Compose
from tqdm import tqdm

from ..errors import InputError, one_line_message, root_cause
from .datalist import (
    PAIR_SECTIONS,
    SECTIONS,
    check_distinct_names,
    read_datalist,
    resolve_record,
    section_of,
    warn_of_paths_outside,
)
from .duplicates import Duplicates

TRAINING_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "train.json"
WARNING = "warning: "
MAY_BE_EMPTY = ("test", "met")
"""Sections that training does not read, and that no evaluation of pairs needs."""
FIELD = re.compile(r"field '([^']*)'")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a record."""

    record: str
    """Its place in the datalist, such as "training[3]", or a section."""
    field: str
    message: str

    @property
    def is_error(self) -> bool:
        """Whether training would end at it; what is no error is used with a warning."""
        return not self.message.startswith(WARNING)


def training_transforms(**overrides: Any) -> Compose:
    """The loading transforms of `train.json`. Overrides are config ids."""
    parser = ConfigParser()
    parser.read_config(str(TRAINING_CONFIG))
    parser.update(overrides)
    return parser.get_parsed_content("load")


def check_records(datalist: str, transform: Callable[[Mapping[str, Any]], Any]) -> tuple[list[Problem], int]:
    """
    Loads every record of all sections and goes on after a bad one; lists duplicate CTs, and patients in two sections.
    The sections are those of training, or, where there are `pairs`, those of fetched pairs. One of
    :data:`MAY_BE_EMPTY` may be missing.

    Args:
        datalist: path of the JSON file.
        transform: what training applies to a record, see :func:`training_transforms`.

    Returns:
        The problems, errors and the bundle's warnings alike, in the order of the datalist, and the number of records.

    Raises:
        InputError: when the datalist cannot be read at all.
    """
    content, problems, count, duplicates = read_datalist(datalist), [], 0, Duplicates()
    folder = os.path.dirname(os.path.abspath(datalist))
    for section in PAIR_SECTIONS if PAIR_SECTIONS[0] in content else SECTIONS:
        if section in MAY_BE_EMPTY and content.get(section) in (None, []):
            continue
        try:
            records = section_of(content, datalist, section)
        except InputError as error:
            problems.append(_problem(section, str(error)))
            continue
        count += len(records)
        problems += [
            _problem(section, text) for text in _messages(warn_of_paths_outside, records, datalist, section, folder)
        ]
        problems += [_problem(section, text) for text in _messages(check_distinct_names, records, datalist, section)]
        for i, record in enumerate(tqdm(records, desc=f"Checking {section}")):
            messages = _messages(_read_record, record, datalist, section, i, folder, transform, duplicates)
            problems += [_problem(f"{section}[{i}]", message) for message in messages]
    return problems, count


def print_problems(problems: Sequence[Problem], count: int) -> None:
    """A table of the problems of `count` records, or that there are none."""
    if not problems:
        print(f"No problems in {count} records.")
        return
    rows = [("record", "field", "problem"), *((p.record, p.field, p.message) for p in problems)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for record, field, message in rows:
        print(f"{record:<{widths[0]}}  {field:<{widths[1]}}  {message}")
    print(f"Problems: {len(problems)}, records: {count}.")


def _read_record(
    record: Any,
    datalist: str,
    section: str,
    index: int,
    folder: str,
    transform: Callable[[Mapping[str, Any]], Any],
    duplicates: Duplicates,
) -> None:
    """Loads a record; warns of what it has in common with those before."""
    record = resolve_record(record, datalist, section, index, folder)
    for text in duplicates.messages(section, f"{section}[{index}]", record, transform(record)["ct"]):
        warnings.warn(text)


def _problem(record: str, message: str) -> Problem:
    field = FIELD.search(message)
    return Problem(record, field.group(1) if field else "-", message)


def _messages(work: Callable[..., Any], *arguments: Any) -> list[str]:
    """What the bundle warns of during the work and the error that ends it. Warnings of other packages are passed on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            work(*arguments)
            errors = []
        except Exception as error:  # whatever ends the loading of a record is a problem of that record
            errors = [_cause(error)]
    ours = [warning for warning in caught if FIELD.search(str(warning.message))]
    for warning in caught:
        if warning not in ours:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return [f"{WARNING}{warning.message}" for warning in ours] + errors


def _cause(error: BaseException) -> str:
    """The bundle's own message, or another's with its type."""
    error = root_cause(error)
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line_message(error)}"
