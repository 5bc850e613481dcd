"""Storing results to the AE that wants them, until it has them all."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import (
    ComprehensiveSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.events import Event

from .peers import Target
from .study_queue import Job, StudyQueue

SOP_CLASSES = (CTImageStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage)
POLL_S = 0.5
TIMEOUT_S = 60.0
"""How long the other side may take for a connection, an answer or a pause."""

logger = logging.getLogger(__name__)


class Delivery:
    """
    Stores results by C-STORE. A file that was taken is removed, and with the last one its job; the others stay and are
    sent again.

    Args:
        queue: holds jobs with results.
        title: AE title of this node.
        target: where to.
        retry_s: between two attempts at a job.
    """

    def __init__(self, queue: StudyQueue, title: str, target: Target, retry_s: float) -> None:
        self.queue, self.target, self.retry_s = queue, target, retry_s
        self.entity = AE(title)
        self.entity.connection_timeout = self.entity.acse_timeout = TIMEOUT_S
        self.entity.dimse_timeout = self.entity.network_timeout = TIMEOUT_S
        for sop_class in SOP_CLASSES:
            self.entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])

    def run(self, stopped: threading.Event) -> None:
        """Sends until it is stopped."""
        pause = 0.0
        while not stopped.wait(pause):
            done = [job for job in self.queue.jobs() if job.is_done]
            left = [job for job in done if not self._deliver(job)]
            pause = self.retry_s if left else POLL_S

    def _deliver(self, job: Job) -> bool:
        """Whether all of it was taken."""
        try:
            left = self.send(sorted(job.results.rglob("*.dcm")))
            if not left:
                job.remove()
        except Exception as error:  # of the network or the disk; the message of an error may hold what a file says
            logger.error("study %s: not sent (%s)", job.study, type(error).__name__)
            return False
        if left:
            logger.error("study %s: %s did not take %d results; sent again later", job.study, self.target.title, left)
            return False
        logger.info("study %s: stored to %s", job.study, self.target.title)
        return True

    def send(self, files: list[Path]) -> int:
        """
        Stores files and removes those that were taken; how many are left.

        Args:
            files: DICOM files of :data:`SOP_CLASSES`.
        """
        if not files:
            return 0
        handlers = [(evt.EVT_CONN_OPEN, _send_at_once)]
        host, port = self.target.host, self.target.port
        association = self.entity.associate(host, port, ae_title=self.target.title, evt_handlers=handlers)
        left = len(files)
        try:
            for path in files:
                if not association.is_established:
                    break
                status = association.send_c_store(dcmread(path)).get("Status")
                if status is not None and (status == 0x0000 or status & 0xF000 == 0xB000):  # a success, or a warning
                    path.unlink()
                    left -= 1
        finally:
            if association.is_established:
                association.release()
        return left


def _send_at_once(event: Event) -> None:
    """Else each request's last part waits for an acknowledgement of the one before it, 40 ms of each slice."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
