"""Which files are slices of a CT, where they lie along their normal, and which acquisitions overlay each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom import Dataset

SECONDARY_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
"""Begins the SOP Classes of secondary captures, of one frame and of several (PS3.4 B.5)."""
UNEVEN_MM, SAME_MM = 0.1, 1e-3
"""How far slices may lie from even steps, since positions are often rounded; below which step two are at one place."""


def why_no_slice(header: Dataset) -> str | None:
    """
    Why a DICOM file is none of a CT's slices, though it may lie among them: reports, segmentations and plans are of
    another Modality, a scout is a LOCALIZER by its Image Type (PS3.3 C.8.2.1.1.1), a dose report is a capture of a
    screen that lies nowhere. None where it is one, or does not say what it is.
    """
    modality = str(header.get("Modality") or "CT").strip().upper()
    if modality != "CT":
        return f"its Modality is '{modality}', expected 'CT'"
    if "LOCALIZER" in str(header.get("ImageType") or "").upper():
        return "is a localizer image"
    is_capture = str(header.get("SOPClassUID") or "").startswith(SECONDARY_CAPTURES)
    return "is a secondary capture" if is_capture and not header.get("ImagePositionPatient") else None


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
