"""Samples of 16 bits of a PNG in colours or with an opacity, of which Pillow keeps the upper 8."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

NONE, SUB, UP, AVERAGE, PAETH = range(5)
"""Filters of a row (ISO 15948, 9.2)."""


def read_png_samples(path: str, shape: Sequence[int], is_interlaced: bool) -> np.ndarray:
    """
    `(H, W, C)` uint16, of a file that is known to be a PNG of this shape and of 16 bits.

    Raises:
        ValueError: when the file is interlaced, or ends early.
    """
    if is_interlaced:
        raise ValueError("a PNG of 16-bit colours, interlaced, expected one that is not")
    height, width, channels = shape
    row_bytes = 1 + 2 * width * channels  # the row's filter comes first
    inflate = zlib.decompressobj()
    rows = inflate.decompress(b"".join(_image_data(path)), height * row_bytes)
    if len(rows) < height * row_bytes:
        raise ValueError(f"{len(rows)} bytes of pixels, expected {height * row_bytes}")
    table = np.frombuffer(rows, np.uint8).reshape(height, row_bytes)
    samples = _unfiltered(table[:, 1:].reshape(height, width, 2 * channels), table[:, 0])
    return samples.view(">u2").astype(np.uint16)


def _image_data(path: str) -> list[bytes]:
    """Contents of the IDAT chunks."""
    with open(path, "rb") as file:
        file.seek(8)
        found = []
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            content = file.read(int.from_bytes(head[:4], "big"))
            file.read(4)
            if head[4:] == b"IDAT":
                found.append(content)
    return found


def _unfiltered(filtered: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """
    `(H, W, B)` uint8 without the rows' `filters` (ISO 15948, 9.2). A byte needs those to its left, above and at the
    upper left, so that all of a diagonal, from the lower left to the upper right, can be had at once.
    """
    height, width, _ = filtered.shape
    done = np.zeros((height + 1, width + 1, filtered.shape[2]), np.int16)  # a row above and a column before are zero
    for diagonal in range(height + width - 1):
        rows = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        columns = diagonal - rows
        left, above, corner = done[rows + 1, columns], done[rows, columns + 1], done[rows, columns]
        by = filters[rows, None]
        predicted = np.select(
            [by == SUB, by == UP, by == AVERAGE, by == PAETH],
            [left, above, (left + above) // 2, _paeth(left, above, corner)],
            0,
        )
        done[rows + 1, columns + 1] = (filtered[rows, columns] + predicted) & 255
    return np.ascontiguousarray(done[1:, 1:].astype(np.uint8))


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Of the three the one nearest to left + above - corner, in this order where two are as near."""
    distances = np.abs(above - corner), np.abs(left - corner), np.abs(left + above - 2 * corner)
    nearest = np.argmin(distances, axis=0)
    return np.choose(nearest, (left, above, corner))
