"""The picture of a reconstruction, that of its page, as a secondary capture."""

from __future__ import annotations

import io

import numpy as np
from highdicom.sc import ConversionTypeValues, SCImage
from PIL import Image
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from scripts.evaluation.prediction_intervals import CALIBRATION_KEY
from scripts.io.dicom_ct_writer import DERIVATION
from scripts.io.metadata import bundle_metadata
from scripts.reporting.figures import preview_figure
from scripts.reporting.reconstructor import Reconstruction

DESCRIPTION = "Picture of a CT estimated from two X-rays, not for diagnosis"


def picture_of(result: Reconstruction, reference: Dataset) -> SCImage:
    """
    A new image, in a series of its own: both X-rays, three planes and the notice that they are not for diagnosis.

    Args:
        result: what is shown.
        reference: a header of the study, see :func:`~dicom_node.identity.without_identity`.
    """
    metadata = bundle_metadata()
    image = SCImage.from_ref_dataset(
        reference,
        _pixels(result),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=generate_uid(),
        series_number=3,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=metadata["authors"],
        patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=DESCRIPTION,
    )
    image.PatientOrientation = None  # of a picture of several planes; highdicom asks for one
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.ConversionType = ConversionTypeValues.WSD.value
    image.BodyPartExamined, image.BurnedInAnnotation = "CHEST", "NO"
    image.DerivationDescription = DERIVATION
    image.SourceImageSequence = reference.SourceImageSequence
    image.ManufacturerModelName, image.SoftwareVersions = metadata["name"], metadata["version"]
    return image


def _pixels(result: Reconstruction) -> np.ndarray:
    """The picture of the page, `(rows, columns, 3)`, 8 bits."""
    assessed = {}
    if result.half_width is not None:
        calibration = result.half_width.meta[CALIBRATION_KEY]
        assessed = {"half_width": result.half_width[0].as_tensor(), "calibration": calibration.label}
    figure = preview_figure(result.xrays, result.volume[0].as_tensor(), title=result.note, **assessed)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return np.asarray(Image.open(content).convert("RGB"))
