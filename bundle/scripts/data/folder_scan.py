"""The scan of a folder: every file is in a record, or is excluded with a reason."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from pathlib import Path

from tqdm import tqdm

from ..errors import InputError
from ..io.dicom_headers import Header, is_dicom, read_header
from ..io.itk_headers import DETACHED
from .datalist import is_inside
from .dicom_scan import describe_headers, name_patients, patients_by_folder
from .name_conventions import describe_file, image_suffix
from .study_pairing import Excluded, Image, PatientRecord, RadiographPair, pair_by_study, pair_radiographs

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
VOXELS = re.compile(r"\.(zraw|raw(\.gz)?)$", re.I)


def find_records(folder: Path) -> tuple[list[PatientRecord], list[Excluded]]:
    """The records of a folder, in an order that the file system has no part in, and all that is in none of them."""
    images, excluded = find_images(folder)
    records, unpaired = pair_by_study(images)
    return records, sorted(excluded + unpaired)


def find_radiograph_pairs(folder: Path) -> list[RadiographPair]:
    """The studies of a folder that have one frontal and one lateral radiograph, with a CT or without."""
    return pair_radiographs(find_images(folder)[0])


def find_images(folder: Path) -> tuple[list[Image], list[Excluded]]:
    """The CTs and radiographs of a folder, and every other file with its reason."""
    paths, excluded = _walk(folder)
    dicom = [path for path in paths if is_dicom(folder / path)]
    read = [_read_header(folder, path) for path in tqdm(dicom, desc="Reading DICOM headers", disable=not dicom)]
    unread = [entry for entry in read if isinstance(entry, Excluded)]
    headers = unread + name_patients([entry for entry in read if isinstance(entry, Header)])
    known = [header for header in headers if isinstance(header, Header)]
    patients, others = patients_by_folder(known), sorted(set(paths) - set(dicom))
    found = [describe_file(folder, path, patients) for path in others if image_suffix(path)]
    found += describe_headers(folder, known)
    excluded += [entry for entry in (*headers, *found) if isinstance(entry, Excluded)]
    headers_of_voxels = {path.lower() for path in others if path.lower().endswith(DETACHED)}
    unknown = [path for path in others if image_suffix(path) is None]
    excluded += [Excluded(path, _reason_of_other(path)) for path in unknown if not _is_voxels(path, headers_of_voxels)]
    return [entry for entry in found if isinstance(entry, Image)], excluded


def _read_header(folder: Path, path: str) -> Header | Excluded:
    try:
        return read_header(folder, path)
    except InputError as reason:
        return Excluded(path, str(reason))


def _walk(folder: Path) -> tuple[list[str], list[Excluded]]:
    """
    Paths of all files, from the folder on, and what cannot be reached or leads out of it. Hidden files are passed over,
    and so is what macOS puts into archives, `__MACOSX`, and the store of a cache, see :func:`_is_store`.
    """
    root = os.path.realpath(folder)
    paths, excluded = [], []

    def refuse(error: OSError) -> None:
        place = Path(os.path.relpath(error.filename, root)).as_posix()
        excluded.append(Excluded(place, f"cannot be listed ({error.strerror})"))

    for place, names, files in os.walk(root, onerror=refuse):
        here = Path(os.path.relpath(place, root))
        links = [name for name in names if os.path.realpath(os.path.join(place, name)) != os.path.join(place, name)]
        excluded += [Excluded((here / name).as_posix(), "a link to a folder is not followed") for name in links]
        names[:] = [name for name in names if name not in links and not _is_passed_over(place, name)]
        paths += [(here / name).as_posix() for name in files if not name.startswith(".")]
    found: dict[str, str] = {}
    for path in sorted(paths):
        place = os.path.join(root, path)
        target = os.path.realpath(place) if os.path.islink(place) else place
        reason = (_reason_of_link(root, target, found) if target != place else None) or _reason_of_kind(place)
        if reason is not None:
            excluded.append(Excluded(path, reason))
        else:
            found[target] = path
    return sorted(found.values()), excluded


def _is_passed_over(place: str, name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX" or _is_store(place, name)


def _is_store(place: str, name: str) -> bool:
    """Whether a folder is where Hugging Face keeps, under names that say nothing, what links in `snapshots` lead to."""
    return name == "blobs" and os.path.isdir(os.path.join(place, "snapshots"))


def _reason_of_link(root: str, target: str, found: Mapping[str, str]) -> str | None:
    """
    Why a link is excluded: it leads out of the folder, or to a file that is found itself, so that it counts twice.

    Args:
        root: the searched folder, without links.
        target: what the link leads to.
        found: the paths before it that count, by what they lead to.
    """
    if not os.path.exists(target) or not is_inside(target, root):
        return f"is a link to {target}, which is outside or missing"
    parts = Path(target).relative_to(root).parts if Path(target).is_relative_to(root) else ()
    places = [os.path.join(root, *parts[:depth]) for depth in range(len(parts))]
    if parts and not any(map(_is_passed_over, places, parts)):
        return f"is a link to {target}, which counts itself"
    return f"is a link to {target}, which counts as {found[target]}" if target in found else None


def _reason_of_kind(path: str) -> str | None:
    """Why something cannot be opened: of what is no regular file, a pipe waits for whoever writes into it."""
    if not os.path.isfile(path):
        return "is a pipe, a socket or a device"
    return None if os.access(path, os.R_OK) else "may not be read"


def _reason_of_other(path: str) -> str:
    if path.lower().endswith(DICOM_SUFFIXES):
        return "is no DICOM file: the letters DICM are not at byte 128"
    return "is no image file of a known kind"


def _is_voxels(path: str, headers: Set[str]) -> bool:
    """Whether a file holds the voxels of a header next to it; `headers`: `.mhd` and `.nhdr` files, in lower case."""
    stem, is_voxels = VOXELS.subn("", path.lower())
    return bool(is_voxels) and any(f"{stem}{suffix}" in headers for suffix in DETACHED)
