"""What is said while a process imports its packages: it is silent until then, for a minute on a slow disk."""

from __future__ import annotations

import sys
import time
from threading import Event, Thread

from .from_bundle import loading

SECONDS_BETWEEN = 10.0


class Loading:
    """
    Says what a process loads, and every ten seconds for how long. The process says itself when it has done so.

    Args:
        packages: their names; nothing is said without any.
        is_heard: whether :meth:`end` will be called, without which the seconds are not counted.
    """

    def __init__(self, packages: str, is_heard: bool) -> None:
        self.packages, self.is_heard = packages, is_heard
        self.started, self._ended = time.time(), Event()

    def environment(self) -> dict[str, str]:
        """By which the process knows since when it has been loading."""
        return {loading.STARTED: f"{self.started:.3f}"} if self.packages else {}

    def __enter__(self) -> None:
        if self.packages:
            print(f"Loading {self.packages} ...", flush=True)
            if self.is_heard:
                Thread(target=self._count, daemon=True).start()

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """Stops counting."""
        self._ended.set()

    def _count(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN):
            print(f"... {time.time() - self.started:.0f} s", file=sys.stderr, flush=True)
