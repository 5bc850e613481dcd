"""Results until they are forgotten: each in a folder of its own, under a name that cannot be guessed."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path
from threading import Lock

MOST_RESULTS = 8
KEPT_SECONDS = 1800.0
"""How long a result can be looked at; a further one makes the oldest go before that."""
SHOWN = {
    "view.html": "text/html",
    "ct.nii.gz": "application/gzip",
    "preview.png": "image/png",
    "measurements.json": "application/json",
    "calibration.json": "application/json",
    "familiarity.json": "application/json",
    "uncertainty.nii.gz": "application/gzip",
    "uncertainty.json": "application/json",
    "run.json": "application/json",
}
"""Files of a result that can be had, and their types. The radiographs are none."""


class Results:
    """
    Args:
        folder: holds them, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, float] = {}
        self._lock = Lock()

    def new(self) -> tuple[str, Path]:
        """Name and folder of another result, which exists; what is too old or too much is removed."""
        name = secrets.token_urlsafe(16)
        (self.folder / name).mkdir(mode=0o700)
        with self._lock:
            self._made[name] = time.monotonic()
        self.forget_old()
        return name, self.folder / name

    def forget(self, name: str) -> None:
        with self._lock:
            self._made.pop(name, None)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def forget_old(self) -> None:
        with self._lock:
            by_age = sorted(self._made, key=self._made.__getitem__)
            limit = time.monotonic() - KEPT_SECONDS
            old = [name for name in by_age if self._made[name] < limit or name in by_age[:-MOST_RESULTS]]
        for name in old:
            self.forget(name)

    def file(self, path: str) -> Path | None:
        """The file of `NAME/FILE` that can be had; None for anything else."""
        self.forget_old()
        name, _, file = path.partition("/")
        with self._lock:
            is_known = name in self._made
        found = self.folder / name / file
        return found if is_known and file in SHOWN and found.is_file() else None
