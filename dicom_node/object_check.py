"""Whether a received object is a radiograph that is whole, by its header, before any of its pixels are decoded."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from scripts.io.dicom_tags import MODALITIES
from scripts.io.limits import MAX_RADIOGRAPH_PIXELS

from .refusals import CANNOT_UNDERSTAND, DOES_NOT_MATCH, OUT_OF_RESOURCES, Refused

MAX_OBJECT_BYTES = 2 * MAX_RADIOGRAPH_PIXELS + 2**20
"""Of an object: the largest radiograph in 16 bits, and a header of 1 MiB."""
WORD = re.compile(r"[0-9a-f]{32}")
"""A name that the queue gives to what it holds."""


@dataclass(frozen=True)
class Received:
    """
    What the queue files an object by.

    Attributes:
        study: a checksum of its Study Instance UID, so that no name of a file is a sender's.
        name: a checksum of its SOP Instance UID.
    """

    study: str
    name: str


def checked_object(path: Path, sop_class: str, sop_instance: str) -> Received:
    """
    Args:
        path: of the received object, a DICOM file.
        sop_class: Affected SOP Class UID of the request.
        sop_instance: Affected SOP Instance UID of the request.

    Raises:
        Refused: when the object is too large, cannot be read, or is no radiograph of that class and instance.
    """
    if path.stat().st_size > MAX_OBJECT_BYTES:
        raise Refused(OUT_OF_RESOURCES, f"An object may have {MAX_OBJECT_BYTES >> 20} MiB.")
    try:
        dataset = dcmread(path)
        return _checked(dataset, sop_class, sop_instance)
    except Refused:
        raise
    except Exception as error:  # a damaged object raises whatever pydicom stumbles over
        raise Refused(CANNOT_UNDERSTAND, "The data set cannot be read.") from error


def _checked(dataset: Dataset, sop_class: str, sop_instance: str) -> Received:
    study = str(dataset.get("StudyInstanceUID") or "")
    if str(dataset.get("SOPClassUID")) != sop_class or str(dataset.get("SOPInstanceUID")) != sop_instance:
        raise Refused(DOES_NOT_MATCH, "SOP class or instance of data set and request differ.")
    for name, uid in (("SOP Instance UID", sop_instance), ("Study Instance UID", study)):
        if len(uid) > 64 or not UID(uid).is_valid:
            raise Refused(DOES_NOT_MATCH, f"{name} is missing or no UID.")
    if str(dataset.get("Modality") or "").strip() not in MODALITIES:
        raise Refused(DOES_NOT_MATCH, "Modality is none of a radiograph.")
    shape = [int(dataset.get(tag) or 0) for tag in ("Rows", "Columns")]
    samples, bits = int(dataset.get("SamplesPerPixel") or 0), int(dataset.get("BitsAllocated") or 0)
    if min(shape) < 1 or samples != 1 or bits not in (8, 16) or "PixelData" not in dataset:
        raise Refused(DOES_NOT_MATCH, "Not the pixels of a radiograph.")
    if math.prod(shape) > MAX_RADIOGRAPH_PIXELS:
        raise Refused(OUT_OF_RESOURCES, f"A radiograph may have {MAX_RADIOGRAPH_PIXELS} pixels.")
    expected = 1 if dataset.file_meta.TransferSyntaxUID.is_encapsulated else math.prod(shape) * bits // 8
    if len(dataset.PixelData) < expected:
        raise Refused(CANNOT_UNDERSTAND, "Pixel Data ends too early.")
    str(dataset)  # decodes each tag, so that a damaged one is found while the sender can be told
    return Received(word(study), word(sop_instance))


def word(uid: str) -> str:
    """32 hexadecimal digits that stand for a UID: no path, and nothing of a patient."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]
