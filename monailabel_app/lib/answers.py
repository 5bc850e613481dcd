"""What the server says: on one line, and without the folders of this machine."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from typing import Any

FOLDERS = re.compile(r"(?<![\w.~:/\\-])(?:[A-Za-z]:)?(?:[\\/][^\\/\s'\":;,()]+)+[\\/](?=[^\\/\s'\":;,()])")
"""The folders of an absolute path that has no blanks."""


def printable(text: str) -> str:
    """Control characters, line breaks and lone surrogates as `repr` writes them."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def without_folders(text: str, folders: Iterable[os.PathLike[str] | str] = ()) -> str:
    """
    A message for clients: files by their names alone.

    Args:
        text: a message of this machine.
        folders: those that may have blanks in their names; a path below one of them begins there.
    """
    for folder in sorted(map(str, folders), key=len, reverse=True):
        text = text.replace(f"{folder}{os.sep}", "")
    return FOLDERS.sub("", text)


def keep_log_on_lines() -> None:
    """Every record of every logger is one line, so that no name of a request forges one or reaches the terminal raw."""
    make = logging.getLogRecordFactory()

    def record_of(*given: Any, **named: Any) -> logging.LogRecord:
        record = make(*given, **named)
        record.msg, record.args = printable(record.getMessage()), None
        return record

    logging.setLogRecordFactory(record_of)
