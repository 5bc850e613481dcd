"""Label maps, which lie next to CTs under the same names: known by their values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MAX_LABELS = 150
"""More than the classes of any segmentation of the body, and fewer than the values of a CT without air."""
LOWEST_LABEL = -200
"""A chest CT has values below it, its air (DICOM PS3.3 C.11.1.1.2: HU of air are -1000)."""
MIN_ALIKE = 0.3
"""Fraction of neighbours of one value in a label map, which is piecewise constant; in a CT noise leaves a tenth."""
FIRST_SAMPLE, SAMPLE = 2**12, 2**20
"""Voxels that are looked at, evenly spread: the first tell most CTs."""


def is_label_map(values: np.ndarray) -> bool:
    """
    Whether a volume holds labels and no HU: whole numbers, few of them, constant over regions, and no air; or two
    values alone, whichever.

    Args:
        values: of any shape, finite.
    """
    return are_labels([values])


def are_labels(slices: Iterable[np.ndarray]) -> bool:
    """As :func:`is_label_map`, of slices of a volume, which are read as far as it takes to know."""
    found, alike = np.zeros(0), []
    for values in slices:
        if not _may_be_labels(np.unique(_sample(values, FIRST_SAMPLE))):
            return False
        found = np.union1d(found, _sample(values, SAMPLE))
        if not _may_be_labels(found):
            return False
        alike.append(_alike(values))
    return bool(alike) and float(np.mean(alike)) >= MIN_ALIKE


def _sample(values: np.ndarray, most: int) -> np.ndarray:
    return values.ravel(order="K")[:: values.size // most + 1]


def _alike(values: np.ndarray) -> float:
    """The fraction of neighbours, along the axis of memory, that have the same value: of the middle of a volume."""
    flat = values.ravel(order="K")
    start = max(0, (flat.size - SAMPLE) // 2)
    part = flat[start : start + SAMPLE]
    return float((part[1:] == part[:-1]).mean()) if part.size > 1 else 0.0


def _may_be_labels(found: np.ndarray) -> bool:
    """`found`: different values, ascending."""
    is_whole = bool((found == np.round(found)).all())
    has_air = len(found) > 2 and found[0] < LOWEST_LABEL
    return is_whole and len(found) <= MAX_LABELS and not has_air
