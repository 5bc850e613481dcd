"""Whether a file that is to be shared tells of the machine that it comes from."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import InputError


def check_no_own_paths(name: str, content: bytes, folder: Path) -> None:
    """
    Args:
        name: of the file, for the message.
        content: its bytes; those of a `.gz` are unpacked first.
        folder: where the file lies on this machine.

    Raises:
        InputError: when it holds the path of that folder or of the user's home folder, or, as `.json`, a text that is
            an absolute path of any machine.
    """
    plain = gzip.decompress(content) if name.endswith(".gz") else content
    found = [place for place in _own_places(folder) if place.encode() in plain]
    if name.endswith(".json"):
        found += filter(_is_absolute, _texts(json.loads(plain)))
    if found:
        raise InputError(
            f"{name}: holds the path {found[0]!r}, expected none of a machine, since it may name a person. Make the "
            f"file anew with relative paths, or write another name in its place."
        )


def _own_places(folder: Path) -> Iterator[str]:
    """Both folders with a separator at the end, so that no name that merely begins alike is taken for them."""
    for place in {folder.absolute(), folder.resolve(), Path.home()}:
        if len(place.parts) > 1:
            yield from {f"{place}/", f"{place}\\", f"{place.as_posix()}/"}


def _is_absolute(text: str) -> bool:
    """Of at least a folder and a name in it: "/" alone is a sign."""
    ways = (PurePosixPath(text), PureWindowsPath(text))
    return any(path.is_absolute() and len(path.parts) > 2 for path in ways) and text.isprintable() and " " not in text


def _texts(content: Any) -> Iterator[str]:
    """All texts of a JSON file, keys among them."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from _texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value)
