from __future__ import annotations

import sys

import pytest
import torch

from bundle_runs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import anatomy  # noqa: E402


def test_the_difference_is_that_of_both_windows():
    """Water and air differ by all of 1000 of 1200 HU in one window, and by nothing in that of bone."""
    water, air = (torch.full((1, 1, 48, 48, 48), hu) for hu in (0.0, -1000.0))
    assert anatomy.difference(water, air) == pytest.approx((1000 / 1200) ** 2 / 2, rel=1e-5)


def chest(collapsed: bool) -> torch.Tensor:
    """Two lungs in a body with a spine; the upper third of the right one, where X is high, may be soft tissue."""
    hu = torch.full((48, 48, 48), -1000.0)
    hu[4:44, 8:40] = 40.0
    hu[22:26, 9:13] = 600.0
    for lung in (slice(8, 20), slice(28, 40)):
        hu[lung, 14:34, 6:42] = -850.0
    if collapsed:
        hu[28:40, 14:34, 30:42] = 30.0
    return hu


def test_the_diseased_region_is_what_is_dense_where_the_other_side_has_lung():
    """At voxels of 4 mm the opening's ball has a radius of two, so that the edges of the block are rounded."""
    diseased, healthy = anatomy.diseased_region(chest(collapsed=True), fov_mm=192.0)
    block = chest(collapsed=True) != chest(collapsed=False)
    assert not (diseased & ~block).any() and diseased.sum() > 0.8 * block.sum()
    assert torch.equal(healthy, diseased.flip(0))
    assert (chest(collapsed=True)[healthy] == -850).all()
