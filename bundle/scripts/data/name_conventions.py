"""
Images whose files do not say whose they are: NIfTI, NRRD, MetaImage, PNG, TIFF and JPEG, known by folder and name.

The patient is the first folder below the searched one. For a file that lies directly in it, the patient is the file's
name up to a word that says what it is: a view, `ct`, or a scan such as `s2`; such words in front are passed over. The
study is the folder and the scan. Words are what stands between characters that are neither letters nor digits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import nibabel

from ..errors import one_line_message
from ..io.ct_reader import META_IMAGE, NIFTI, NRRD
from .study_pairing import Excluded, Image

VIEW_OF_WORD = {
    "frontal": "frontal",
    "pa": "frontal",
    "ap": "frontal",
    "lateral": "lateral",
    "lat": "lateral",
    "ll": "lateral",
    "rl": "lateral",
}
IMAGE_FILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SUFFIXES = (*NIFTI, *NRRD, *META_IMAGE, *IMAGE_FILE_SUFFIXES)
MASK_WORDS = {"mask", "label", "labels", "seg", "segmentation"}
KIND_WORDS = rf"(?:{'|'.join(VIEW_OF_WORD)}|ct|s\d+)(?![a-z0-9])"
LEADING_KINDS = re.compile(rf"\A(?:{KIND_WORDS}[^a-z0-9]*)+", re.I)
FIRST_KIND = re.compile(rf"[^a-z0-9]+{KIND_WORDS}", re.I)
SCAN_WORD = re.compile(r"(?<![a-z0-9])s\d+(?![a-z0-9])", re.I)


def image_suffix(path: str) -> str | None:
    """The suffix of a file that this module knows, in lower case; None for another file."""
    return next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), None)


def describe_file(folder: Path, path: str, dicom_patients: Mapping[str, set[str]]) -> Image | Excluded:
    """
    What a file is, by its name and a NIfTI's header; why it is excluded when that is not clear.

    Args:
        folder: the searched folder.
        path: of the file, from there on, with slashes and a suffix of :func:`image_suffix`.
        dicom_patients: patients of the DICOM files below each first folder. A file of the folder's name is of the same
            patient, so that nobody gets two identities.
    """
    name = PurePosixPath(path).name
    stem = name[: len(name) - len(image_suffix(name) or "")]
    words = {word.lower() for word in re.split(r"[^A-Za-z0-9]+", stem)}
    if words & MASK_WORDS:
        return Excluded(path, f"its name has the word '{min(words & MASK_WORDS)}', so it is taken for a label map")
    field = _field_of(folder, path, {VIEW_OF_WORD[word] for word in words & VIEW_OF_WORD.keys()})
    if isinstance(field, Excluded):
        return field
    patients = _patients_of(path, stem, dicom_patients)
    if len(patients) > 1:
        return Excluded(
            path, f"its folder or namesake holds DICOM files of {len(patients)} patients; whose it is is not known"
        )
    return Image(min(patients), _study_of(path, stem), field, path)


def _field_of(folder: Path, path: str, views: set[str]) -> str | Excluded:
    try:
        dimensions = _dimensions(folder / path)
    except Exception as error:  # a damaged header raises whatever the reader stumbled over
        return Excluded(path, f"its header cannot be read ({one_line_message(error)})")
    if dimensions not in (2, 3):
        return Excluded(path, f"has {dimensions} dimensions, expected a volume of 3 or a radiograph of 2")
    if dimensions == 3:
        return Excluded(path, f"is a volume, but its name says {min(views)} radiograph") if views else "ct"
    if len(views) != 1:
        found = "both views" if views else "no view"
        return Excluded(path, f"its name has {found} as a word, expected one of {', '.join(VIEW_OF_WORD)}")
    return views.pop()


def _dimensions(path: Path) -> int:
    """Axes of an image: by its suffix, and those of a NIfTI by its header, up to the last that is longer than 1."""
    suffix = image_suffix(path.name)
    if suffix not in NIFTI:
        return 2 if suffix in IMAGE_FILE_SUFFIXES else 3
    return max((axis for axis, length in enumerate(nibabel.load(path).shape, start=1) if length != 1), default=0)


def _patients_of(path: str, stem: str, dicom_patients: Mapping[str, set[str]]) -> set[str]:
    first, *rest = PurePosixPath(path).parts
    name = first if rest else FIRST_KIND.split(LEADING_KINDS.sub("", stem), maxsplit=1)[0]
    return dicom_patients.get(name) or {name}


def _study_of(path: str, stem: str) -> str:
    folder = PurePosixPath(path).parent
    patient = next(iter(_patients_of(path, stem, {}))) if folder == PurePosixPath() else ""
    scan = SCAN_WORD.search(stem)
    return "/".join((str(folder), patient, scan.group().lower() if scan else ""))
