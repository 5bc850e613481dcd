"""Distances, sizes of pixels and views of DICOM radiographs, by the sections of PS3.3 that define them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from radiograph_files import LATERAL, write_dicom
from scripts import InputError, LoadRadiographsd, Radiograph, read_radiograph

RAMP = np.arange(6000, dtype=np.uint16).reshape(60, 100)
"""225 by 375 mm at 3.75 mm."""
DISTANCE, DETECTOR = "DistanceSourceToPatient", "DistanceSourceToDetector"
MAGNIFICATION, THICKNESS = "EstimatedRadiographicMagnificationFactor", "BodyPartThickness"


def read(folder: Path, **tags: Any) -> tuple[Radiograph, str]:
    """The radiograph, and its warnings that are not of missing tags."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        radiograph = read_radiograph(write_dicom(folder / "a.dcm", RAMP, **tags), "frontal")
    return radiograph, " ".join(str(each.message) for each in caught if " lacks " not in str(each.message))


def refused(folder: Path, **tags: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, **tags)
    return str(caught.value)


# Distances


@pytest.mark.parametrize(
    ("modality", "distance", "thickness", "expected", "said"),
    [
        ("DX", 1750, 240, 1630, ""),  # C.8.11.5: to the bucky, behind a patient
        ("DX", 1600, 240, 1480, ""),
        ("DX", 1750, None, 1610, "(0018,11A0) is missing: the middle of the patient is taken to be 140 mm nearer"),
        ("DX", 1750, 0, 1610, "(0018,11A0) is missing"),
        ("DX", 1750, 5, 1610, "Body Part Thickness (0018,11A0) is 5, expected 50 to 600 mm"),
        ("DX", 1600, None, 1600, ""),  # more than a bucky lies between
        ("XA", 1750, 240, 1750, ""),  # C.8.7.5: to the centre of the field of view
        ("RF", 1750, None, 1750, ""),  # C.8.7.6
        ("CR", 1750, None, 1750, ""),
    ],
)
def test_the_distance_to_the_patient_ends_where_its_modality_says(
    tmp_path: Path, modality: str, distance: float, thickness: float | None, expected: float, said: str
):
    radiograph, found = read(tmp_path, Modality=modality, **{DISTANCE: distance, THICKNESS: thickness})
    assert radiograph.source_to_patient_mm == expected
    assert radiograph.magnification == pytest.approx(1800 / expected)
    assert said in found and bool(found) == bool(said)


@pytest.mark.parametrize(
    ("tags", "patient", "detector", "said"),
    [
        (
            {DISTANCE: 1800},
            None,
            1800,
            "Distance Source to Patient (0018,1111) is 1800, as is Distance Source to Detec",
        ),
        ({MAGNIFICATION: 1}, 1600, 1800, "Estimated Radiographic Magnification Factor (0018,1114) is 1, expected more"),
        ({MAGNIFICATION: -1}, 1600, 1800, "(0018,1114) is -1, expected more than 1: it counts as unknown"),
        ({MAGNIFICATION: 0}, 1600, 1800, ""),
        ({MAGNIFICATION: 1.2}, 1500, 1800, ""),
        ({MAGNIFICATION: 1.2, DETECTOR: -1, DISTANCE: None}, None, None, "(0018,1110) is -1, expected 100 to 10000 mm"),
        ({DISTANCE: -1}, None, 1800, "(0018,1111) is -1, expected 100 to 10000 mm: it counts as unknown"),
        ({DISTANCE: 1e9}, None, 1800, "(0018,1111) is 1e+09, expected 100 to 10000 mm"),
        ({DISTANCE: 1.6}, None, 1800, "(0018,1111) is 1.6, expected 100 to 10000 mm"),
        ({DISTANCE: 0}, None, 1800, ""),
        ({DETECTOR: 99999}, 1600, None, "(0018,1110) is 99999, expected 100 to 10000 mm"),
        ({DETECTOR: 0}, 1600, None, ""),
    ],
)
def test_what_stands_for_unknown_counts_as_unknown(tmp_path: Path, tags: dict, patient, detector, said: str):
    radiograph, found = read(tmp_path, **{"Modality": "XA", **tags})
    assert (radiograph.source_to_patient_mm, radiograph.source_to_detector_mm) == (patient, detector)
    assert said in found and bool(found) == bool(said)


# Sizes of pixels


TWO, ONE_AND_A_HALF = [2.0, 2.0], [1.5, 1.5]
NO_DISTANCES = {DISTANCE: None, DETECTOR: None}


@pytest.mark.parametrize(
    ("tags", "pixel_mm", "magnification", "said"),
    [
        ({"PixelSpacing": ONE_AND_A_HALF, "PixelSpacingCalibrationType": "GEOMETRY"}, 1.5, 1, ""),
        ({"PixelSpacing": ONE_AND_A_HALF, "PixelSpacingCalibrationType": "FIDUCIAL"}, 1.5, 1, ""),
        ({"PixelSpacing": ONE_AND_A_HALF, "PixelSpacingCalibrationType": "FIDUCIAL", **NO_DISTANCES}, 1.5, 1, ""),
        ({"PixelSpacing": ONE_AND_A_HALF}, 2, 1.125, ""),  # at the detector, as far from it as is known
        ({"PixelSpacing": ONE_AND_A_HALF, **NO_DISTANCES}, 1.5, 1, "(0028,0030) differs from Imager Pixel Spacing"),
        ({"PixelSpacing": TWO, **NO_DISTANCES}, 2, None, ""),
        ({"PixelSpacing": ONE_AND_A_HALF, "ImagerPixelSpacing": None}, 1.5, 1.125, ""),
        ({"NominalScannedPixelSpacing": ONE_AND_A_HALF, "ImagerPixelSpacing": None}, 1.5, 1.125, ""),
        (
            {"NominalScannedPixelSpacing": TWO, "PixelSpacing": ONE_AND_A_HALF, "ImagerPixelSpacing": None},
            2,
            1.125,
            "",
        ),
        ({"ImagerPixelSpacing": [0, 0], "PixelSpacing": ONE_AND_A_HALF}, 1.5, 1.125, "(0018,1164) is 0 by 0 mm"),
        ({"ImagerPixelSpacing": [0, 0]}, None, 1.125, "(0018,1164) is 0 by 0 mm: it counts as unknown"),
        ({"ImagerPixelSpacing": [-1, -1]}, None, 1.125, "(0018,1164) is -1 by -1 mm: it counts as unknown"),
    ],
)
def test_pixels_are_as_large_as_the_calibration_macro_says(
    tmp_path: Path, tags: dict, pixel_mm: float | None, magnification: float | None, said: str
):
    """PS3.3 10.7.1: Pixel Spacing that is calibrated is meant at the patient; where it is the imager's it is not."""
    radiograph, found = read(tmp_path, **{"ImagerPixelSpacing": TWO, **tags})
    assert radiograph.pixel_mm == (pixel_mm and (pixel_mm, pixel_mm))
    assert radiograph.magnification == (magnification and pytest.approx(magnification))
    assert said in found and bool(found) == bool(said)


@pytest.mark.parametrize(("shape", "pixel_mm"), [((60, 100), (1.0, 1.0)), ((40, 1200), None), ((2000, 2000), None)])
def test_a_millimetre_of_a_radiograph_of_no_chest_is_a_filler(tmp_path: Path, shape: tuple, pixel_mm: tuple | None):
    stored = np.arange(np.prod(shape)).reshape(shape).astype(np.uint16)
    with pytest.warns(UserWarning) as found:
        path = write_dicom(tmp_path / "a.dcm", stored, ImagerPixelSpacing=[1, 1], PatientOrientation=None)
        assert read_radiograph(path, "frontal").pixel_mm == pixel_mm
    told = "Imager Pixel Spacing (0018,1164) is 1 by 1 mm: it counts as unknown"
    assert any(told in str(warning.message) for warning in found) == (pixel_mm is None)


@pytest.mark.parametrize("side", [0.17, 15.0])
def test_a_radiograph_of_no_chests_size_is_told_by_tag_and_size(tmp_path: Path, side: float):
    told = f"Imager Pixel Spacing (0018,1164) is {side:g} x {side:g} mm, which makes a radiograph of {60 * side:.4g} x"
    assert told in read(tmp_path, ImagerPixelSpacing=[side, side])[1]


@pytest.mark.parametrize(("ratio", "aspect"), [([2, 1], 2.0), ([1, 2], 0.5), ([1, 1], 1.0), (None, 1.0)])
def test_pixels_of_no_size_have_the_shape_of_their_aspect_ratio(tmp_path: Path, ratio: list | None, aspect: float):
    """PS3.3 C.7.6.3.1.7: vertical over horizontal size."""
    radiograph, _ = read(tmp_path, ImagerPixelSpacing=None, PixelAspectRatio=ratio)
    assert (radiograph.pixel_mm, radiograph.pixel_aspect) == (None, aspect)
    turned, _ = read(tmp_path, ImagerPixelSpacing=None, PixelAspectRatio=ratio, PatientOrientation=["F", "L"])
    assert turned.pixel_aspect == 1 / aspect


@pytest.mark.parametrize("ratio", [[0, 1], [1, 0], [72, 1], [2, 1, 1]])
def test_an_aspect_ratio_that_no_pixel_has_is_refused(tmp_path: Path, ratio: list):
    assert "Pixel Aspect Ratio (0028,0034) is" in refused(tmp_path, ImagerPixelSpacing=None, PixelAspectRatio=ratio)


# Views


def sequence(code: Any) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return [item]


@pytest.mark.parametrize(
    ("name", "plane", "view"),
    [
        ("Frontal", "frontal", None),
        ("AnteroPosterior", "frontal", "AP"),
        ("PosteroAnterior", "frontal", "PA"),
        ("LateralProjection", "lateral", None),
        ("LeftLateral", "lateral", "LL"),
        ("RightLateral", "lateral", "RL"),
    ],
)
def test_a_view_code_of_pydicoms_dictionary_says_the_plane(tmp_path: Path, name: str, plane: str, view: str | None):
    """DICOM context group 4010, DX View."""
    code = getattr(codes.cid4010, name)
    radiograph, _ = read(tmp_path, ViewPosition=None, PatientOrientation=None, ViewCodeSequence=sequence(code))
    assert (radiograph.plane, radiograph.view) == (plane, view)


@pytest.mark.parametrize("name", [name for name in codes.cid4010.dir() if "Oblique" in name])
def test_every_oblique_code_is_refused(tmp_path: Path, name: str):
    code = getattr(codes.cid4010, name)
    tags = {"ViewPosition": None, "PatientOrientation": None, "ViewCodeSequence": sequence(code)}
    assert f"View Code Sequence (0054,0220) is {code.value}, of an oblique radiograph" in refused(tmp_path, **tags)


@pytest.mark.parametrize("position", ["RLO", "LLO", "RAO", "LAO", "RPO", "LPO", "OBLIQUE", "AP OBLIQUE"])
def test_an_oblique_view_position_is_refused(tmp_path: Path, position: str):
    told = f"View Position (0018,5101) is {position}, of an oblique radiograph"
    assert told in refused(tmp_path, ViewPosition=position, PatientOrientation=None)


@pytest.mark.parametrize("angle", [30, 45, -45, 135, -160])
def test_a_beam_between_frontal_and_lateral_is_refused(tmp_path: Path, angle: float):
    """PS3.3 C.8.7.5.1.2: 0 and 180 degrees are frontal, 90 and -90 lateral."""
    told = f"Positioner Primary Angle (0018,1510) is {angle} degrees, of an oblique radiograph"
    assert told in refused(tmp_path, PositionerPrimaryAngle=angle)


@pytest.mark.parametrize("angle", [0, 5, -10, 90, -90, 180, -178])
def test_a_beam_that_is_nearly_frontal_or_lateral_is_taken_as_it_is(tmp_path: Path, angle: float):
    assert read(tmp_path, PositionerPrimaryAngle=angle)[1] == ""


@pytest.mark.parametrize("keyword", ["PositionerSecondaryAngle", "ColumnAngulation"])
def test_a_tilted_beam_is_told(tmp_path: Path, keyword: str):
    assert "is 20 degrees: a tilt towards head or feet is not modelled" in read(tmp_path, **{keyword: 20})[1]
    assert read(tmp_path, **{keyword: 5})[1] == ""


@pytest.mark.parametrize(
    ("letters", "is_oblique"), [(["LA", "F"], True), (["LAF", "FR"], True), (["LF", "FR"], False), (["L", "FP"], False)]
)
def test_rows_that_run_between_the_planes_are_told(tmp_path: Path, letters: list[str], is_oblique: bool):
    told = "Patient Orientation (0020,0020) is LA"
    assert (told in read(tmp_path, PatientOrientation=letters)[1]) == is_oblique


def test_a_patient_who_lies_on_a_side_is_told(tmp_path: Path):
    modifier, orientation = sequence(codes.cid20.LeftLateralDecubitus), sequence(codes.cid19.Recumbent)
    orientation[0].PatientOrientationModifierCodeSequence = modifier
    for tags in (
        {"ViewPosition": "LLD"},
        {"ViewPosition": "RLD"},
        {"PatientPosition": "HFDL"},
        {"PatientOrientationCodeSequence": orientation},
    ):
        assert "decubitus: the patient lay on a side" in read(tmp_path, **tags)[1]


@pytest.mark.parametrize(
    ("position", "plane", "view"),
    [
        ("LATERAL", "lateral", None),
        ("Lat", "lateral", None),
        ("L LAT", "lateral", "LL"),
        ("LEFT LATERAL", "lateral", "LL"),
        ("FRONTAL", "frontal", None),
        ("Postero-Anterior", "frontal", "PA"),
        ("AXIAL", None, None),
    ],
)
def test_a_view_position_in_other_words_is_understood(tmp_path: Path, position: str, plane, view):
    radiograph, _ = read(tmp_path, ViewPosition=position, PatientOrientation=None)
    assert (radiograph.plane, radiograph.view) == (plane, view)


def test_a_view_position_and_a_view_code_of_two_planes_are_refused(tmp_path: Path):
    tags = {"ViewCodeSequence": sequence(codes.cid4010.LeftLateral)}
    told = "View Position (0018,5101) is PA, frontal, but View Code Sequence (0054,0220) is 399173006, lateral"
    assert told in refused(tmp_path, **tags)


@pytest.mark.parametrize("name", ["Frontal", "LateralProjection"])
@pytest.mark.filterwarnings("ignore:.*lacks")
def test_two_radiographs_of_one_plane_by_their_codes_are_no_pair(tmp_path: Path, name: str):
    tags = {"ViewPosition": None, "PatientOrientation": None}
    tags["ViewCodeSequence"] = sequence(getattr(codes.cid4010, name))
    record = {field: write_dicom(tmp_path / f"{field}.dcm", RAMP, **tags) for field in ("frontal", "lateral")}
    plane = "frontal" if name == "Frontal" else "lateral"
    with pytest.raises(InputError, match=re.escape(f"both are {plane} radiographs")):
        LoadRadiographsd()(record)


def test_views_that_differ_in_their_side_are_told(tmp_path: Path):
    radiograph, found = read(tmp_path, ViewCodeSequence=sequence(codes.cid4010.AnteroPosterior))
    assert radiograph.view == "PA"
    assert "View Position (0018,5101) is PA, which counts, but View Code Sequence (0054,0220) differs" in found


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "Rescale Slope (0028,1053) is 0: it counts as missing"),
        ({"RescaleSlope": 0, "RescaleIntercept": -1024}, "Rescale Slope (0028,1053) is 0: it counts as missing"),
        ({"WindowWidth": 0, "WindowCenter": 0}, "Window Width (0028,1051) is 0: it counts as missing"),
        ({"WindowWidth": [0, 0], "WindowCenter": [0, 0]}, "Window Width (0028,1051) is 0: it counts as missing"),
        ({"RescaleSlope": 1, "RescaleIntercept": 0, "WindowWidth": 6001, "WindowCenter": 3000}, ""),
    ],
)
def test_a_rescale_by_nothing_and_a_window_of_nothing_are_fillers(tmp_path: Path, tags: dict, said: str):
    radiograph, found = read(tmp_path, **tags)
    assert said in found and bool(found) == bool(said)
    assert np.corrcoef(radiograph.image.ravel(), RAMP.ravel())[0, 1] > 0.9999


def test_the_usual_tags_pass_without_a_word(tmp_path: Path):
    assert read(tmp_path)[1] == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        read_radiograph(write_dicom(tmp_path / "b.dcm", RAMP, **LATERAL), "lateral")
