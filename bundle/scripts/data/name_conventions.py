"""
Images whose files do not say whose they are: NIfTI, NRRD, MetaImage, PNG, TIFF and JPEG, known by folder and name.

The patient is the first folder below the searched one that is no part of a collection's layout, such as `imagesTr` or
`subset0`. For a file that lies in no such folder, the patient is the file's name up to a word that says what it is: a
view, `ct`, or a scan such as `s2`; such words in front are passed over. The study is the folder and the scan. Words are
what stands between characters that are neither letters nor digits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..errors import InputError, one_line_message
from ..io.ct_reader import META_IMAGE, NIFTI, NRRD, check_ct_header, is_label_file
from ..io.nifti import load_nifti
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
MASK_WORD = re.compile(r"(\w*masks?|msk|labels?(tr|ts|val)?|labelmaps?|segs?|segmentations?|rois?|annotations?)", re.I)
MASK_FOLDER = re.compile(rf"{MASK_WORD.pattern}|(segs?|masks?|labels?)[-_ ](lungs?|lobes?|nodules?|airways?)\b.*", re.I)
"""Folders of label maps, such as the Decathlon's `labelsTr`, TotalSegmentator's `segmentations`, `seg-lungs-LUNA16`."""
COLLECTION_FOLDER = re.compile(
    r"(images?|labels?)(tr|ts|val)?|(train(ing)?|val(id(ation)?)?|test(ing)?)([-_ ]?(set|data|images?|cts?))?"
    r"|(subset|batch|part|fold|split|shard|set)[-_ ]?\d+|data(set)?s?|files|cts?|ct[-_ ]?scans?|scans|volumes"
    r"|nifti|dicom|(task|dataset)\d+_.*|totalsegmentator.*|luna16|lidc[-_ ]idri|covid[-_ ]ct[-_ ]md|qin[-_ ]lung[-_ ]ct"
    r"|mimic[-_ ]cxr.*|p1\d|.+[-_ ]cases|(datasets|models)--.*|snapshots|[0-9a-f]{40}",
    re.I,
)
"""
Folders that gather patients: names in use for the sections of a data set and for parts of a download, and the upper
ones of the Decathlon, LUNA16, LIDC-IDRI, TotalSegmentator, COVID-CT-MD, QIN Lung CT, MIMIC-CXR, Hugging Face's cache.
"""
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
    mask = _mask_of(path, words)
    if mask:
        return Excluded(path, f"{mask}, so it is taken for a label map")
    field = _field_of(folder, path, {VIEW_OF_WORD[word] for word in words & VIEW_OF_WORD.keys()})
    if isinstance(field, Excluded):
        return field
    patients = _patients_of(path, stem, dicom_patients)
    if len(patients) > 1:
        return Excluded(
            path, f"its folder or namesake holds DICOM files of {len(patients)} patients; whose it is is not known"
        )
    return Image(min(patients), _study_of(path, stem), field, path)


def patient_folder(path: str) -> str | None:
    """The first folder of a path that is no part of a collection's layout; None where there is none."""
    folders = PurePosixPath(path).parts[:-1]
    return next((folder for folder in folders if not COLLECTION_FOLDER.fullmatch(folder)), None)


def _mask_of(path: str, words: set[str]) -> str | None:
    """What of a path says that the file is a label map; None where nothing does."""
    masks = sorted(word for word in words if MASK_WORD.fullmatch(word))
    folders = [folder for folder in PurePosixPath(path).parts[:-1] if MASK_FOLDER.fullmatch(folder)]
    if folders:
        return f"it lies in '{folders[0]}'"
    return f"its name has the word '{masks[0]}'" if masks else None


def _field_of(folder: Path, path: str, views: set[str]) -> str | Excluded:
    try:
        dimensions = _dimensions(folder / path)
    except Exception as error:  # a damaged header raises whatever the reader stumbled over
        return Excluded(path, f"its header cannot be read ({one_line_message(error)})")
    if dimensions not in (2, 3):
        return Excluded(path, f"has {dimensions} dimensions, expected a volume of 3 or a radiograph of 2")
    if dimensions == 3:
        reason = f"is a volume, but its name says {min(views)} radiograph" if views else _no_ct(folder / path)
        return Excluded(path, reason) if reason else "ct"
    if len(views) != 1:
        found = "both views" if views else "no view"
        return Excluded(path, f"its name has {found} as a word, expected one of {', '.join(VIEW_OF_WORD)}")
    return views.pop()


def _no_ct(path: Path) -> str | None:
    """Why a volume cannot be read as a CT, by its header, or is none, by its values; None where neither says so."""
    try:
        check_ct_header(str(path), str(path))
        is_label_map = is_label_file(str(path))
    except InputError as error:
        return str(error).removeprefix(f"{path} ")
    except Exception as error:  # damaged voxels raise whatever the reader stumbled over
        return f"its voxels cannot be read ({one_line_message(error)})"
    return "holds few values, whole numbers without air, so it is taken for a label map" if is_label_map else None


def _dimensions(path: Path) -> int:
    """Axes of an image: by its suffix, and those of a NIfTI by its header, up to the last that is longer than 1."""
    suffix = image_suffix(path.name)
    if suffix not in NIFTI:
        return 2 if suffix in IMAGE_FILE_SUFFIXES else 3
    return max((axis for axis, length in enumerate(load_nifti(path).shape, start=1) if length != 1), default=0)


def _patients_of(path: str, stem: str, dicom_patients: Mapping[str, set[str]]) -> set[str]:
    name = patient_folder(path) or FIRST_KIND.split(LEADING_KINDS.sub("", stem), maxsplit=1)[0]
    return dicom_patients.get(name) or {name}


def _study_of(path: str, stem: str) -> str:
    folder = PurePosixPath(path).parent
    patient = "" if patient_folder(path) else next(iter(_patients_of(path, stem, {})))
    scan = SCAN_WORD.search(stem)
    return "/".join((str(folder), patient, scan.group().lower() if scan else ""))
