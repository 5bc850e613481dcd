from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import pytest
import torch
from torch.nn.functional import avg_pool3d

from scripts import BiplanarGeometry, Region, hu_to_attenuation, lift, project
from scripts.projection.imaging import LARGEST_RATIO, Reprojection

HU_WINDOW, XRAY_SCALE, SIZE = (-1024, 1024), 8.0, 16
WHOLE = Region.whole(SIZE)


@pytest.fixture
def reprojection() -> Reprojection:
    return Reprojection(HU_WINDOW, XRAY_SCALE)


@pytest.fixture
def geometry() -> BiplanarGeometry:
    return BiplanarGeometry(detector_pixels=2 * SIZE)


def scaled(hu: torch.Tensor) -> torch.Tensor:
    return (hu + 1024) / 2048


def xrays_of(hu: torch.Tensor, geometry: BiplanarGeometry) -> torch.Tensor:
    return project(hu_to_attenuation(hu), geometry) / XRAY_SCALE


def body() -> torch.Tensor:
    """A smooth body of soft tissue in air with two lungs, in HU."""
    hu = torch.full((1, 1, SIZE, SIZE, SIZE), -1000.0)
    hu[..., 2:14, 4:12, :] = 0.0
    hu[..., 3:7, 6:10, 4:12] = hu[..., 9:13, 6:10, 4:12] = -800.0
    return avg_pool3d(hu, 3, stride=1, padding=1, count_include_pad=False)


def test_a_volume_that_agrees_with_its_xrays_needs_no_correction(reprojection: Reprojection, geometry):
    log_ratio = reprojection.log_ratio(scaled(body()), xrays_of(body(), geometry), geometry, SIZE)
    torch.testing.assert_close(log_ratio, torch.zeros_like(log_ratio), rtol=0, atol=1.3e-6)
    correction = reprojection.correction(scaled(body()), log_ratio, geometry, WHOLE)
    torch.testing.assert_close(correction, torch.zeros_like(correction), rtol=0, atol=1e-5)


def test_the_correction_of_half_the_attenuation_is_the_other_half(reprojection: Reprojection, geometry):
    water, half = torch.full((2, 1, SIZE, SIZE, SIZE), 0.0), torch.full((2, 1, SIZE, SIZE, SIZE), -500.0)
    log_ratio = reprojection.log_ratio(scaled(half), xrays_of(water, geometry), geometry, SIZE)
    correction = reprojection.correction(scaled(half), log_ratio, geometry, WHOLE)
    inside = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close((scaled(half) + correction)[inside], scaled(water)[inside], rtol=5e-3, atol=0)


def test_corrections_bring_the_films_together(reprojection: Reprojection, geometry):
    volume, xrays, errors = scaled(body().mean((2, 3), keepdim=True).expand_as(body())), xrays_of(body(), geometry), []
    for _ in range(8):
        drr = reprojection.films(reprojection.attenuation(volume), geometry, WHOLE, SIZE)
        errors.append((drr - xrays).abs().mean())
        log_ratio = reprojection.log_ratio(volume, xrays, geometry, SIZE)
        volume = volume + reprojection.correction(volume, log_ratio, geometry, WHOLE)
    assert all(later < earlier for earlier, later in zip(errors, errors[1:]))
    assert errors[-1] < 0.1 * errors[0]


def test_air_stays_air_and_ratios_keep_their_bounds(reprojection: Reprojection, geometry):
    air = torch.full((1, 1, SIZE, SIZE, SIZE), -1000.0)
    air[..., :2, 0] = -1024.0
    for xrays in (torch.ones(1, 2, 2 * SIZE, 2 * SIZE), torch.zeros(1, 2, 2 * SIZE, 2 * SIZE)):
        log_ratio = reprojection.log_ratio(scaled(air), xrays, geometry, SIZE)
        assert log_ratio.abs().max() <= log(LARGEST_RATIO) + 1e-6
        assert not reprojection.correction(scaled(air), log_ratio, geometry, WHOLE).any()


def test_the_correction_of_a_region_is_that_part_of_the_whole(reprojection: Reprojection, geometry):
    volume, region = torch.rand(1, 1, SIZE, SIZE, SIZE), Region(SIZE, (2, 0, 5), (9, 16, 6))
    log_ratio = reprojection.log_ratio(volume, torch.rand(1, 2, 2 * SIZE, 2 * SIZE), geometry, SIZE)
    part = reprojection.correction(region.of(volume), log_ratio, geometry, region)
    torch.testing.assert_close(part, region.of(reprojection.correction(volume, log_ratio, geometry, WHOLE)))


def test_the_change_is_the_geometric_mean_of_both_rays_ratios(reprojection: Reprojection, geometry):
    films = torch.tensor([log(1.5), log(0.8)])[:, None, None].expand(1, 2, 2 * SIZE, 2 * SIZE)
    correction = reprojection.correction(scaled(torch.zeros(1, 1, SIZE, SIZE, SIZE)), films, geometry, WHOLE)
    expected = 1000 / 2048 * (sqrt(1.5 * 0.8) - 1)
    torch.testing.assert_close(correction, torch.full_like(correction, expected))


def test_a_ray_that_misses_its_detector_asks_for_no_change_and_has_a_gradient(reprojection: Reprojection, geometry):
    """Turned by 20 degrees, corners of the cube cast their shadow beside the lateral detector."""
    turned = replace(geometry, angles_deg=((0.0, 0.0, 0.0), (20.0, 0.0, 0.0)))
    on_detector = lift(torch.ones(1, 2, 1, 2 * SIZE, 2 * SIZE), turned, SIZE)[0, :, 0]
    missed = (on_detector[0] == 1) & (on_detector[1] == 0)
    assert missed.any()
    films = torch.full((1, 2, 2 * SIZE, 2 * SIZE), log(1.5), requires_grad=True)
    water = scaled(torch.zeros(1, 1, SIZE, SIZE, SIZE))
    correction = reprojection.correction(water, films, turned, WHOLE)
    expected = torch.full_like(correction[0, 0][missed], 1000 / 2048 * (sqrt(1.5) - 1))
    torch.testing.assert_close(correction[0, 0][missed], expected)
    correction.sum().backward()
    assert torch.isfinite(films.grad).all()
