"""Reads a radiograph from DICOM: CR, DX and secondary capture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from ..errors import InputError, one_line_message, shown
from .dicom_acquisition import read_acquisition
from .dicom_pixels import read_pixels, with_transfer_syntax
from .dicom_shutters import inside_shutters
from .dicom_tags import (
    MODALITIES,
    VIEW_OF_CODE,
    declared_plane,
    decubitus,
    named,
    oblique_view,
    plane_of_code,
    plane_of_position,
    view_codes,
    view_of,
    view_position,
)
from .limits import MAX_RADIOGRAPH_PIXELS, check_extent, check_inflated
from .radiograph import (
    PLANE_OF_VIEW,
    Radiograph,
    Scale,
    check_directions,
    checked_image,
    line_integrals_of,
    plane_of,
    to_display_orientation,
)

try:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut
except ImportError:  # pydicom 2
    from pydicom.pixel_data_handlers.util import apply_modality_lut, apply_voi_lut


OBLIQUE_DEGREES = 15.0
"""How far Positioner Primary Angle may be off a multiple of 90 degrees."""
TILT_DEGREES = 10.0
"""How far the beam may be tilted towards head or feet without a word."""


def read_dicom(
    path: str, where: str, field: str, scale: Scale | None, orientations: Mapping[str, Sequence[str]]
) -> Radiograph:
    """
    Reads a DICOM radiograph and brings it to display orientation. Tags and defaults are tabled in `docs/data.md`.

    Args:
        path: the file.
        where: start of each message: the file and the record's field.
        field: "frontal" or "lateral", what the radiograph is taken for where it does not say.
        scale: what the values are after the modality LUT; None for what the tags say.
        orientations: of each plane, Patient Orientation where the file has none.

    Raises:
        InputError: when the file is no DICOM, no radiograph or truncated, cannot be decoded, has too many pixels, other
            ones than its tags say, colours or several frames, a spacing that no radiograph has, an orientation and a
            view that contradict each other, or no contrast.

    Warns:
        UserWarning: naming the tags that are missing and what is assumed instead.
    """
    dataset = _read(path, where)
    try:
        return _as_radiograph(dataset, path, where, field, scale, orientations)
    except InputError:
        raise
    except Exception as error:  # pydicom decodes a tag when it is asked for, and raises whatever it stumbles over
        raise InputError(f"{where} has a damaged tag ({one_line_message(error)}); copy or export it again.") from error


def _as_radiograph(
    dataset: Dataset, path: str, where: str, field: str, scale: Scale | None, orientations: Mapping[str, Sequence[str]]
) -> Radiograph:
    _check_kind(dataset, where)
    stored, padding = read_pixels(dataset, where)
    exposed = inside_shutters(dataset, stored.shape, where) & ~padding
    acquisition = read_acquisition(dataset, where)
    doubts = [*_check_view(dataset, where), *acquisition.doubts, *_without_fillers(dataset)]
    scale = scale or _scale(dataset)
    image = checked_image(_attenuation(dataset, stored, exposed, scale, where), exposed, where)
    missing = list(acquisition.missing)
    view = _view(dataset, missing)
    letters, plane = _directions(dataset, view, where)
    is_oriented = letters is not None
    if not is_oriented:
        letters = check_directions(orientations[plane or field], "radiograph_orientation")
        missing.append(f"{named('PatientOrientation')}: {_joined(letters)} is assumed, as configured")
    if missing:
        warnings.warn(f"{where} lacks {'; '.join(missing)}.", stacklevel=4)
    if doubts:
        warnings.warn(f"{where}: {'; '.join(doubts)}.", stacklevel=4)
    patient = str(dataset.get("PatientID") or "").strip() or None
    known = {"patient": patient, "is_oriented": is_oriented, **acquisition.known}
    radiograph = Radiograph(str(path), image, exposed, scale, plane, view, **known)
    return to_display_orientation(radiograph, letters)


def _read(path: str, where: str) -> Dataset:
    try:
        check_inflated(path, where)
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if "Rows" in header and "Columns" in header:
            samples = int(header.get("SamplesPerPixel") or 1)
            check_extent([header.Rows, header.Columns, samples], MAX_RADIOGRAPH_PIXELS, where)
        dataset = pydicom.dcmread(path, force=True)
        is_dicom = "SOPClassUID" in dataset or "Rows" in dataset
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where} cannot be read as DICOM ({one_line_message(error)}); copy or export it again."
        ) from error
    if not is_dicom:
        raise InputError(f"{where} is not a DICOM file, or a truncated one: it has no SOP Class UID; export it again.")
    return with_transfer_syntax(dataset)


def _check_kind(dataset: Dataset, where: str) -> None:
    modality = dataset.get("Modality")
    if modality and modality not in MODALITIES:
        raise InputError(
            f"{where}: {named('Modality')} is {shown(modality)}, expected a radiograph: {', '.join(MODALITIES)}."
        )
    if "PixelData" not in dataset:
        raise InputError(f"{where} has no {named('PixelData')}, or is truncated before it; export the image again.")
    frames = str(dataset.get("NumberOfFrames") or 1)
    if frames != "1":
        raise InputError(
            f"{where}: {named('NumberOfFrames')} is {shown(frames)}, expected 1; export the frame that is wanted."
        )
    colours = dataset.get("PhotometricInterpretation")
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(
            f"{where}: {named('PhotometricInterpretation')} is {shown(colours)}, expected MONOCHROME1 or MONOCHROME2; "
            f"export the radiograph in grey."
        )
    bits = dataset.get("BitsStored")
    if bits is None or not 8 <= bits <= 16:
        raise InputError(f"{where}: {named('BitsStored')} is {bits}, expected 8 to 16.")


def _without_fillers(dataset: Dataset) -> list[str]:
    """Takes out a rescale by 0, and a window of no width about 0, which stand for none; what was taken out."""
    said = []
    for keywords in (("RescaleSlope", "RescaleIntercept"), ("WindowWidth", "WindowCenter")):
        first, second = (np.atleast_1d(dataset.get(keyword)) for keyword in keywords)
        is_filler = None not in first and not np.any(first.astype(float))
        if is_filler and (None in second or keywords[0] == "RescaleSlope" or not np.any(second.astype(float))):
            said.append(f"{named(keywords[0])} is 0: it counts as missing, and so does {named(keywords[1])}")
            for keyword in keywords:
                dataset.pop(keyword, None)
    return said


def _scale(dataset: Dataset) -> Scale:
    relationship = str(dataset.get("PixelIntensityRelationship") or "").upper()
    if dataset.get("PresentationIntentType") == "FOR PRESENTATION":
        return "presentation"
    if relationship == "LIN":
        return "transmission"
    has_unit = dataset.get("RescaleType", "US") in ("", "US") and _slope(dataset) != 1
    return "line_integral" if relationship == "LOG" and has_unit else "presentation"


def _slope(dataset: Dataset) -> float:
    return float(dataset.get("RescaleSlope") or 1)


def _attenuation(dataset: Dataset, stored: np.ndarray, exposed: np.ndarray, scale: Scale, where: str) -> np.ndarray:
    """Line integrals, or display values that rise with attenuation."""
    try:
        values = apply_modality_lut(stored, dataset).astype(np.float64)
        if scale == "presentation":
            return _shown(dataset, values)
        has_values = exposed.any() and np.isfinite(values).all()
    except Exception as error:
        raise InputError(
            f"{where}: its rescale or its VOI LUT cannot be applied ({one_line_message(error)}); correct the tags."
        ) from error
    if not has_values:
        return values
    rises = _rises_with_attenuation(dataset)
    if scale == "line_integral":
        return values if rises else values[exposed].max() - values
    intensity = _largest_value(dataset) - values if rises else values
    return line_integrals_of(intensity, exposed, abs(_slope(dataset)) / 2)


def _largest_value(dataset: Dataset) -> float:
    """What the bits can hold at most, after the rescale."""
    lowest = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
    ends = (lowest, lowest + 2**dataset.BitsStored - 1)
    return max(_slope(dataset) * end for end in ends) + float(dataset.get("RescaleIntercept") or 0)


def _rises_with_attenuation(dataset: Dataset) -> bool:
    """Whether the values after the modality LUT do."""
    sign = dataset.get("PixelIntensityRelationshipSign")
    stored_rises = sign == -1 if sign in (-1, 1) else dataset.PhotometricInterpretation == "MONOCHROME2"
    return stored_rises == (_slope(dataset) > 0)


def _shown(dataset: Dataset, values: np.ndarray) -> np.ndarray:
    """As a screen shows it, bright for high attenuation."""
    whole = np.rint(values).astype(np.int64) if dataset.get("VOILUTSequence") else values
    shown = apply_voi_lut(whole, dataset).astype(np.float64)
    is_inverse = dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    return -shown if is_inverse else shown


def _check_view(dataset: Dataset, where: str) -> list[str]:
    """
    What is to be said of the view that a radiograph is used with.

    Raises:
        InputError: when it is oblique, or its tags are of both planes.
    """
    oblique = oblique_view(dataset)
    primary = float(dataset.get("PositionerPrimaryAngle") or 0)  # about the patient's long axis (PS3.3 C.8.7.5.1.2)
    if oblique is None and abs((primary + 45) % 90 - 45) > OBLIQUE_DEGREES:
        oblique = f"{named('PositionerPrimaryAngle')} is {primary:g} degrees"
    if oblique:
        raise InputError(
            f"{where}: {oblique}, of an oblique radiograph; expected a frontal or a lateral one: name another, or "
            f"correct the tag."
        )
    position, code = plane_of_position(dataset), plane_of_code(dataset)
    if position and code and position != code:
        raise InputError(
            f"{where}: {named('ViewPosition')} is {view_position(dataset)}, {position}, but "
            f"{named('ViewCodeSequence')} is {', '.join(map(shown, view_codes(dataset)))}, {code}; expected tags that "
            f"agree: correct the wrong one."
        )
    said = []
    views = {*map(VIEW_OF_CODE.get, view_codes(dataset)), view_of(dataset)} - {None}
    if len(views) > 1:
        said.append(
            f"{named('ViewPosition')} is {view_of(dataset)}, which counts, but {named('ViewCodeSequence')} differs"
        )
    rows_and_columns = [set(str(letters).upper()) for letters in dataset.get("PatientOrientation") or ()]
    if any(letters & set("LR") and letters & set("AP") for letters in rows_and_columns):
        directions = _joined([str(letters) for letters in dataset.PatientOrientation])
        said.append(f"{named('PatientOrientation')} is {shown(directions)}, between frontal and lateral")
    lying = decubitus(dataset)
    if lying:
        said.append(f"{lying}, decubitus: the patient lay on a side, where organs and fluid lie otherwise than upright")
    for keyword in ("PositionerSecondaryAngle", "ColumnAngulation"):
        tilt = float(dataset.get(keyword) or 0)
        if TILT_DEGREES < abs(tilt) <= 90:
            said.append(f"{named(keyword)} is {tilt:g} degrees: a tilt towards head or feet is not modelled")
    return said


def _view(dataset: Dataset, missing: list[str]) -> str | None:
    view = view_of(dataset)
    if view is None:
        missing.append(
            f"{named('ViewPosition')} that is one of {', '.join(PLANE_OF_VIEW)} (found "
            f"{shown(view_position(dataset)) or 'none'}): the view of the configured geometry is assumed"
        )
    return view


def _directions(dataset: Dataset, view: str | None, where: str) -> tuple[tuple[str, str] | None, str | None]:
    """Where rows and columns run to, and the plane, each where the file says."""
    found, plane = dataset.get("PatientOrientation"), declared_plane(dataset)
    if not found or isinstance(found, str) or not all(found):
        return None, plane
    letters = check_directions(found, f"{where}: {named('PatientOrientation')}")
    if plane not in (None, plane_of(letters)):
        raise InputError(
            f"{where}: {named('ViewPosition')} is {view or shown(view_position(dataset)) or 'missing'}, {plane}, but "
            f"{named('PatientOrientation')} is "
            f"{_joined(letters)}, {plane_of(letters)}; expected tags that agree: correct the wrong one."
        )
    return letters, plane_of(letters)


def _joined(letters: Sequence[str]) -> str:
    return "\\".join(letters)
