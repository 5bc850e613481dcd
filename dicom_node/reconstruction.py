"""From a study's pair to what is stored of it: a CT series, a report of its measurements, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from scripts.io.dicom_ct_writer import read_identification, write_ct_series
from scripts.reporting.reconstructor import Reconstruction

from .identity import give_identity, without_identity
from .pairing import StudyPair
from .picture import picture_of
from .report import measurement_report

SOURCE_TAGS = ["SOPClassUID", "SOPInstanceUID"]


def write_results(folder: Path, result: Reconstruction, pair: StudyPair, remarks: Sequence[str]) -> None:
    """
    Writes what is stored: `ct`, a series, `measurements.dcm` and `picture.dcm`. All of it is of the study of the
    frontal radiograph, see :func:`~scripts.io.dicom_ct_writer.read_identification`, and names both radiographs, or the
    CT, as its source.

    Args:
        folder: empty.
        result: of the pair.
        pair: the radiographs.
        remarks: what is said of them, such as an assumed pixel spacing.

    Raises:
        InputError: when the frontal radiograph does not say whose it is.
        OutputError: when a file cannot be written.
    """
    identification = read_identification(str(pair.frontal))
    for keyword in ("PatientName", "PatientID"):  # which every image has to have, if only as empty
        identification.setdefault(keyword, None)
    identification.SourceImageSequence = [_source(path) for path in (pair.frontal, pair.lateral)]
    write_ct_series(str(folder / "ct"), result.volume[0].as_tensor(), result.volume.affine, identification)
    slices = [dcmread(path, stop_before_pixels=True) for path in sorted((folder / "ct").iterdir())]
    nobodys = [without_identity(each) for each in slices]
    said = [*assessments(result), *remarks]
    report, picture = measurement_report(result.measurements, nobodys, said), picture_of(result, nobodys[0])
    for name, written in (("measurements.dcm", report), ("picture.dcm", picture)):
        give_identity(written, slices[0])
        written.save_as(folder / name)


def assessments(result: Reconstruction) -> list[str]:
    """Whether a result should be relied on, as far as the weights' sidecar files tell, in sentences."""
    known, calibrated = result.out_of_distribution, result.calibration
    flag = "not assessed" if known is None else "flagged" if known["flagged"] else "not flagged"
    said = [f"Out-of-distribution detection: {flag}."]
    if calibrated is not None:
        said.append(f"Calibration of the pair: {'flagged' if calibrated['flagged'] else 'not flagged'}.")
    return [*said, *([result.note] if result.note else [])]


def _source(path: Path) -> Dataset:
    """An item of Source Image Sequence (PS3.3 C.12.4.1.1), its purpose of context group 7202."""
    header, item, purpose = dcmread(path, specific_tags=SOURCE_TAGS, stop_before_pixels=True), Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = code.value, "DCM", code.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
