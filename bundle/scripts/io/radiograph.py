"""A radiograph in memory: one polarity, one orientation, a declared scale, and what is known of where it was taken."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from ..errors import InputError

XRAY_KEYS = ("frontal", "lateral")
Scale = Literal["line_integral", "transmission", "presentation"]
SCALES = get_args(Scale)
PLANE_OF_VIEW = {"AP": "frontal", "PA": "frontal", "LL": "lateral", "RL": "lateral"}
PLANE_OF_LETTER = {"L": "frontal", "R": "frontal", "A": "lateral", "P": "lateral"}
LARGEST_VALUE = 1e10
"""Of a radiograph: more than any integer of 32 bits, and far from what float32 cannot hold."""
LEAST_CONTRAST = 1e-6
"""Least range of a radiograph's values, in any unit, that is distinguished from none."""
PIXEL_SIDES_MM = (0.01, 20.0)
"""
Lengths that a side of a pixel can have: those of detectors are of 0.05 to 0.5 mm, those of a thumbnail of some mm.
"""
PIXEL_ASPECTS = (0.2, 5.0)
"""Heights of a pixel over its width that a detector, a scanner or a screen can have."""
RADIOGRAPH_SIDES_MM = (50.0, 1000.0)
"""Lengths that a side of a chest radiograph can have: a newborn's is of some 100 mm, detectors are of at most 430 mm,
and longer radiographs are of a whole leg or spine."""
DISPLAY_ORIENTATION = {"frontal": ("L", "F"), "lateral": ("P", "F")}
"""Where rows and columns run to, in the letters of DICOM's Patient Orientation (PS3.3 C.7.6.1.1.1)."""


@dataclass(frozen=True)
class Radiograph:
    """
    A radiograph in display orientation: rows from superior to inferior; columns of a frontal one from the patient's
    right to the left, of a lateral one from anterior to posterior; more attenuation is larger.

    Attributes:
        path: the file.
        image: `(H, W)` float32. Line integrals of attenuation (dimensionless) unless the scale is "presentation",
            whose values have no unit.
        exposed: `(H, W)` bool, false where the file says that a pixel is no image: padding, collimator, shutter.
        scale: what the file held: "line_integral" (∫μ dl), "transmission" (proportional to the intensity I) or
            "presentation" (display values).
        plane: "frontal" or "lateral", None where the file does not say.
        view: DICOM View Position "AP", "PA", "LL" or "RL", None where the file does not say.
        pixel_mm: size of a pixel along a column and along a row, None where unknown.
        pixel_aspect: height of a pixel over its width, for where `pixel_mm` is unknown.
        magnification: how much larger than life the middle of the patient is in `pixel_mm`: source-to-detector over
            source-to-patient distance, 1 for a spacing that was calibrated to the patient, None where unknown.
        source_to_detector_mm: DICOM Distance Source to Detector, None where unknown.
        source_to_patient_mm: from the source to the middle of the patient, None where unknown.
        patient: DICOM Patient ID, None where the file does not say.
        is_oriented: whether the file says where its rows and columns run to.
    """

    path: str
    image: np.ndarray
    exposed: np.ndarray
    scale: Scale
    plane: str | None = None
    view: str | None = None
    pixel_mm: tuple[float, float] | None = None
    magnification: float | None = None
    source_to_detector_mm: float | None = None
    source_to_patient_mm: float | None = None
    patient: str | None = None
    is_oriented: bool = False
    pixel_aspect: float = 1.0


def check_directions(directions: Sequence[str], where: str) -> tuple[str, str]:
    """
    The first letters of where rows and columns run to, as in DICOM's Patient Orientation.

    Raises:
        InputError: when they are not one along the body (H, F) and one across it (L, R, A, P).
    """
    letters = tuple(str(direction)[:1].upper() for direction in directions)
    along = [letter for letter in letters if letter and letter in "HF"]
    across = [letter for letter in letters if letter in PLANE_OF_LETTER]
    if len(letters) != 2 or len(along) != 1 or len(across) != 1:
        raise InputError(
            f"{where} is {list(directions)}, expected two directions, one of H or F and one of L, R, A or P; correct "
            "it."
        )
    return letters


def plane_of(letters: tuple[str, str]) -> str:
    """Which plane a radiograph shows, "frontal" or "lateral", from where its rows and columns run to."""
    return next(PLANE_OF_LETTER[letter] for letter in letters if letter in PLANE_OF_LETTER)


def check_orientations(orientations: Mapping[str, Sequence[str]], where: str = "radiograph_orientation") -> None:
    """
    Args:
        orientations: where rows and columns run to, of a `frontal` and a `lateral` radiograph.
        where: start of each message.

    Raises:
        InputError: when what is declared of a radiograph does not show its plane.
    """
    for plane, (row, column) in DISPLAY_ORIENTATION.items():
        letters = check_directions(orientations.get(plane, ()), f"{where} of a {plane} radiograph")
        if plane_of(letters) != plane:
            raise InputError(
                f"{where} of a {plane} radiograph is {list(letters)}, expected directions in its plane, such as "
                f"{[row, column]}."
            )


def to_display_orientation(radiograph: Radiograph, letters: tuple[str, str]) -> Radiograph:
    """
    The radiograph with its rows running to the patient's left or to posterior, its columns to the feet.

    Args:
        radiograph: as its file stores it.
        letters: where its rows and its columns run to.
    """
    image, exposed, pixel_mm = radiograph.image, radiograph.exposed, radiograph.pixel_mm
    aspect, (row, column) = radiograph.pixel_aspect, letters
    if row in "HF":
        image, exposed, row, column = image.T, exposed.T, column, row
        pixel_mm, aspect = pixel_mm and pixel_mm[::-1], 1 / aspect
    flipped = [axis for axis, is_flipped in enumerate((column == "H", row in "RA")) if is_flipped]
    image, exposed = (np.ascontiguousarray(np.flip(array, flipped)) for array in (image, exposed))
    return replace(radiograph, image=image, exposed=exposed, pixel_mm=pixel_mm, pixel_aspect=aspect)


def line_integrals_of(intensity: np.ndarray, exposed: np.ndarray, floor: float) -> np.ndarray:
    """
    Beer and Lambert's law, `-log(I / I0)`, I0 being the brightest exposed pixel, which the bare beam is taken to hit.

    Args:
        intensity: proportional to the X-ray intensity, of any shape.
        exposed: bool, of the same shape.
        floor: the least intensity that is distinguished from none, above 0; what lies below counts as this.
    """
    brightest = max(float(intensity[exposed].max()), floor)
    return -np.log(np.clip(intensity, floor, brightest) / brightest)


def checked_image(image: np.ndarray, exposed: np.ndarray, where: str) -> np.ndarray:
    """
    The image as float32.

    Raises:
        InputError: when it holds NaN, infinite or immense values, or its exposed part is empty or constant.
    """
    invalid = int((~np.isfinite(image)).sum())
    if invalid:
        raise InputError(f"{where} holds {invalid} NaN or infinite values, expected none; export the image again.")
    values = image[exposed]
    contrast = float(np.ptp(values)) if values.size else 0.0
    if contrast < LEAST_CONTRAST:
        raise InputError(
            f"{where} is empty or constant (shape {image.shape}, {values.size} exposed pixels, which differ by "
            f"{contrast:g}), expected an image with contrast; export the image again."
        )
    largest = float(abs(image).max())
    if largest > LARGEST_VALUE:
        raise InputError(
            f"{where} holds values of up to {largest:g}, expected at most {LARGEST_VALUE:g}; correct the scale of its "
            f"values, such as a NIfTI's scl_slope, or export the image again."
        )
    return image.astype(np.float32)


def check_spacing(pixel_mm: tuple[float, float], shape: Sequence[int], where: str) -> None:
    """
    Args:
        pixel_mm: size of a pixel along a column and along a row.
        shape: rows and columns.
        where: the file, its field and what says the size, for messages.

    Raises:
        InputError: when no radiograph has such pixels, see :data:`PIXEL_SIDES_MM`.

    Warns:
        UserWarning: when they make a radiograph that is hardly one of a chest, see :data:`RADIOGRAPH_SIDES_MM`.
    """
    found = f"{where} is {pixel_mm[0]:g} x {pixel_mm[1]:g} mm"
    least, most = PIXEL_SIDES_MM
    if not all(least <= side <= most for side in pixel_mm):  # NaN is in no range
        raise InputError(
            f"{found}, expected {least:g} to {most:g} mm; correct it, or export the radiograph without one."
        )
    shortest, longest = RADIOGRAPH_SIDES_MM
    sides = [length * count for length, count in zip(pixel_mm, shape)]
    if not all(shortest <= side <= longest for side in sides):
        warnings.warn(
            f"{found}, which makes a radiograph of {sides[0]:.4g} x {sides[1]:.4g} mm, expected sides of {shortest:g} "
            f"to {longest:g} mm. It is used as it is; correct it if the radiograph is of another size.",
            stacklevel=3,
        )


def check_scale(scale: str | None, where: str = "scale") -> None:
    """
    Raises:
        InputError: when `scale` is neither None nor one of the three; `where` starts the message.
    """
    if scale is not None and scale not in SCALES:
        raise InputError(
            f"{where} is {scale!r}, expected one of {', '.join(SCALES)}, or null to tell it from the file."
        )
