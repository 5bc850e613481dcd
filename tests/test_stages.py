from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scripts import BiplanarGeometry, Stage1Base64, Stage2Refiner128, Stage3Refiner256
from scripts.stages import VolumeStage, high_band
from torch.nn.functional import avg_pool3d, interpolate

Build = Callable[[torch.nn.Module], torch.nn.Module]
SIZES = {
    "size": 16,
    "tokens": 4,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_size": 16,
    "mlp_dim": 32,
    "channels": (8, 8, 8),
    "feature_channels": 8,
    "feature_pixels": 32,
}


@pytest.fixture
def geometry() -> BiplanarGeometry:
    return BiplanarGeometry(detector_pixels=32)


@pytest.fixture
def evidence() -> tuple[torch.Tensor, torch.Tensor]:
    """Features and films of one case."""
    return torch.randn(1, 2, 8, 32, 32), torch.rand(1, 2, 1, 32, 32)


@pytest.fixture
def base() -> torch.Tensor:
    return torch.rand(1, 1, 16, 16, 16)


@torch.no_grad()
def run(stage: VolumeStage, *inputs) -> torch.Tensor:
    return stage.eval()(*inputs)


def test_stage_1_starts_from_nothing(evidence, geometry):
    assert torch.equal(run(Stage1Base64(**SIZES), *evidence, geometry), torch.zeros(1, 1, 16, 16, 16))


@pytest.mark.parametrize("kind", [Stage2Refiner128, Stage3Refiner256])
def test_a_refiner_starts_from_its_base(kind, evidence, geometry, base):
    assert torch.equal(run(kind(**SIZES), *evidence, geometry, base), base)


def test_stage_2_is_base_plus_residual(evidence, geometry, base, awaken: Build):
    stage = awaken(Stage2Refiner128(**SIZES)).eval()
    with torch.no_grad():
        residual = stage.residual(base, *evidence, geometry)
    assert residual.std() > 1e-3
    assert torch.equal(run(stage, *evidence, geometry, base), base + residual)


def test_stage_3_adds_a_detail_that_half_the_resolution_cannot_hold(evidence, geometry, base, awaken: Build):
    stage = awaken(Stage3Refiner256(**SIZES, detail_channels=4)).eval()
    with torch.no_grad():
        detail = run(stage, *evidence, geometry, base) - base - stage.residual(base, *evidence, geometry)
    assert detail.std() > 1e-3
    torch.testing.assert_close(avg_pool3d(detail, 2), torch.zeros(1, 1, 8, 8, 8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", ["features", "films", "base"])
def test_every_input_shapes_the_volume(part: str, evidence, geometry, base, awaken: Build):
    stage = awaken(Stage2Refiner128(**SIZES))
    inputs = {"features": evidence[0], "films": evidence[1], "geometry": geometry, "base": base}
    changed = {**inputs, part: inputs[part].flip(-1)}
    difference = [run(stage, *given.values()) - given["base"] for given in (inputs, changed)]
    assert (difference[0] - difference[1]).abs().max() > 1e-3


def test_the_tokens_give_a_voxel_what_its_neighbourhood_does_not_hold(evidence, geometry, awaken: Build):
    """A film's far corner moves a voxel of the opposite corner, beyond what its rays and the convolutions reach."""
    film = evidence[1].clone().requires_grad_()
    stage = awaken(Stage1Base64(**SIZES)).eval()
    stage(evidence[0], film, geometry)[0, 0, 0, 0, 15].backward()
    assert film.grad[0, 0, 0, -6, -6].abs() > 0


@pytest.mark.parametrize("size", [8, 16])
def test_the_high_band_splits_a_volume_for_good(size: int):
    volume = torch.randn(2, 3, size, size, size)
    detail = high_band(volume)
    torch.testing.assert_close(high_band(detail), detail, rtol=0, atol=1e-5)
    coarse = interpolate(avg_pool3d(volume, 2), scale_factor=2, mode="nearest")
    torch.testing.assert_close(detail + coarse, volume)
    assert abs((detail * coarse).mean().item()) < 1e-6
    assert not high_band(coarse).abs().gt(1e-6).any()
