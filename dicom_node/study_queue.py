"""The queue on disk: every step of a study is one renaming, so that a kill at any moment loses nothing."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.errors import InputError, shown
from scripts.io.folder_lock import LOCK, hold_folder

from .object_check import WORD, Received
from .refusals import OUT_OF_RESOURCES, Refused

FREE_BYTES = 2**30
"""Of the disk, which the queue leaves to others."""
ABANDONED_S = 600.0
"""After so long without a byte what has arrived of an object is removed: its sender is gone."""
MOST_ATTEMPTS = 2
"""Starts of a reconstruction at which the process ended, after which the study is taken for the cause."""
PLACES = ("arriving", "studies", "jobs", "failed")
REASON, RADIOGRAPHS, RESULTS, ATTEMPTS = "reason.txt", "radiographs", "results", "attempts"


class Job:
    """
    A study whose radiographs have come.

    Args:
        folder: holds `radiographs`, and `results` when they are whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.radiographs, self.results = folder, folder / RADIOGRAPHS, folder / RESULTS
        self._attempts = folder / ATTEMPTS

    @property
    def study(self) -> str:
        """The checksum that stands for the study."""
        return self.folder.name.rpartition("-")[2]

    @property
    def is_done(self) -> bool:
        return self.results.is_dir()

    def attempts(self) -> int:
        """How many reconstructions of it have been started and not ended."""
        return self._attempts.stat().st_size if self._attempts.is_file() else 0

    def start(self) -> None:
        """Marks that a reconstruction starts; the mark survives what ends this process."""
        with self._attempts.open("ab") as file:
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())

    def forget_attempts(self) -> None:
        self._attempts.unlink(missing_ok=True)

    def remove(self) -> None:
        """Radiographs first: a job without results that has them would be done again after a kill."""
        shutil.rmtree(self.radiographs, ignore_errors=True)
        shutil.rmtree(self.folder)


class StudyQueue:
    """
    Folders below `folder`, which one process uses at a time:

    - `arriving`: objects that are being received, and are nobody's loss: their senders have no answer yet;
    - `studies`: received objects by study, until nothing more comes for a while;
    - `jobs`: studies to reconstruct, and results to send, by time;
    - `failed`: objects that came to nothing, each study with its `reason.txt`. When more of a study comes they join it.

    Args:
        folder: made where it is missing.
        most_objects: received objects, wherever they are.
        most_bytes: of all files.

    Raises:
        InputError: when the folder holds anything else.
        OutputError: when another process uses it.
    """

    def __init__(self, folder: Path, most_objects: int, most_bytes: int) -> None:
        self.folder, self.most_objects, self.most_bytes = folder, most_objects, most_bytes
        others = sorted(set(os.listdir(folder)) - {*PLACES, LOCK}) if folder.is_dir() else []
        if others:
            raise InputError(
                f"{folder}: holds {shown(others[0])}, which is no queue's, expected an earlier queue or a new folder; "
                f"name another."
            )
        hold_folder(str(folder))
        os.chmod(folder, 0o700)
        self.arriving, self.studies, self.jobs_folder, self.failed = (folder / name for name in PLACES)
        for place in (self.arriving, self.studies, self.jobs_folder, self.failed):
            place.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        for left in self.arriving.iterdir():
            left.unlink()
        for job in self.jobs():
            if not job.is_done and not any(job.radiographs.glob("*.dcm")):  # killed when all of it lay in `failed`
                job.remove()

    def add(self, path: Path, received: Received) -> None:
        """
        Takes an object over; one of the same SOP Instance UID that waits is replaced.

        Raises:
            Refused: when the queue or the disk is full.
        """
        with path.open("rb") as file:
            os.fsync(file.fileno())
        with self._lock:
            self.check_room()
            place = self.studies / received.study
            place.mkdir(exist_ok=True)
            os.replace(path, place / f"{received.name}.dcm")
            for each in (place, self.studies):
                _sync(each)

    def check_room(self) -> None:
        """
        Raises:
            Refused: when the queue or the disk is full; the object that is being received counts.
        """
        objects = sum(1 for path, _ in self._files() if _is_received(path))
        if objects >= self.most_objects:
            raise Refused(OUT_OF_RESOURCES, "The queue holds as many objects as it may.")
        if not self.has_room():
            raise Refused(OUT_OF_RESOURCES, "The queue or its disk is full.")

    def has_room(self) -> bool:
        """Whether files may be added, by their bytes."""
        self._remove_abandoned()
        used = sum(size for _, size in self._files())
        return used <= self.most_bytes and shutil.disk_usage(self.folder).free > FREE_BYTES

    def claim(self, quiet_s: float) -> Job | None:
        """The next study for which nothing has come for so many seconds, as a job; None where there is none."""
        with self._lock:
            places = [(place.stat().st_mtime, place) for place in self.studies.iterdir()]
            waiting = [each for each in sorted(places) if not 0 <= time.time() - each[0] < quiet_s]
            if not waiting:
                return None
            place = waiting[0][1]
            job = Job(self.jobs_folder / f"{time.time_ns():020d}-{place.name}")
            job.folder.mkdir()
            place.rename(job.radiographs)
        for earlier in sorted(self.failed.glob(f"*-{job.study}")):
            for path in earlier.glob("*.dcm"):
                if not (job.radiographs / path.name).exists():
                    path.rename(job.radiographs / path.name)
            shutil.rmtree(earlier)
        return job

    def jobs(self) -> list[Job]:
        """All jobs, the oldest first."""
        return [Job(place) for place in sorted(self.jobs_folder.iterdir())]

    def set_aside(self, job: Job, paths: Sequence[Path], reason: str) -> None:
        """Puts some of a job's radiographs into `failed`, with the reason."""
        place = self.failed / job.folder.name
        place.mkdir(exist_ok=True)
        with (place / REASON).open("a", encoding="utf-8") as file:
            file.write(reason + "\n")
        for path in paths:
            path.rename(place / path.name)

    def fail(self, job: Job, reason: str) -> None:
        """Puts all of a job's radiographs aside, with the reason; the job is no more."""
        self.set_aside(job, sorted(job.radiographs.iterdir()), reason)
        job.remove()

    def _files(self) -> Iterator[tuple[Path, int]]:
        """All files with their bytes; one that is moved meanwhile may be missing."""
        for place, _, names in os.walk(self.folder):
            for name in names:
                path = Path(place, name)
                try:
                    yield path, path.stat().st_size
                except FileNotFoundError:
                    continue

    def _remove_abandoned(self) -> None:
        for path in self.arriving.iterdir():
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()
            except FileNotFoundError:
                continue


def _is_received(path: Path) -> bool:
    return path.suffix == ".dcm" and WORD.fullmatch(path.stem) is not None


def _sync(folder: Path) -> None:
    """Has the names in a folder written to the disk."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
