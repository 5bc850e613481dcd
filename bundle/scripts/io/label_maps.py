"""Label maps, which lie next to CTs under the same names: known by their values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MAX_LABELS = 150
"""More than the classes of any segmentation of the body, and fewer than the values of a CT without air."""
LOWEST_LABEL = -200
"""A chest CT has values below it, its air (DICOM PS3.3 C.11.1.1.2: HU of air are -1000)."""
MIN_VOXELS_OF_A_VALUE = 8
"""On average, in a label map: it is piecewise constant."""
SAMPLED = 2**20
"""Voxels of a block that are looked at, evenly spread."""


def is_label_map(values: np.ndarray) -> bool:
    """
    Whether a volume holds labels and no HU: whole numbers, few of them, and no air; or two values alone, whichever.

    Args:
        values: of any shape, finite.
    """
    return are_labels([values])


def are_labels(blocks: Iterable[np.ndarray]) -> bool:
    """As :func:`is_label_map`, of slices of a volume, which are read as far as it takes to know."""
    found, count = np.zeros(0), 0
    for block in blocks:
        sample = block.reshape(-1)[:: block.size // SAMPLED + 1]
        found, count = np.union1d(found, sample), count + sample.size
        is_whole = bool((found == np.round(found)).all())
        if not is_whole or len(found) > MAX_LABELS or (len(found) > 2 and found[0] < LOWEST_LABEL):
            return False
    return 0 < len(found) * MIN_VOXELS_OF_A_VALUE <= count
