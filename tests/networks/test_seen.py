"""Pixels that no radiograph shows: what stands there is a guess, and no evidence in the corrections by reprojection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from scripts import BiplanarGeometry, FinalVolumeModel, ProgressiveCascadeModel
from scripts.networks.cascade import mirrored_xrays

Build = Callable[..., ProgressiveCascadeModel]
XRAYS = torch.rand((1, 2, 128, 128), generator=torch.Generator().manual_seed(1))
SEEN = torch.ones_like(XRAYS, dtype=torch.bool)
SEEN[:, 0, :, :40], SEEN[:, 1, 100:] = False, False


@pytest.fixture
def cascade(small_cascade: Build, awaken: Callable) -> ProgressiveCascadeModel:
    return tissue(awaken(small_cascade()))


def tissue(model: ProgressiveCascadeModel) -> ProgressiveCascadeModel:
    """Its first volume is tissue: air is not corrected."""
    torch.nn.init.constant_(model.stages[0].to_volume.conv.bias, 0.5)
    return model.eval()


@torch.no_grad()
def run(model: ProgressiveCascadeModel, *inputs, **arguments) -> list[torch.Tensor]:
    return model(*inputs, **arguments)


def test_where_everything_is_seen_nothing_changes(cascade):
    for plain, given in zip(run(cascade, XRAYS), run(cascade, XRAYS, seen=torch.ones_like(SEEN))):
        assert torch.equal(plain, given)


def test_corrections_do_not_depend_on_what_was_not_measured(cascade):
    stage, volume = cascade.stages[0], torch.rand((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(2))
    other = XRAYS.where(SEEN, 0.0)
    updates = [stage.updated(volume, xrays, cascade.geometry, seen=SEEN) for xrays in (XRAYS, other)]
    assert torch.equal(*updates)
    assert not torch.equal(*(stage.updated(volume, xrays, cascade.geometry) for xrays in (XRAYS, other)))


def test_every_stage_is_told(cascade):
    plain, given = run(cascade, XRAYS), run(cascade, XRAYS, seen=SEEN)
    assert not any(torch.equal(one, other) for one, other in zip(plain, given))


def test_rl_is_the_mirror_of_ll_with_mirrored_seen(cascade):
    ll, rl = (BiplanarGeometry(detector_pixels=128, views=("PA", view)) for view in ("LL", "RL"))
    of_ll = run(cascade, mirrored_xrays(XRAYS), ll, seen=mirrored_xrays(SEEN))
    for one, other in zip(of_ll, run(cascade, XRAYS, rl, seen=SEEN)):
        assert torch.equal(one.flip(2), other)


def test_the_single_volume_model_passes_it_on(small_cascade: Build, awaken: Callable):
    model = tissue(awaken(small_cascade(FinalVolumeModel, stages=2)))
    with torch.no_grad():
        assert not torch.equal(model(XRAYS), model(XRAYS, seen=SEEN))
        assert torch.equal(
            model(XRAYS, seen=SEEN), ProgressiveCascadeModel.forward(model, XRAYS, stages=2, seen=SEEN)[-1]
        )
