"""Where a DICOM radiograph says that source, patient and detector were, and how large it says that its pixels are."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from pydicom.dataset import Dataset

from ..errors import InputError, shown
from .dicom_tags import named
from .radiograph import PIXEL_ASPECTS, RADIOGRAPH_SIDES_MM, check_spacing

DISTANCES_MM = (100.0, 10000.0)
"""From the source to the patient and to the detector; a chest stands at 1000 to 4000 mm."""
LARGEST_MAGNIFICATION = 20.0
"""Of the middle of a patient; 1.05 to 1.5 on chest radiographs."""
NO_MAGNIFICATION = 1.001
"""What is not larger puts the patient into the detector, and is written by machines that do not know it."""
PATIENT_THICKNESS_MM = 280.0
"""Assumed between the front and the back, or the sides, of a chest: some 240 and 320 mm in adults."""
THICKNESSES_MM = (50.0, 600.0)
"""Body Part Thickness that a chest can have."""
BUCKY_GAP_MM = 120.0
"""Largest distance from the front of a table or bucky to its detector."""
PROJECTION_MODALITIES = ("DX", "PX", "IO", "MG")
"""Of the IODs that have the DX Positioning Module."""
DX_STORAGE = "1.2.840.10008.5.1.4.1.1.1."
"""Begins their SOP Class UIDs; that of CR ends before the last dot."""


@dataclass(frozen=True)
class Acquisition:
    """
    What is known of an acquisition; the fields are those of :class:`~scripts.io.radiograph.Radiograph`.

    Attributes:
        missing: tags that the file lacks, each with what is assumed instead.
        doubts: tags that it has and that count as unknown or otherwise than as they stand, each with why.
    """

    pixel_mm: tuple[float, float] | None
    pixel_aspect: float
    magnification: float | None
    source_to_detector_mm: float | None
    source_to_patient_mm: float | None
    missing: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def known(self) -> dict[str, object]:
        """Arguments of a radiograph."""
        names = ("pixel_mm", "pixel_aspect", "magnification", "source_to_detector_mm", "source_to_patient_mm")
        return {name: getattr(self, name) for name in names}


def read_acquisition(dataset: Dataset, where: str) -> Acquisition:
    """
    Args:
        dataset: a radiograph.
        where: the file and the record's field, for messages.

    Raises:
        InputError: when tags contradict one another, or say what no radiograph can have.
    """
    missing: list[str] = []
    doubts: list[str] = []
    detector = _distance(dataset, "DistanceSourceToDetector", doubts)
    magnification = _magnification(dataset, where, doubts)
    patient = detector / magnification if detector and magnification else None
    patient = patient or _source_to_middle(dataset, detector, where, doubts)
    if detector and patient and detector <= patient:
        raise InputError(
            f"{where}: {named('DistanceSourceToDetector')} is {detector:g} and {named('DistanceSourceToPatient')} "
            f"{patient:g}, expected the detector behind the patient; correct the tags."
        )
    if detector and patient and detector > LARGEST_MAGNIFICATION * patient:
        raise InputError(
            f"{where}: {named('DistanceSourceToPatient')} is {patient:g} and {named('DistanceSourceToDetector')} "
            f"{detector:g}, expected no magnification above {LARGEST_MAGNIFICATION:g}; correct the tags."
        )
    if patient is None:
        missing.append(
            f"{named('DistanceSourceToPatient')}, or {named('EstimatedRadiographicMagnificationFactor')} with "
            f"{named('DistanceSourceToDetector')}: the distances of the configured geometry are assumed"
        )
    if detector and patient:
        magnification = detector / patient
    spacing, is_at_patient = _spacing(dataset, magnification, where, missing, doubts)
    return Acquisition(
        pixel_mm=spacing,
        pixel_aspect=1.0 if spacing else _aspect(dataset, where),
        magnification=1.0 if is_at_patient else magnification,
        source_to_detector_mm=detector,
        source_to_patient_mm=patient,
        missing=missing,
        doubts=doubts,
    )


def _distance(dataset: Dataset, keyword: str, doubts: list[str]) -> float | None:
    """In mm; 0 and what no room has, such as -1 or 1e9, are written for unknown and count as missing."""
    value = _number(dataset, keyword)
    if value is None or DISTANCES_MM[0] <= value <= DISTANCES_MM[1]:
        return value
    doubts.append(
        f"{named(keyword)} is {value:g}, expected {DISTANCES_MM[0]:g} to {DISTANCES_MM[1]:g} mm: it counts as unknown"
    )
    return None


def _magnification(dataset: Dataset, where: str, doubts: list[str]) -> float | None:
    """Source-to-detector over source-to-patient distance (PS3.3 C.8.11.5, C.8.7.5)."""
    keyword = "EstimatedRadiographicMagnificationFactor"
    value = _number(dataset, keyword)
    if value is None:
        return None
    if value < 0 or 1 <= value < NO_MAGNIFICATION:
        doubts.append(f"{named(keyword)} is {value:g}, expected more than 1: it counts as unknown")
        return None
    if not 1 <= value <= LARGEST_MAGNIFICATION:
        raise InputError(
            f"{where}: {named(keyword)} is {value:g}, expected at least 1 and at most {LARGEST_MAGNIFICATION:g}; "
            f"correct the tag."
        )
    return value


def _source_to_middle(dataset: Dataset, detector: float | None, where: str, doubts: list[str]) -> float | None:
    """
    From the source to the middle of the patient, in mm.

    In XA and RF Distance Source to Patient reaches to the isocentre, the center of the field of view (PS3.3 C.8.7.5,
    C.8.7.6). In DX it reaches to the side of the table, support or bucky that is closest to the patient (C.8.11.5),
    whose middle is half a thickness nearer to the source. Machines that measure to the patient write it there, too: a
    value that leaves more than :data:`BUCKY_GAP_MM` to the detector is no bucky's, unless Body Part Thickness is given.
    """
    keyword = "DistanceSourceToPatient"
    value = _distance(dataset, keyword, doubts)
    if value is None:
        return None
    if detector is not None and abs(detector - value) < 1:
        doubts.append(
            f"{named(keyword)} is {value:g}, as is {named('DistanceSourceToDetector')}, which leaves no room for a "
            f"patient: it counts as unknown"
        )
        return None
    if not _is_dx(dataset) or (detector is not None and value > detector):
        return value
    thickness = _number(dataset, "BodyPartThickness")
    if thickness is not None and not THICKNESSES_MM[0] <= thickness <= THICKNESSES_MM[1]:
        doubts.append(
            f"{named('BodyPartThickness')} is {thickness:g}, expected {THICKNESSES_MM[0]:g} to {THICKNESSES_MM[1]:g} "
            f"mm: it counts as unknown"
        )
        thickness = None
    if thickness is None and detector is not None and detector - value > BUCKY_GAP_MM:
        return value
    if thickness is None:
        thickness = PATIENT_THICKNESS_MM
        doubts.append(
            f"{named(keyword)} is {value:g}, to the table or bucky, and {named('BodyPartThickness')} is missing: the "
            f"middle of the patient is taken to be {PATIENT_THICKNESS_MM / 2:g} mm nearer"
        )
    return value - thickness / 2


def _is_dx(dataset: Dataset) -> bool:
    """Whether the distances are those of the DX Positioning Module."""
    modality = str(dataset.get("Modality") or "").strip().upper()
    return modality in PROJECTION_MODALITIES or (
        not modality and str(dataset.get("SOPClassUID") or "").startswith(DX_STORAGE)
    )


def _spacing(
    dataset: Dataset, magnification: float | None, where: str, missing: list[str], doubts: list[str]
) -> tuple[tuple[float, float] | None, bool]:
    """
    Height and width of a pixel in mm, and whether they are meant at the patient instead of at the detector.

    Pixel Spacing that is calibrated, by geometry or a fiducial, is meant at the patient, and so is one that differs
    from Imager Pixel Spacing, or from Nominal Scanned Pixel Spacing, which are meant at the detector, or film; of one
    alone it is not known (PS3.3 10.7.1).
    """
    at_detector = _pair(dataset, "ImagerPixelSpacing", where, doubts)
    keyword = "ImagerPixelSpacing"
    if at_detector is None:
        at_detector, keyword = _pair(dataset, "NominalScannedPixelSpacing", where, doubts), "NominalScannedPixelSpacing"
    pixel = _pair(dataset, "PixelSpacing", where, doubts)
    is_calibrated = bool(str(dataset.get("PixelSpacingCalibrationType") or "").strip())
    is_other = pixel is not None and at_detector is not None and not np.allclose(pixel, at_detector, rtol=1e-3)
    if pixel is not None and (is_calibrated or (is_other and magnification is None)):
        if not is_calibrated:
            doubts.append(
                f"{named('PixelSpacing')} differs from {named(keyword)}, as one that is corrected to the patient: it "
                f"is taken to be meant there"
            )
        return pixel, True
    if at_detector is not None:
        return at_detector, False
    lacking = named("ImagerPixelSpacing")
    missing.append(
        f"{lacking}: the longer side is taken to span the detector"
        if pixel is None
        else f"{lacking}: {named('PixelSpacing')} is taken to be meant at the detector"
    )
    return pixel, False


def _pair(dataset: Dataset, keyword: str, where: str, doubts: list[str]) -> tuple[float, float] | None:
    """
    Height and width in mm, checked; None where they are missing, or stand for unknown: 0 by 0, -1 by -1, and 1 by 1
    where that makes a radiograph of no chest.
    """
    value = dataset.get(keyword)
    if value is None or value == "" or not np.size(value):
        return None
    try:
        height, width = (float(number) for number in value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: {named(keyword)} is {shown(value)}, expected two numbers in mm; correct the tag."
        ) from error
    sides = height * dataset.Rows, width * dataset.Columns
    is_filler = height == width == 1 and not all(
        RADIOGRAPH_SIDES_MM[0] <= side <= RADIOGRAPH_SIDES_MM[1] for side in sides
    )
    if max(height, width) <= 0 or is_filler:
        doubts.append(f"{named(keyword)} is {height:g} by {width:g} mm: it counts as unknown")
        return None
    check_spacing((height, width), (dataset.Rows, dataset.Columns), f"{where}: {named(keyword)}")
    return height, width


def _aspect(dataset: Dataset, where: str) -> float:
    """Height of a pixel over its width, by Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7); 1 where it is missing."""
    value = dataset.get("PixelAspectRatio")
    if value is None or value == "" or not np.size(value):
        return 1.0
    try:
        height, width = (float(number) for number in value)
        aspect = height / width
    except (TypeError, ValueError, ZeroDivisionError):
        aspect = 0.0
    if not PIXEL_ASPECTS[0] <= aspect <= PIXEL_ASPECTS[1]:
        raise InputError(
            f"{where}: {named('PixelAspectRatio')} is {shown(value)}, expected two numbers of a ratio of "
            f"{PIXEL_ASPECTS[0]:g} to {PIXEL_ASPECTS[1]:g}; correct the tag."
        )
    return aspect


def _number(dataset: Dataset, keyword: str) -> float | None:
    """A finite number other than 0, which machines write for unknown."""
    value = dataset.get(keyword)
    return float(value) if value and isfinite(float(value)) else None
