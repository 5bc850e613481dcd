from __future__ import annotations

import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gdcm
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from radiograph_files import LATERAL, compress, write_dicom, write_line_integrals
from scripts import InputError, LoadRadiographsd, Radiograph, read_radiograph

RAMP = np.arange(60, dtype=np.uint16).reshape(6, 10) * 100
"""Rises along rows and columns: no two pixels are alike."""


def read(path: str | Path, scale: str | None = None) -> Radiograph:
    """As the frontal radiograph; a warning is an error, save that of a missing spacing and that of a small size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(no pixel spacing|makes a radiograph of)")
        return read_radiograph(str(path), "frontal", scale)


def refused(path: str | Path) -> str:
    """The message, which names file and field."""
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter("ignore")
        read_radiograph(str(path), "frontal")
    message = str(caught.value)
    assert message.startswith(f"{path}: field 'frontal'")
    return message


# Values


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_bone_is_bright_whatever_the_file_calls_white(tmp_path: Path, bits: int, photometric: str):
    stored = (RAMP // 25 if bits == 8 else RAMP // 6).astype(np.uint8 if bits == 8 else np.uint16)
    tags = {"BitsStored": bits, "HighBit": bits - 1, "PresentationIntentType": "FOR PRESENTATION"}
    radiograph = read(write_dicom(tmp_path / "radiograph.dcm", stored, PhotometricInterpretation=photometric, **tags))
    shown = stored.astype(float) if photometric == "MONOCHROME2" else -stored.astype(float)
    assert radiograph.scale == "presentation"
    assert radiograph.image.dtype == np.float32
    np.testing.assert_array_equal(radiograph.image, shown)


def test_monochrome1_with_its_inverse_lut_shape_is_turned_once(tmp_path: Path):
    tags = {"PresentationIntentType": "FOR PRESENTATION", "PhotometricInterpretation": "MONOCHROME1"}
    radiograph = read(write_dicom(tmp_path / "radiograph.dcm", RAMP, PresentationLUTShape="INVERSE", **tags))
    np.testing.assert_array_equal(radiograph.image, -RAMP.astype(float))


def test_a_window_clips_what_the_eye_would_not_see(tmp_path: Path):
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 5000, "WindowWidth": 2000}
    radiograph = read(write_dicom(tmp_path / "radiograph.dcm", RAMP, PresentationIntentType="FOR PRESENTATION", **tags))
    values = 2.0 * RAMP - 100
    low, high = values <= 4000, values >= 6000
    assert (radiograph.image[low] == radiograph.image.min()).all() and (
        radiograph.image[high] == radiograph.image.max()
    ).all()
    assert (np.diff(radiograph.image[~low & ~high]) > 0).all()


def test_a_voi_lut_is_applied(tmp_path: Path):
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [4, 1, 16])
    lut.add_new("LUTData", "US", [0, 100, 1000, 1001])
    stored = np.array([[0, 1, 2], [3, 4, 5]], np.uint16)
    tags = {"PresentationIntentType": "FOR PRESENTATION", "VOILUTSequence": [lut]}
    path = tmp_path / "radiograph.dcm"
    write_dicom(path, stored, **tags)
    np.testing.assert_array_equal(read(path).image, [[0, 0, 100], [1000, 1001, 1001]])


@pytest.mark.parametrize(("photometric", "sign"), [("MONOCHROME1", 1), ("MONOCHROME2", -1), ("MONOCHROME1", None)])
def test_a_transmission_image_becomes_line_integrals(tmp_path: Path, photometric: str, sign: int | None):
    """
    `I = I0 exp(-p)`, the bare beam being in the image; with sign -1 the file holds what is lacking from full scale.
    """
    expected = np.linspace(0, 6, 60).reshape(6, 10)
    stored = np.rint(60000 * np.exp(-expected)).astype(np.uint16)
    stored = 65535 - stored if sign == -1 else stored
    tags = {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": sign}
    radiograph = read(write_dicom(tmp_path / "radiograph.dcm", stored, PhotometricInterpretation=photometric, **tags))
    assert radiograph.scale == "transmission"
    np.testing.assert_allclose(radiograph.image, expected, atol=5e-3)


@pytest.mark.parametrize(
    ("tags", "scale"),
    [
        ({"PixelIntensityRelationship": "LIN"}, "transmission"),
        ({"PixelIntensityRelationship": "LIN", "PresentationIntentType": "FOR PRESENTATION"}, "presentation"),
        ({"PixelIntensityRelationship": "LOG", "RescaleSlope": 1}, "presentation"),
        ({"PixelIntensityRelationship": "LOG", "RescaleSlope": 0.001}, "line_integral"),
        ({"PixelIntensityRelationship": "LOG", "RescaleSlope": 0.001, "RescaleType": "OD"}, "presentation"),
        ({}, "presentation"),
    ],
)
def test_tags_declare_the_scale(tmp_path: Path, tags: dict[str, Any], scale: str):
    assert read(write_dicom(tmp_path / "radiograph.dcm", RAMP, RescaleIntercept=0, **tags)).scale == scale


def test_a_declared_scale_overrides_what_the_file_says(tmp_path: Path):
    path = write_dicom(tmp_path / "radiograph.dcm", RAMP, RescaleSlope=0.001, RescaleIntercept=0)
    radiograph = read(path, "line_integral")
    np.testing.assert_allclose(radiograph.image, RAMP / 1000, rtol=1e-6)
    Image.fromarray(np.array([[200, 100], [50, 0]], np.uint8)).save(tmp_path / "radiograph.png")
    with pytest.warns(UserWarning, match="no pixel spacing"):
        radiograph = read_radiograph(str(tmp_path / "radiograph.png"), "frontal", "transmission")
    np.testing.assert_allclose(radiograph.image, np.log([[1, 2], [4, 8]]), rtol=1e-6)
    with pytest.raises(InputError, match="scale is 'log', expected one of line_integral, transmission, presentation"):
        LoadRadiographsd("log")


def test_logarithms_of_the_intensity_are_turned_over_from_the_bare_beam_on(tmp_path: Path):
    """Sign 1: larger values are less attenuation, so that the largest is the bare beam."""
    tags = {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": 1, "RescaleSlope": 0.001}
    radiograph = read(write_dicom(tmp_path / "radiograph.dcm", RAMP, RescaleIntercept=-2, **tags))
    np.testing.assert_allclose(radiograph.image, (5900.0 - RAMP) / 1000, atol=1e-6)


def test_padding_shutter_and_collimator_are_not_exposed(tmp_path: Path):
    edges = {"LeftVerticalEdge": 1, "RightVerticalEdge": 9, "UpperHorizontalEdge": 0, "LowerHorizontalEdge": 99}
    collimator = {f"Collimator{name}": value for name, value in edges.items()}
    radiograph = read(
        write_dicom(
            tmp_path / "radiograph.dcm",
            RAMP,
            PixelPaddingValue=1200,
            PixelPaddingRangeLimit=1000,
            CollimatorShape="RECTANGULAR",
            **collimator,
        )
    )
    expected = (RAMP < 1000) | (RAMP > 1200)
    expected[:, 0] = expected[:, 8:] = False
    np.testing.assert_array_equal(radiograph.exposed, expected)


def shutter(kind: str, name: str) -> dict[str, Any]:
    """Around rows 2 to 4 and columns 3 to 7 of 6 by 10, counted from 0; the circle about row 2 and column 4."""
    tags = {
        "RECTANGULAR": {
            "{}UpperHorizontalEdge": 2,
            "{}LowerHorizontalEdge": 6,
            "{}LeftVerticalEdge": 3,
            "{}RightVerticalEdge": 9,
        },
        "CIRCULAR": {"CenterOfCircular{}": [3, 5], "RadiusOfCircular{}": 2},
        "POLYGONAL": {"VerticesOfThePolygonal{}": [3, 4, 3, 8, 5, 8, 5, 4]},
    }
    return {keyword.format(name): value for keyword, value in tags[kind].items()}


@pytest.mark.parametrize("name", ["Collimator", "Shutter"])
@pytest.mark.parametrize("kinds", [["RECTANGULAR"], ["CIRCULAR"], ["POLYGONAL"], ["RECTANGULAR", "CIRCULAR"]])
def test_what_lies_outside_of_any_shutter_is_not_exposed(tmp_path: Path, name: str, kinds: list[str]):
    rows, columns = np.mgrid[:6, :10]
    rectangle = (rows >= 2) & (rows <= 4) & (columns >= 3) & (columns <= 7)
    circle = (rows - 2) ** 2 + (columns - 4) ** 2 <= 4
    expected = np.logical_and.reduce([circle if kind == "CIRCULAR" else rectangle for kind in kinds])
    tags = {keyword: value for kind in kinds for keyword, value in shutter(kind, name).items()}
    radiograph = read(write_dicom(tmp_path / "radiograph.dcm", RAMP, **{f"{name}Shape": kinds}, **tags))
    np.testing.assert_array_equal(radiograph.exposed, expected)


def test_a_slanted_polygon_keeps_what_lies_within_it(tmp_path: Path):
    """A triangle with the radiograph's left and bottom sides: below the diagonal."""
    radiograph = read(
        write_dicom(
            tmp_path / "radiograph.dcm",
            np.arange(100, dtype=np.uint16).reshape(10, 10),
            ShutterShape="POLYGONAL",
            VerticesOfThePolygonalShutter=[1, 1, 10, 10, 10, 1],
        )
    )
    np.testing.assert_array_equal(radiograph.exposed, np.tri(10, dtype=bool))


# Orientation and acquisition geometry


@pytest.mark.parametrize(
    "letters", [("L", "F"), ("R", "F"), ("L", "H"), ("R", "H"), ("F", "L"), ("F", "R"), ("H", "R")]
)
@pytest.mark.parametrize("plane", ["frontal", "lateral"])
def test_radiographs_are_brought_to_display_orientation(tmp_path: Path, letters: tuple[str, str], plane: str):
    """Whatever way the file is turned, the same radiograph comes out, its pixels as wide and high as they were."""
    canonical, pixel_mm = RAMP, [2.0, 3.0]
    stored = canonical[:, ::-1] if "R" in letters else canonical
    stored = stored[::-1] if "H" in letters else stored
    if letters[0] in "HF":
        stored, pixel_mm = stored.T, [3.0, 2.0]
    across = dict(zip("LR", "LR" if plane == "frontal" else "PA"))
    tags = {
        "PatientOrientation": [across.get(letter, letter) for letter in letters],
        "ViewPosition": "AP" if plane == "frontal" else "RL",
        "ImagerPixelSpacing": pixel_mm,
    }
    radiograph = read(write_dicom(tmp_path / "radiograph.dcm", np.ascontiguousarray(stored), **tags))
    np.testing.assert_array_equal(radiograph.image, canonical)
    assert (radiograph.plane, radiograph.view, radiograph.pixel_mm) == (plane, tags["ViewPosition"], (2.0, 3.0))


@pytest.mark.parametrize("suffix", ["png", "dcm"])
@pytest.mark.filterwarnings("ignore:.*no pixel spacing", "ignore:.*lacks")
def test_a_declared_orientation_turns_a_radiograph_that_does_not_say(tmp_path: Path, suffix: str):
    path, values = tmp_path / f"radiograph.{suffix}", (RAMP // 25).astype(np.uint8)
    if suffix == "png":
        Image.fromarray(values).save(path)
    else:
        write_dicom(path, values, PatientOrientation=None, ViewPosition="LL")
    radiograph = LoadRadiographsd(orientations={"frontal": ["L", "F"], "lateral": ["A", "F"]})({"lateral": str(path)})[
        "lateral"
    ]
    np.testing.assert_array_equal(radiograph.image, values[:, ::-1])


@pytest.mark.filterwarnings("ignore:.*no pixel spacing")
def test_a_records_own_scale_and_orientation_override_the_configured_ones(tmp_path: Path):
    values = np.array([[200, 100], [50, 25]], np.uint8)
    Image.fromarray(values).save(tmp_path / "radiograph.png")
    load, record = LoadRadiographsd("presentation"), {"lateral": str(tmp_path / "radiograph.png")}
    np.testing.assert_array_equal(load(record)["lateral"].image, values)
    declared = {"radiograph_scale": "transmission", "radiograph_orientation": {"lateral": ["A", "F"]}}
    np.testing.assert_allclose(load({**record, **declared})["lateral"].image, np.log([[2, 1], [8, 4]]), rtol=1e-6)


def test_a_files_own_orientation_overrides_a_declared_one(tmp_path: Path):
    load = LoadRadiographsd(orientations={"frontal": ["R", "F"], "lateral": ["A", "F"]})
    np.testing.assert_array_equal(
        load({"frontal": write_dicom(tmp_path / "radiograph.dcm", RAMP)})["frontal"].image, RAMP
    )


@pytest.mark.parametrize(
    ("lateral", "told"),
    [
        (["A", "A"], "is ['A', 'A'], expected two directions"),
        (["L", "F"], "is ['L', 'F'], expected directions in its plane"),
    ],
)
def test_an_orientation_that_no_lateral_radiograph_can_have_is_refused(lateral: list[str], told: str):
    with pytest.raises(InputError, match=re.escape(f"radiograph_orientation of a lateral radiograph {told}")):
        LoadRadiographsd(orientations={"frontal": ["L", "F"], "lateral": lateral})


def test_a_view_code_stands_for_a_view_position(tmp_path: Path):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399198007", "SCT", "right lateral"
    tags = {"ViewPosition": None, "PatientOrientation": ["P", "F"], "ViewCodeSequence": [code]}
    assert read(write_dicom(tmp_path / "radiograph.dcm", RAMP, **tags)).view == "RL"


@pytest.mark.filterwarnings("ignore:.*lacks")
def test_a_lateral_view_of_unknown_side_is_lateral(tmp_path: Path):
    path = write_dicom(tmp_path / "radiograph.dcm", RAMP, ViewPosition="LATERAL", PatientOrientation=None)
    radiograph = read_radiograph(path, "frontal")
    assert (radiograph.plane, radiograph.view) == ("lateral", None)


def test_patient_orientation_alone_tells_the_plane(tmp_path: Path):
    path = write_dicom(tmp_path / "radiograph.dcm", RAMP, ViewPosition=None, PatientOrientation=["AH", "F"])
    with pytest.warns(UserWarning, match=r"View Position \(0018,5101\)"):
        radiograph = read_radiograph(path, "frontal")
    assert (radiograph.plane, radiograph.view) == ("lateral", None)


@pytest.mark.parametrize(
    ("tags", "pixel_mm", "magnification", "source_to_patient_mm"),
    [
        ({}, 3.75, 1.125, 1600),
        ({"EstimatedRadiographicMagnificationFactor": 1.2}, 3.75, 1.2, 1500),
        ({"PixelSpacing": [3, 3]}, 3.75, 1.125, 1600),
        ({"ImagerPixelSpacing": None, "PixelSpacing": [3, 3], "PixelSpacingCalibrationType": "GEOMETRY"}, 3, 1, 1600),
        ({"ImagerPixelSpacing": None, "NominalScannedPixelSpacing": [0.2, 0.2]}, 0.2, 1.125, 1600),
    ],
)
def test_spacing_and_magnification_come_from_the_tags(
    tmp_path: Path, tags, pixel_mm, magnification, source_to_patient_mm
):
    radiograph = read(write_dicom(tmp_path / "radiograph.dcm", RAMP, **tags))
    assert radiograph.pixel_mm == (pixel_mm, pixel_mm)
    assert radiograph.magnification == pytest.approx(magnification)
    assert radiograph.source_to_patient_mm == pytest.approx(source_to_patient_mm)
    assert radiograph.source_to_detector_mm == 1800


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ("ViewPosition", "View Position (0018,5101) that is one of AP, PA, LL, RL (found none)"),
        ("PatientOrientation", "Patient Orientation (0020,0020)"),
        ("ImagerPixelSpacing", "Imager Pixel Spacing (0018,1164)"),
        ("DistanceSourceToPatient", "Distance Source to Patient (0018,1111)"),
    ],
)
def test_a_missing_tag_is_named_with_what_is_assumed(tmp_path: Path, tag: str, told: str):
    path = write_dicom(tmp_path / "radiograph.dcm", RAMP, **{tag: None})
    with pytest.warns(UserWarning, match=re.escape(f"{path}: field 'frontal' lacks {told}")) as found:
        read_radiograph(path, "frontal")
    assert len([warning for warning in found if "lacks" in str(warning.message)]) == 1


# Files


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"])
@pytest.mark.filterwarnings("ignore")
def test_pydicoms_own_compressed_files_are_decoded(tmp_path: Path, name: str):
    radiographs = []
    for source in (name, "MR_small.dcm"):
        dataset = pydicom.dcmread(get_testdata_file(source))
        dataset.Modality = "CR"
        dataset.save_as(tmp_path / source)
        radiographs.append(read_radiograph(str(tmp_path / source), "frontal").image)
    np.testing.assert_array_equal(*radiographs)


JPEG_LOSSLESS = (gdcm.TransferSyntax.JPEGLosslessProcess14, gdcm.TransferSyntax.JPEGLosslessProcess14_1)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", JPEG_LOSSLESS)
def test_lossless_jpeg_gives_every_bit(tmp_path: Path, syntax: int, bits: int):
    """The two that radiographs come in: Process 14, with any predictor and with the first."""
    stored = (np.arange(64 * 64).reshape(64, 64) % 2**bits).astype(np.uint8 if bits == 8 else np.uint16)
    stored[:2] = 2**bits - 1
    path = write_dicom(tmp_path / "radiograph.dcm", stored, BitsStored=bits, HighBit=bits - 1)
    compress(path, syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.name.startswith("JPEG Lossless")
    np.testing.assert_array_equal(read(path).image, stored)


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
@pytest.mark.skipif(
    find_spec("libjpeg") is not None or find_spec("pydicom.pixels") is None,
    reason="pylibjpeg-libjpeg and pydicom 2 decode it",
)
def test_lossy_jpeg_of_12_bits_is_refused_by_name(tmp_path: Path, name: str):
    dataset = pydicom.dcmread(get_testdata_file(name))
    assert dataset.BitsStored == 12
    dataset.Modality = "CR"
    dataset.save_as(tmp_path / "radiograph.dcm")
    assert "transfer syntax JPEG Extended (Process 2 and 4) (1.2.840.10008.1.2.4.51)" in refused(
        tmp_path / "radiograph.dcm"
    )


@pytest.mark.filterwarnings("ignore")
def test_a_radiograph_of_a_lossy_syntax_is_decoded(tmp_path: Path):
    dataset = pydicom.dcmread(get_testdata_file("JPEG2000.dcm"))
    dataset.Modality = "CR"
    dataset.save_as(tmp_path / "radiograph.dcm")
    radiograph = read_radiograph(str(tmp_path / "radiograph.dcm"), "frontal")
    assert radiograph.image.shape == (1024, 256)
    assert radiograph.image.std() > 1


@pytest.mark.parametrize("suffix", ["", ".png", ".img"])
def test_dicom_is_told_by_content_whatever_its_name(tmp_path: Path, suffix: str):
    np.testing.assert_array_equal(read(write_dicom(tmp_path / f"radiograph{suffix}", RAMP)).image, RAMP)


def test_dicom_without_a_preamble_is_read(tmp_path: Path):
    path = write_dicom(tmp_path / "radiograph.dcm", RAMP)
    dataset = pydicom.dcmread(path)
    content = Path(path).read_bytes()
    start = content.index(dataset["SOPClassUID"].tag.to_bytes(4, "little")[2:] + b"\x16\x00UI")
    Path(path).write_bytes(content[start:])
    np.testing.assert_array_equal(read(path).image, RAMP)


@pytest.mark.parametrize(
    "kind", ["png 8", "png 16", "tiff 8", "tiff 16", "tiff float", "jpeg", "rgb", "rgba", "palette"]
)
def test_an_image_file_is_read_with_rows_as_rows(tmp_path: Path, kind: str):
    values = (
        RAMP if "16" in kind else (RAMP / 7).astype(np.float32) if "float" in kind else (RAMP // 25).astype(np.uint8)
    )
    image_file = Image.fromarray(values)
    image_file = image_file.convert(kind.upper()) if kind in ("rgb", "rgba") else image_file
    image_file = image_file.convert("P") if kind == "palette" else image_file
    path = (
        tmp_path
        / f"radiograph.{kind.split()[0].replace('rgba', 'png').replace('rgb', 'png').replace('palette', 'png')}"
    )
    image_file.save(path)
    radiograph = read(path)
    assert radiograph.scale == ("line_integral" if "float" in kind else "presentation")
    np.testing.assert_allclose(radiograph.image, values, atol=12 if kind == "jpeg" else 0)


@pytest.mark.parametrize(("unit", "pixel_mm"), [("mm", (3.0, 2.0)), ("unknown", None)])
def test_a_nifti_radiograph_has_a_spacing_where_it_names_the_unit(tmp_path: Path, unit: str, pixel_mm: tuple | None):
    image = nibabel.Nifti1Image(RAMP.T[..., None].astype(np.float32), np.diag([2.0, 3.0, 1.0, 1.0]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "radiograph.nii.gz")
    radiograph = read(tmp_path / "radiograph.nii.gz")
    np.testing.assert_array_equal(radiograph.image, RAMP)
    assert (radiograph.scale, radiograph.pixel_mm) == ("line_integral", pixel_mm)


# What cannot be used


def with_pixels(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def without_end(path: Path, kept: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    return path


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"PixelData": b""}, "cannot be decoded"),
        ({"NumberOfFrames": 2, "Rows": 3}, "Number of Frames (0028,0008) is 2, expected 1"),
        ({"PhotometricInterpretation": "RGB"}, "Photometric Interpretation (0028,0004) is RGB, expected MONOCHROME1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "is PALETTE COLOR, expected MONOCHROME1 or MONOCHROME2"),
        ({"Modality": "CT"}, "Modality (0008,0060) is CT, expected a radiograph"),
        ({"BitsStored": 1}, "Bits Stored (0028,0101) is 1, expected 8 to 16"),
        ({"ImagerPixelSpacing": [0, 0.2]}, "Imager Pixel Spacing (0018,1164) is 0 x 0.2 mm, expected 0.01 to 20 mm"),
        ({"ImagerPixelSpacing": [0.2]}, "Imager Pixel Spacing (0018,1164) is 0.2, expected two numbers in mm"),
        ({"ImagerPixelSpacing": [-0.2, 0.2]}, "(0018,1164) is -0.2 x 0.2 mm, expected 0.01 to 20 mm"),
        ({"PatientOrientation": ["L", "P"]}, "Patient Orientation (0020,0020) is ['L', 'P'], expected two directions"),
        ({"PatientOrientation": ["P", "F"]}, "View Position (0018,5101) is PA, frontal, but Patient Orientation"),
        ({"DistanceSourceToPatient": 1900}, "expected the detector behind the patient"),
        ({"EstimatedRadiographicMagnificationFactor": 0.9}, "is 0.9, expected at least 1"),
        ({"RescaleSlope": "1e400", "RescaleIntercept": 0}, "NaN or infinite values"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 65535}, "constant"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "its rescale or its VOI LUT cannot be applied"),
        ({"CollimatorShape": "RECTANGULAR"}, "(0018,1700) is RECTANGULAR, but Collimator Upper Horizontal Edge"),
        ({"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [3, 4]}, "Radius of Circular Shutter (0018,1612)"),
        ({"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 5, 5]}, "three or more"),
        ({"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 5, 5, 9, 9, 2]}, "three or more"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tags_that_cannot_be_used_are_named(tmp_path: Path, tags: dict[str, Any], told: str):
    path = tmp_path / "radiograph.dcm"
    write_dicom(path, RAMP, **tags)
    assert told in refused(path)


@pytest.mark.parametrize(
    ("kept", "told"), [(0.9, "cannot be decoded"), (0.5, "Pixel Data (7FE0,0010)"), (0.0, "an empty file")]
)
@pytest.mark.filterwarnings("ignore")
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float, told: str):
    path = tmp_path / "radiograph.dcm"
    write_dicom(path, np.tile(RAMP[:3, :3], (4, 4)))
    assert told in refused(without_end(path, kept))


def test_a_file_that_is_not_dicom_is_refused(tmp_path: Path):
    (tmp_path / "radiograph.dcm").write_text("no image, only words that go on for a while " * 20)
    assert "not a DICOM file" in refused(tmp_path / "radiograph.dcm")


def test_missing_pixel_data_are_named(tmp_path: Path):
    path = tmp_path / "radiograph.dcm"
    dataset = pydicom.dcmread(write_dicom(path, RAMP))
    del dataset.PixelData
    dataset.save_as(path)
    assert "has no Pixel Data (7FE0,0010)" in refused(path)


def test_a_transfer_syntax_that_cannot_be_decoded_is_named(tmp_path: Path):
    path = tmp_path / "radiograph.dcm"
    dataset = pydicom.dcmread(write_dicom(path, RAMP))
    dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    dataset.save_as(path)
    assert re.search(r"transfer syntax MPEG2 .* \(1\.2\.840\.10008\.1\.2\.4\.100\) cannot be decoded", refused(path))


def test_an_all_black_radiograph_is_refused(tmp_path: Path):
    assert "constant" in refused(write_dicom(tmp_path / "radiograph.dcm", np.zeros((6, 10), np.uint16)))
    assert "constant" in refused(with_pixels(tmp_path / "radiograph.png", np.zeros((6, 10), np.uint8)))


def test_an_image_file_of_several_frames_is_refused(tmp_path: Path):
    page = Image.fromarray((RAMP // 25).astype(np.uint8))
    page.save(tmp_path / "radiograph.tiff", save_all=True, append_images=[page])
    assert "holds 2 frames, expected one" in refused(tmp_path / "radiograph.tiff")


# Pairs


def pair(folder: Path, frontal: dict[str, Any], lateral: dict[str, Any]) -> dict[str, str]:
    tags = {"frontal": frontal, "lateral": lateral}
    return {field: write_line_integrals(folder / f"{field}.dcm", RAMP, **tags[field]) for field in tags}


def test_radiographs_given_the_wrong_way_round_are_swapped(tmp_path: Path):
    record = pair(tmp_path, LATERAL, {})
    with pytest.warns(UserWarning, match="swapped") as found:
        loaded = LoadRadiographsd()(record)
    told = next(str(warning.message) for warning in found if "swapped" in str(warning.message))
    assert record["frontal"] in told and record["lateral"] in told
    assert (loaded["frontal"].view, loaded["lateral"].view) == ("PA", "LL")


@pytest.mark.parametrize(
    ("frontal", "lateral", "told"),
    [
        ({}, {}, "both are frontal radiographs (View Position PA and PA), expected one frontal and one lateral"),
        (LATERAL, LATERAL, "both are lateral radiographs"),
        (
            {},
            {**LATERAL, "PatientID": "two"},
            "Patient ID (0010,0020) is one and two, expected two radiographs of one patient",
        ),
    ],
)
def test_radiographs_that_do_not_belong_together_are_refused(tmp_path: Path, frontal: dict, lateral: dict, told: str):
    record = pair(tmp_path, frontal, lateral)
    with pytest.raises(InputError) as caught:
        LoadRadiographsd()(record)
    assert told in str(caught.value)
    assert all(path in str(caught.value) and f"'{field}'" in str(caught.value) for field, path in record.items())


def write_nifti(path: Path, values: np.ndarray) -> str:
    image = nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 1.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return str(path)


@pytest.mark.parametrize("shape", [(10, 6, 2), (10, 6, 1, 2)])
def test_two_radiographs_stacked_in_one_file_are_those_of_two_files(tmp_path: Path, shape: tuple[int, ...]):
    radiographs = {"frontal": RAMP.T.astype(np.float32), "lateral": (RAMP.T[::-1] + 1).astype(np.float32)}
    both = np.stack([*radiographs.values()], -1).reshape(shape)
    stacked = LoadRadiographsd()({"image": write_nifti(tmp_path / "two.nii.gz", both)})
    apart = LoadRadiographsd()(
        {name: write_nifti(tmp_path / f"{name}.nii.gz", radiograph) for name, radiograph in radiographs.items()}
    )
    for view in radiographs:
        np.testing.assert_array_equal(stacked[view].image, apart[view].image)
        assert (stacked[view].scale, stacked[view].pixel_mm) == (apart[view].scale, apart[view].pixel_mm)
    assert stacked["frontal"].pixel_mm == (3.0, 2.0)


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        (
            "three.nii.gz",
            (10, 6, 3),
            "has shape (10, 6, 3), expected two radiographs of one size, (W, H, 2), frontal first.",
        ),
        ("one.nii.gz", (10, 6), "has shape (10, 6), expected two radiographs of one size, (W, H, 2), frontal first."),
        (
            "image.png",
            None,
            "is no NIfTI file, expected both radiographs in one, frontal first; or name them singly.",
        ),
        ("nowhere.nii.gz", None, "names a file that does not exist; correct the path."),
    ],
)
def test_a_file_without_two_radiographs_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...] | None, told: str):
    if shape:
        write_nifti(tmp_path / name, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    elif name == "image.png":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        LoadRadiographsd()({"image": str(tmp_path / name)})
    assert str(caught.value) == f"{tmp_path}/{name}: field 'image' {told}"


def test_a_blank_radiograph_of_a_stack_is_named(tmp_path: Path):
    radiographs = np.stack([RAMP.T.astype(np.float32), np.zeros((10, 6), np.float32)], -1)
    with pytest.raises(InputError, match="two.nii.gz: field 'image', radiograph 'lateral'"):
        LoadRadiographsd()({"image": write_nifti(tmp_path / "two.nii.gz", radiographs)})
