"""Whose a result is, kept apart from what is computed: whatever a sender's tags hold, a document can be made."""

from __future__ import annotations

from copy import deepcopy

from pydicom import Dataset

from scripts.io.dicom_ct_writer import IDENTIFICATION

ANY_LETTERS = "ISO_IR 192"
"""Specific Character Set of UTF-8, for the names of patients and what is said of results."""


def without_identity(header: Dataset) -> Dataset:
    """A copy of a header that names its study and nobody, all tags of :data:`IDENTIFICATION` there and empty."""
    copy = deepcopy(header)
    for keyword in IDENTIFICATION:
        if keyword != "StudyInstanceUID":
            setattr(copy, keyword, None)
    return copy


def give_identity(result: Dataset, header: Dataset) -> None:
    """Lets a result, made from :func:`without_identity`, name patient and study as a header does, letter by letter."""
    for keyword in IDENTIFICATION:
        if keyword in header:
            result[keyword] = header[keyword]
    result.SpecificCharacterSet = ANY_LETTERS
