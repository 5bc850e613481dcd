"""Files that a stranger has sent: where they may lie, of which kinds they are, and that they are gone afterwards."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydicom.misc import is_dicom

from scripts.data.name_conventions import IMAGE_FILE_SUFFIXES
from scripts.errors import InputError
from scripts.io.ct_reader import NIFTI
from scripts.io.limits import MAX_RADIOGRAPH_PIXELS

LARGEST_FILE = 4 * MAX_RADIOGRAPH_PIXELS + 2**20
"""Bytes: the largest radiograph in 32 bits, and a header of 1 MiB."""
MOST_BYTES = 8 * LARGEST_FILE
"""Of all uploads that have not been reconstructed or removed yet."""
KEPT_SECONDS = 900.0
"""After which an upload that nothing was made of is removed."""
SUFFIXES = (*NIFTI, *IMAGE_FILE_SUFFIXES, ".dcm", ".dicom", ".dic", ".ima")


def taken(upload: str, field: str, uploads: Path, folder: Path) -> Path:
    """
    Moves an upload into the folder of its reconstruction, under a name of ours; its own folder is removed.

    Args:
        upload: the path that a request names.
        field: `frontal` or `lateral`.
        uploads: the folder outside of which nothing is an upload.
        folder: where to.

    Raises:
        InputError: when it is no file there, or of no kind that is read.
    """
    path = Path(upload)
    if not is_inside(path, uploads) or path.is_symlink() or not path.is_file():
        raise InputError(f"{field}: no such upload. Choose the file again.")
    name = path.name.lower()
    suffix = next(filter(name.endswith, SUFFIXES), ".dcm" if is_dicom(path) else None)
    if suffix is None:
        remove_upload(path, uploads)
        raise InputError(f"{field}: of no kind that is read, expected DICOM, or one of {', '.join(SUFFIXES)}.")
    target = folder / f"{field}{suffix}"
    shutil.move(path, target)
    remove_upload(path, uploads)
    return target


def remove_upload(path: Path, uploads: Path) -> None:
    """With the folder of its own that it came in; where it is gone already nothing is done."""
    if is_inside(path, uploads):
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and path.parent.resolve() != uploads.resolve() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def forget_old(uploads: Path) -> None:
    """Removes what was last written to :data:`KEPT_SECONDS` ago, such as what a broken connection has left."""
    latest = time.time() - KEPT_SECONDS
    for path in [path for path in uploads.rglob("*") if not path.is_dir()]:
        with suppress(OSError):  # gone meanwhile
            if path.lstat().st_mtime < latest:
                remove_upload(path, uploads)


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, all links followed, leads to something below a folder."""
    return path.is_absolute() and path.resolve().is_relative_to(folder.resolve()) and path.resolve() != folder.resolve()


def named_paths(content: Any) -> Iterator[Any]:
    """Every value of a key `path` in the JSON of a request, which is what Gradio opens."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "path":
                yield value
            yield from named_paths(value)
    elif isinstance(content, list):
        for value in content:
            yield from named_paths(value)


def bytes_in(folder: Path) -> int:
    """Of all files below a folder; one that goes meanwhile counts as none."""
    found = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in found if path.exists())
