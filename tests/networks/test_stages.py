from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import avg_pool3d, interpolate

from phantoms import chest_imaging
from scripts import (
    BiplanarGeometry,
    Region,
    Stage1Base64,
    Stage2Refiner128,
    Stage3Refiner256,
    hu_to_attenuation,
    project,
)
from scripts.networks.stages import VolumeStage
from scripts.projection.resampling import high_band, upsample, upsample_region

Build = Callable[[torch.nn.Module], torch.nn.Module]
CONTEXT = {
    "size": 16,
    "tokens": 4,
    "channels": (8, 8, 8),
    "num_layers": 1,
    "num_heads": 2,
    "hidden_size": 16,
    "mlp_dim": 32,
    "feature_pixels": 64,
    "attention": "ray",
}
IMAGING = chest_imaging(64)
SIZES = {"size": 32, "imaging": IMAGING, "context": CONTEXT, "local_channels": 6, "feature_channels": 8}
FIRST = {**SIZES, "size": 16, "consistency_steps": 2}
LAST = {**SIZES, "detail_channels": 8}
REFINERS = pytest.mark.parametrize(
    ("kind", "sizes"), [(Stage2Refiner128, SIZES), (Stage3Refiner256, LAST)], ids=["stage 2", "stage 3"]
)
REGION = Region(32, (3, 10, 21), (12, 32, 30))


@pytest.fixture
def geometry() -> BiplanarGeometry:
    return BiplanarGeometry(detector_pixels=64)


@pytest.fixture
def evidence() -> tuple[torch.Tensor, torch.Tensor]:
    """Features and X-rays of one case."""
    return torch.randn(1, 2, 8, 64, 64), torch.rand(1, 2, 64, 64)


@pytest.fixture
def previous() -> torch.Tensor:
    return torch.rand(1, 1, 16, 16, 16)


@torch.no_grad()
def run(stage: VolumeStage, *inputs, **part) -> torch.Tensor:
    return stage.eval()(*inputs, **part)


def test_stage_1_starts_from_nothing(evidence, geometry):
    assert torch.equal(run(Stage1Base64(**FIRST), *evidence, geometry), torch.zeros(1, 1, 16, 16, 16))


@REFINERS
def test_a_refiner_starts_as_the_upsampling_of_the_volume_before(kind, sizes, evidence, geometry, previous):
    assert torch.equal(run(kind(**sizes), *evidence, geometry, previous), upsample(previous))


@REFINERS
@pytest.mark.parametrize(
    "region", [REGION, Region(32, (0, 0, 0), (32, 5, 8)), Region(32, (31, 0, 7), (32, 1, 9))], ids=str
)
def test_a_region_is_that_part_of_the_whole(kind, sizes, region: Region, evidence, geometry, previous, awaken: Build):
    stage = awaken(kind(**sizes)).double()
    inputs = (*(tensor.double() for tensor in evidence), geometry, previous.double())
    whole = run(stage, *inputs)
    assert (whole - upsample(previous.double())).std() > 1e-3
    torch.testing.assert_close(run(stage, *inputs, region=region), region.of(whole))


@pytest.mark.parametrize("slabs", [2, 5, 32])
def test_slabs_are_the_whole(slabs: int, evidence, geometry, previous, awaken: Build):
    stage = awaken(Stage3Refiner256(**LAST))
    inputs = (*evidence, geometry, previous)
    torch.testing.assert_close(run(stage, *inputs, slabs=slabs), run(stage, *inputs), rtol=1e-4, atol=1e-5)


def test_slabs_of_a_region_are_the_region(evidence, geometry, previous, awaken: Build):
    stage = awaken(Stage3Refiner256(**LAST))
    inputs = (*evidence, geometry, previous)
    parts, whole = (run(stage, *inputs, region=REGION, slabs=slabs) for slabs in (3, 1))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_stage_3_adds_a_detail_that_half_the_resolution_cannot_hold(evidence, geometry, previous, awaken: Build):
    stage = awaken(Stage3Refiner256(**{**LAST, "detail_channels": 4}))
    volume = run(stage, *evidence, geometry, previous)
    torch.nn.init.zeros_(stage.detail_enhancer.to_volume.conv.weight)
    torch.nn.init.zeros_(stage.detail_enhancer.to_volume.conv.bias)
    detail = volume - run(stage, *evidence, geometry, previous)
    assert detail.std() > 1e-3
    torch.testing.assert_close(avg_pool3d(detail, 2), torch.zeros(1, 1, 16, 16, 16), rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", ["features", "xrays", "previous"])
def test_every_input_shapes_the_correction(part: str, evidence, geometry, previous, awaken: Build):
    stage = awaken(Stage2Refiner128(**SIZES))
    inputs = {"features": evidence[0], "xrays": evidence[1], "geometry": geometry, "previous": previous}
    changed = {**inputs, part: inputs[part].flip(-1)}
    corrections = [run(stage, *given.values()) - upsample(given["previous"]) for given in (inputs, changed)]
    assert (corrections[0] - corrections[1]).abs().max() > 1e-3


EVIDENCE = {
    "X-rays only": (("xrays",), "none", ["xrays"]),
    "features only": (("features",), "none", ["features"]),
    "X-rays, and features by attention": (("xrays",), "ray", ["features", "xrays"]),
}


@pytest.mark.parametrize(("evidence_read", "attention", "moving"), EVIDENCE.values(), ids=EVIDENCE.keys())
def test_a_stage_reads_the_input_features_that_are_named(
    evidence_read: tuple, attention: str, moving: list, evidence, geometry, awaken: Build
):
    stage = awaken(Stage1Base64(**{**FIRST, "context": {**CONTEXT, "attention": attention}}, evidence=evidence_read))
    inputs = {"features": evidence[0], "xrays": evidence[1]}
    before = run(stage, *inputs.values(), geometry)
    moved = [
        n for n in inputs if not torch.equal(run(stage, *{**inputs, n: inputs[n].flip(-1)}.values(), geometry), before)
    ]
    assert moved == moving


@pytest.mark.parametrize("reads", [True, False])
def test_a_refiner_sees_what_its_base_lacks_of_the_xrays(reads: bool, evidence, geometry, previous, awaken: Build):
    stage = awaken(Stage2Refiner128(**SIZES, evidence=("features", *(["reprojection"] if reads else []))))
    features, xrays = evidence
    volumes = [run(stage, features, given, geometry, previous) for given in (xrays, xrays.flip(-1))]
    assert torch.equal(*volumes) is not reads


def test_stage_1_ends_closer_to_its_xrays(evidence, geometry):
    body = torch.full((1, 1, 16, 16, 16), -1000.0)
    body[..., 3:13, 5:11, :] = 0.0
    xrays = project(hu_to_attenuation(body), geometry) / 8.0
    stage = Stage1Base64(**FIRST)
    torch.nn.init.constant_(stage.to_volume.conv.bias, 0.2)
    errors = []
    for relaxation in (0.0, 1.0):
        torch.nn.init.constant_(stage.relaxation, relaxation)
        volume = run(stage, evidence[0], xrays, geometry)
        drr = IMAGING.project_region(IMAGING.attenuation(volume), Region.whole(16), 64, geometry)
        errors.append((drr - xrays).abs().mean())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("region", [Region(16, (3, 0, 7), (9, 16, 8)), None], ids=str)
def test_a_region_of_stage_1_is_that_part_of_the_whole(region: Region | None, evidence, geometry, awaken: Build):
    stage = awaken(Stage1Base64(**FIRST))
    whole = run(stage, *evidence, geometry)
    parts = run(stage, *evidence, geometry, region=region, slabs=3)
    torch.testing.assert_close(parts, (region or Region.whole(16)).of(whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("evidence_read", [(), ("positions",), ("xrays", "maps")])
def test_input_features_that_make_no_volume_are_refused(evidence_read: tuple):
    with pytest.raises(ValueError, match="evidence is"):
        Stage1Base64(**FIRST, evidence=evidence_read)


@pytest.mark.parametrize(("channels", "tokens"), [((8, 8), 4), ((8, 8, 8), 3), ((8,) * 6, 4)])
def test_a_pyramid_that_misses_the_tokens_is_refused(channels: tuple, tokens: int):
    with pytest.raises(ValueError, match=f"{tokens}, the number of tokens"):
        Stage1Base64(**{**FIRST, "context": {**CONTEXT, "channels": channels, "tokens": tokens}})


@pytest.mark.parametrize("channels", [(8, 8, 8), (8, 8, 8, 8)])
def test_a_pyramid_may_reach_below_the_tokens(channels: tuple, evidence, geometry, awaken: Build):
    stage = awaken(Stage1Base64(**{**FIRST, "context": {**CONTEXT, "channels": channels}}))
    assert run(stage, *evidence, geometry).std() > 1e-3


def test_dropped_features_are_dropped_in_training_only(evidence, geometry, awaken: Build):
    stage = awaken(Stage1Base64(**FIRST, feature_dropout=0.5))
    assert torch.equal(run(stage, *evidence, geometry), run(stage, *evidence, geometry))
    with torch.no_grad():
        trained = [stage.train()(*evidence, geometry) for _ in range(2)]
    assert not torch.allclose(*trained)


def local_reach(stage: VolumeStage, evidence, geometry, previous, voxel: tuple[int, int, int]) -> torch.Tensor:
    """Which X-ray pixels a voxel moves with while the global branch is held: boolean `(2, P, P)`."""
    features, xrays = (tensor.clone().requires_grad_() for tensor in evidence)
    held = torch.rand(1, 8, 16, 16, 16)
    region = Region.whole(stage.size)
    lifted = features if stage.reads_features else None
    log_ratio = stage.imaging.log_ratio(previous, xrays, 2 * stage.size, geometry)
    stage._decode(region, held, lifted, xrays, geometry, previous, log_ratio)[(0, 0, *voxel)].backward()
    return (features.grad.abs().sum((0, 2)) > 0) | (xrays.grad.abs().sum(0) > 0)


@REFINERS
def test_through_the_local_branch_a_voxel_moves_with_pixels_near_its_projections_only(
    kind, sizes, evidence, geometry, previous, awaken: Build
):
    stage, voxel = awaken(kind(**sizes)).eval(), (8, 20, 13)
    moved = local_reach(stage, evidence, geometry, previous, voxel)
    x, y, z = ((index + 0.5) * 360 / 32 - 180 for index in voxel)
    reach = (stage.margin + 1) * 360 / 32 * 1.27 + 2 * 480 / 64
    centre = (torch.arange(64) + 0.5) * 480 / 64 - 240
    for view in (0, 1):
        column, row = geometry.projected_point((x, y, z), view)
        near = ((centre - row).abs() < reach)[:, None] & ((centre - column).abs() < reach)
        assert moved[view].any()
        assert not moved[view][~near].any()


def test_every_pixel_in_the_volumes_footprint_moves_some_voxel(evidence, geometry, awaken: Build):
    stage = awaken(Stage1Base64(**FIRST)).eval()
    features = evidence[0].clone().requires_grad_()
    stage(features, evidence[1], geometry).square().sum().backward()
    footprint = 360 * 1800 / (1600 - 180) / 2
    inside = ((torch.arange(64) + 0.5) * 480 / 64 - 240).abs() < footprint
    moves = features.grad.abs().sum((0, 2)) > 0
    assert moves[:, inside][:, :, inside].all()


@pytest.mark.parametrize("region", [Region.whole(32), REGION, Region(32, (0, 31, 0), (1, 32, 32))], ids=str)
@pytest.mark.parametrize("size", [8, 16, 32])
def test_the_upsampling_of_a_region_is_that_part_of_the_upsampling(region: Region, size: int):
    volume = torch.rand(1, 2, size, size, size, dtype=torch.float64)
    whole = interpolate(volume, size=(32, 32, 32), mode="trilinear")
    torch.testing.assert_close(upsample_region(volume, region), region.of(whole))


@pytest.mark.parametrize("size", [8, 16])
def test_the_high_band_splits_a_volume_for_good(size: int):
    volume = torch.randn(2, 3, size, size, size)
    detail = high_band(volume)
    torch.testing.assert_close(high_band(detail), detail, rtol=0, atol=1e-5)
    coarse = interpolate(avg_pool3d(volume, 2), scale_factor=2, mode="nearest")
    torch.testing.assert_close(detail + coarse, volume)
    assert abs((detail * coarse).mean().item()) < 1e-6
    assert not high_band(coarse).abs().gt(1e-6).any()
