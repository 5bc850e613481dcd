"""A region of a volume is projected and backprojected as in the whole volume."""

from __future__ import annotations

import pytest
import torch

from scripts import BiplanarGeometry, InputError, Region, lift, project

REGIONS = [
    Region(20, (0, 0, 0), (20, 20, 20)),
    Region(20, (3, 8, 1), (11, 20, 6)),
    Region(20, (0, 4, 7), (20, 5, 19)),
]
ANGLES = [((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((5.0, -3.0, 2.0), (-4.0, 6.0, 0.0))]


@pytest.mark.parametrize("angles", ANGLES, ids=["along the axes", "oblique"])
@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_a_region_is_projected_as_the_volume_that_is_zero_elsewhere(region: Region, angles: tuple):
    geometry = BiplanarGeometry(detector_pixels=32, angles_deg=angles)
    part = torch.rand(2, 1, *region.shape, dtype=torch.float64)
    volume = torch.zeros(2, 1, 20, 20, 20, dtype=torch.float64)
    region.of(volume).copy_(part)
    torch.testing.assert_close(project(part, geometry, region), project(volume, geometry))


@pytest.mark.parametrize("angles", ANGLES, ids=["along the axes", "oblique"])
@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_the_backprojection_into_a_region_is_that_of_the_whole(region: Region, angles: tuple):
    geometry = BiplanarGeometry(detector_pixels=32, angles_deg=angles)
    features = torch.rand(2, 2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(lift(features, geometry, 20, region), region.of(lift(features, geometry, 20)))


def test_the_gradients_of_a_region_are_those_of_finite_differences():
    small = Region(4, (0, 1, 1), (3, 4, 3))
    geometry = BiplanarGeometry(detector_pixels=5)
    part = torch.rand(1, 1, *small.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda mu: project(mu, geometry, small), part, eps=1e-3, atol=1e-6)
    features = torch.rand(1, 2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: lift(f, geometry, 4, small), features, eps=1e-3, atol=1e-6)


def test_projections_of_the_parts_add_up_to_that_of_the_whole():
    geometry = BiplanarGeometry(detector_pixels=32)
    volume = torch.rand(1, 1, 20, 20, 20, dtype=torch.float64)
    parts = [project(slab.of(volume), geometry, slab) for slab in Region.whole(20).slabs(3)]
    torch.testing.assert_close(sum(parts), project(volume, geometry))


def test_slabs_are_the_region_without_overlap():
    covered = torch.zeros(20, 20, 20)
    region = REGIONS[1]
    for slab in region.slabs(3):
        slab.of(covered).add_(1)
    assert covered.sum() == region.of(covered).sum() == region.of(covered).numel()


def test_a_widened_region_stays_in_the_volume_and_cuts_the_region_out_again():
    region = REGIONS[1]
    wide = region.widened(2, multiple=2)
    assert wide.start == (0, 6, 0)
    assert wide.stop == (14, 20, 8)
    volume = torch.rand(20, 20, 20)
    assert torch.equal(region.within(wide).of(wide.of(volume)), region.of(volume))


@pytest.mark.parametrize(("start", "stop"), [((0, 0, 0), (0, 4, 4)), ((-1, 0, 0), (4, 4, 4)), ((0, 0, 0), (21, 4, 4))])
def test_what_is_not_in_the_volume_is_refused(start: tuple, stop: tuple):
    with pytest.raises(ValueError, match="20 voxels"):
        Region(20, start, stop)


def test_a_volume_that_is_not_the_regions_is_refused():
    with pytest.raises(InputError, match=r"\(1, 1, 4, 4, 4\).*\(8, 12, 5\)"):
        project(torch.zeros(1, 1, 4, 4, 4), BiplanarGeometry(detector_pixels=32), REGIONS[1])
