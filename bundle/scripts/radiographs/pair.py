"""A biplanar pair: which radiograph is which, whether the two belong together, and their acquisition geometry."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

from ..errors import InputError
from ..io.radiograph import XRAY_KEYS, Radiograph
from ..projection.geometry import BiplanarGeometry

LARGEST_DIFFERENCE = 0.02
"""How far distances may differ before a warning."""


def in_order(frontal: Radiograph, lateral: Radiograph) -> tuple[Radiograph, Radiograph]:
    """
    The same two radiographs, frontal first, by what their files say.

    Raises:
        InputError: when both show the same plane, or the radiographs are of two patients.

    Warns:
        UserWarning: when the radiographs had to be swapped.
    """
    where = f"{frontal.path}: field 'frontal', with {lateral.path}: field 'lateral'"
    if frontal.plane is not None and frontal.plane == lateral.plane:
        raise InputError(
            f"{where}: both are {frontal.plane} radiographs (View Position {frontal.view or 'unknown'} and "
            f"{lateral.view or 'unknown'}), expected one frontal and one lateral; name the other radiograph."
        )
    if frontal.patient and lateral.patient and frontal.patient != lateral.patient:
        raise InputError(
            f"{where}: Patient ID (0010,0020) is {frontal.patient} and {lateral.patient}, expected two radiographs of "
            f"one patient; name radiographs that belong together."
        )
    if frontal.plane == "lateral" or lateral.plane == "frontal":
        warnings.warn(f"{where}: their tags say that they are swapped, expected frontal and lateral; taken so.")
        return lateral, frontal
    return frontal, lateral


def given_radiographs(frontal: str | None, lateral: str | None) -> dict[str, str]:
    """
    The fields of a record of two radiographs, or of one, by their paths; None for one that there is not.

    Raises:
        InputError: when there is none.
    """
    given = {key: str(path) for key, path in zip(XRAY_KEYS, (frontal, lateral)) if path is not None}
    if not given:
        raise InputError(
            "fields 'frontal' and 'lateral' are null, expected the path of a radiograph in one or in both."
        )
    return given


def check_plane(field: str, radiograph: Radiograph) -> None:
    """
    Raises:
        InputError: when a radiograph that is given alone as `field`, "frontal" or "lateral", says that it is the other.
    """
    if radiograph.plane not in (None, field):
        raise InputError(
            f"{radiograph.path}: field '{field}' is a {radiograph.plane} radiograph (View Position "
            f"{radiograph.view or 'unknown'}), expected a {field} one; name it as '{radiograph.plane}'."
        )


def geometry_from_radiographs(radiographs: Mapping[str, Radiograph], geometry: BiplanarGeometry) -> BiplanarGeometry:
    """
    The geometry with the radiographs' views and distance from the source, as far as the files say.

    The rays depend on where the source is, and not on how far behind the patient they are caught. So the detector is
    put where the reconstruction volume has the footprint that it has in `geometry`, and the radiographs are scaled to
    match by
    :func:`~scripts.radiographs.detector_placement.place_on_detector`. A parallel beam stays one.

    Args:
        radiographs: `frontal` and `lateral`, or one of them.
        geometry: what is taken where the radiographs do not say.

    Raises:
        InputError: when the source lies in the reconstruction volume.

    Warns:
        UserWarning: when the radiographs were taken from distances that differ; their mean is taken.
    """
    said = {field: radiograph.view for field, radiograph in radiographs.items()}
    views = tuple(said.get(field) or view for field, view in zip(XRAY_KEYS, geometry.views))
    distances = [each.source_to_patient_mm for each in radiographs.values() if each.source_to_patient_mm]
    where = " and ".join(each.path for each in radiographs.values())
    if geometry.is_parallel or not distances:
        return replace(geometry, views=views)
    if max(distances) > (1 + LARGEST_DIFFERENCE) * min(distances):
        warnings.warn(
            f"{where}: fields 'frontal' and 'lateral' were taken {distances[0]:g} and "
            f"{distances[1]:g} mm from the source, expected one distance; their mean is taken."
        )
    distance, half = sum(distances) / len(distances), geometry.fov_mm / 2
    if distance <= half:
        raise InputError(
            f"{where}: {' and '.join(map(repr, radiographs))} put the source {distance:g} mm from the middle of the "
            f"patient, expected more than {half:g} mm; correct Distance Source to Patient (0018,1111)."
        )
    detector = (distance - half) * geometry.magnification(half)
    return replace(geometry, views=views, source_to_isocentre_mm=distance, source_to_detector_mm=detector)


def warn_of_other_geometry(radiograph: Radiograph, view: str, geometry: BiplanarGeometry, field: str) -> None:
    """
    Warns:
        UserWarning: when the radiograph was taken from another side or distance than the geometry says.
    """
    where = f"{radiograph.path}: field '{field}'"
    if radiograph.view not in (None, view):
        warnings.warn(
            f"{where}: View Position is {radiograph.view}, expected {view} as the geometry says, which is used."
        )
    found, expected = radiograph.source_to_patient_mm, geometry.source_to_isocentre_mm
    if found and not geometry.is_parallel and abs(found / expected - 1) > LARGEST_DIFFERENCE:
        warnings.warn(
            f"{where}: the source is {found:g} mm from the patient, expected {expected:g} mm as the geometry says, "
            f"which is used."
        )
