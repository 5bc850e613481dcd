from __future__ import annotations

import pytest
import torch

from scripts import MultiScaleXrayEncoder

CHANNELS = (8, 6, 4)


@pytest.fixture
def encoder() -> MultiScaleXrayEncoder:
    return MultiScaleXrayEncoder(CHANNELS, unet_channels=(8, 16)).eval()


@pytest.fixture
def xrays() -> torch.Tensor:
    return torch.rand(2, 2, 64, 64)


@torch.no_grad()
def features(encoder: MultiScaleXrayEncoder, xrays: torch.Tensor, levels: int = 3) -> list[torch.Tensor]:
    return encoder(xrays, levels)


def test_the_levels_are_a_quarter_a_half_and_the_whole_of_the_resolution(encoder, xrays):
    shapes = [tuple(level.shape) for level in features(encoder, xrays)]
    assert shapes == [(2, 2, channels, pixels, pixels) for channels, pixels in zip(CHANNELS, (16, 32, 64))]


@pytest.mark.parametrize("levels", [1, 2])
def test_fewer_levels_are_the_first_of_all(encoder, xrays, levels: int):
    assert all(torch.equal(a, b) for a, b in zip(features(encoder, xrays, levels), features(encoder, xrays)))
    assert len(features(encoder, xrays, levels)) == levels


def test_both_views_share_the_weights(encoder, xrays):
    for straight, swapped in zip(features(encoder, xrays), features(encoder, xrays.flip(1))):
        torch.testing.assert_close(straight.flip(1), swapped)


def test_each_xray_is_encoded_by_itself(encoder, xrays):
    together = features(encoder, xrays)
    for case in range(2):
        for view in range(2):
            alone = features(encoder, xrays[case : case + 1, view : view + 1])
            for level, single in zip(together, alone):
                torch.testing.assert_close(level[case, view], single[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_level_sees_every_pixel_of_the_xrays(encoder, xrays, level: int):
    xrays.requires_grad_()
    encoder(xrays, 3)[level].square().sum().backward()
    assert xrays.grad.ne(0).all()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_learns_from_those_below_it_and_from_none_above(encoder, xrays, level: int):
    encoder(xrays, 3)[level].square().sum().backward()
    reached = [any(p.grad is not None and p.grad.any() for p in part.parameters()) for part in encoder.levels]
    assert reached == [k <= level for k in range(3)]
