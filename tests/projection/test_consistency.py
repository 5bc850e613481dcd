from __future__ import annotations

from dataclasses import replace
from math import pi, sqrt

import numpy as np
import pytest
import torch

from phantoms import asymmetric_body
from scripts import BiplanarGeometry, InputError, project
from scripts.projection.consistency import EpipolarPlanes, relative_difference

GEOMETRY = BiplanarGeometry(detector_pixels=128)
VIEWS = [(frontal, lateral) for frontal in ("AP", "PA") for lateral in ("LL", "RL")]
ROTATED = {
    "yaw": ((10.0, 0.0, 0.0), (-4.0, 0.0, 0.0)),
    "roll": ((0.0, 0.0, 5.0), (0.0, 0.0, -8.0)),
    "all": ((12.0, -5.0, 4.0), (-6.0, 3.0, 7.0)),
}
ATTENUATION = asymmetric_body(96)
"""Off the middle and unlike its mirror images; it ends well within the planes that both detectors hold."""


def projected(geometry: BiplanarGeometry) -> np.ndarray:
    return project(ATTENUATION, geometry)[0].numpy()


def difference(geometry: BiplanarGeometry, xrays: np.ndarray) -> float:
    return relative_difference(EpipolarPlanes(geometry).integrals(xrays))


def moved(image: np.ndarray, mm: float) -> np.ndarray:
    """Lower on the detector, by linear interpolation; air comes in."""
    rows = np.arange(len(image)) - mm / GEOMETRY.pixel_mm
    return np.stack([np.interp(rows, np.arange(len(image)), column, 0, 0) for column in image.T], axis=1)


@pytest.mark.parametrize("views", VIEWS)
def test_projections_of_one_body_agree_in_every_plane_and_mistaken_ones_do_not(views: tuple[str, str]):
    geometry = replace(GEOMETRY, views=views)
    frontal, lateral = projected(geometry)
    agreement = difference(geometry, np.stack([frontal, lateral]))
    assert agreement < 0.003
    mistaken = {"mirrored": (frontal, lateral[:, ::-1]), "shifted": (frontal, moved(lateral, 5.0))}
    if views in (("AP", "RL"), ("PA", "LL")):
        mistaken["exchanged"] = (lateral, frontal)
    found = {name: difference(geometry, np.stack(pair)) for name, pair in mistaken.items()}
    assert min(found.values()) > 5 * agreement, found


@pytest.mark.parametrize("views", [("AP", "LL"), ("PA", "RL")])
def test_of_these_views_exchanged_images_are_as_consistent(views: tuple[str, str]):
    """
    Columns of both run alike to the other's source, so that both integrals are the same function of their image: the
    condition holds of the exchanged pair exactly where it holds of the pair.
    """
    geometry = replace(GEOMETRY, views=views)
    frontal, lateral = np.random.default_rng(0).random((2, 128, 128))
    planes = EpipolarPlanes(geometry)
    exchanged = planes.integrals(np.stack([lateral, frontal]))
    np.testing.assert_allclose(planes.integrals(np.stack([frontal, lateral]))[::-1], exchanged, rtol=1e-6)


@pytest.mark.parametrize("angles", ROTATED.values(), ids=ROTATED.keys())
def test_rotated_views_agree_in_the_planes_of_their_own_geometry(angles: tuple):
    geometry = replace(GEOMETRY, angles_deg=angles, detector_size_mm=600.0, detector_pixels=160)
    xrays = projected(geometry)
    planes = EpipolarPlanes(geometry)
    frontal, lateral = planes.integrals(xrays)
    assert relative_difference(np.stack([frontal, lateral])) < 0.003
    np.testing.assert_allclose(frontal, lateral, atol=0.01 * frontal.max())  # without a common factor as well
    untold = replace(geometry, angles_deg=GEOMETRY.angles_deg)
    assert difference(untold, xrays) > 2 * difference(geometry, xrays)


def test_the_central_plane_of_a_ball_has_the_integral_of_its_formula():
    """Of a / r over a disc of radius R, its middle d from the baseline, the integral is 2 pi a (d - sqrt(d² - R²))."""
    radius_mm, attenuation, size = 90.0, 0.02, 128
    side = (torch.arange(size) + 0.5) * GEOMETRY.fov_mm / size - GEOMETRY.fov_mm / 2
    x, y, z = torch.meshgrid(side, side, side, indexing="ij")
    ball = attenuation * (radius_mm - (x**2 + y**2 + z**2).sqrt() + 0.5).clamp(0, 1)
    planes = EpipolarPlanes(GEOMETRY, count=3)
    assert planes.slopes[1] == 0
    assert planes.isocentre_mm == pytest.approx(GEOMETRY.source_to_isocentre_mm / sqrt(2))
    distance = planes.isocentre_mm
    expected = 2 * pi * attenuation * (distance - sqrt(distance**2 - radius_mm**2))
    found = planes.integrals(project(ball[None, None], GEOMETRY)[0].numpy())[:, 1]
    np.testing.assert_allclose(found, expected, rtol=0.01)


@pytest.mark.parametrize("angles", [GEOMETRY.angles_deg, ROTATED["all"]], ids=["along_axes", "rotated"])
def test_the_slopes_at_pixels_are_those_whose_lines_run_there(angles: tuple):
    geometry = replace(GEOMETRY, angles_deg=angles, detector_size_mm=600.0)
    planes = EpipolarPlanes(geometry, count=9)
    for slopes, positions in zip(planes.slopes_at_pixels(geometry), planes.positions):
        rows, columns = positions
        assert rows.min() > -1e-6 and rows.max() < geometry.detector_pixels - 1 + 1e-6  # the detector holds them
        for column in (0, 50, geometry.detector_pixels - 1):
            np.testing.assert_allclose(columns[:, column], column, atol=1e-9)
            at_rows = np.interp(rows[:, column], np.arange(geometry.detector_pixels), slopes[:, column])
            np.testing.assert_allclose(at_rows, planes.slopes, atol=1e-5)


def test_a_plane_rises_towards_superior():
    slopes = EpipolarPlanes(GEOMETRY).slopes_at_pixels(GEOMETRY)
    assert (np.diff(slopes, axis=1) < 0).all()  # rows run to inferior


def test_a_factor_of_one_view_is_no_difference():
    xrays = projected(GEOMETRY)
    scaled = xrays * np.array([1.0, 3.0])[:, None, None]
    assert difference(GEOMETRY, scaled) == pytest.approx(difference(GEOMETRY, xrays), rel=1e-5)


@pytest.mark.parametrize(
    "geometry",
    [
        BiplanarGeometry(source_to_isocentre_mm=np.inf, source_to_detector_mm=np.inf),
        BiplanarGeometry(source_to_isocentre_mm=torch.tensor([1600.0, 1590.0])),
    ],
    ids=["parallel", "batch"],
)
def test_a_parallel_beam_and_a_batch_are_refused(geometry: BiplanarGeometry):
    with pytest.raises(InputError, match="expected one cone-beam pair"):
        EpipolarPlanes(geometry)
