"""What other people's bodies add to the stages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool3d

from scripts import BiplanarGeometry, FinalVolumeModel, ProgressiveCascadeModel, Region
from scripts.networks.cascade import mirrored_xrays
from scripts.networks.stages import ANATOMY, EVIDENCE
from scripts.projection.geometry import signs_of_views
from scripts.projection.resampling import region_of, resized

Build = Callable[..., ProgressiveCascadeModel]
Awaken = Callable[[torch.nn.Module], torch.nn.Module]
WITH_ANATOMY = (*EVIDENCE, ANATOMY)


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


XRAYS = random(1, 2, 128, 128)
EVIDENCE_32 = random(1, 2, 32, 32, 32, seed=2)


@pytest.fixture
def cascade(small_cascade: Build, awaken: Awaken) -> ProgressiveCascadeModel:
    """A cascade that reads anatomy, all of it at work."""
    return awaken(small_cascade(evidence=WITH_ANATOMY)).eval()


@torch.no_grad()
def run(model: ProgressiveCascadeModel, *inputs, **arguments) -> list[torch.Tensor]:
    return model(*inputs, **arguments)


def test_anatomy_that_is_added_to_trained_weights_changes_no_bit_of_their_output(small_cascade: Build, awaken: Awaken):
    before, after = awaken(small_cascade()).eval(), small_cascade(evidence=WITH_ANATOMY).eval()
    after.up_to(3).load_state_dict(before.up_to(3).state_dict(), strict=True)
    added = set(after.state_dict()) - set(before.state_dict())
    assert added == {
        f"stages.{stage}.{branch}stem.of_anatomy.weight" for stage in (1, 2) for branch in ("", "context.")
    }
    for one, other in zip(run(before, XRAYS), run(after, XRAYS, anatomy=EVIDENCE_32)):
        assert one.numpy().tobytes() == other.numpy().tobytes()


def test_a_network_without_anatomy_has_no_parameter_more_and_reads_none(small_cascade: Build, awaken: Awaken):
    model = awaken(small_cascade()).eval()
    assert not any("anatomy" in name for name, _ in model.named_parameters()) and not model.reads_anatomy
    for plain, given in zip(run(model, XRAYS), run(model, XRAYS, anatomy=EVIDENCE_32)):
        assert torch.equal(plain, given)


def test_weights_that_miss_anything_else_are_refused(small_cascade: Build):
    state = small_cascade().state_dict()
    del state["stages.1.stem.of_seen.conv.weight"]
    with pytest.raises(RuntimeError, match="of_seen"):
        small_cascade(evidence=WITH_ANATOMY).load_state_dict(state)


def test_anatomy_moves_the_later_stages_alone_and_none_is_as_good_as_zeros(cascade):
    without, zeros = run(cascade, XRAYS), run(cascade, XRAYS, anatomy=torch.zeros(1, 2, 16, 16, 16))
    read = run(cascade, XRAYS, anatomy=EVIDENCE_32)
    assert all(torch.equal(a, b) for a, b in zip(without, zeros))
    assert [torch.equal(a, b) for a, b in zip(without, read)] == [True, False, False]


@pytest.mark.parametrize("channel", [0, 1])
def test_mean_and_spread_both_count(cascade, channel: int):
    other = EVIDENCE_32.clone()
    other[:, channel] = other[:, channel].flip(-1)
    assert not torch.allclose(run(cascade, XRAYS, anatomy=other)[1], run(cascade, XRAYS, anatomy=EVIDENCE_32)[1])


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("size", [12, 16, 32, 64])
def test_a_region_and_slabs_are_parts_of_the_whole_at_any_size_of_the_anatomy(cascade, stages: int, size: int):
    anatomy, last = random(1, 2, size, size, size), 8 * 2**stages
    region = Region(last, (3, 0, 5), (11, 7, 16))
    whole, part, slabs = (
        run(cascade, XRAYS, stages=stages, anatomy=anatomy, **how)[-1] for how in ({}, {"region": region}, {"slabs": 3})
    )
    torch.testing.assert_close(part, region.of(whole), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slabs, whole, rtol=1e-4, atol=1e-5)


def test_a_region_of_a_finer_volume_is_averaged_and_of_a_coarser_one_upsampled():
    region, fine = Region(16, (2, 4, 0), (7, 16, 3)), random(1, 2, 32, 32, 32)
    torch.testing.assert_close(region_of(fine, region), region.of(adaptive_avg_pool3d(fine, 16)))
    for coarse in (8, 12, 16):
        volume = random(1, 2, coarse, coarse, coarse)
        torch.testing.assert_close(region_of(volume, region), region.of(resized(volume, 16)))


def test_a_function_is_asked_once_for_the_anatomy_that_goes_with_stage_1(cascade):
    asked = []

    def found(volume: torch.Tensor) -> torch.Tensor:
        asked.append(volume)
        return EVIDENCE_32

    asking, given = run(cascade, XRAYS, anatomy=found), run(cascade, XRAYS, anatomy=EVIDENCE_32)
    assert len(asked) == 1 and torch.equal(asked[0], given[0])
    assert all(torch.equal(a, b) for a, b in zip(asking, given))


def test_a_function_is_not_asked_by_a_cascade_that_stops_after_stage_1(cascade):
    assert len(run(cascade, XRAYS, stages=1, anatomy=lambda volume: pytest.fail("asked"))) == 1


def test_rl_is_the_mirror_of_ll_with_mirrored_anatomy(cascade):
    ll, rl = (BiplanarGeometry(detector_pixels=128, views=("PA", view)) for view in ("LL", "RL"))
    of_ll = run(cascade, mirrored_xrays(XRAYS), ll, anatomy=EVIDENCE_32.flip(2))
    for one, other in zip(of_ll, run(cascade, XRAYS, rl, anatomy=EVIDENCE_32)):
        assert torch.equal(one.flip(2), other)


def test_a_function_sees_the_patient_and_not_the_mirror_image(cascade):
    """Neighbours are found among bodies whose hearts lie at the left."""
    rl = BiplanarGeometry(detector_pixels=128, views=("PA", "RL"))

    def found(volume: torch.Tensor) -> torch.Tensor:
        return torch.cat([volume, 2 * volume], dim=1)

    stage1 = run(cascade, XRAYS, rl, stages=1)[0]
    for one, other in zip(run(cascade, XRAYS, rl, anatomy=found), run(cascade, XRAYS, rl, anatomy=found(stage1))):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_each_of_a_batch_of_both_sides_has_its_own_anatomy(cascade):
    pair, anatomy = random(2, 2, 128, 128), random(2, 2, 16, 16, 16)
    sides = [BiplanarGeometry(detector_pixels=128, views=("PA", view)) for view in ("RL", "LL")]
    alone = [run(cascade, pair[n : n + 1], sides[n], anatomy=anatomy[n : n + 1]) for n in (0, 1)]
    mixed = BiplanarGeometry(detector_pixels=128, views=signs_of_views([("PA", "RL"), ("PA", "LL")]))
    for together, *separate in zip(run(cascade, pair, mixed, anatomy=anatomy), *alone):
        torch.testing.assert_close(together, torch.cat(separate), rtol=1e-4, atol=1e-5)


def test_the_single_volume_model_passes_it_on(small_cascade: Build, awaken: Awaken):
    model = awaken(small_cascade(FinalVolumeModel, evidence=WITH_ANATOMY, stages=2)).eval()
    with torch.no_grad():
        assert not torch.allclose(model(XRAYS), model(XRAYS, anatomy=EVIDENCE_32))


def test_training_reaches_the_convolutions_of_its_own_stage(small_cascade: Build, awaken: Awaken):
    model = awaken(small_cascade(evidence=WITH_ANATOMY, trained_stage=3))
    volume = model(XRAYS, anatomy=EVIDENCE_32)[-1]
    (volume * torch.rand_like(volume)).sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in model.named_parameters() if name.split(".")[1:2] == ["2"]} | {
        name for name, _ in model.named_parameters() if name.startswith("encoder.levels.2.")
    }
