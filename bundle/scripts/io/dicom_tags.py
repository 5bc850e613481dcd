"""What DICOM calls a radiograph and its view, for whoever reads one or searches for them."""

from __future__ import annotations

import re

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from .radiograph import PLANE_OF_VIEW

MODALITIES = ("CR", "DX", "RG", "RF", "XA", "SC", "OT")
VIEW_OF_CODE = {
    "399348003": "AP", "R-10206": "AP", "272479007": "PA", "R-10214": "PA", "R-40888": "PA",
    "399173006": "LL", "R-10236": "LL", "399198007": "RL", "R-10232": "RL",
}  # fmt: skip
"""DICOM context group 4010 (DX View, PS3.16), in SNOMED CT and in the older SNOMED RT."""
PLANE_OF_CODE = {
    **{code: PLANE_OF_VIEW[view] for code, view in VIEW_OF_CODE.items()},
    "399033003": "frontal", "R-10202": "frontal", "399067008": "lateral", "R-102CD": "lateral",
}  # fmt: skip
OBLIQUE_CODES = {
    "399038007", "399225005", "399059000", "399099002", "399288005", "399135007", "260427002", "399236003",
    "399368009", "399356000", "399312000", "399184004", "399182000", "260426006", "399132005", "399325008",
    "399160007", "399004004", "399006002",
    "R-10210", "R-10250", "R-10216", "R-10230", "R-10248", "R-10220", "R-40783", "R-10234", "R-10226", "R-40985",
    "R-10208", "R-10238", "R-102C1", "R-40782", "R-10252", "R-10254", "R-10204", "R-10246", "R-10212",
}  # fmt: skip
"""Those of the same group that are oblique."""
OBLIQUE_POSITION = re.compile(r"[LR][LAP]?O|OBL.*|.*OBLIQUE.*")
"""View Positions such as RLO, right lateral oblique (PS3.3 C.8.1.1), and RAO, right anterior oblique."""
VIEW_OF_POSITION = {
    **{view: view for view in PLANE_OF_VIEW},
    "ANTEROPOSTERIOR": "AP", "POSTEROANTERIOR": "PA", "LEFTLATERAL": "LL", "RIGHTLATERAL": "RL", "LLAT": "LL",
    "RLAT": "RL",
}  # fmt: skip
"""By the letters of View Position alone."""
PLANE_OF_POSITION = {"LATERAL": "lateral", "LAT": "lateral", "FRONTAL": "frontal"}
"""View Positions that do not say from which side the rays came."""
DECUBITUS_POSITIONS = ("LLD", "RLD")
"""View Positions of a patient who lies on the left or the right side (PS3.3 C.8.1.1)."""
DECUBITUS_PATIENT_POSITIONS = ("HFDL", "HFDR", "FFDL", "FFDR")
"""Patient Positions (PS3.3 C.7.3.1.1.2)."""
DECUBITUS_CODES = {"102536004", "102535000", "32185000", "F-10319", "F-10317", "F-10318"}
"""DICOM context group 20 (Patient Orientation Modifier)."""


def named(keyword: str) -> str:
    """A tag's name and number, such as "View Position (0018,5101)"."""
    tag = Tag(tag_for_keyword(keyword))
    return f"{dictionary_description(tag)} ({tag.group:04X},{tag.element:04X})"


def view_position(dataset: Dataset) -> str:
    """View Position as it stands in the file, in capitals; empty where it is missing."""
    return str(dataset.get("ViewPosition") or "").strip().upper()


def view_of(dataset: Dataset) -> str | None:
    """The view AP, PA, LL or RL, from View Position or View Code Sequence; None where neither says."""
    view = VIEW_OF_POSITION.get(_letters(dataset))
    return view or next((VIEW_OF_CODE[code] for code in view_codes(dataset) if code in VIEW_OF_CODE), None)


def declared_plane(dataset: Dataset) -> str | None:
    """Which plane a radiograph shows by its view, "frontal" or "lateral"; None where it does not say, or is oblique."""
    return None if oblique_view(dataset) else plane_of_position(dataset) or plane_of_code(dataset)


def plane_of_position(dataset: Dataset) -> str | None:
    """The plane by View Position alone."""
    letters = _letters(dataset)
    return PLANE_OF_POSITION.get(letters) or PLANE_OF_VIEW.get(VIEW_OF_POSITION.get(letters))


def plane_of_code(dataset: Dataset) -> str | None:
    """The plane by View Code Sequence alone."""
    return next((PLANE_OF_CODE[code] for code in view_codes(dataset) if code in PLANE_OF_CODE), None)


def view_codes(dataset: Dataset) -> list[str]:
    """The codes of View Code Sequence."""
    return _codes(dataset, "ViewCodeSequence")


def oblique_view(dataset: Dataset) -> str | None:
    """The tag that says that a radiograph is oblique, with its value; None where none does."""
    if OBLIQUE_POSITION.fullmatch(view_position(dataset)):
        return f"{named('ViewPosition')} is {view_position(dataset)}"
    code = next((code for code in view_codes(dataset) if code in OBLIQUE_CODES), None)
    return code and f"{named('ViewCodeSequence')} is {code}"


def decubitus(dataset: Dataset) -> str | None:
    """The tag that says that the patient lay on a side, with its value; None where none does."""
    for keyword, values in (("ViewPosition", DECUBITUS_POSITIONS), ("PatientPosition", DECUBITUS_PATIENT_POSITIONS)):
        value = str(dataset.get(keyword) or "").strip().upper()
        if value in values:
            return f"{named(keyword)} is {value}"
    for item in dataset.get("PatientOrientationCodeSequence") or []:
        for code in _codes(item, "PatientOrientationModifierCodeSequence"):
            if code in DECUBITUS_CODES:
                return f"{named('PatientOrientationModifierCodeSequence')} is {code}"
    return None


def _letters(dataset: Dataset) -> str:
    return re.sub(r"[^A-Z]", "", view_position(dataset))


def _codes(dataset: Dataset, keyword: str) -> list[str]:
    return [str(item.get("CodeValue")) for item in dataset.get(keyword) or []]
