"""Licences of CTs, and which of them allow that what is computed from a CT is shared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import InputError

SHAREABLE = re.compile(r"CC0([ -]1\.0)?|CC[ -]BY[ -]\d\.\d")
"""Creative Commons' dedication to the public domain and Attribution, by name or by SPDX identifier (`CC-BY-4.0`)."""
MAX_LENGTH = 200


def check_source(text: Any, where: str) -> None:
    """
    Args:
        text: the name of a collection or of a licence.
        where: start of the message.

    Raises:
        InputError: when it is no text of one line.
    """
    is_line = isinstance(text, str) and bool(text.strip()) and text.isprintable() and len(text) <= MAX_LENGTH
    if not is_line:
        raise InputError(f"{where} is {text!r}, expected a line of at most {MAX_LENGTH} letters, such as 'CC BY 4.0'.")


def check_shareable(records: Sequence[Any], where: str) -> None:
    """
    Args:
        records: those of CTs from which something has been computed, each with `name` or `ct`, and `licence`.
        where: start of the message: the file that was computed, or that names the records.

    Raises:
        InputError: when the licence of one is missing, or does not allow that what is computed from its CT is shared
            for any use.
    """
    for record in records:
        fields = record if isinstance(record, dict) else {}
        licence, name = fields.get("licence"), fields.get("name", fields.get("ct", record))
        if not (isinstance(licence, str) and SHAREABLE.fullmatch(licence)):
            raise InputError(
                f"{where}: derives from record {name!r} of licence {licence!r}, expected CC BY or CC0. What derives "
                f"from it cannot be packed: make the file anew without that record, or correct its field 'licence'."
            )
