"""How large an image may be, by its header, before anything of it is decoded, and which files are read at all."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import nibabel
from nibabel.openers import Opener
from nibabel.wrapstruct import WrapStructError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ..errors import InputError, one_line_message
from .foreign_files import check_content

MAX_RADIOGRAPH_PIXELS = 2**25
"""Pixels; the largest detectors have about 2**24.2."""
MAX_VOXELS = 2**29
"""Voxels: 512 x 512 x 2048."""
MAX_RADIOGRAPH_BYTES = 16 * MAX_RADIOGRAPH_PIXELS
"""Bytes of a radiograph's file, deflated or not: 16 for a pixel."""
LARGEST_NIFTI_HEADER = 2**24
"""Bytes before a NIfTI's values, its extensions among them."""
JPEG_START, JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
NO_JPEG_FRAME = (0xC4, 0xC8, 0xCC)
"""Markers among those of JPEG's frame headers, 0xC0 to 0xCF, that are none (ITU-T T.81, table B.1)."""
JPEG_LS_FRAME = 0xF7
"""Marker of a frame header (ITU-T T.87, table C.1)."""


def check_radiograph_file(path: str, where: str) -> None:
    """
    Refuses what cannot be opened as a radiograph's file: a pipe would wait for ever, a device has no end.

    Args:
        path: of the radiograph.
        where: start of each message.

    Raises:
        InputError: when it is missing, no regular file, or larger than :data:`MAX_RADIOGRAPH_BYTES`.
    """
    if not os.path.exists(path):
        raise InputError(f"{where} names a file that does not exist; correct the path.")
    if not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe, a socket or a device"
        raise InputError(f"{where} names {kind}, expected the file of a radiograph; correct the path.")
    size = os.path.getsize(path)
    if size > MAX_RADIOGRAPH_BYTES:
        raise InputError(
            f"{where} is a file of {size} bytes, expected at most {MAX_RADIOGRAPH_BYTES}; export one radiograph."
        )


def check_extent(shape: Sequence[int], largest: int, where: str) -> None:
    """
    Args:
        shape: lengths of the axes, as a header gives them.
        largest: number of pixels or voxels, such as :data:`MAX_RADIOGRAPH_PIXELS`.
        where: start of the message.

    Raises:
        InputError: when a length is not positive or there are more pixels or voxels.
    """
    if min(shape, default=0) < 1 or math.prod(shape) > largest:
        sides = " x ".join(str(length) for length in shape)
        raise InputError(
            f"{where} has a header that says {sides} = {math.prod(shape)} values, expected positive sides and at most "
            f"{largest} values; export it smaller, or again if that is not its size."
        )


def check_nifti_extent(path: str, largest: int, where: str) -> None:
    """
    :func:`check_extent` of a NIfTI file, and of what may stand before its values, from the header's first bytes.

    Raises:
        InputError: also when the file has no such header.
    """
    check_content(path, where)
    try:
        with Opener(path) as file:
            start = file.read(nibabel.Nifti2Header.sizeof_hdr)
        header = _nifti_header(start)
        shape, offset = header.get_data_shape(), header.get_data_offset()
    except Exception as error:  # whatever a damaged file makes gzip and nibabel stumble over
        raise InputError(
            f"{where} cannot be read as an image ({one_line_message(error)}); expected a NIfTI file."
        ) from error
    check_extent([int(length) for length in shape], largest, where)
    if not 0 <= offset <= LARGEST_NIFTI_HEADER:
        raise InputError(
            f"{where} has a header of {offset} bytes (vox_offset), expected at most {LARGEST_NIFTI_HEADER}; convert "
            f"the original again."
        )


def _nifti_header(start: bytes) -> nibabel.Nifti1Header:
    """The header of NIfTI-1, or of NIfTI-2, whichever the size says that it names."""
    kind = nibabel.Nifti2Header if nibabel.Nifti2Header.may_contain_header(start) else nibabel.Nifti1Header
    if not kind.may_contain_header(start):
        raise WrapStructError("it does not begin as NIfTI does")
    return kind(start[: kind.sizeof_hdr], check=False)


def is_deflated(path: str) -> bool:
    """Whether a DICOM file, with a preamble or without, is deflated as a whole, so that its header is, too."""
    with open(path, "rb") as file:
        return _skip_meta(file) == DeflatedExplicitVRLittleEndian


def check_inflated(path: str, where: str) -> None:
    """
    Counts what a DICOM file that is deflated as a whole would become, without keeping it.

    Raises:
        InputError: when that is more than :data:`MAX_RADIOGRAPH_BYTES` bytes.
    """
    with open(path, "rb") as file:
        if _skip_meta(file) != DeflatedExplicitVRLittleEndian:
            return
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while size <= MAX_RADIOGRAPH_BYTES and (part := file.read(2**12)):
            size += len(inflate.decompress(part))
    if size > MAX_RADIOGRAPH_BYTES:
        raise InputError(
            f"{where} is deflated and becomes more than {MAX_RADIOGRAPH_BYTES} bytes; expected at most that; export it "
            f"uncompressed."
        )


def _skip_meta(file: BinaryIO) -> str | None:
    """The transfer syntax of a DICOM file, which is read up to the end of its File Meta Information."""
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, representation, length: tag >> 16 != 2)
    return meta.get("TransferSyntaxUID")


def coded_extent(frame: bytes) -> tuple[int, int, int] | None:
    """
    Rows, columns and channels that the compressed pixels themselves say, JPEG, JPEG-LS or JPEG 2000 (ITU-T T.81 B.2.2,
    T.87 C.2.2, T.800 A.5.1); None for what is none of these.
    """
    siz = frame.find(JPEG_2000_START)
    if siz >= 0 and not frame.startswith(JPEG_START):
        right, bottom, left, top = (_number(frame, siz + 8 + 4 * i, 4) for i in range(4))
        return bottom - top, right - left, _number(frame, siz + 40, 2)
    place = 2 if frame.startswith(JPEG_START) else len(frame)
    while place + 4 <= len(frame):
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in NO_JPEG_FRAME) or marker == JPEG_LS_FRAME:
            return _number(frame, place + 5, 2), _number(frame, place + 7, 2), _number(frame, place + 9, 1)
        place += 2 + _number(frame, place + 2, 2)
    return None


def _number(content: bytes, place: int, length: int) -> int:
    return int.from_bytes(content[place : place + length], "big")
