"""What DICOM calls a radiograph and its view, for whoever reads one or searches for them."""

from __future__ import annotations

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from .radiograph import PLANE_OF_VIEW

MODALITIES = ("CR", "DX", "RG", "RF", "XA", "SC", "OT")
VIEW_OF_CODE = {
    "399348003": "AP", "R-10206": "AP", "272479007": "PA", "R-10214": "PA",
    "399173006": "LL", "R-10236": "LL", "399198007": "RL", "R-10232": "RL",
}  # fmt: skip
"""DICOM context group 4010 (DX View), in SNOMED CT and in the older SNOMED RT."""
PLANE_OF_POSITION = {**PLANE_OF_VIEW, "LATERAL": "lateral", "LAT": "lateral"}
"""Also of a View Position that does not say from which side the rays came."""


def named(keyword: str) -> str:
    """A tag's name and number, such as "View Position (0018,5101)"."""
    tag = Tag(tag_for_keyword(keyword))
    return f"{dictionary_description(tag)} ({tag.group:04X},{tag.element:04X})"


def view_position(dataset: Dataset) -> str:
    """View Position as it stands in the file, in capitals; empty where it is missing."""
    return str(dataset.get("ViewPosition") or "").strip().upper()


def view_of(dataset: Dataset) -> str | None:
    """The view AP, PA, LL or RL, from View Position or View Code Sequence; None where neither says."""
    if view_position(dataset) in PLANE_OF_VIEW:
        return view_position(dataset)
    codes = [str(item.get("CodeValue")) for item in dataset.get("ViewCodeSequence") or []]
    return next((VIEW_OF_CODE[code] for code in codes if code in VIEW_OF_CODE), None)


def declared_plane(dataset: Dataset) -> str | None:
    """Which plane a radiograph shows by its view, "frontal" or "lateral"; None where it does not say."""
    return PLANE_OF_POSITION.get(view_of(dataset) or view_position(dataset))
