"""What a process writes to its stderr: its progress is passed on, its traceback becomes a log and one message."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .files import write_atomically
from .from_bundle import errors

TRACEBACK = b"Traceback (most recent call last)"
RANK = re.compile(r"\[rank\d+\]: ?")
"""What one of torchrun's processes puts before each line of its traceback."""
RANK_AT_END = re.compile(rb"(?:\[rank\d+\]: )?\Z")
FIRST_ERROR = re.compile(r"^Traceback .*\n(?:[ \t].*\n)+(\S.*)", re.M)


def pass_on(stderr: BinaryIO, heard: Callable[[], None]) -> str:
    """
    Copies a process's stderr to ours, as it comes, up to the first traceback, and returns what follows.

    Args:
        stderr: read to its end.
        heard: is called before anything is copied.
    """
    held = b""
    while chunk := stderr.read1(4096):
        heard()
        passed, found, rest = (held + chunk).partition(TRACEBACK)
        if found:
            start = RANK_AT_END.search(passed).start()
            _write_error(passed[:start])
            return (passed[start:] + found + rest + stderr.read()).decode("utf-8", "replace")
        kept = next(n for n in reversed(range(len(TRACEBACK))) if passed.endswith(TRACEBACK[:n]))
        held = passed[len(passed) - kept :]
        _write_error(passed[: len(passed) - kept])
    _write_error(held)
    return ""


def _write_error(output: bytes) -> None:
    sys.stderr.buffer.write(output)
    sys.stderr.buffer.flush()


def message_of(traceback: str) -> str:
    """The bundle's own error where there is one, else the first of a chain, which is its cause."""
    processes = _by_process(traceback)
    own = next(filter(None, map(errors.message_in, processes)), None)
    first = next(filter(None, map(FIRST_ERROR.search, processes)), None)
    return own or (first[1] if first else traceback.strip().splitlines()[-1])


def _by_process(traceback: str) -> list[str]:
    """The lines of each of torchrun's processes, without their numbers, in the order of their first ones."""
    texts: dict[str, str] = {}
    for line in traceback.splitlines():
        rank = RANK.match(line)
        key, text = (rank[0].rstrip(), line[rank.end() :]) if rank else ("", line)
        texts[key] = f"{texts.get(key, '')}{text}\n"
    return list(texts.values())


def log_traceback(error_log: Path, traceback: str) -> str:
    """Writes the log where that is possible, which it need not be where a result could not be written; says which."""
    try:
        write_atomically(error_log, traceback)
    except OSError as error:
        return f"The whole traceback could not be written to {error_log}: {error.strerror}."
    return f"The whole traceback is in {error_log}."


def remove_log(error_log: Path) -> None:
    """That of an earlier run, which would lie next to good results. A link is removed and not its target."""
    if error_log.is_symlink() or error_log.is_file():
        error_log.unlink()
