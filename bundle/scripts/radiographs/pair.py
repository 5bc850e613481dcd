"""A biplanar pair: which radiograph is which, whether the two belong together, and their acquisition geometry."""

from __future__ import annotations

import warnings
from dataclasses import replace

from ..errors import InputError
from ..io.radiograph import Radiograph
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


def geometry_from_radiographs(frontal: Radiograph, lateral: Radiograph, geometry: BiplanarGeometry) -> BiplanarGeometry:
    """
    The geometry with the radiographs' views and distance from the source, as far as the files say.

    The rays depend on where the source is, and not on how far behind the patient they are caught. So the detector is
    put where the reconstruction volume has the footprint that it has in `geometry`, and the radiographs are scaled to
    match by
    :func:`~scripts.radiographs.detector_placement.place_on_detector`. A parallel beam stays one.

    Args:
        frontal: the frontal radiograph.
        lateral: the lateral radiograph.
        geometry: what is taken where the radiographs do not say.

    Raises:
        InputError: when the source lies in the reconstruction volume.

    Warns:
        UserWarning: when the radiographs were taken from distances that differ; their mean is taken.
    """
    views = tuple(radiograph.view or view for radiograph, view in zip((frontal, lateral), geometry.views))
    distances = [
        radiograph.source_to_patient_mm for radiograph in (frontal, lateral) if radiograph.source_to_patient_mm
    ]
    if geometry.is_parallel or not distances:
        return replace(geometry, views=views)
    if max(distances) > (1 + LARGEST_DIFFERENCE) * min(distances):
        warnings.warn(
            f"{frontal.path} and {lateral.path}: fields 'frontal' and 'lateral' were taken {distances[0]:g} and "
            f"{distances[1]:g} mm from the source, expected one distance; their mean is taken."
        )
    distance, half = sum(distances) / len(distances), geometry.fov_mm / 2
    if distance <= half:
        raise InputError(
            f"{frontal.path} and {lateral.path}: fields 'frontal' and 'lateral' put the source {distance:g} mm from "
            f"the middle of the patient, expected more than {half:g} mm; correct Distance Source to Patient "
            "(0018,1111)."
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
