from __future__ import annotations

import pytest
import torch
from scripts import BiplanarGeometry, Region, hu_to_attenuation, project
from scripts.reprojection import LARGEST_RATIO, Reprojection
from torch.nn.functional import avg_pool3d

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
    ratio = reprojection.ratio(scaled(body()), xrays_of(body(), geometry), geometry, SIZE)
    torch.testing.assert_close(ratio, torch.ones_like(ratio))
    correction = reprojection.correction(scaled(body()), ratio, geometry, WHOLE)
    torch.testing.assert_close(correction, torch.zeros_like(correction), rtol=0, atol=1e-5)


def test_the_correction_of_half_the_attenuation_is_the_other_half(reprojection: Reprojection, geometry):
    water, half = torch.full((2, 1, SIZE, SIZE, SIZE), 0.0), torch.full((2, 1, SIZE, SIZE, SIZE), -500.0)
    ratio = reprojection.ratio(scaled(half), xrays_of(water, geometry), geometry, SIZE)
    correction = reprojection.correction(scaled(half), ratio, geometry, WHOLE)
    inside = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close((scaled(half) + correction)[inside], scaled(water)[inside], rtol=5e-3, atol=0)


def test_corrections_bring_the_films_together(reprojection: Reprojection, geometry):
    volume, xrays, errors = scaled(body().mean((2, 3), keepdim=True).expand_as(body())), xrays_of(body(), geometry), []
    for _ in range(8):
        drr = reprojection.films(reprojection.attenuation(volume), geometry, WHOLE, SIZE)
        errors.append((drr - xrays).abs().mean())
        ratio = reprojection.ratio(volume, xrays, geometry, SIZE)
        volume = volume + reprojection.correction(volume, ratio, geometry, WHOLE)
    assert all(later < earlier for earlier, later in zip(errors, errors[1:]))
    assert errors[-1] < 0.1 * errors[0]


def test_air_stays_air_and_ratios_keep_their_bounds(reprojection: Reprojection, geometry):
    air = torch.full((1, 1, SIZE, SIZE, SIZE), -1000.0)
    air[..., :2, 0] = -1024.0
    for xrays in (torch.ones(1, 2, 2 * SIZE, 2 * SIZE), torch.zeros(1, 2, 2 * SIZE, 2 * SIZE)):
        ratio = reprojection.ratio(scaled(air), xrays, geometry, SIZE)
        assert 1 / LARGEST_RATIO <= ratio.min() <= ratio.max() <= LARGEST_RATIO
        assert not reprojection.correction(scaled(air), ratio, geometry, WHOLE).any()


def test_the_correction_of_a_region_is_that_part_of_the_whole(reprojection: Reprojection, geometry):
    volume, region = torch.rand(1, 1, SIZE, SIZE, SIZE), Region(SIZE, (2, 0, 5), (9, 16, 6))
    ratio = reprojection.ratio(volume, torch.rand(1, 2, 2 * SIZE, 2 * SIZE), geometry, SIZE)
    part = reprojection.correction(region.of(volume), ratio, geometry, region)
    torch.testing.assert_close(part, region.of(reprojection.correction(volume, ratio, geometry, WHOLE)))
