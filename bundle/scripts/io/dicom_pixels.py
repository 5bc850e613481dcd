"""Stored pixels of a DICOM image: decoded, without the bits that are none of theirs, and which of them are padding."""

from __future__ import annotations

from functools import partial

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from ..errors import InputError, one_line_message, shown
from .dicom_tags import named
from .limits import coded_extent

try:
    from pydicom.encaps import generate_frames

    single_frame = partial(generate_frames, number_of_frames=1)
except ImportError:  # pydicom 2
    from pydicom.encaps import generate_pixel_data_frame

    single_frame = partial(generate_pixel_data_frame, nr_frames=1)


def with_transfer_syntax(dataset: Dataset) -> Dataset:
    """A data set, and where it has no File Meta Information the transfer syntax that its bytes turned out to be of."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        found = getattr(dataset, "original_encoding", None)  # pydicom 2 has two attributes instead
        is_implicit, is_little = found or (dataset.is_implicit_VR, dataset.is_little_endian)
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    return dataset


def read_pixels(dataset: Dataset, where: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Args:
        dataset: an image of one frame and one sample per pixel, its transfer syntax in `file_meta`.
        where: the file and the record's field, for messages.

    Returns:
        The stored values `(H, W)`, signed or not as Pixel Representation says, of Bits Stored below High Bit (PS3.5
        8.1.1; what other bits hold, such as overlays, is left out); and a bool of the same shape, true where they are
        padding.

    Raises:
        InputError: when the pixels cannot be decoded, are of another size than the tags say, or their bits contradict.
    """
    allocated, stored, high = (int(dataset.get(tag)) for tag in ("BitsAllocated", "BitsStored", "HighBit"))
    if not stored <= high + 1 <= allocated:
        raise InputError(
            f"{where}: {named('BitsAllocated')} is {allocated}, {named('BitsStored')} {stored} and {named('HighBit')} "
            f"{high}, expected stored bits within those allocated; export it again."
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == RLELossless:  # other coders have samples, and no bits around them
        dataset.BitsStored, dataset.HighBit = allocated, allocated - 1  # else pydicom 3 clears bits
        cells, shift = _decoded(dataset, where), high + 1 - stored
        dataset.BitsStored, dataset.HighBit = stored, high
    else:
        cells, shift = _decoded(dataset, where), 0
    values = (cells.astype(np.int64) >> shift) & ((1 << stored) - 1)
    if dataset.PixelRepresentation == 1:
        sign = 1 << (stored - 1)
        values = (values ^ sign) - sign
    values = values.astype(cells.dtype)
    return values, _padding(dataset, cells, values)


def _decoded(dataset: Dataset, where: str) -> np.ndarray:
    try:
        _check_coded_extent(dataset, where)
        return dataset.pixel_array
    except InputError:
        raise
    except Exception as error:
        syntax = dataset.file_meta.TransferSyntaxUID
        raise InputError(
            f"{where}: the pixels of transfer syntax {shown(syntax.name)} ({shown(syntax)}) cannot be decoded "
            f"({one_line_message(error)}); expected uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000, whole. Copy the "
            f"file again, or have it decompressed."
        ) from error


def _check_coded_extent(dataset: Dataset, where: str) -> None:
    """Decoders believe the compressed pixels, whatever the tags say of their number."""
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    frame = next(single_frame(dataset.PixelData), b"")
    found, expected = coded_extent(frame), (dataset.Rows, dataset.Columns, 1)
    if found not in (None, expected):
        raise InputError(
            f"{where}: its compressed pixels are of {' x '.join(map(str, found))} (rows, columns, channels), expected "
            f"{' x '.join(map(str, expected))} by {named('Rows')} and {named('Columns')}; export it again."
        )


def _padding(dataset: Dataset, cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """
    Where the cells, before the other bits are left out, are Pixel Padding Value, or lie between it and Pixel Padding
    Range Limit, whichever is larger (PS3.3 C.7.5.1.1.2). Both count as the same bits in the representation of the
    pixels: -1 is 65535 in 16 unsigned bits.
    """
    padding = dataset.get("PixelPaddingValue")
    if padding is None or padding == "":
        return np.zeros(cells.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    declared = [int(padding), int(padding if limit is None or limit == "" else limit)]
    found = _between(cells, declared, 8 * cells.dtype.itemsize)
    if min(declared) < 0 and cells.dtype.kind == "u":  # of fewer stored bits than allocated -1 may stand as the highest
        found |= _between(values, declared, int(dataset.BitsStored))
    return found


def _between(values: np.ndarray, ends: list[int], bits: int) -> np.ndarray:
    """Values from the one of these ends to the other, each as the `bits` that it has in the values' representation."""
    wrapped = [end % (1 << bits) for end in ends]
    if values.dtype.kind == "i":
        wrapped = [end - (1 << bits) if end >> (bits - 1) else end for end in wrapped]
    return (values >= min(wrapped)) & (values <= max(wrapped))
