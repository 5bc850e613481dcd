"""Files that lie in the place of an image or of weights and are none: pointers, web pages, archives, empty files."""

from __future__ import annotations

import os

from ..errors import InputError

LONGEST_START = 512
"""Bytes of a file that are looked at."""
POINTER = "a pointer of Git LFS and not the file itself; fetch it by `git lfs pull`"
ANNEX = "a pointer of git-annex and not the file itself; fetch it by `git annex get`"
PAGE = "a web page (HTML) and not the file itself; download that, where need be after logging in"
FOREIGN_STARTS = {
    b"version https://git-lfs": POINTER,
    b"/annex/objects/": ANNEX,
    b"<!doctype html": PAGE,
    b"<html": PAGE,
    b"<head": PAGE,
    b"<?xml": "a text in XML, as servers answer with an error; fetch the file again",
    b"<error": "a text in XML, as servers answer with an error; fetch the file again",
    b'{"': "a text in JSON, as servers answer with an error; fetch the file again",
    b"%pdf-": "a PDF; export the image itself",
    b"rar!\x1a\x07": "an archive (RAR); unpack it",
    b"7z\xbc\xaf\x27\x1c": "an archive (7z); unpack it",
}
"""How such files begin, in small letters, and what they are."""
ARCHIVE = "an archive (ZIP); unpack it"


def foreign_content(start: bytes, may_be_zip: bool = False) -> str | None:
    """
    What a file is instead of an image or of weights, with the next step; None where its start is of nothing known.

    Args:
        start: the file's first bytes, :data:`LONGEST_START` of them or fewer.
        may_be_zip: whether a ZIP archive is what is looked for, as PyTorch's checkpoints are.
    """
    if not start:
        return "an empty file; fetch it again"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()  # of UTF-8 some begin with a byte order mark
    if text.startswith(b"<!--"):
        text = text.partition(b"-->")[2].lstrip()
    if start.startswith(b"PK\x03\x04") and not may_be_zip:
        return ARCHIVE
    return next((what for known, what in FOREIGN_STARTS.items() if text.startswith(known)), None)


def check_content(path: str, where: str, may_be_zip: bool = False) -> None:
    """
    Args:
        path: of a file that is there.
        where: start of the message.
        may_be_zip: whether a ZIP archive is what is looked for.

    Raises:
        InputError: when it holds no image but a pointer, a web page, an archive or nothing, see
            :data:`FOREIGN_STARTS`.
    """
    with open(path, "rb") as file:
        found = foreign_content(file.read(LONGEST_START), may_be_zip)
    if found:
        raise InputError(f"{where}: '{os.path.basename(path)}' is {found}.")
