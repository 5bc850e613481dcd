"""The measurements of a reconstruction as a structured report: Measurement Report, TID 1500 of PS3.16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from scripts.io.atomic_write import NOTICE
from scripts.io.metadata import bundle_metadata

SCHEME = "99BIPLANAR"
"""Coding scheme of the measurements: the keys of `measurements.json`. Private ones begin with 99 (PS3.16 8)."""
DESCRIPTION = "Measurements of an estimated CT, not for diagnosis"
UNITS = {
    "L": sr.CodedConcept("l", "UCUM", "liter"),
    "mm": codes.UCUM.Millimeter,
    "HU": codes.UCUM.HounsfieldUnit,
    "": codes.UCUM.NoUnits,
}
"""By the units of `measurements.json`."""


def measurement_report(
    content: Mapping[str, Any], slices: Sequence[Dataset], remarks: Sequence[str]
) -> sr.ComprehensiveSR:
    """
    A new document, in a series of its own, of the study of the CT. A measurement with an interval has
    the distances to its ends as upper and lower measurement uncertainty; one that could not be taken is not in it.
    Comments say why, what the figures are worth, and what is said of the radiographs.

    Args:
        content: what `measurements.json` holds, see
            :class:`~scripts.evaluation.measured_volume.MeasureVolumed`.
        slices: headers of the CT that was measured, see :func:`~dicom_node.identity.without_identity`.
        remarks: further comments.
    """
    metadata, measured = bundle_metadata(), content["measurements"]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(metadata)),
        procedure_reported=codes.SCT.PlainRadiography,
        imaging_measurements=[_group(measured, slices, metadata)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    reasons: dict[str, list[str]] = {}
    for each in measured:
        if each["value"] is None:
            reasons.setdefault(each["reason"], []).append(each["label"])
    missing = [f"Not taken: {', '.join(labels)}. {reason}" for reason, labels in reasons.items()]
    for comment in (f"{NOTICE}.", content["statement"], *missing, *remarks):
        report[0].ContentSequence.append(_comment(comment))
    how = {"manufacturer": metadata["authors"], "series_description": DESCRIPTION}
    uids = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}
    document = sr.ComprehensiveSR(slices, report, series_number=2, instance_number=1, **uids, **how)
    document.ManufacturerModelName, document.SoftwareVersions = metadata["name"], metadata["version"]
    document.CodingSchemeIdentificationSequence = [_scheme(metadata)]
    return document


def _observer(metadata: Mapping[str, Any]) -> sr.ObserverContext:
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[metadata["name"]]),  # the same for all reports
        manufacturer_name=metadata["authors"],
        model_name=metadata["name"],
    )
    return sr.ObserverContext(codes.DCM.Device, attributes)


def _group(
    measured: Sequence[Mapping[str, Any]], slices: Sequence[Dataset], metadata: Mapping[str, Any]
) -> sr.MeasurementsAndQualitativeEvaluations:
    sources = [sr.SourceImageForMeasurementGroup(each.SOPClassUID, each.SOPInstanceUID) for each in slices]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier="chest"),
        algorithm_id=sr.AlgorithmIdentification(metadata["name"], metadata["version"]),
        finding_sites=[sr.FindingSite(codes.SCT.Chest)],
        measurements=[_measurement(each) for each in measured if each["value"] is not None],
        source_images=sources,
    )


def _measurement(row: Mapping[str, Any]) -> sr.Measurement:
    name, value = sr.CodedConcept(row["key"], SCHEME, row["label"]), float(row["value"])
    low, high = row.get("interval") or (None, None)
    uncertainty = None
    if low is not None and high is not None:
        uncertainty = sr.MeasurementProperties(
            upper_measurement_uncertainty=high - value, lower_measurement_uncertainty=value - low
        )
    return sr.Measurement(name, value, UNITS[row["unit"]], properties=uncertainty)


def _comment(text: str) -> sr.TextContentItem:
    return sr.TextContentItem(codes.DCM.Comment, text, sr.RelationshipTypeValues.CONTAINS)


def _scheme(metadata: Mapping[str, Any]) -> Dataset:
    """An item of Coding Scheme Identification Sequence (PS3.3 C.12.1)."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeName = f"Keys of measurements.json of {metadata['name']}"
    scheme.CodingSchemeResponsibleOrganization = metadata["authors"]
    return scheme
