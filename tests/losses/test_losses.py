from __future__ import annotations

import os
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from monai.losses import SSIMLoss as MonaiSSIMLoss
from monai.metrics import SSIMMetric
from torch.nn.functional import avg_pool3d, interpolate, l1_loss

from scripts import (
    BiplanarGeometry,
    DRRReprojectionLoss,
    GradientMagnitudeLoss,
    ImagingModel,
    InputError,
    MultiScaleLoss,
    PretrainedWeightsError,
    Region,
    SSIMLoss,
    Stage1Loss,
    Stage2Loss,
    Stage3Loss,
    TriPlanarVGGLoss,
    hu_to_attenuation,
    project,
    structural_similarity,
)

HU_WINDOW, XRAY_SCALE = (-1024, 1024), 8.0
VGG16_FILE = os.path.basename(torchvision.models.VGG16_Weights.IMAGENET1K_V1.url)
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Positions of VGG-16's convolutions in torchvision's `features`."""


def smooth_pair(batch: int = 1, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    coarse = torch.rand(2, batch, 1, 4, 4, 4)
    return tuple(interpolate(volume, size=(size,) * 3, mode="trilinear") for volume in coarse)


def xrays_of(volume: torch.Tensor, geometry: BiplanarGeometry) -> torch.Tensor:
    return project(hu_to_attenuation(volume * 2048 - 1024), geometry) / XRAY_SCALE


def imaging_in(geometry: BiplanarGeometry) -> ImagingModel:
    return ImagingModel(geometry, HU_WINDOW, XRAY_SCALE)


@pytest.fixture
def small_geometry() -> BiplanarGeometry:
    return BiplanarGeometry(detector_pixels=32)


@pytest.fixture
def reprojection(small_geometry: BiplanarGeometry) -> dict[str, Any]:
    """Arguments of :class:`DRRReprojectionLoss`, which the losses of stages 2 and 3 take too."""
    return {"imaging": imaging_in(small_geometry)}


@pytest.fixture(scope="module")
def untrained() -> TriPlanarVGGLoss:
    return TriPlanarVGGLoss("untrained", fraction=1.0)


@pytest.fixture(scope="module")
def vgg16_features() -> dict[str, torch.Tensor]:
    """Random convolutions of a torchvision VGG-16; its classifier, nine tenths of the file, is omitted."""
    torch.manual_seed(5)
    with torch.device("meta"):
        state = torchvision.models.vgg16(weights=None).state_dict()
    return {name: torch.rand(tensor.shape) for name, tensor in state.items() if name.startswith("features.")}


@pytest.fixture
def hub(tmp_path: Path):
    """An empty torch hub."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch):
    """Sends every request to a local port that refuses it."""
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{refusing.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
            monkeypatch.setenv(name.upper(), proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies that it was made with
        yield


@pytest.mark.parametrize("kind", ["random", "smooth"])
def test_structural_similarity_is_that_of_monai(kind: str):
    pair = torch.rand(2, 3, 1, 17, 15, 19) if kind == "random" else torch.stack(smooth_pair(3, 18))
    metric = SSIMMetric(spatial_dims=3, data_range=1.0, kernel_type="gaussian", win_size=11, kernel_sigma=1.5)
    expected = metric(*pair).flatten()
    assert expected.shape == (3,)
    torch.testing.assert_close(structural_similarity(*pair), expected, rtol=0, atol=1e-5)
    expected_loss = MonaiSSIMLoss(spatial_dims=3, data_range=1.0)(*pair)
    torch.testing.assert_close(SSIMLoss()(*pair), expected_loss, rtol=0, atol=1e-5)


def test_structural_similarity_scales_with_its_data_range():
    pair = torch.rand(2, 1, 1, 12, 12, 12, dtype=torch.float64)
    in_hu = structural_similarity(*(2048 * pair), data_range=2048)
    torch.testing.assert_close(in_hu, structural_similarity(*pair))


def test_structural_similarity_has_the_gradient_of_finite_differences():
    truth = torch.rand(1, 1, 11, 11, 12, dtype=torch.float64)
    prediction = torch.rand_like(truth).requires_grad_(True)
    structural_similarity(prediction, truth).sum().backward()
    step = torch.randn_like(truth) * 1e-5
    with torch.no_grad():
        change = structural_similarity(prediction + step, truth) - structural_similarity(prediction - step, truth)
    assert change.item() / 2 == pytest.approx((prediction.grad * step).sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    "shapes", [((1, 1, 12, 12, 12), (1, 1, 12, 12, 13)), ((1, 1, 10, 12, 12),) * 2, ((1, 1, 12, 12),) * 2]
)
def test_structural_similarity_refuses_shapes_that_it_cannot_compare(shapes: tuple):
    with pytest.raises(InputError) as caught:
        structural_similarity(*(torch.zeros(shape) for shape in shapes))
    assert all(str(shape) in str(caught.value) for shape in shapes)


def test_identical_volumes_cost_nothing(untrained: TriPlanarVGGLoss, small_geometry: BiplanarGeometry):
    volume, _ = smooth_pair()
    for loss in (SSIMLoss(), GradientMagnitudeLoss(), untrained):
        assert loss(volume, volume.clone()).item() == pytest.approx(0, abs=1e-6)
    assert Stage1Loss()(volume, volume.clone(), None).item() == pytest.approx(0, abs=1e-6)
    drr = DRRReprojectionLoss(imaging_in(small_geometry))
    assert drr(volume, xrays_of(volume, small_geometry)).item() == pytest.approx(0, abs=1e-6)


def test_different_volumes_cost_something_under_every_loss(
    untrained: TriPlanarVGGLoss, small_geometry: BiplanarGeometry
):
    prediction, truth = smooth_pair()
    drr = DRRReprojectionLoss(imaging_in(small_geometry))
    values = [loss(prediction, truth).item() for loss in (SSIMLoss(), GradientMagnitudeLoss(), untrained)]
    assert min([*values, drr(prediction, xrays_of(truth, small_geometry)).item()]) > 1e-3


def test_the_gradient_magnitude_of_a_ramp_is_its_slope():
    x, y, z = torch.meshgrid(*[torch.arange(8, dtype=torch.float64)] * 3, indexing="ij")
    ramp = (0.03 * x - 0.04 * y + 0.12 * z)[None, None]
    assert GradientMagnitudeLoss()(ramp, torch.zeros_like(ramp)).item() == pytest.approx(0.13, abs=2e-4)


def test_the_gradient_magnitude_does_not_see_an_offset_or_a_mirror():
    volume, _ = smooth_pair()
    assert GradientMagnitudeLoss()(volume + 0.3, volume).item() == pytest.approx(0, abs=1e-6)
    assert GradientMagnitudeLoss()(1 - volume, volume).item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_flat_volumes_is_finite():
    prediction = torch.zeros(1, 1, 8, 8, 8, requires_grad=True)
    GradientMagnitudeLoss()(prediction, torch.rand(1, 1, 8, 8, 8)).backward()
    assert torch.isfinite(prediction.grad).all()


def test_the_drr_loss_grows_with_the_error_of_the_volume(small_geometry: BiplanarGeometry):
    loss = DRRReprojectionLoss(imaging_in(small_geometry))
    volume = smooth_pair()[0] * 0.4 + 0.3
    xrays = xrays_of(volume, small_geometry)
    bump = torch.zeros_like(volume)
    bump[..., 6:9, 6:9, 6:9] = 0.1
    costs = [loss(volume + factor * bump, xrays).item() for factor in (0, 1, 2)]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    assert costs[2] == pytest.approx(2 * costs[1], rel=1e-3)
    assert costs[1] > 1e-4


def test_a_region_without_the_rest_has_no_line_integrals(small_geometry: BiplanarGeometry):
    loss = DRRReprojectionLoss(imaging_in(small_geometry))
    region = Region(16, (0, 0, 0), (8, 8, 8))
    with pytest.raises(ValueError, match="a region, but no base; expected the volume that the region is of"):
        loss(torch.rand(1, 1, 8, 8, 8), torch.rand(1, 2, 32, 32), region=region)


def test_the_drr_loss_of_a_denser_cube_is_the_excess_line_integral(small_geometry: BiplanarGeometry):
    loss = DRRReprojectionLoss(imaging_in(small_geometry))
    water, denser = (torch.full((1, 1, 16, 16, 16), scaled) for scaled in (0.5, 0.75))
    projections = loss.project(water)
    assert projections.shape == (1, 2, 32, 32)
    centre = projections[0, :, 15:17, 15:17]
    torch.testing.assert_close(centre * XRAY_SCALE, torch.full_like(centre, 0.02059 * 360), rtol=1e-3, atol=0)
    expected = (loss.project(denser) - projections).mean()
    torch.testing.assert_close(expected, projections.mean() * 0.512, rtol=1e-4, atol=0)
    torch.testing.assert_close(loss(denser, projections), expected)


def test_the_drr_loss_compares_finer_xrays_by_their_average(small_geometry: BiplanarGeometry):
    loss = DRRReprojectionLoss(imaging_in(small_geometry))
    volume, truth = smooth_pair()
    xrays = xrays_of(truth, small_geometry)
    fine = xrays.repeat_interleave(4, -1).repeat_interleave(4, -2)
    torch.testing.assert_close(loss(volume, fine), loss(volume, xrays))


def test_the_gradient_of_the_drr_loss_points_to_the_missing_tissue(small_geometry: BiplanarGeometry):
    loss = DRRReprojectionLoss(imaging_in(small_geometry))
    truth = torch.full((1, 1, 16, 16, 16), 0.5)
    prediction = truth.clone()
    prediction[..., 6:10, 6:10, 6:10] = 0.1
    prediction.requires_grad_(True)
    loss(prediction, xrays_of(truth, small_geometry)).backward()
    assert (prediction.grad[..., 7:9, 7:9, 7:9] < 0).all()


def test_untrained_vgg_is_the_same_in_every_process_and_leaves_the_random_state_alone(untrained: TriPlanarVGGLoss):
    before = torch.random.get_rng_state()
    another = TriPlanarVGGLoss("untrained", fraction=1.0)
    assert torch.equal(torch.random.get_rng_state(), before)
    states = untrained.state_dict(), another.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0] | states[1])
    pair = smooth_pair()
    losses = []
    for loss in (untrained, another):
        torch.manual_seed(3)
        losses.append(loss(*pair))
    assert torch.equal(*losses)


def test_vgg_is_symmetric_and_positive_from_16_voxels_on(untrained: TriPlanarVGGLoss):
    a, b = smooth_pair(batch=2)
    there, back = untrained(a, b), untrained(b, a)
    assert there.ndim == 0
    assert there.item() > 1e-3
    torch.testing.assert_close(there, back, rtol=1e-4, atol=0)


def test_vgg_is_the_mean_of_lpips_over_all_slices_of_three_planes(untrained: TriPlanarVGGLoss):
    a, b = smooth_pair()
    distances = [
        untrained.lpips(*(v[0, 0].select(axis, i).expand(1, 3, 16, 16) for v in (a, b)), normalize=True)
        for axis in range(3)
        for i in range(16)
    ]
    torch.testing.assert_close(untrained(a, b), torch.stack(distances).mean(), rtol=1e-4, atol=0)


def test_a_fraction_of_the_slices_is_drawn_anew_at_each_call(untrained: TriPlanarVGGLoss, monkeypatch):
    monkeypatch.setattr(untrained, "fraction", 0.125)
    pair = smooth_pair()
    first, second = untrained(*pair), untrained(*pair)
    assert not torch.allclose(first, second)


def test_vgg_is_frozen_and_passes_gradients_to_the_volume(untrained: TriPlanarVGGLoss):
    assert not any(parameter.requires_grad for parameter in untrained.parameters())
    prediction, truth = smooth_pair()
    prediction = prediction.clone().requires_grad_(True)
    untrained(prediction, truth).backward()
    assert (prediction.grad.abs() > 0).float().mean() > 0.9


def test_vgg_weights_are_those_of_the_named_file(tmp_path: Path, vgg16_features: dict):
    torch.save(vgg16_features, tmp_path / "vgg.pth")
    loaded = list(TriPlanarVGGLoss(str(tmp_path / "vgg.pth")).lpips.net.parameters())
    expected = [vgg16_features[f"features.{i}.{kind}"] for i in CONVOLUTIONS for kind in ("weight", "bias")]
    assert len(loaded) == len(expected) == 26
    assert all(torch.equal(a, b) for a, b in zip(loaded, expected))


def test_pretrained_weights_are_taken_from_the_hubs_folder_without_a_network(
    hub: Path, no_network, vgg16_features: dict
):
    hub.mkdir()
    torch.save(vgg16_features, hub / VGG16_FILE)
    loaded = dict(TriPlanarVGGLoss("pretrained").lpips.net.named_parameters())
    assert torch.equal(loaded["slice5.28.weight"], vgg16_features["features.28.weight"])


def test_without_a_network_the_message_says_where_to_put_which_file(hub: Path, no_network):
    with pytest.raises(PretrainedWeightsError) as caught:
        TriPlanarVGGLoss("pretrained")
    message = str(caught.value)
    for part in (str(hub / VGG16_FILE), "https://", "loss#vgg_weights", "'untrained'"):
        assert part in message


def test_a_file_in_the_hub_that_is_no_checkpoint_is_refused(hub: Path, no_network):
    hub.mkdir()
    (hub / VGG16_FILE).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PretrainedWeightsError, match=VGG16_FILE):
        TriPlanarVGGLoss("pretrained")


def test_a_missing_weights_file_is_named(tmp_path: Path):
    path = str(tmp_path / "nowhere.pth")
    with pytest.raises(PretrainedWeightsError) as caught:
        TriPlanarVGGLoss(path)
    for part in (path, "loss#vgg_weights", "'pretrained' or 'untrained'"):
        assert part in str(caught.value)


def batch_norm_vgg16() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        state = torchvision.models.vgg16_bn(weights=None).state_dict()
    return {name: torch.zeros(tensor.shape) for name, tensor in state.items() if name.startswith("features.")}


@pytest.mark.parametrize("kind", ["other network", "list", "batch-norm VGG", "wrong shapes"])
def test_a_checkpoint_that_is_no_vgg16_is_refused_by_name(tmp_path: Path, kind: str, vgg16_features: dict):
    path = tmp_path / "wrong.pth"
    content = {
        "other network": lambda: {"conv.weight": torch.zeros(3)},
        "list": lambda: [torch.zeros(3)],
        "batch-norm VGG": batch_norm_vgg16,
        "wrong shapes": lambda: {name: torch.zeros(1) for name in vgg16_features},
    }
    torch.save(content[kind](), path)
    assert_refused(path)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated"])
def test_a_weights_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, kind: str, vgg16_features: dict):
    path = tmp_path / "wrong.pth"
    torch.save(vgg16_features, path)
    path.write_bytes({"text": b"not a checkpoint", "empty": b"", "truncated": path.read_bytes()[:100_000]}[kind])
    assert_refused(path)


def assert_refused(path: Path) -> None:
    with pytest.raises(PretrainedWeightsError) as caught:
        TriPlanarVGGLoss(str(path))
    assert str(path) in str(caught.value)
    assert "VGG-16" in str(caught.value)


WEIGHTS = {"l1": 2.0, "ssim": 3.0, "vgg": 0.7, "drr": 0.4, "gradient": 0.9}


@pytest.mark.parametrize(
    ("stage", "names"),
    [(Stage1Loss, ["l1", "ssim"]), (Stage2Loss, ["l1", "ssim", "drr"]), (Stage3Loss, list(WEIGHTS))],
)
def test_the_loss_of_a_stage_is_the_weighted_sum_of_its_terms(
    stage: type[Stage1Loss],
    names: list[str],
    small_geometry: BiplanarGeometry,
    reprojection: dict[str, Any],
    untrained: TriPlanarVGGLoss,
):
    prediction, truth = smooth_pair()
    xrays = xrays_of(truth, small_geometry)
    terms = {
        "l1": l1_loss(prediction, truth),
        "ssim": SSIMLoss()(prediction, truth),
        "vgg": untrained(prediction, truth),
        "drr": DRRReprojectionLoss(**reprojection)(prediction, xrays),
        "gradient": GradientMagnitudeLoss()(prediction, truth),
    }
    further = {} if stage is Stage1Loss else {"vgg": 0, "vgg_weights": "untrained", "vgg_fraction": 1.0, **reprojection}
    loss = stage(**{**further, **{name: WEIGHTS[name] for name in names}})
    assert list(loss.weights) == names
    expected = sum(WEIGHTS[name] * terms[name] for name in names)
    torch.testing.assert_close(loss(prediction, truth, xrays), expected, rtol=1e-5, atol=1e-7)


def test_a_term_of_weight_zero_is_left_out_and_needs_nothing(
    small_geometry: BiplanarGeometry, reprojection: dict[str, Any]
):
    """The VGG weights of a term that does not count are not asked for."""
    loss = MultiScaleLoss(3, **reprojection, vgg=0, vgg_weights="no such file", gradient=0.0)
    prediction, truth = smooth_pair()
    loss([None, None, prediction], {"ct": truth, "xrays": xrays_of(truth, small_geometry)})
    assert loss.names == tuple(loss.terms) == ("loss", "l1", "ssim", "drr")


def test_each_stage_is_compared_with_the_truth_averaged_to_its_size():
    volumes = [torch.rand(2, 1, size, size, size) for size in (16, 32)]
    ct = torch.rand(2, 1, 64, 64, 64)
    loss = MultiScaleLoss(1)
    total = loss(volumes, {"ct": ct, "xrays": None})
    torch.testing.assert_close(total, Stage1Loss()(volumes[0], avg_pool3d(ct, 4), None))


def test_every_term_is_reported_by_name(small_geometry: BiplanarGeometry, reprojection: dict[str, Any]):
    weights = {**WEIGHTS, "vgg": 0}
    loss = MultiScaleLoss(3, **weights, **reprojection)
    prediction, truth = smooth_pair()
    prediction.requires_grad_(True)
    total = loss([None, None, prediction], {"ct": truth, "xrays": xrays_of(truth, small_geometry)})
    assert loss.names == tuple(loss.terms) == ("loss", "l1", "ssim", "drr", "gradient")
    assert loss.terms["loss"] == pytest.approx(total.item())
    expected = sum(weights[name] * term for name, term in loss.terms.items() if name != "loss")
    assert total.item() == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert prediction.grad.abs().sum() > 0


@pytest.mark.parametrize("stage", [0, 4, "3"])
def test_a_loss_of_a_stage_that_does_not_exist_is_refused(stage):
    with pytest.raises(ValueError, match=f"stage is {stage!r}, expected 1, 2 or 3"):
        MultiScaleLoss(stage)


def test_the_drr_loss_of_a_region_is_that_of_the_whole_with_the_region_in_it(small_geometry: BiplanarGeometry):
    """Exact, although attenuation is clamped at air and so not linear in HU."""
    loss = DRRReprojectionLoss(imaging_in(small_geometry))
    base, whole = torch.rand(2, 2, 1, 16, 16, 16, dtype=torch.float64) - 0.1
    xrays, region = xrays_of(torch.rand_like(base), small_geometry), Region(16, (2, 0, 5), (10, 7, 16))
    part = region.of(whole).clone().requires_grad_()
    together = base.clone()
    region.of(together).copy_(part.detach())
    together.requires_grad_()
    of_part, of_whole = loss(part, xrays, base, region), loss(together, xrays)
    torch.testing.assert_close(of_part, of_whole)
    of_part.backward()
    of_whole.backward()
    torch.testing.assert_close(part.grad, region.of(together.grad))


@pytest.mark.parametrize("stage", [1, 3])
def test_a_region_is_compared_with_that_region_of_the_ground_truth(
    stage: int, small_geometry: BiplanarGeometry, reprojection: dict[str, Any]
):
    loss = MultiScaleLoss(stage, **({**reprojection, "vgg": 0} if stage == 3 else {}))
    truth = smooth_pair(size=32)[0]
    region = Region(32, (3, 0, 16), (19, 16, 32))
    volumes = [None] * (stage - 1) + [region.of(truth)]
    if stage == 3:
        volumes[1] = avg_pool3d(truth, 2)
    loss(volumes, {"ct": truth, "xrays": torch.rand(1, 2, 64, 64), "region": region})
    assert loss.terms["l1"] == 0
    assert loss.terms["ssim"] == pytest.approx(0, abs=1e-6)
