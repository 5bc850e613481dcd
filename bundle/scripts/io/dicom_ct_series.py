"""
DICOM series as CTs: order and place of the slices by their headers. What a reader would join without a word, though it
is no volume, is refused beforehand.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from monai.data.utils import orientation_ras_lps
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from ..errors import InputError, one_line_message
from .dicom_headers import has_dicom_start
from .foreign_files import check_content
from .limits import MAX_VOXELS, check_extent
from .slice_places import (
    SAME_MM,
    acquisition_number,
    described,
    is_even,
    normal_of,
    overlaid_acquisitions,
    places_along,
    why_no_slice,
)

END_OF_FRAMES = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
"""Ends compressed pixel data: the sequence delimitation item and its length."""
LONGEST_TAIL = 2**12
"""Bytes in which what follows the pixel data mostly ends; where it does not, the whole file is searched."""
TILT_DEGREES = 0.5
"""How far a stack may lean from the normal of its slices."""
NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f]*", re.I)
"""What differs between the names of slices, a decimal or hexadecimal number."""


@dataclass(frozen=True)
class CTSeries:
    """The slices of one CT volume."""

    files: tuple[str, ...]
    """Paths, in ascending order along the slices' normal."""
    places: np.ndarray
    """`(N, 3, 3)` in mm, LPS: of each slice the step from column to column, the one from row to row, and the position
    of the first pixel, by Pixel Spacing, Image Orientation and Image Position (PS3.3 C.7.6.2.1.1)."""
    shape: tuple[int, int, int]
    """Columns, rows and slices."""

    @property
    def affine(self) -> np.ndarray:
        """`(4, 4)`, from column, row and slice to RAS+ in mm. Spacing Between Slices has no part in it, as it may be
        negative, or wrong."""
        across, down, first = self.places[0]
        affine = np.eye(4)
        affine[:3] = np.stack([across, down, (self.places[-1, 2] - first) / (len(self.files) - 1), first], axis=1)
        return orientation_ras_lps(affine)


def check_ct_series(folder: str, field: str) -> CTSeries:
    """
    Orders the slices of a folder; refuses one whose files do not make up one CT volume in HU. Reads headers alone.
    Hidden files are passed over, and so is what archives and scanners lay next to slices: files that are neither DICOM
    nor named as the slices are, DICOM files of :func:`~scripts.io.slice_places.why_no_slice`, and copies of a slice.

    Args:
        folder: holds the slices of one series, in any order, under any names.
        field: the record's field, for messages.

    Raises:
        InputError: naming the folder or file, the field and what was found, when the folder holds no DICOM file, files
            that are truncated or lack pixel data, several series, images that are no CT, are not in HU or have no
            place, fewer than two slices, slices of different size, spacing, orientation or thickness, several
            acquisitions, two slices at one place, a gap between slices, or slices stacked askew, as by a tilted gantry.
    """
    headers = _read_headers(folder, f"{folder}: field '{field}'")
    _check_one_series(headers, f"{folder}: field '{field}'")
    for name, header in headers.items():
        _check_slice(header, f"{os.path.join(folder, name)}: field '{field}'")
    _check_alike(headers, f"{folder}: field '{field}'")
    first = next(iter(headers.values()))
    check_extent([first.Columns, first.Rows, len(headers)], MAX_VOXELS, f"{folder}: field '{field}'")
    headers, places = _in_order(headers)
    _check_stack(headers, places, f"{folder}: field '{field}'")
    files = tuple(os.path.join(folder, name) for name in headers)
    shape = (int(first.Columns), int(first.Rows), len(files))
    return CTSeries(files, np.stack([_place_of(header) for header in headers.values()]), shape)


def _place_of(header: Dataset) -> np.ndarray:
    """As in :attr:`CTSeries.places`."""
    rows_mm, columns_mm = header.PixelSpacing
    along_row, along_column = np.reshape(np.asarray(header.ImageOrientationPatient, float), (2, 3))
    return np.stack([along_row * columns_mm, along_column * rows_mm, np.asarray(header.ImagePositionPatient, float)])


def _read_headers(folder: str, where: str) -> dict[str, Dataset]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    slices: dict[str, Dataset] = {}
    no_slices: dict[str, Dataset] = {}
    problems, others = {}, []
    for name in names:
        try:
            header = _read_header(os.path.join(folder, name))
            (no_slices if why_no_slice(header) else slices)[name] = header
        except InvalidDicomError:
            others.append(name)
        except Exception as error:
            problems[name] = one_line_message(error)
    headers = _without_copies(folder, slices) or no_slices
    if not headers:
        for name in names[:1]:
            check_content(os.path.join(folder, name), f"{where} holds no DICOM file")
        raise InputError(f"{where} holds no DICOM file ({len(names)} other file(s)), expected the slices of one CT.")
    forms = {_form(name) for name in headers}
    problems |= {name: "no DICOM file, though it is named as one" for name in others if _form(name) in forms}
    if problems:
        name, problem = next(iter(problems.items()))
        raise InputError(
            f"{where} holds {len(problems)} file(s) next to {len(headers)} DICOM slices that cannot be used, such as "
            f"{name} ({problem}); fetch them again if they are slices, else move them out of the folder."
        )
    return headers


def _without_copies(folder: str, slices: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """One slice of each SOP Instance UID, where the files of one are the same bytes."""
    names: dict[str, str] = {}
    kept = {}
    for name, header in slices.items():
        first = names.setdefault(header.get("SOPInstanceUID") or name, name)
        is_copy = first != name and filecmp.cmp(*(os.path.join(folder, each) for each in (first, name)), shallow=False)
        if not is_copy:
            kept[name] = header
    return kept


def _form(name: str) -> str:
    """What names of the slices of a series have in common: the suffix, or without one the name without its numbers."""
    stem, suffix = os.path.splitext(name.lower())
    return suffix if suffix and not NUMBER.fullmatch(suffix[1:]) else NUMBER.sub("", stem)


def _read_header(path: str) -> Dataset:
    with open(path, "rb") as file:
        if not has_dicom_start(file):
            raise InvalidDicomError
        header = dcmread(file, stop_before_pixels=True, force=True)
        if "SOPClassUID" not in header and "Modality" not in header:
            raise InvalidDicomError
        syntax = header.file_meta.get("TransferSyntaxUID")
        is_whole = syntax == DeflatedExplicitVRLittleEndian or why_no_slice(header)
        missing = 0 if is_whole else _missing_bytes(header, syntax, file)
    if missing:
        raise EOFError(f"no pixel data, or truncated: at least {missing} bytes are missing")
    return header


def _missing_bytes(header: Dataset, syntax: UID | None, file: BinaryIO) -> int:
    """At least so many bytes are missing from where the file stands, before its pixel data, to its end."""
    if syntax is not None and syntax.is_compressed:
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        file.seek(max(start, size - LONGEST_TAIL))
        is_there = END_OF_FRAMES in file.read()
        file.seek(start)
        return 0 if is_there or END_OF_FRAMES in file.read() else len(END_OF_FRAMES)
    tag_and_length = 8 if syntax is None or syntax.is_implicit_VR else 12
    pixels = header.get("Rows", 0) * header.get("Columns", 0) * header.get("BitsAllocated", 16) // 8
    return max(0, tag_and_length + pixels - (os.fstat(file.fileno()).st_size - file.tell()))


def _check_one_series(headers: Mapping[str, Dataset], where: str) -> None:
    series = Counter(
        (header.get("SeriesInstanceUID", "no UID"), header.get("SeriesDescription", "no description"))
        for header in headers.values()
    )
    if len({uid for uid, _ in series}) > 1:
        found = "; ".join(f"{uid} ({text}): {count} files" for (uid, text), count in series.most_common())
        raise InputError(
            f"{where} holds several series, expected one; move each into a folder of its own. Found {found}."
        )


def _check_slice(header: Dataset, where: str) -> None:
    if header.get("Modality") != "CT":
        raise InputError(f"{where}: Modality is {header.get('Modality')!r}, expected 'CT'; name the folder of a CT.")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise InputError(
            f"{where} holds {header.NumberOfFrames} frames, expected a file for each slice; convert it first."
        )
    shown = header.get("PhotometricInterpretation", "MONOCHROME2")
    if shown not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(
            f"{where}: PhotometricInterpretation is {shown!r}, expected MONOCHROME1 or MONOCHROME2: colours are no HU."
        )
    if "ModalityLUTSequence" in header:
        raise InputError(
            f"{where}: its HU are by a Modality LUT Sequence (0028,3000), expected RescaleSlope and RescaleIntercept, "
            f"as CT images have them; convert the series to NIfTI."
        )
    if header.get("RescaleType", "HU") not in ("HU", ""):
        raise InputError(f"{where}: RescaleType is {header.RescaleType!r}, expected 'HU'; rescale the CT to HU first.")
    for keyword in ("Rows", "Columns", "RescaleIntercept"):
        _numbers(header, keyword, 1, where)
    if _numbers(header, "RescaleSlope", 1, where) == 0:
        raise InputError(f"{where}: RescaleSlope is 0, expected another number; without it there are no HU.")
    _numbers(header, "ImagePositionPatient", 3, where)
    rows, columns = _numbers(header, "ImageOrientationPatient", 6, where).reshape(2, 3)
    if not np.allclose([rows @ rows, columns @ columns, rows @ columns], [1, 1, 0], atol=1e-3):
        raise InputError(
            f"{where}: ImageOrientationPatient is {header.ImageOrientationPatient}, expected two unit vectors at a "
            f"right angle; export the series again."
        )
    if (_numbers(header, "PixelSpacing", 2, where) <= 0).any():
        raise InputError(f"{where}: PixelSpacing is {header.PixelSpacing}, expected two lengths above 0 mm.")


def _numbers(header: Dataset, keyword: str, count: int, where: str) -> np.ndarray:
    try:
        numbers = np.atleast_1d(np.asarray(header.get(keyword), dtype=float))
    except (TypeError, ValueError):
        numbers = np.array([])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        found = _stored(header, keyword) if keyword in header else "missing"
        raise InputError(f"{where}: {keyword} is {found}, expected {count} finite number(s); export the series again.")
    return numbers


def _stored(header: Dataset, keyword: str) -> str:
    """A value for a message, also one that pydicom cannot convert."""
    try:
        return repr(header.get(keyword))
    except Exception:  # whatever its conversion stumbles over
        return repr(header.get_item(keyword).value)


def _check_alike(headers: Mapping[str, Dataset], where: str) -> None:
    """By numbers, not texts: a thickness of 0.625000 is one of 0.625, and one that is missing contradicts none."""
    for keyword in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "SliceThickness"):
        numbers = {name: _numbers_of(header, keyword, f"{where} in {name}") for name, header in headers.items()}
        found = {name: headers[name].get(keyword) for name, value in numbers.items() if value is not None}
        first, *others = found or [None]
        different = [n for n in others if not np.allclose(numbers[n], numbers[first], atol=1e-3)]
        if different:
            raise InputError(
                f"{where} holds slices of different {keyword}: {found[first]} in {first}, but {found[different[0]]} in "
                f"{different[0]} ({len(different)} of {len(headers)} differ from the first); keep the slices of one "
                f"stack."
            )


def _numbers_of(header: Dataset, keyword: str, where: str) -> np.ndarray | None:
    """The numbers of an element; None where it is missing or empty."""
    try:
        value = header.get(keyword)
        return None if value in (None, "") else np.asarray(value, dtype=float)
    except Exception as error:
        found = _stored(header, keyword)
        raise InputError(f"{where}: {keyword} is {found}, expected numbers; export the series again.") from error


def _in_order(headers: Mapping[str, Dataset]) -> tuple[dict[str, Dataset], np.ndarray]:
    """The headers by their places along the normal of the first, and those places in mm."""
    orientation = next(iter(headers.values())).ImageOrientationPatient
    places = places_along([header.ImagePositionPatient for header in headers.values()], orientation)
    order, names = np.argsort(places, kind="stable"), list(headers)
    return {names[i]: headers[names[i]] for i in order}, places[order]


def _check_stack(headers: Mapping[str, Dataset], places: np.ndarray, where: str) -> None:
    """`headers`: by name, in order along their normal; `places` there, in mm."""
    if len(headers) < 2:
        raise InputError(f"{where} holds 1 slice, expected at least 2; name the folder of the whole series.")
    acquisitions = overlaid_acquisitions([acquisition_number(header) for header in headers.values()], places)
    if acquisitions:
        raise InputError(f"{where} {described(acquisitions)}; move the slices of each into a folder of its own.")
    _check_steps(list(headers), places, where)
    first, *_, last = headers.values()
    stacking = np.subtract(last.ImagePositionPatient, first.ImagePositionPatient)
    _check_tilt(stacking, normal_of(first.ImageOrientationPatient), where)


def _check_steps(names: list[str], places: np.ndarray, where: str) -> None:
    """`places`: of the slices along the normal, in mm, ascending."""
    steps = np.diff(places)
    same = np.flatnonzero(steps < SAME_MM)
    if len(same):
        pair = f"{names[same[0]]} and {names[same[0] + 1]} at {places[same[0]]:.2f} mm"
        raise InputError(
            f"{where} holds {len(same)} slice(s) at the place of another, such as {pair} along their normal, expected "
            f"each place once; remove the doubles, or keep one phase of several."
        )
    if not is_even(places):
        usual = float(np.median(steps))
        worst = int(np.abs(steps - usual).argmax())
        raise InputError(
            f"{where} has uneven steps between slices: {steps[worst]:.3f} mm from {names[worst]} to {names[worst + 1]} "
            f"(at {places[worst]:.2f} mm along their normal), expected {usual:.3f} mm as between the others; fetch the "
            f"missing slices, or resample the series to even steps."
        )


def _check_tilt(stacking: np.ndarray, normal: np.ndarray, where: str) -> None:
    tilt = np.degrees(np.arctan2(np.linalg.norm(np.cross(stacking, normal)), stacking @ normal))
    if tilt > TILT_DEGREES:
        raise InputError(
            f"{where} was taken with a tilted gantry: its slices are stacked {tilt:.1f} degrees off their normal, "
            f"expected at most {TILT_DEGREES:g}; resample the series to upright slices first."
        )
