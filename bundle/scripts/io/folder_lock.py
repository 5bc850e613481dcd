"""One process at a time in a folder, by a lock of the operating system, which ends with the process that holds it."""

from __future__ import annotations

import os
import socket
import warnings
from typing import BinaryIO

from ..errors import OutputError, one_line_message

try:
    import fcntl
except ImportError:  # on Windows
    import msvcrt


LOCK = "in_use.lock"
_held: dict[str, BinaryIO] = {}


def hold_folder(folder: str) -> None:
    """
    Takes the lock of a folder, which is made where it is missing, until :func:`leave_folder` or the end of this
    process, however that comes. What a process that is no more has left is taken over.

    Raises:
        OutputError: when another process holds it, by its number and host, or the lock's file cannot be written.

    Warns:
        UserWarning: when the disk of the folder knows no locks, so that nothing is held.
    """
    path = _path(folder)
    if path in _held:
        return
    file = _opened(path)
    try:
        _lock(file)
    except (BlockingIOError, PermissionError) as error:
        raise OutputError(
            f"{folder}: is in use by {_text(file) or 'another process'}. Wait for its end, end it, or choose another "
            f"output folder."
        ) from error
    except OSError as error:
        said = one_line_message(error)
        warnings.warn(f"{path}: cannot be locked ({said}); start nothing else in this folder.", stacklevel=2)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _held[path] = file


def leave_folder(folder: str) -> None:
    """Gives the lock of a folder back, where this process holds it."""
    file = _held.pop(_path(folder), None)
    if file is not None:
        file.truncate(0)
        file.close()


def _path(folder: str) -> str:
    return os.path.join(os.path.realpath(folder), LOCK)


def _opened(path: str) -> BinaryIO:
    """The lock's file with what it holds. A link is removed and not what it leads to."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.islink(path):
            os.remove(path)
        return open(path, "a+b", buffering=0)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another output folder.") from error


def _text(file: BinaryIO) -> str:
    with file:
        file.seek(0)
        return file.read(200).decode("utf-8", "replace").strip()


def _lock(file: BinaryIO) -> None:
    """A lock of this process alone: what it forks, such as a loader's workers, does not keep it after its end."""
    if os.name == "posix":
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        file.seek(1 << 20)  # nobody may read what is locked
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
