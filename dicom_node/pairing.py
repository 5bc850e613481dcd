"""Which of a study's objects are its frontal and its lateral radiograph, by the bundle's own pairing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from scripts.data.dicom_scan import describe_headers, name_patients
from scripts.data.study_pairing import Excluded, Image, pair_radiographs, unpaired_studies
from scripts.errors import InputError
from scripts.io.dicom_headers import Header, read_header

OF_ANOTHER = "is of another patient than the pair of its study"


class StudyPair(NamedTuple):
    """
    Attributes:
        frontal: the frontal radiograph.
        lateral: the lateral one.
        others: why each other object of the study is not used, by its path.
    """

    frontal: Path
    lateral: Path
    others: dict[Path, str]


def pair_in(folder: Path) -> StudyPair:
    """
    The frontal and the lateral radiograph of a folder, which holds the objects of one study.

    Raises:
        InputError: when there is not one of each, of one patient, with what is known of every object.
    """
    headers = _headers(folder)
    found = describe_headers(folder, headers)
    images = [entry for entry in found if isinstance(entry, Image)]
    pairs = pair_radiographs(images)
    reasons = {image.path: reason for image, reason in unpaired_studies(images)}
    reasons |= {entry.path: entry.reason for entry in found if isinstance(entry, Excluded)}
    if len(pairs) != 1:
        reasons |= {"the study": f"has pairs of {len(pairs)} patients"} if len(pairs) > 1 else {}
        raise InputError("\n".join(f"{path}: {reason}" for path, reason in reasons.items()) or "no radiograph")
    used = (pairs[0].frontal, pairs[0].lateral)
    others = {header.path: reasons.get(header.path, OF_ANOTHER) for header in headers if header.path not in used}
    return StudyPair(*(folder / path for path in used), {folder / path: reason for path, reason in others.items()})


def _headers(folder: Path) -> list[Header]:
    """
    Raises:
        InputError: when the header of an object cannot be read, or it is not known whose it is.
    """
    headers = []
    for path in sorted(folder.glob("*.dcm")):
        try:
            headers.append(read_header(folder, path.name))
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error
    named = name_patients(headers)
    unknown = [f"{each.path}: {each.reason}" for each in named if isinstance(each, Excluded)]
    if unknown:
        raise InputError("\n".join(unknown))
    return [each for each in named if isinstance(each, Header)]
