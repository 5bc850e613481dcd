"""One X-ray alone: the other is masked, and nothing of it reaches the volume."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phantoms import chest_imaging
from scripts import FinalVolumeModel, InputError, ProgressiveCascadeModel, Region
from scripts.projection.geometry import signs_of_views

MASKED = {"frontal": 1, "lateral": 0}
"""The view that is masked, by the one that is given alone."""
ALL = ["xrays", "features", "positions", "reprojection", "anatomy"]


@pytest.fixture
def xrays() -> torch.Tensor:
    return torch.rand(3, 2, 128, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(small_cascade, awaken) -> ProgressiveCascadeModel:
    """With every input feature, each of which takes part."""
    return awaken(small_cascade(evidence=ALL, mirror_averaging=True)).eval()


@torch.no_grad()
def run(network: ProgressiveCascadeModel, xrays: torch.Tensor, **further) -> list[torch.Tensor]:
    return network(xrays, **further)


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("only", MASKED)
def test_no_pixel_of_the_masked_xray_changes_a_bit_of_any_volume(network, xrays, only: str):
    """Not even what is no number."""
    first, other = xrays[:1], xrays[:1].clone()
    other[:, MASKED[only], :64], other[:, MASKED[only], 64:] = 1e30, torch.nan
    alone = run(network, first, only=[only])
    assert same(run(network, other, only=[only]), alone)
    assert not any(torch.equal(a, b) for a, b in zip(alone, run(network, first)))


def test_a_masked_xray_gets_no_gradient_and_no_parameter_lacks_one(network, xrays):
    """As processes that train together want it: what belongs to the masked view alone has a gradient of zero."""
    xrays = xrays[:1].requires_grad_(True)
    network.train()
    sum(volume.square().mean() for volume in network(xrays, stages=2, only=["frontal"])).backward()
    assert xrays.grad[:, 0].any() and not xrays.grad[:, 1].any()
    frontal, lateral = network.stages[0].stem.of_features
    assert frontal.weight.grad.any() and lateral.weight.grad is not None and not lateral.weight.grad.any()
    idle = ("stages.0.context.stem.of_anatomy", "stages.1.context.stem.of_anatomy", "stages.1.stem.of_anatomy")
    lacking = [name for name, each in network.up_to(2).named_parameters() if each.grad is None]
    assert all(name.startswith(idle) for name in lacking)  # there is no anatomy here


@pytest.mark.parametrize("attention", ["ray", "dense", "none"])
def test_with_both_xrays_the_volumes_are_those_of_a_network_that_is_not_told(small_cascade, awaken, xrays, attention):
    network = awaken(small_cascade(attention=attention)).eval()
    assert same(run(network, xrays[:1], only=[None], stages=1), run(network, xrays[:1], stages=1))
    frontal, lateral = (run(network, xrays[:1], only=[only], stages=1)[0] for only in MASKED)
    assert not torch.equal(frontal, lateral)


def test_in_a_batch_each_entry_has_its_own_xrays(network, xrays):
    """Also where the geometries differ, one lateral view is RL, and a region is wanted of the last volume."""
    geometry = replace(network.geometry, views=signs_of_views([("PA", "LL"), ("AP", "RL"), ("PA", "RL")]))
    region, only = Region(64, (2, 0, 6), (12, 8, 16)), ["lateral", None, "frontal"]
    anatomy = torch.rand(3, 2, 16, 16, 16)
    together = run(network, xrays, geometry=geometry, region=region, anatomy=anatomy, only=only)
    for entry in range(3):
        own = {"geometry": geometry.of_case(entry), "region": region, "anatomy": anatomy[entry : entry + 1]}
        alone = run(network, xrays[entry : entry + 1], only=only[entry : entry + 1], **own)
        for both, one in zip(together, alone):
            torch.testing.assert_close(both[entry : entry + 1], one, rtol=1e-4, atol=1e-5)


def test_one_views_update_is_the_ratio_along_its_rays_and_that_of_two_the_geometric_mean():
    imaging = chest_imaging(64)
    volume, region = torch.rand(1, 1, 16, 16, 16) * 0.5 + 0.3, Region.whole(16)
    log_ratio = torch.stack([torch.full((1, 32, 32), 2.0), torch.full((1, 32, 32), 0.5)], dim=1).log()
    above_air = volume - 24 / 2048
    for given, factor in (((0,), 2.0), ((1,), 0.5), ((0, 1), 1.0)):
        update = imaging.correction(volume, log_ratio, region, given=given)
        torch.testing.assert_close(update, above_air * (factor - 1), rtol=1e-4, atol=1e-5)


def test_the_final_volume_alone_is_that_of_the_cascade(small_cascade, awaken, xrays):
    network = awaken(small_cascade(FinalVolumeModel, stages=2)).eval()
    expected = run(awaken(small_cascade()).eval(), xrays[:1], stages=2, only=["lateral"])[-1]
    with torch.no_grad():
        assert torch.equal(network(xrays[:1], only=["lateral"]), expected)


@pytest.mark.parametrize("only", [["PA"], ["frontal", "lateral"], [1]])
def test_what_names_no_xray_or_is_of_other_entries_is_refused(small_cascade, xrays, only: list):
    with pytest.raises(InputError, match="expected one of frontal, lateral or None for each of the 3 batch entries"):
        small_cascade()(xrays, only=only if len(only) > 1 else only * 3)
