"""DICOM series as CTs: what a reader would join without a word, though it is no volume, is refused beforehand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from .errors import InputError, told

END_OF_FRAMES = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
"""Ends compressed pixel data: the sequence delimitation item and its length."""
UNEVEN_MM, TILT_DEGREES = 0.1, 0.5
"""How far slices may lie from even steps, since positions are often rounded, and their stack from their normal."""


def check_ct_series(folder: str, field: str) -> int:
    """
    Refuses a folder whose files do not make up one CT volume in HU. Reads headers only; hidden files are left out.

    Args:
        folder: holds the slices of one series, in any order, under any names.
        field: the record's field, for messages.

    Returns:
        The number of slices.

    Raises:
        InputError: naming the folder or file, the field and what was found, when the folder holds no DICOM file or
            others beside them, files that are truncated or lack pixel data, several series, images that are no CT,
            are not in HU or have no place, fewer than two slices, slices of different size, spacing or orientation,
            two slices at one place, a gap between slices, or slices stacked askew, as by a tilted gantry.
    """
    headers = _read_headers(folder, f"{folder}: field '{field}'")
    _check_one_series(headers, f"{folder}: field '{field}'")
    for name, header in headers.items():
        _check_slice(header, f"{os.path.join(folder, name)}: field '{field}'")
    _check_alike(headers, f"{folder}: field '{field}'")
    _check_stack(headers, f"{folder}: field '{field}'")
    return len(headers)


def _read_headers(folder: str, where: str) -> dict[str, Dataset]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    headers, problems = {}, {}
    for name in names:
        try:
            headers[name] = _read_header(os.path.join(folder, name))
        except InvalidDicomError:
            problems[name] = "no DICOM file"
        except Exception as error:
            problems[name] = told(error)
    if not headers:
        raise InputError(f"{where} holds no DICOM file ({len(names)} other file(s)), expected the slices of one CT.")
    if problems:
        name, problem = next(iter(problems.items()))
        raise InputError(
            f"{where} holds {len(problems)} file(s) beside {len(headers)} DICOM slices that cannot be used, such as "
            f"{name} ({problem}); fetch them again if they are slices, else move them out of the folder."
        )
    return headers


def _read_header(path: str) -> Dataset:
    with open(path, "rb") as file:
        header = dcmread(file, stop_before_pixels=True)
        deflated = header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
        missing = 0 if deflated else _missing_bytes(header, file)
    if missing:
        raise EOFError(f"no pixel data, or truncated: at least {missing} bytes are missing")
    return header


def _missing_bytes(header: Dataset, file: BinaryIO) -> int:
    """At least so many bytes are missing from where the file stands, before its pixel data, to its end."""
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        return 0 if END_OF_FRAMES in file.read() else len(END_OF_FRAMES)
    tag_and_length = 8 if syntax.is_implicit_VR else 12
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
    if header.get("RescaleType", "HU") not in ("HU", ""):
        raise InputError(f"{where}: RescaleType is {header.RescaleType!r}, expected 'HU'; rescale the CT to HU first.")
    _numbers(header, "RescaleIntercept", 1, where)
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
        found = repr(header.get(keyword)) if keyword in header else "missing"
        raise InputError(f"{where}: {keyword} is {found}, expected {count} finite number(s); export the series again.")
    return numbers


def _check_alike(headers: Mapping[str, Dataset], where: str) -> None:
    first, *others = headers
    for keyword in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        expected = np.asarray(headers[first].get(keyword), float)
        different = [n for n in others if not np.allclose(np.asarray(headers[n].get(keyword), float), expected, atol=1e-3)]
        if different:
            raise InputError(
                f"{where} holds slices of different {keyword}: {headers[first].get(keyword)} in {first}, but "
                f"{headers[different[0]].get(keyword)} in {different[0]} ({len(different)} of {len(headers)} differ from "
                f"the first); keep the slices of one stack."
            )


def _check_stack(headers: Mapping[str, Dataset], where: str) -> None:
    if len(headers) < 2:
        raise InputError(f"{where} holds 1 slice, expected at least 2; name the folder of the whole series.")
    header = next(iter(headers.values()))
    normal = np.cross(*np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float))
    positions = np.array([header.ImagePositionPatient for header in headers.values()], dtype=float)
    order = np.argsort(positions @ normal, kind="stable")
    names, positions = [list(headers)[i] for i in order], positions[order]
    _check_steps(names, positions @ normal, where)
    _check_tilt(positions[-1] - positions[0], normal, where)


def _check_steps(names: list[str], places: np.ndarray, where: str) -> None:
    """`places`: in mm along the normal, ascending."""
    steps = np.diff(places)
    same = np.flatnonzero(steps < 1e-3)
    if len(same):
        pair = f"{names[same[0]]} and {names[same[0] + 1]} at {places[same[0]]:.2f} mm"
        raise InputError(
            f"{where} holds {len(same)} slice(s) at the place of another, such as {pair} along their normal, expected "
            f"each place once; remove the doubles, or keep one phase of several."
        )
    if np.abs(places - np.linspace(places[0], places[-1], len(places))).max() > UNEVEN_MM:
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
