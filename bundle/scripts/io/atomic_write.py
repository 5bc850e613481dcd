"""Writing results: each file gets its name only when it is whole."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape, glob
from typing import Any

import torch

from ..errors import OutputError, one_line_message, shown

NOTICE = "Research use only, not for diagnosis"
FREE_OR_CHOOSE = "free the place or choose another output folder"


def write_atomically(path: str, write: Callable[[str], Any], next_step: str = FREE_OR_CHOOSE) -> None:
    """
    Calls `write` with a temporary path of the same suffix next to `path`, then renames it; never leaves half a file.
    Where something fails an earlier file stays as it was. A link of that name is replaced, and what it leads to stays.

    Raises:
        OutputError: when the file cannot be written, as in a read-only folder or on a full disk.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = _unfinished(folder, name)
    with _named_in_errors(path, next_step):
        try:
            os.makedirs(folder, exist_ok=True)
            write(temporary)
            os.replace(temporary, path)
        finally:
            if os.path.lexists(temporary):
                os.remove(temporary)


def write_folder_atomically(path: str, write: Callable[[str], Any]) -> None:
    """
    As :func:`write_atomically`, for a folder: `write` gets an empty one next to `path`, which then takes the
    place of an earlier result. Where something fails the earlier result stays as it was.

    Raises:
        OutputError: when the folder cannot be written, as on a full disk, or `path` is a file.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    temporary = _unfinished(parent, name)
    with _named_in_errors(path):
        try:
            os.makedirs(temporary)
            write(temporary)
            _take_the_place(temporary, path, os.path.join(parent, f".earlier-{os.getpid()}-{name}"))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_earlier(path: str) -> None:
    """
    Removes an earlier result, a file or a folder, where there is one.

    Raises:
        OutputError: when it cannot be removed.
    """
    with _named_in_errors(path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)


def write_checkpoint(path: str, state: Any) -> None:
    """
    `torch.save`, whole and on the disk before it gets its name. Equal states make equal bytes.

    Raises:
        OutputError: when it cannot be written, as on a full disk; what was at `path` before is still there.
    """

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:  # torch.save would put the name of a path into the file
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch ends its zip file at another place than it believes to be
                raise _cause_of(error) from error
            file.flush()
            os.fsync(file.fileno())

    write_atomically(
        path,
        write,
        next_step="free the place and start the same command again, which goes on from the last checkpoint; those "
        "written before are whole",
    )


def _cause_of(error: RuntimeError) -> OSError:
    """What the operating system said while torch was writing, as that the disk is full; else what torch says."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return OSError(one_line_message(error)) if cause is None else OSError(cause.errno, cause.strerror)


def remove_unfinished(folder: str, names: str) -> None:
    """
    Removes what killed processes have left of files that match `names`, such as `stage1_*`, see
    :func:`write_atomically`.
    """
    for unfinished in glob(os.path.join(escape(folder), f".unfinished-*-{names}")):
        os.remove(unfinished)


def remove_unfinished_folders(folder: str, name: str) -> None:
    """Removes what killed processes have left of a folder of this name, see :func:`write_folder_atomically`."""
    for kind in ("unfinished-*", "earlier-*"):
        for left in glob(os.path.join(escape(folder), f".{kind}-{escape(name)}")):
            remove_earlier(left)


def write_json(path: str, content: Any) -> None:
    """JSON; a number that is not finite becomes null."""
    write_text(path, as_json(content))


def as_json(content: Any) -> str:
    """What :func:`write_json` writes."""
    return json.dumps(_finite(content), indent=2) + "\n"


def write_text(path: str, text: str) -> None:
    """Text in UTF-8, its line ends as they are."""

    def write(temporary: str) -> None:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)

    write_atomically(path, write)


@contextmanager
def _named_in_errors(path: str, next_step: str = FREE_OR_CHOOSE) -> Iterator[None]:
    """Names the result that the operating system does not let us write."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{shown(path)}: cannot be written ({error.strerror or one_line_message(error)}); {next_step}."
        ) from error


def _unfinished(folder: str, name: str) -> str:
    """A path that no one can have laid a link at beforehand."""
    return os.path.join(folder, f".unfinished-{os.getpid()}-{secrets.token_hex(8)}-{name}")


def _take_the_place(temporary: str, path: str, earlier: str) -> None:
    """A folder that is not empty cannot be renamed over: it steps aside first, and back if need be."""
    if os.path.islink(path):
        os.remove(path)
    if not os.path.isdir(path):
        os.rename(temporary, path)
        return
    os.rename(path, earlier)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(earlier, path)
        raise
    shutil.rmtree(earlier)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
