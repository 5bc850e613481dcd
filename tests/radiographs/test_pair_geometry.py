"""From a CT through projected radiographs in DICOM to the network's input and its geometry."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from phantoms import phantom
from radiograph_files import LATERAL, write_dicom, write_line_integrals
from scripts import (
    BiplanarGeometry,
    GeometryFromRadiographsd,
    InputError,
    LoadRadiographsd,
    PrepareRadiographsBatch,
    PrepareXraysd,
    Radiograph,
    hu_to_attenuation,
    project,
)
from scripts.radiographs.detector_placement import exposed_area, place_on_detector

XRAYS = ["frontal", "lateral"]
ORIENTATION = {"frontal": ["L", "F"], "lateral": ["P", "F"]}
ATTENUATION = hu_to_attenuation(phantom(24, 0.1)[None, None])
"""Without mirror symmetry, left to right or front to back."""


RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8)


def projections_of(geometry: BiplanarGeometry) -> torch.Tensor:
    """Line integrals, `(2, P, P)`."""
    return project(ATTENUATION, geometry)[0]


def write_projections(folder: Path, geometry: BiplanarGeometry, **tags: Any) -> dict[str, str]:
    """The phantom's radiographs as a machine of this geometry writes them."""
    acquisition = {
        "DistanceSourceToDetector": geometry.source_to_detector_mm,
        "DistanceSourceToPatient": geometry.source_to_isocentre_mm,
        "ImagerPixelSpacing": [geometry.pixel_mm] * 2,
    }
    record = {}
    for field, view, radiograph in zip(XRAYS, geometry.views, projections_of(geometry).numpy()):
        place = {"ViewPosition": view, "PatientOrientation": ORIENTATION[field]}
        record[field] = write_line_integrals(folder / f"{field}.dcm", radiograph, **{**acquisition, **place, **tags})
    return record


def prepared(record: dict[str, str], geometry: BiplanarGeometry) -> dict[str, Any]:
    """As `inference.json` does it, the line integral 1 being called 1; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        record = GeometryFromRadiographsd(geometry)(LoadRadiographsd()(record))
        return PrepareXraysd(XRAYS, geometry, 1.0, (1, 99), (0.0, 0.7))(record)


@pytest.mark.parametrize("pixels", [96, 128])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("views", [("AP", "LL"), ("AP", "RL"), ("PA", "LL"), ("PA", "RL")])
def test_line_integrals_survive_the_way_through_dicom(tmp_path: Path, views: tuple, photometric: str, pixels: int):
    """CT, projection, DICOM, the network's input: the same within the file's 16 bits, and the views that were taken."""
    taken = BiplanarGeometry(views=views, detector_pixels=pixels)
    record = prepared(
        write_projections(tmp_path, taken, photometric=photometric), BiplanarGeometry(detector_pixels=pixels)
    )
    for field, radiograph in zip(XRAYS, projections_of(taken)):
        assert radiograph.std() > 0.5
        np.testing.assert_allclose(record[field][0], radiograph, atol=0.51 * float(radiograph.max()) / 65535 + 1e-5)
    assert record["geometry"] == {
        "views": views,
        "source_to_isocentre_mm": 1600,
        "source_to_detector_mm": pytest.approx(1800),
    }


def test_a_radiograph_of_finer_pixels_shows_what_a_coarser_detector_sees(tmp_path: Path):
    record = prepared(
        write_projections(tmp_path, BiplanarGeometry(detector_pixels=192)), BiplanarGeometry(detector_pixels=64)
    )
    for field, radiograph in zip(XRAYS, projections_of(BiplanarGeometry(detector_pixels=64))):
        assert np.abs(record[field][0] - radiograph).mean() < 0.02 * radiograph.std()


@pytest.mark.parametrize(("source_to_isocentre_mm", "source_to_detector_mm"), [(1300, 1500), (1000, 1080)])
def test_radiographs_from_another_distance_give_the_geometry_that_projects_them(
    tmp_path: Path, source_to_isocentre_mm: float, source_to_detector_mm: float
):
    """
    The detector is put elsewhere on the same rays: projecting the CT by the geometry found returns the
    radiograph as placed.
    """
    distances = {"source_to_isocentre_mm": source_to_isocentre_mm, "source_to_detector_mm": source_to_detector_mm}
    taken = BiplanarGeometry(detector_pixels=256, detector_size_mm=512, **distances)
    configured = BiplanarGeometry(detector_pixels=128)
    record = prepared(write_projections(tmp_path, taken, Modality="XA"), configured)  # whose distances reach to it
    found = replace(configured, **record["geometry"])
    assert found.source_to_isocentre_mm == source_to_isocentre_mm
    for view, field in enumerate(XRAYS):
        as_found, as_configured = (
            np.abs(record[field][0] - projections_of(geometry)[view]).mean() for geometry in (found, configured)
        )
        assert as_found < 0.03 * projections_of(found)[view].std()
        assert as_configured > 2 * as_found


def test_a_spacing_calibrated_to_the_patient_needs_no_distances(tmp_path: Path):
    """1 mm at the patient is as many mm on the detector as the geometry magnifies it."""
    geometry = BiplanarGeometry(detector_pixels=128)
    at_patient = geometry.pixel_mm / geometry.magnification(0.0)
    tags = {
        "ImagerPixelSpacing": None,
        "PixelSpacing": [f"{at_patient:.6f}"] * 2,
        "PixelSpacingCalibrationType": "GEOMETRY",
    }
    record = prepared(write_projections(tmp_path, geometry, **tags), geometry)
    for field, radiograph in zip(XRAYS, projections_of(geometry)):
        np.testing.assert_allclose(record[field][0], radiograph, atol=0.01)


def test_radiographs_from_different_distances_are_told_and_averaged(tmp_path: Path):
    record = {
        "frontal": write_dicom(tmp_path / "a.dcm", RAMP, DistanceSourceToPatient=1400),
        "lateral": write_dicom(tmp_path / "b.dcm", RAMP, **LATERAL),
    }
    with pytest.warns(UserWarning, match="1400 and 1600 mm from the source"):
        found = GeometryFromRadiographsd(BiplanarGeometry())(LoadRadiographsd()(record))["geometry"]
    assert found["source_to_isocentre_mm"] == 1500


def test_a_source_within_the_patient_is_refused(tmp_path: Path):
    record = {
        "frontal": write_dicom(tmp_path / "a.dcm", RAMP, DistanceSourceToPatient=150),
        "lateral": write_dicom(tmp_path / "b.dcm", RAMP, **LATERAL, DistanceSourceToPatient=None),
    }
    with (
        pytest.warns(UserWarning, match="lacks"),
        pytest.raises(InputError, match="150 mm from the middle of the patient"),
    ):
        GeometryFromRadiographsd(BiplanarGeometry())(LoadRadiographsd()(record))


def test_a_parallel_beam_takes_the_views_alone(tmp_path: Path):
    geometry = BiplanarGeometry(source_to_isocentre_mm=np.inf, source_to_detector_mm=np.inf)
    record = write_projections(tmp_path, BiplanarGeometry(views=("AP", "RL"), detector_pixels=32))
    found = GeometryFromRadiographsd(geometry)(LoadRadiographsd()(record))["geometry"]
    assert found == {"views": ("AP", "RL"), "source_to_isocentre_mm": np.inf, "source_to_detector_mm": np.inf}


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"ViewPosition": "AP"}, "View Position is AP, expected PA as the geometry says"),
        ({"DistanceSourceToPatient": 1550}, "the source is 1550 mm from the patient, expected 1600 mm"),
    ],
)
def test_training_tells_of_radiographs_that_its_geometry_does_not_fit(tmp_path: Path, tags: dict[str, Any], told: str):
    """A record without a `geometry` of its own is used with the configured one."""
    record = LoadRadiographsd()({"frontal": write_dicom(tmp_path / "a.dcm", RAMP, **tags)})
    with pytest.warns(UserWarning, match=told):
        PrepareXraysd("frontal", BiplanarGeometry(detector_pixels=16), 8.0, (1, 99), (0.0, 0.7))(record)


def test_a_batch_gives_the_network_its_geometry():
    cases = [
        {"views": ("PA", "RL"), "source_to_isocentre_mm": 1500.0 + i, "source_to_detector_mm": 1700.0} for i in (0, 1)
    ]
    batch = {"image": torch.rand(2, 2, 8, 8), "geometry": default_collate(cases)}
    prepare = PrepareRadiographsBatch(BiplanarGeometry(), known_views=[("PA", "LL")])
    xrays, target, _, arguments = prepare(batch)
    assert torch.equal(xrays, batch["image"]) and target is None
    assert arguments["geometry"].views == ("PA", "RL")
    assert arguments["geometry"].source_to_isocentre_mm.tolist() == [1500, 1501]
    cases[1]["views"] = ("PA", "LL")
    geometry = prepare({**batch, "geometry": default_collate(cases)})[3]["geometry"]
    assert [case.views for case in geometry.cases_apart()] == [("PA", "RL"), ("PA", "LL")]


def test_a_record_without_radiographs_has_the_nominal_geometry():
    found = GeometryFromRadiographsd(BiplanarGeometry())({"ct": 1})
    assert found == {"ct": 1, "geometry": {
        "views": ("PA", "LL"), "source_to_isocentre_mm": 1600.0, "source_to_detector_mm": 1800.0
    }}  # fmt: skip


# Borders and place


def chest(height: int = 60, width: int = 60) -> np.ndarray:
    """An image without a border."""
    return np.random.default_rng(0).normal(100, 20, (height, width)).clip(30, 220).astype(np.float32)


def presented(image: np.ndarray, scale: str = "presentation", **fields: Any) -> Radiograph:
    return Radiograph("radiograph", image, np.ones(image.shape, bool), scale, **fields)


@pytest.mark.parametrize("level", [0, 255])
def test_a_black_or_a_white_border_is_cropped(level: int):
    image = np.pad(chest(), ((5, 3), (0, 9)), constant_values=level)
    image[2, 10:12] = 120
    assert exposed_area(presented(image)) == (slice(5, 65), slice(0, 60))


def test_a_border_within_a_border_is_cropped():
    image = np.pad(np.pad(chest(), 4, constant_values=255), ((0, 0), (6, 6)), constant_values=0)
    assert exposed_area(presented(image)) == (slice(4, 64), slice(10, 70))


def test_an_image_without_a_border_is_left_whole():
    assert exposed_area(presented(chest())) == (slice(0, 60), slice(0, 60))


def test_air_of_an_image_with_a_unit_is_no_border():
    image = np.pad(chest(), 5, constant_values=0)
    assert exposed_area(presented(image, "line_integral")) == (slice(0, 70), slice(0, 70))


def test_what_the_file_calls_unexposed_is_cropped_and_does_not_count():
    image = np.pad(chest(), 5, constant_values=4000)
    exposed = np.pad(np.ones((60, 60), bool), 5)
    radiograph = replace(presented(image), exposed=exposed)
    assert exposed_area(radiograph) == (slice(5, 65), slice(5, 65))
    prepare = PrepareXraysd("frontal", BiplanarGeometry(detector_pixels=60), 8.0, (0, 100), (0.0, 0.7))
    assert prepare({"frontal": radiograph})["frontal"].max() <= 0.7 + 1e-6


def test_a_radiograph_lies_in_the_middle_of_the_detector_as_large_as_it_is():
    """120 mm by 240 mm on a detector of 480 mm, though a border is cropped on one side."""
    image = np.pad(chest(52, 60) + 100, ((8, 0), (0, 0)))
    radiograph = presented(image, pixel_mm=(2.0, 4.0))
    placed = place_on_detector(
        image, exposed_area(radiograph), radiograph.pixel_mm, None, BiplanarGeometry(detector_pixels=240)
    )
    rows, columns = (placed.numpy() > 50).any(axis=1), (placed.numpy() > 50).any(axis=0)
    assert (np.flatnonzero(rows)[[0, -1]] == [98, 149]).all()
    assert (np.flatnonzero(columns)[[0, -1]] == [60, 179]).all()


@pytest.mark.parametrize("dark", [True, False])
def test_a_saturated_radiograph_is_told(dark: bool):
    image = chest()
    image[:, 5:50:2] = image[5:20, ::2] = 30 if dark else 220
    prepare = PrepareXraysd("frontal", BiplanarGeometry(detector_pixels=64), 8.0, (1, 99), (0.0, 0.7))
    with pytest.warns(UserWarning, match=r"radiograph: field 'frontal' is saturated: \d+% .* expected at most 40%"):
        prepare({"frontal": presented(image)})
