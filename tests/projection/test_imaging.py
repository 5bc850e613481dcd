from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log, sqrt

import pytest
import torch
from torch.nn.functional import avg_pool3d

from scripts import BiplanarGeometry, ImagingModel, InputError, Region, hu_to_attenuation, lift, project

HU_WINDOW, XRAY_SCALE, SIZE = (-1024, 1024), 8.0, 16
WHOLE = Region.whole(SIZE)


@pytest.fixture
def imaging(geometry: BiplanarGeometry) -> ImagingModel:
    return ImagingModel(geometry, HU_WINDOW, XRAY_SCALE)


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


@pytest.mark.parametrize(("window", "middle"), [((-1024, 1024), 0.0), ([-1000, 500], -250.0)])
def test_the_ends_of_the_scale_are_the_ends_of_the_window(geometry, window: Sequence[float], middle: float):
    imaging, scaled = ImagingModel(geometry, window, XRAY_SCALE), torch.tensor([0.0, 0.5, 1.0])
    assert imaging.to_hu(scaled).tolist() == [window[0], middle, window[1]]
    assert torch.equal(imaging.scale(imaging.to_hu(scaled)), scaled)
    assert imaging.scale(torch.tensor([-3024.0, 3071.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("window", "scale", "named"),
    [((1024, -1024), 8.0, "hu_window"), ((0,), 8.0, "hu_window"), ((0, 1), 0, "xray_scale")],
)
def test_a_scale_that_is_none_is_refused(geometry, window: Sequence[float], scale: float, named: str):
    with pytest.raises(InputError, match=f"{named} is .*expected"):
        ImagingModel(geometry, window, scale)


def test_a_volume_that_agrees_with_its_xrays_needs_no_update(imaging: ImagingModel, geometry):
    log_ratio = imaging.log_ratio(scaled(body()), xrays_of(body(), geometry), 2 * SIZE)
    torch.testing.assert_close(log_ratio, torch.zeros_like(log_ratio), rtol=0, atol=1.3e-6)
    update = imaging.correction(scaled(body()), log_ratio, WHOLE)
    torch.testing.assert_close(update, torch.zeros_like(update), rtol=0, atol=1e-5)


def test_the_update_of_half_the_attenuation_is_the_other_half(imaging: ImagingModel, geometry):
    water, half = torch.full((2, 1, SIZE, SIZE, SIZE), 0.0), torch.full((2, 1, SIZE, SIZE, SIZE), -500.0)
    log_ratio = imaging.log_ratio(scaled(half), xrays_of(water, geometry), 2 * SIZE)
    update = imaging.correction(scaled(half), log_ratio, WHOLE)
    inside = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close((scaled(half) + update)[inside], scaled(water)[inside], rtol=5e-3, atol=0)


def test_updates_bring_the_projections_together(imaging: ImagingModel, geometry):
    volume, xrays, errors = scaled(body().mean((2, 3), keepdim=True).expand_as(body())), xrays_of(body(), geometry), []
    for _ in range(8):
        drr = imaging.project_region(imaging.attenuation(volume), WHOLE, 2 * SIZE)
        errors.append((drr - xrays).abs().mean())
        log_ratio = imaging.log_ratio(volume, xrays, 2 * SIZE)
        volume = volume + imaging.correction(volume, log_ratio, WHOLE)
    assert all(later < earlier for earlier, later in zip(errors, errors[1:]))
    assert errors[-1] < 0.1 * errors[0]


def test_air_stays_air_and_ratios_keep_their_bounds(imaging: ImagingModel, geometry):
    air = torch.full((1, 1, SIZE, SIZE, SIZE), -1000.0)
    air[..., :2, 0] = -1024.0
    for value, bound in ((1.0, log(4)), (0.0, 0.0)):
        log_ratio = imaging.log_ratio(scaled(air), torch.full((1, 2, 2 * SIZE, 2 * SIZE), value), 2 * SIZE)
        assert log_ratio.max().item() == pytest.approx(bound, abs=1e-6)
        assert not imaging.correction(scaled(air), log_ratio, WHOLE).any()


def test_the_update_of_a_region_is_that_region_of_the_update(imaging: ImagingModel, geometry):
    volume, region = torch.rand(1, 1, SIZE, SIZE, SIZE), Region(SIZE, (2, 0, 5), (9, 16, 6))
    log_ratio = imaging.log_ratio(volume, torch.rand(1, 2, 2 * SIZE, 2 * SIZE), 2 * SIZE)
    part = imaging.correction(region.of(volume), log_ratio, region)
    torch.testing.assert_close(part, region.of(imaging.correction(volume, log_ratio, WHOLE)))


def test_the_change_is_the_geometric_mean_of_both_rays_ratios(imaging: ImagingModel, geometry):
    log_ratio = torch.tensor([log(1.5), log(0.8)])[:, None, None].expand(1, 2, 2 * SIZE, 2 * SIZE)
    update = imaging.correction(scaled(torch.zeros(1, 1, SIZE, SIZE, SIZE)), log_ratio, WHOLE)
    expected = 1000 / 2048 * (sqrt(1.5 * 0.8) - 1)
    torch.testing.assert_close(update, torch.full_like(update, expected))


def test_a_ray_that_misses_its_detector_asks_for_no_change_and_has_a_gradient(imaging: ImagingModel, geometry):
    """In a view that is rotated by 20 degrees, corners of the volume fall beside the lateral detector."""
    rotated = replace(geometry, angles_deg=((0.0, 0.0, 0.0), (20.0, 0.0, 0.0)))
    on_detector = lift(torch.ones(1, 2, 1, 2 * SIZE, 2 * SIZE), rotated, SIZE)[0, :, 0]
    missed = (on_detector[0] == 1) & (on_detector[1] == 0)
    assert missed.any()
    log_ratio = torch.full((1, 2, 2 * SIZE, 2 * SIZE), log(1.5), requires_grad=True)
    water = scaled(torch.zeros(1, 1, SIZE, SIZE, SIZE))
    update = imaging.correction(water, log_ratio, WHOLE, rotated)
    expected = torch.full_like(update[0, 0][missed], 1000 / 2048 * (sqrt(1.5) - 1))
    torch.testing.assert_close(update[0, 0][missed], expected)
    update.sum().backward()
    assert torch.isfinite(log_ratio.grad).all()
