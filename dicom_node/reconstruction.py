"""From a study's pair to what is stored of it: a CT series."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from scripts.io.dicom_ct_writer import read_identification, write_ct_series
from scripts.reporting.reconstructor import Reconstruction

from .pairing import StudyPair

SOURCE_TAGS = ["SOPClassUID", "SOPInstanceUID"]


def write_results(folder: Path, result: Reconstruction, pair: StudyPair) -> None:
    """
    Writes what is stored: `ct`, a series. All of it is of the study of the frontal radiograph, see
    :func:`~scripts.io.dicom_ct_writer.read_identification`, and names both radiographs as its source.

    Raises:
        InputError: when the frontal radiograph does not say whose it is.
        OutputError: when a file cannot be written.
    """
    identification = read_identification(str(pair.frontal))
    identification.SourceImageSequence = [_source(path) for path in (pair.frontal, pair.lateral)]
    write_ct_series(str(folder / "ct"), result.volume[0].as_tensor(), result.volume.affine, identification)


def _source(path: Path) -> Dataset:
    """An item of Source Image Sequence (PS3.3 C.12.4.1.1), its purpose of context group 7202."""
    header, item, purpose = dcmread(path, specific_tags=SOURCE_TAGS, stop_before_pixels=True), Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = code.value, "DCM", code.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
