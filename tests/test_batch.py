from __future__ import annotations

import pytest
import torch
from scripts import FinalVolumeInferer, FinalVolumeModel, PrepareBiplanarBatch
from scripts.batch import random_region


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return {"ct": torch.rand(2, 1, 64, 64, 64), "xrays": torch.rand(2, 2, 128, 128)}


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_xrays_are_the_input_and_ct_and_xrays_the_target(batch, stages: int):
    inputs, target, _, arguments = PrepareBiplanarBatch(stages)(batch)
    assert torch.equal(inputs, batch["xrays"])
    assert all(torch.equal(target[key], batch[key]) for key in ("ct", "xrays"))
    assert arguments == {"stages": stages}


@pytest.mark.parametrize(("stages", "size"), [(1, 16), (2, 32), (3, 64)])
def test_a_crop_is_a_random_cube_of_the_stages_volume(batch, stages: int, size: int):
    prepare = PrepareBiplanarBatch(stages, crop=12)
    regions = set()
    for _ in range(20):
        _, target, _, arguments = prepare(batch)
        region = arguments["region"]
        assert target["region"] is region
        assert (region.size, region.shape) == (size, (12, 12, 12))
        regions.add(region)
    assert len(regions) > 1


def test_every_even_place_is_drawn_and_no_other():
    starts = {random_region(12, 8).start[0] for _ in range(60)}
    assert starts == {0, 2, 4}


def test_the_whole_cube_has_one_place():
    assert random_region(12, 12).shape == (12, 12, 12)


def test_a_crop_that_is_larger_than_the_volume_is_refused(batch):
    with pytest.raises(ValueError, match="crop is 24 voxels, expected at most the 16"):
        PrepareBiplanarBatch(1, crop=24)(batch)


@torch.no_grad()
def test_the_inferer_gives_the_last_volume_in_slabs_and_in_bfloat16(small_cascade, awaken):
    model, xrays = awaken(small_cascade(FinalVolumeModel)).eval(), torch.rand(1, 2, 128, 128)
    expected = model(xrays)
    assert torch.equal(FinalVolumeInferer()(xrays, model), expected)
    torch.testing.assert_close(FinalVolumeInferer(slabs=4)(xrays, model), expected, rtol=1e-4, atol=1e-5)
    half = FinalVolumeInferer(bfloat16=True)(xrays, model)
    assert half.dtype == torch.float32
    assert not torch.equal(half, expected)
    assert (half - expected).norm() < 0.05 * expected.norm()
