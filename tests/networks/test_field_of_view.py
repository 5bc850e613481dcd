"""What a network sees of another field of view: lengths in voxels alone, and line integrals over `xray_scale`."""

from __future__ import annotations

import torch

from phantoms import chest_imaging, phantom


def reconstructed(small_cascade, awaken, lengths: float, xray_scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """X-rays and last volume of a phantom whose lengths, the machine's among them, are so many times the usual."""
    names = {
        "fov_mm": 360.0,
        "detector_size_mm": 480.0,
        "source_to_isocentre_mm": 1600.0,
        "source_to_detector_mm": 1800.0,
    }
    imaging = chest_imaging(128, xray_scale, **{name: lengths * value for name, value in names.items()})
    torch.manual_seed(1)
    network = awaken(small_cascade(imaging=imaging)).eval()
    with torch.no_grad():
        xrays = imaging.project(phantom(64, 0.1)[None, None])
        return xrays, network(xrays)[-1]


def test_a_smaller_body_is_the_same_to_the_network_when_the_scale_of_xrays_shrinks_with_it(small_cascade, awaken):
    xrays, volume = reconstructed(small_cascade, awaken, 1.0, 8.0)
    smaller, same = reconstructed(small_cascade, awaken, 0.5, 4.0)
    torch.testing.assert_close(smaller, xrays, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(same, volume, rtol=1e-4, atol=1e-4)
    fainter, other = reconstructed(small_cascade, awaken, 0.5, 8.0)
    torch.testing.assert_close(fainter, xrays / 2, rtol=1e-5, atol=1e-6)
    assert (other - volume).abs().max() > 0.05
