"""What becomes of the queue: studies that are complete to results, one after the other."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from scripts.errors import InputError, OutputError, reason_of
from scripts.io.atomic_write import write_folder_atomically
from scripts.reporting.reconstructor import Reconstructor

from .object_check import WORD
from .pairing import pair_in
from .reconstruction import write_results
from .study_queue import MOST_ATTEMPTS, Job, StudyQueue

POLL_S = 0.5
PAUSE_S = 30.0
"""Before the next attempt where the disk is full."""

logger = logging.getLogger(__name__)


class Worker:
    """
    Pairs and reconstructs what the queue holds.

    Args:
        queue: of studies.
        reconstructor: reads the weights once.
        quiet_s: a study is complete when nothing of it has come for so long.
    """

    def __init__(self, queue: StudyQueue, reconstructor: Reconstructor, quiet_s: float) -> None:
        self.queue, self.reconstructor, self.quiet_s = queue, reconstructor, quiet_s

    def run(self, stopped: threading.Event) -> None:
        """Works until it is stopped, after the job at hand."""
        pause = 0.0
        while not stopped.wait(pause):
            try:
                pause = 0.0 if self.work() else POLL_S
            except OSError as error:  # of the disk, which is no fault of a study
                logger.error("the queue cannot be written (%s); next attempt in %g s", error.strerror, PAUSE_S)
                pause = PAUSE_S

    def work(self) -> bool:
        """
        Does one job; whether there was one.

        Raises:
            OSError: when the queue cannot be written; the job stays.
        """
        waiting = [job for job in self.queue.jobs() if not job.is_done]
        job = waiting[0] if waiting else self.queue.claim(self.quiet_s)
        if job is None or not self.queue.has_room():
            return False
        self._do(job)
        return True

    def _do(self, job: Job) -> None:
        if job.attempts() >= MOST_ATTEMPTS:
            self._fail(job, f"{job.attempts()} times the node ended while it reconstructed this study.")
            return
        job.start()
        started = time.monotonic()
        try:
            self._reconstruct(job)
        except (OutputError, OSError):
            job.forget_attempts()
            raise
        except Exception as error:  # one study's, such as a body that cannot be measured; the others go on
            self._fail(job, str(error) if isinstance(error, InputError) else reason_of(error))
            return
        logger.info("study %s: reconstructed in %.1f s", job.study, time.monotonic() - started)

    def _reconstruct(self, job: Job) -> None:
        pair = pair_in(job.radiographs)
        for path, reason in pair.others.items():
            self.queue.set_aside(job, [path], f"{path.name}: {reason}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            result = self.reconstructor(pair.frontal, pair.lateral)
        remarks = remarks_in([str(each.message) for each in caught], job.radiographs)
        write_folder_atomically(str(job.results), lambda folder: write_results(Path(folder), result, pair, remarks))

    def _fail(self, job: Job, reason: str) -> None:
        self.queue.fail(job, reason)
        logger.warning("study %s: not reconstructed; failed/%s/reason.txt says why", job.study, job.folder.name)


def remarks_in(messages: Sequence[str], folder: Path) -> list[str]:
    """
    What is said of the radiographs of a folder, without its name. Other threads' warnings, which may hold what tags of
    other patients say, are left out.
    """
    path = re.compile(re.escape(f"{folder}{os.sep}") + rf"{WORD.pattern}\.dcm: ")
    return [path.sub("", text) for text in messages if path.match(text) or text.startswith("field '")]
