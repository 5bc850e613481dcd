"""The scan of a folder: every file is in a record, or is excluded with a reason."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..errors import InputError
from ..io.dicom_headers import Header, is_dicom, read_header
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
    dicom = [path for path in paths if image_suffix(path) is None and is_dicom(folder / path)]
    read = [_read_header(folder, path) for path in tqdm(dicom, desc="Reading DICOM headers", disable=not dicom)]
    unread = [entry for entry in read if isinstance(entry, Excluded)]
    headers = unread + name_patients([entry for entry in read if isinstance(entry, Header)])
    known = [header for header in headers if isinstance(header, Header)]
    patients = patients_by_folder(known)
    found = [describe_file(folder, path, patients) for path in paths if image_suffix(path)] + describe_headers(known)
    excluded += [entry for entry in (*headers, *found) if isinstance(entry, Excluded)]
    others = set(paths) - set(dicom) - {path for path in paths if image_suffix(path)}
    excluded += [Excluded(path, _reason_of_other(path)) for path in others if not _is_voxels_of_a_header(path, paths)]
    return [entry for entry in found if isinstance(entry, Image)], excluded


def _read_header(folder: Path, path: str) -> Header | Excluded:
    try:
        return read_header(folder, path)
    except InputError as reason:
        return Excluded(path, str(reason))


def _walk(folder: Path) -> tuple[list[str], list[Excluded]]:
    """Paths of all files, from the folder on, and what cannot be reached or leads out of it."""
    paths, excluded = [], []

    def refuse(error: OSError) -> None:
        place = Path(os.path.relpath(error.filename, folder)).as_posix()
        excluded.append(Excluded(place, f"cannot be listed ({error.strerror})"))

    for place, names, files in os.walk(folder, onerror=refuse):
        here = Path(os.path.relpath(place, folder))
        links = [name for name in names if os.path.islink(os.path.join(place, name))]
        excluded += [Excluded((here / name).as_posix(), "a link to a folder is not followed") for name in links]
        names[:] = [name for name in names if name not in links and not name.startswith(".")]
        for path in ((here / name).as_posix() for name in files if not name.startswith(".")):
            reason = _reason_of_link(folder, path) or _reason_of_kind(folder / path)
            if reason is None:
                paths.append(path)
            else:
                excluded.append(Excluded(path, reason))
    return sorted(paths), excluded


def _reason_of_link(folder: Path, path: str) -> str | None:
    """
    Why a link is excluded: it leads out of the folder, or to a file that is found itself, so that it counts twice.
    """
    target = os.path.realpath(folder / path)
    if not os.path.exists(target) or not is_inside(target, str(folder)):
        return f"is a link to {target}, which is outside or missing"
    parts = Path(os.path.relpath(target, os.path.realpath(folder))).parts
    is_found = not any(part.startswith(".") for part in parts)
    return f"is a link to {target}, which counts itself" if is_found and os.path.islink(folder / path) else None


def _reason_of_kind(path: Path) -> str | None:
    """Why something that is no regular file is left out: to open a pipe is to wait for whoever writes into it."""
    return None if path.is_file() else "is a pipe, a socket or a device"


def _reason_of_other(path: str) -> str:
    if path.lower().endswith(DICOM_SUFFIXES):
        return "is no DICOM file: the letters DICM are not at byte 128"
    return "is no image file of a known kind"


def _is_voxels_of_a_header(path: str, paths: Sequence[str]) -> bool:
    """Whether a file holds the voxels of a `.mhd` or `.nhdr` header next to it."""
    stem, is_voxels = VOXELS.subn("", path)
    return bool(is_voxels) and any(f"{stem}{suffix}" in paths for suffix in (".mhd", ".nhdr"))
