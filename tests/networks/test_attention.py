from __future__ import annotations

from math import inf

import pytest
import torch
from scipy.spatial.transform import Rotation

from scripts import BiplanarGeometry
from scripts.networks.attention import BiplanarCrossAttention, averaged, ray_windows

HIDDEN, HEADS, CONTEXT, TOKENS, PIXELS = 12, 3, 5, 4, 16
WIDE = BiplanarGeometry(700.0, 1000.0, detector_size_mm=700.0)
GEOMETRIES = {
    "default": BiplanarGeometry(),
    "wide cone": WIDE,
    "AP and RL": BiplanarGeometry(700.0, 1000.0, detector_size_mm=700.0, views=("AP", "RL")),
    "parallel": BiplanarGeometry(inf, inf, detector_size_mm=360.0),
    "large detector": BiplanarGeometry(detector_size_mm=900.0),
    "rotated": BiplanarGeometry(views=("AP", "LL"), angles_deg=((10.0, -8.0, 6.0), (-9.0, 7.0, 10.0))),
}


def ray_mask(windows: torch.Tensor, view: int, pixels: int) -> torch.Tensor:
    """`(tokens, pixels)`: which pixels of the feature map, row by row, each token of the flattened volume may read."""
    tokens = len(windows)
    seen = torch.zeros(tokens, pixels, dtype=torch.bool).scatter(1, windows, True)
    x, y, z = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(tokens)] * 3, indexing="ij"))
    return (seen[z][:, :, None] & seen[(x, y)[view]][:, None, :]).flatten(1)


def masked_dense_attention(attend: torch.nn.Module, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor):
    """Softmax attention written out, with the weights of MONAI's block."""
    q, k, v = (
        project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for project, x in ((attend.to_q, queries), (attend.to_k, keys), (attend.to_v, keys))
    )
    logits = q @ k.transpose(-1, -2) / (HIDDEN // HEADS) ** 0.5
    answers = logits.masked_fill(~mask, -inf).softmax(-1) @ v
    return attend.out_proj(answers.transpose(1, 2).flatten(2))


def both_forms() -> tuple[BiplanarCrossAttention, BiplanarCrossAttention]:
    ray, dense = (BiplanarCrossAttention(HIDDEN, HEADS, CONTEXT, form).double() for form in ("ray", "dense"))
    dense.load_state_dict(ray.state_dict())
    return ray, dense


def random_tokens_and_maps(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randn(batch, TOKENS, TOKENS, TOKENS, HIDDEN, dtype=torch.float64)
    return tokens, torch.randn(batch, 2, PIXELS, PIXELS, CONTEXT, dtype=torch.float64)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_ray_attention_is_dense_attention_under_the_mask_of_the_rays(geometry: BiplanarGeometry):
    ray, _ = both_forms()
    tokens, maps = random_tokens_and_maps()
    windows = ray_windows(geometry, TOKENS, PIXELS, tokens.device)
    assert windows.shape[1] < PIXELS
    expected = sum(
        masked_dense_attention(ray.block, tokens.flatten(1, 3), maps[:, v].flatten(1, 2), ray_mask(windows, v, PIXELS))
        for v in (0, 1)
    )
    torch.testing.assert_close(ray(tokens, maps, windows), expected.view_as(tokens))


def test_attention_on_the_side_of_the_queries_is_monais_block():
    layer = both_forms()[0]
    queries, keys = torch.randn(3, 7, HIDDEN, dtype=torch.float64), torch.randn(3, 20, CONTEXT, dtype=torch.float64)
    torch.testing.assert_close(layer.attend(queries, keys), layer.block(queries, keys))


def test_dense_attention_is_the_same_without_a_mask():
    _, dense = both_forms()
    tokens, maps = random_tokens_and_maps()
    everything = torch.ones(TOKENS**3, PIXELS**2, dtype=torch.bool)
    expected = sum(
        masked_dense_attention(dense.block, tokens.flatten(1, 3), maps[:, v].flatten(1, 2), everything) for v in (0, 1)
    )
    torch.testing.assert_close(dense(tokens, maps, None), expected.view_as(tokens))


def test_ray_attention_with_windows_over_the_whole_map_is_dense_attention():
    ray, dense = both_forms()
    tokens, maps = random_tokens_and_maps()
    whole = torch.arange(PIXELS).expand(TOKENS, PIXELS)
    torch.testing.assert_close(ray(tokens, maps, whole), dense(tokens, maps, whole))


def test_a_token_answers_to_its_own_window_and_to_no_other_pixel():
    ray, _ = both_forms()
    tokens, maps = random_tokens_and_maps(batch=1)
    windows = ray_windows(WIDE, TOKENS, PIXELS, tokens.device)
    maps.requires_grad_(True)
    x, y, z = 3, 0, 1
    ray(tokens, maps, windows)[0, x, y, z].sum().backward()
    for view, across in ((0, x), (1, y)):
        read = maps.grad[0, view].abs().sum(-1) > 0
        expected = torch.zeros_like(read)
        expected[windows[z][:, None], windows[across]] = True
        assert torch.equal(read, expected)


@pytest.mark.parametrize("side", [4, 5, 2])
def test_self_attention_reads_the_averages_of_eight_tokens(side: int):
    tokens = torch.randn(2, side, side, side, HIDDEN, dtype=torch.float64)
    half = -(-side // 2)
    expected = torch.stack(
        [
            tokens[:, 2 * x : 2 * x + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2].mean((1, 2, 3))
            for x in range(half)
            for y in range(half)
            for z in range(half)
        ],
        dim=1,
    )
    torch.testing.assert_close(averaged(tokens), expected)


def test_every_pixel_in_the_footprint_of_the_volume_is_in_some_window():
    windows = ray_windows(BiplanarGeometry(), 16, 128, torch.device("cpu"))
    footprint = 360 * 1800 / (1600 - 180) / 480 * 128
    inside = (torch.arange(128) - 63.5).abs() < footprint / 2
    assert set(torch.arange(128)[inside].tolist()) <= set(windows.flatten().tolist())


@pytest.mark.parametrize(("tokens", "pixels"), [(4, 16), (4, 128), (16, 128), (16, 100), (4, 6)])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_every_point_is_projected_into_its_tokens_window(geometry: BiplanarGeometry, tokens: int, pixels: int):
    windows = ray_windows(geometry, tokens, pixels, torch.device("cpu"))
    assert windows.min() >= 0
    assert windows.max() < pixels
    in_patient = (torch.rand(4000, 3, dtype=torch.float64) - 0.5) * geometry.fov_mm
    token = ((in_patient / geometry.fov_mm + 0.5) * tokens).long()
    for view, (axis, across) in enumerate(((1, 0), (0, 1))):
        rotation = Rotation.from_euler(("ZXY", "ZYX")[view], geometry.angles_deg[view], degrees=True)
        points = torch.from_numpy(rotation.inv().apply(in_patient.numpy()))
        towards_source = points[:, axis] * {"AP": 1, "PA": -1, "LL": 1, "RL": -1}[geometry.views[view]]
        magnification = geometry.source_to_detector_mm / (geometry.source_to_isocentre_mm - towards_source)
        magnification = torch.ones_like(towards_source) if geometry.is_parallel else magnification
        for volume_axis in (2, across):
            projected = -points[:, volume_axis] * magnification / geometry.detector_size_mm * pixels + pixels / 2 - 0.5
            window = windows[token[:, volume_axis]]
            for pixel in (projected.floor(), projected.ceil()):
                assert (window == pixel.clamp(0, pixels - 1).long()[:, None]).any(1).all()


def test_windows_name_no_pixel_twice():
    for geometry in GEOMETRIES.values():
        windows = ray_windows(geometry, 16, 128, torch.device("cpu"))
        assert (windows.diff(dim=1) == 1).all()


def test_windows_are_a_small_part_of_the_map():
    """What makes attention affordable: a token of the design's cascade reads few of a map's pixels."""
    for pixels in (128, 256, 512):
        windows = ray_windows(BiplanarGeometry(), 16, pixels, torch.device("cpu"))
        assert windows.shape[1] ** 2 < 0.05 * pixels**2


def test_a_ray_cascades_weights_fit_a_dense_cascade(small_cascade):
    ray, dense = small_cascade(attention="ray"), small_cascade(attention="dense")
    dense.load_state_dict(ray.state_dict(), strict=True)
    layers = [m for m in dense.modules() if isinstance(m, BiplanarCrossAttention)]
    assert len(layers) == 3
    assert all(layer.is_dense for layer in layers)


@pytest.mark.parametrize("attention", ["sparse", "", None])
def test_an_unknown_attention_is_refused(small_cascade, attention):
    with pytest.raises(ValueError, match="expected 'ray' or 'dense'"):
        BiplanarCrossAttention(HIDDEN, HEADS, CONTEXT, attention)
    with pytest.raises(ValueError, match=repr(attention)):
        small_cascade(attention=attention)
