from __future__ import annotations

import pytest
import torch

from scripts import FinalVolumeInferer, FinalVolumeModel


@pytest.fixture
def model(small_cascade, awaken) -> FinalVolumeModel:
    """Ends with stage 2, which is read in slabs and in bfloat16 as stage 3 is, at an eighth of its voxels."""
    return awaken(small_cascade(lambda **arguments: FinalVolumeModel(stages=2, **arguments))).eval()


@torch.no_grad()
def test_the_inferer_returns_the_last_volume_in_slabs_and_in_bfloat16(model: FinalVolumeModel):
    xrays = torch.rand(1, 2, 128, 128)
    expected = model(xrays)
    assert torch.equal(FinalVolumeInferer()(xrays, model), expected)
    torch.testing.assert_close(FinalVolumeInferer(slabs=4)(xrays, model), expected, rtol=1e-4, atol=1e-5)
    half = FinalVolumeInferer(bfloat16=True)(xrays, model)
    assert half.dtype == torch.float32
    assert not torch.equal(half, expected)
    assert (half - expected).norm() < 0.05 * expected.norm()
