"""Where slices of a series lie along their normal, and series that hold several acquisitions of the same places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom import Dataset

UNEVEN_MM, SAME_MM = 0.1, 1e-3
"""How far slices may lie from even steps, since positions are often rounded; below which step two are at one place."""


def normal_of(orientation: Sequence[float]) -> np.ndarray:
    """Unit vector across slices, by Image Orientation (Patient), DICOM PS3.3 C.7.6.2.1.1."""
    return np.cross(*np.reshape(np.asarray(orientation, float), (2, 3)))


def places_along(positions: Sequence[Sequence[float]], orientation: Sequence[float]) -> np.ndarray:
    """Image Positions (Patient) of slices, projected on the normal of an Image Orientation (Patient): `(N,)` in mm."""
    return np.asarray([[float(number) for number in position] for position in positions]) @ normal_of(orientation)


def is_even(places: np.ndarray) -> bool:
    """Whether places along the normal, in mm, ascending, are all different and in even steps."""
    off_mm = np.abs(places - np.linspace(places[0], places[-1], len(places))).max()
    return bool(off_mm <= UNEVEN_MM and (np.diff(places) >= SAME_MM).all())


def acquisition_number(header: Dataset) -> str:
    """Acquisition Number (0020,0012), by which slices of one acquisition are gathered; empty where it is not known."""
    number = header.get("AcquisitionNumber")
    return "" if number is None else str(number).strip()


def overlaid_acquisitions(numbers: Sequence[str], places: Sequence[float]) -> dict[str, int]:
    """
    The acquisitions of a series that holds several volumes: they cover the same places and make no even steps together.

    Args:
        numbers: :func:`acquisition_number` of each slice.
        places: of each slice along the normal, in mm, in any order.

    Returns:
        How many slices each Acquisition Number has. Empty for one stack, be it with doubles or gaps, and for
        acquisitions that follow one another along the table, or of which one is a single slice.
    """
    stacks = defaultdict(list)
    for number, place in zip(numbers, places):
        stacks[number].append(place)
    extents = sorted((min(stack), max(stack)) for stack in stacks.values())
    overlap = any(start < end + SAME_MM for (_, end), (start, _) in zip(extents, extents[1:]))
    if not overlap or min(map(len, stacks.values())) < 2 or is_even(np.sort(places)):
        return {}
    return {number: len(stacks[number]) for number in sorted(stacks, key=lambda number: (len(number), number))}


def described(acquisitions: Mapping[str, int]) -> str:
    """What is wrong with a series of :func:`overlaid_acquisitions`, after its name."""
    counts = ", ".join(f"{number or 'none'}: {slices} slices" for number, slices in acquisitions.items())
    return f"holds {len(acquisitions)} acquisitions (Acquisition Number {counts}), expected one"
