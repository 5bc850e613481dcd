"""Receiving: who may, how much, and what each object is answered."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from socketserver import TCPServer
from typing import Any

from pydicom import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from scripts.errors import shown

from .object_check import MAX_OBJECT_BYTES, checked_object
from .peers import Sender, is_allowed
from .refusals import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Refused
from .study_queue import StudyQueue

SOP_CLASSES = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)
TRANSFER_SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
]
"""What the reader decodes, save what is deflated as a whole or may grow by itself when it is decoded (RLE)."""
MOST_CONNECTIONS = 8
"""At a time, those among them that have not said who they are."""
TIMEOUT_S = 30.0
"""How long a sender may say nothing."""
LARGEST_PDU = 2**16
"""Bytes, as senders are told."""
LARGEST_REQUEST = 2**18
"""Bytes of a request for an association, which may list 128 SOP classes with all their transfer syntaxes."""
POLL_S = 0.2
MOST_UNANSWERED = MAX_OBJECT_BYTES + 2**22
"""Bytes that a connection may send before it is answered: an object, and what lies around its parts."""

logger = logging.getLogger(__name__)


class BoundedSocket(AssociationSocket):
    """A connection that is closed when its other side sends more than it may."""

    unanswered = 0

    def recv(self, nr_bytes: int) -> bytearray:
        """
        Raises:
            OSError: when a single unit is too long, or all since the last answer.
        """
        self.unanswered += nr_bytes
        if nr_bytes > LARGEST_REQUEST or self.unanswered > MOST_UNANSWERED:
            raise OSError("more than a sender may send")
        return super().recv(nr_bytes)


class BoundedHandler(RequestHandler):
    """Gives an association a :class:`BoundedSocket`."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.dul.socket.__class__ = BoundedSocket  # another one would announce the connection a second time
        return association


class BoundedServer(ThreadedAssociationServer):
    """Closes connections beyond :data:`MOST_CONNECTIONS` at once."""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self.active_associations) < MOST_CONNECTIONS


class Reception:
    """
    An SCP of Storage and Verification in threads of its own.

    Args:
        queue: takes the objects.
        title: AE title, by which senders have to call it.
        senders: who may.
        address: host and port to listen at.
    """

    def __init__(self, queue: StudyQueue, title: str, senders: Sequence[Sender], address: tuple[str, int]) -> None:
        self.queue, self.senders = queue, senders
        _config.STORE_RECV_CHUNKED_DATASET = True  # into a file, so that no object lies in memory while it comes
        tempfile.tempdir = str(queue.arriving)
        self.entity = AE(title)
        self.entity.require_called_aet = True
        self.entity.maximum_associations = MOST_CONNECTIONS
        self.entity.maximum_pdu_size = LARGEST_PDU
        self.entity.acse_timeout = self.entity.dimse_timeout = self.entity.network_timeout = TIMEOUT_S
        self.entity.add_supported_context(Verification)
        for sop_class in SOP_CLASSES:
            self.entity.add_supported_context(sop_class, TRANSFER_SYNTAXES)
        handlers = [(evt.EVT_REQUESTED, self._asked), (evt.EVT_C_ECHO, self._echo), (evt.EVT_C_STORE, self._store)]
        how = {"server_class": BoundedServer, "request_handler": BoundedHandler, "evt_handlers": handlers}
        self.server = self.entity.make_server(address, ae_title=title, contexts=self.entity.supported_contexts, **how)

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    def run(self) -> None:
        """Answers until :meth:`close`."""
        self.server.serve_forever(POLL_S)

    def close(self) -> None:
        """Ends :meth:`run` and every connection."""
        TCPServer.shutdown(self.server)
        self.server.server_close()
        for association in self.server.active_associations:
            association.abort()

    def _asked(self, event: Event) -> None:
        """Rejects an AE that is not known: Calling AE Title not recognised (PS3.8 9.3.4)."""
        association = event.assoc
        called, address = association.requestor.primitive.calling_ae_title, association.requestor.address
        if not is_allowed(self.senders, called.strip(), address):
            logger.warning("refused %s from %s: no --allow names it", shown(called), address)
            association.acse.send_reject(0x01, 0x01, 0x03)
            association.kill()

    def _echo(self, event: Event) -> int:
        _answered(event)
        return 0x0000

    def _store(self, event: Event) -> int | Dataset:
        title = shown(event.assoc.requestor.ae_title)
        try:
            received = checked_object(event.dataset_path, *_affected(event))
            self.queue.add(event.dataset_path, received)
        except Refused as refused:
            logger.warning("%s: refused an object, 0x%04X: %s", title, refused.status, refused)
            return _status(refused)
        except OSError as error:
            logger.error("%s: an object cannot be kept (%s)", title, error.strerror)
            return _status(Refused(OUT_OF_RESOURCES, "The object cannot be kept."))
        except Exception as error:
            logger.error("%s: an object was not taken (%s)", title, type(error).__name__)
            return _status(Refused(CANNOT_UNDERSTAND, "The object was not understood."))
        finally:
            _answered(event)
        logger.info("%s: received an object of study %s", title, received.study)
        return 0x0000


def _affected(event: Event) -> tuple[str, str]:
    return str(event.request.AffectedSOPClassUID), str(event.request.AffectedSOPInstanceUID)


def _status(refused: Refused) -> Dataset:
    status = Dataset()
    status.Status, status.ErrorComment = refused.status, refused.reason
    return status


def _answered(event: Event) -> None:
    """From here on the sender may send as much again."""
    event.assoc.dul.socket.unanswered = 0
