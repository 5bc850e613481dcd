"""What a real exposure adds to projections, at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts import ContinueBeyondBorderd, RandLimbsd, RandLocalContrastd, RandScatterd
from scripts.radiographs.scatter import without_scatter
from scripts.radiographs.unseen import AIR_INTEGRAL, SKIN_MM

SIDE, SCALE, DETECTOR_MM = 64, 8.0, 480.0


def xrays() -> torch.Tensor:
    return 0.8 * torch.rand((2, SIDE, SIDE), generator=torch.Generator().manual_seed(3))


def test_scatter_is_undone_by_its_inverse_and_only_ever_lowers_the_largest_values():
    given, width, ratio = xrays(), 30.0, 0.4
    read = RandScatterd("xrays", SCALE, DETECTOR_MM, (ratio, ratio), (width, width), prob=1.0)({"xrays": given})[
        "xrays"
    ]
    assert read.dtype == given.dtype and read.shape == given.shape
    for before, after in zip(given.numpy(), read.double().numpy()):
        primary = without_scatter(SCALE * after, ratio, width, DETECTOR_MM / SIDE) / SCALE
        assert np.abs(primary - before).max() < 2e-3
    assert (read.amax((1, 2)) < given.amax((1, 2))).all()


def test_bands_of_weight_1_are_the_image_and_an_even_image_has_none():
    given = xrays()
    as_it_is = RandLocalContrastd("xrays", (4, 16), ((1, 1), (1, 1)), prob=1.0)({"xrays": given})["xrays"]
    torch.testing.assert_close(as_it_is, given, rtol=0, atol=1e-6)
    even = torch.full((2, SIDE, SIDE), 0.3)
    changed = RandLocalContrastd("xrays", (4, 16), ((0, 3), (0, 3)), prob=1.0)({"xrays": even})["xrays"]
    torch.testing.assert_close(changed, even, rtol=0, atol=1e-6)


def test_the_finest_band_is_weighted_alone():
    """A chessboard, whose blocks of four have one mean, is all in the last band."""
    board = 0.5 + 0.1 * (torch.arange(SIDE)[:, None] + torch.arange(SIDE)).remainder(2).mul(2).sub(1)
    changed = RandLocalContrastd("xrays", (4, 16), ((1, 1), (2, 2)), prob=1.0)({"xrays": board.expand(2, -1, -1)})
    torch.testing.assert_close(changed["xrays"] - 0.5, 2 * (board - 0.5).expand(2, -1, -1), rtol=0, atol=1e-6)


def test_other_numbers_of_ranges_than_bands_are_refused():
    with pytest.raises(ValueError, match="weights has 1 ranges, expected 2"):
        RandLocalContrastd("xrays", (4, 16), ((1, 1),), prob=1.0)


def test_limbs_only_add_and_lie_about_the_border():
    limbs, given = RandLimbsd("xrays", 4, (0.1, 0.4), prob=1.0).set_random_state(seed=0), torch.zeros(2, SIDE, SIDE)
    added = torch.stack([limbs({"xrays": given})["xrays"] for _ in range(100)])
    assert added.min() == 0 and 0.1 < added.max() < 4 * 0.4
    often = (added > 0).float().mean((0, 1))
    assert often[:8].mean() > 2 * often[28:36, 28:36].mean()


@pytest.mark.parametrize("transform", [
    RandScatterd("xrays", SCALE, DETECTOR_MM, (0.1, 0.5), (20, 60), prob=1.0),
    RandLocalContrastd("xrays", (4, 16), ((0.5, 2), (0.5, 2)), prob=1.0),
    RandLimbsd("xrays", 4, (0.1, 0.4), prob=1.0),
])  # fmt: skip
def test_a_seed_decides_and_both_views_differ(transform):
    once, again = (transform.set_random_state(seed=5)({"xrays": xrays()})["xrays"] for _ in range(2))
    assert torch.equal(once, again)
    alike = transform.set_random_state(seed=5)({"xrays": xrays()[:1].expand(2, -1, -1)})["xrays"]
    assert not torch.equal(alike[0], alike[1])


def test_beyond_the_border_the_values_go_on_and_fade():
    seen = torch.zeros((2, SIDE, SIDE), dtype=torch.bool)
    seen[0, :, 10:], seen[1] = True, True
    given = xrays().clamp(min=0.5)
    record = {"xrays": given.where(seen, 0.0), "exposed": seen}
    found = ContinueBeyondBorderd("xrays", "exposed", SCALE, DETECTOR_MM)(record)["xrays"]
    assert torch.equal(found[seen], given[seen])
    beyond = SCALE * given[0, :, 10] * torch.tensor(-DETECTOR_MM / SIDE / SKIN_MM).exp() - AIR_INTEGRAL
    torch.testing.assert_close(SCALE * found[0, :, 9], beyond.clamp(min=0), rtol=1e-5, atol=1e-5)
    assert (found[0, :, :9].diff(dim=1) >= 0).all()
