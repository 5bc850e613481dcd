"""A radiograph in memory: one polarity, one orientation, a declared scale, and what is known of where it was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .errors import InputError

Scale = Literal["line_integral", "transmission", "presentation"]
SCALES = get_args(Scale)
PLANE_OF_VIEW = {"AP": "frontal", "PA": "frontal", "LL": "lateral", "RL": "lateral"}


@dataclass(frozen=True)
class Radiograph:
    """
    A radiograph as it is read: rows from superior to inferior; a frontal film's columns from the patient's right to
    the left, a lateral film's from anterior to posterior; more attenuation is larger.

    Attributes:
        path: the file.
        image: `(H, W)` float32. Line integrals of attenuation (dimensionless) unless the scale is "presentation",
            whose values have no unit.
        exposed: `(H, W)` bool, false where the file says that a pixel is no image: padding, collimator, shutter.
        scale: what the file held: "line_integral" (∫μ dl), "transmission" (proportional to the intensity I) or
            "presentation" (prepared for the eye).
        plane: "frontal" or "lateral", None where the file does not say.
        view: DICOM View Position "AP", "PA", "LL" or "RL", None where the file does not say.
        pixel_mm: size of a pixel along a column and along a row, None where unknown.
        magnification: how much larger than life the middle of the patient is in `pixel_mm`: source-to-detector over
            source-to-patient distance, 1 for a spacing that was calibrated to the patient, None where unknown.
        source_to_detector_mm: DICOM Distance Source to Detector, None where unknown.
        source_to_patient_mm: from the source to the middle of the patient, None where unknown.
        patient: DICOM Patient ID, None where the file does not say.
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


def line_integrals_of(intensity: np.ndarray, exposed: np.ndarray, floor: float) -> np.ndarray:
    """
    Beer and Lambert's law, `-log(I / I0)`, I0 being the brightest exposed pixel, which the bare beam is taken to hit.

    Args:
        intensity: proportional to the X-ray intensity, of any shape.
        exposed: bool, of the same shape.
        floor: the least intensity that is told from none, above 0; what lies below counts as this.
    """
    brightest = max(float(intensity[exposed].max()), floor)
    return -np.log(np.clip(intensity, floor, brightest) / brightest)


def checked_image(image: np.ndarray, exposed: np.ndarray, where: str) -> np.ndarray:
    """
    The image as float32.

    Raises:
        InputError: when it holds NaN or infinite values, or its exposed part is empty or constant.
    """
    invalid = int((~np.isfinite(image)).sum())
    if invalid:
        raise InputError(f"{where} holds {invalid} NaN or infinite values, expected none; export the image again.")
    values = image[exposed]
    if values.size == 0 or values.min() == values.max():
        raise InputError(
            f"{where} is empty or constant (shape {image.shape}, {values.size} exposed pixels), expected an image with "
            f"contrast; export the image again."
        )
    return image.astype(np.float32)


def check_scale(scale: str | None) -> None:
    """
    Raises:
        InputError: when `scale` is neither None nor one of the three.
    """
    if scale is not None and scale not in SCALES:
        raise InputError(f"scale is {scale!r}, expected one of {', '.join(SCALES)}, or null to tell it from the file.")
