from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn.functional import avg_pool3d, mse_loss

from phantoms import chest_imaging
from scripts import BiplanarGeometry, InputError, ProgressiveCascadeModel, Region
from scripts.networks.blocks import DetailEnhancer
from scripts.projection.resampling import upsample

Build = Callable[..., ProgressiveCascadeModel]
Awaken = Callable[[torch.nn.Module], torch.nn.Module]


@pytest.fixture
def xrays() -> torch.Tensor:
    return torch.rand(1, 2, 128, 128, generator=torch.Generator().manual_seed(1))


def digest(module: torch.nn.Module) -> str:
    """SHA-256 of the names and bytes of a module's state."""
    state = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()


def randomise(parameters: Iterator[torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn_like(parameter) * 0.1)


@torch.no_grad()
def run(model: ProgressiveCascadeModel, xrays: torch.Tensor, stages: int = 3) -> list[torch.Tensor]:
    return model(xrays, stages=stages)


def test_each_stage_doubles_the_volume_and_the_cascade_stops_where_it_is_told(small_cascade: Build, xrays):
    model = small_cascade()
    expected = [(2, 1, size, size, size) for size in (16, 32, 64)]
    for stages in (1, 2, 3):
        volumes = run(model, xrays.expand(2, -1, -1, -1), stages)
        assert [tuple(volume.shape) for volume in volumes] == expected[:stages]


def test_stopping_early_does_not_change_the_volumes(small_cascade: Build, awaken: Awaken, xrays):
    model = awaken(small_cascade())
    whole = run(model, xrays)
    for stages in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(run(model, xrays, stages), whole))


@pytest.mark.parametrize("stage", [2, 3])
def test_a_refiner_starts_as_the_upsampling_of_the_stage_before(
    small_cascade: Build, awaken: Awaken, xrays, stage: int
):
    model = small_cascade()
    awaken(model.up_to(stage - 1))
    volumes = run(model, xrays, stage)
    assert volumes[-2].std() > 0.01
    assert torch.equal(volumes[-1], upsample(volumes[-2]))


def test_upsampling_keeps_a_ramp_a_ramp():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8, 8)
    expected = (torch.arange(16.0) - 0.5) / 2
    torch.testing.assert_close(upsample(ramp)[0, 0, 5, 5, 1:-1], expected[1:-1])


def test_the_vit_adds_nothing_before_it_is_trained(small_cascade: Build, xrays):
    model = small_cascade()
    randomise(model.stages[0].to_volume.parameters())
    before = run(model, xrays, 1)[0]
    vit = model.stages[0].context.vit
    randomise(vit.layers.parameters())
    assert torch.equal(run(model, xrays, 1)[0], before)
    randomise(vit.from_tokens.parameters())
    assert not torch.allclose(run(model, xrays, 1)[0], before)


def test_the_detail_enhancer_adds_only_what_half_the_resolution_cannot_hold(awaken: Awaken):
    detail = awaken(DetailEnhancer(4))(torch.rand(1, 1, 16, 16, 16), torch.rand(1, 2, 16, 16, 16))
    assert detail.std() > 1e-3
    torch.testing.assert_close(avg_pool3d(detail, 2), torch.zeros(1, 1, 8, 8, 8), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "shape", [(1, 2, 64, 64), (1, 2, 128, 127), (1, 1, 128, 128), (2, 128, 128), (1, 2, 1, 128, 128)]
)
def test_xrays_of_another_shape_are_refused_with_what_was_found_and_expected(small_cascade: Build, shape: tuple):
    with pytest.raises(InputError) as caught:
        small_cascade()(torch.zeros(shape))
    assert str(shape) in str(caught.value)
    assert "(B, 2, 128, 128)" in str(caught.value)


@pytest.mark.parametrize("stages", [0, 4, -1])
def test_a_stage_that_does_not_exist_is_refused(small_cascade: Build, xrays, stages: int):
    model = small_cascade()
    for call in (lambda: model(xrays, stages=stages), lambda: model.up_to(stages)):
        with pytest.raises(ValueError, match=f"stage is {stages}, expected 1, 2 or 3"):
            call()
    with pytest.raises(ValueError, match=f"stage is {stages}, expected 1, 2 or 3"):
        small_cascade(trained_stage=stages)


def test_tokens_that_do_not_fit_the_volume_are_refused(small_cascade: Build):
    with pytest.raises(ValueError, match="3, the number of tokens"):
        small_cascade(tokens=3)


def test_xrays_that_the_stages_cannot_halve_are_refused(small_cascade: Build):
    with pytest.raises(ValueError, match="100 pixels a side, expected a multiple of 8"):
        small_cascade(imaging=chest_imaging(100))


@pytest.mark.parametrize("context_size", [12, 32])
def test_a_first_volume_that_is_no_multiple_of_the_global_branchs_is_refused(small_cascade: Build, context_size: int):
    with pytest.raises(ValueError, match=f"16 voxels a side, .* expected a multiple of context_size, {context_size}"):
        small_cascade(context_size=context_size, tokens=context_size // 4)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_region_and_slabs_are_of_the_last_volume(small_cascade: Build, awaken: Awaken, xrays, stages: int):
    model = awaken(small_cascade())
    whole, size = run(model, xrays, stages), 8 * 2**stages
    region = Region(size, (2, 0, 5), (11, 7, 16))
    with torch.no_grad():
        part = model(xrays, stages=stages, region=region)
        slabs = model(xrays, stages=stages, slabs=3)
    assert all(torch.equal(a, b) for a, b in zip(part[:-1], whole[:-1]))
    torch.testing.assert_close(part[-1], region.of(whole[-1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slabs[-1], whole[-1], rtol=1e-4, atol=1e-5)


def test_each_checkpoint_holds_the_one_before_and_the_last_holds_everything(small_cascade: Build):
    model = small_cascade()
    keys = [set(model.up_to(stage).state_dict()) for stage in (1, 2, 3)]
    assert keys[0] < keys[1] < keys[2]
    assert keys[2] == set(model.state_dict())


def test_a_checkpoint_is_the_cascades_own_parameters(small_cascade: Build, xrays):
    source, target = small_cascade(), small_cascade()
    randomise(source.parameters())
    target.up_to(2).load_state_dict(source.up_to(2).state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(run(source, xrays, 2), run(target, xrays, 2)))
    assert digest(source.up_to(3)) != digest(target.up_to(3))


@pytest.mark.parametrize("stage", [2, 3])
def test_training_a_stage_leaves_every_bit_of_the_stages_before_it(
    small_cascade: Build, awaken: Awaken, xrays, stage: int
):
    model = awaken(small_cascade(trained_stage=stage))
    earlier, before = digest(model.up_to(stage - 1)), run(model.eval(), xrays, stage)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    region = Region(before[-1].shape[-1], (0, 0, 0), (16, 16, 16))
    truth = torch.rand(1, 1, 16, 16, 16)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        mse_loss(model(xrays, stages=stage, region=region)[-1], truth).backward()
        optimizer.step()
    after = run(model.eval(), xrays, stage)
    assert digest(model.up_to(stage - 1)) == earlier
    assert all(torch.equal(a, b) for a, b in zip(before[:-1], after[:-1]))
    assert (after[-1] - before[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_training_reaches_every_parameter_of_its_stage_and_none_of_another(
    small_cascade: Build, awaken: Awaken, xrays, stage: int
):
    model = awaken(small_cascade(trained_stage=stage))
    volume = model(xrays, stages=stage)[-1]
    (volume * torch.rand_like(volume)).sum().backward()
    own = {f"encoder.levels.{stage - 1}", f"stages.{stage - 1}"}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if n.startswith(tuple(f"{part}." for part in own))}
    assert trainable == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert sum(p.numel() for p in model.trainable_parameters()) == sum(
        p.numel() for n, p in model.named_parameters() if n in trainable
    )


def test_without_a_trained_stage_everything_can_be_trained(small_cascade: Build):
    model = small_cascade()
    assert len(list(model.trainable_parameters())) == len(list(model.parameters()))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_is_frozen_stays_in_evaluation_mode(small_cascade: Build, stage: int):
    model = small_cascade(trained_stage=stage).train()
    for k in (1, 2, 3):
        for part in (model.encoder.levels[k - 1], model.stages[k - 1]):
            assert {module.training for module in part.modules()} == {k == stage}
    assert not any(module.training for module in model.eval().modules())


def test_checkpointing_changes_neither_volumes_nor_gradients(small_cascade: Build, awaken: Awaken, xrays):
    models = [awaken(small_cascade(checkpointing=(on,) * 3)) for on in (False, True)]
    assert digest(models[0]) == digest(models[1])
    volumes = [model(xrays, stages=2)[-1] for model in models]
    assert torch.equal(*volumes)
    for volume in volumes:
        volume.square().mean().backward()
    for (name, plain), recomputed in zip(models[0].named_parameters(), models[1].parameters()):
        assert (plain.grad is None) == (recomputed.grad is None), name
        if plain.grad is not None:
            torch.testing.assert_close(plain.grad, recomputed.grad, rtol=1e-5, atol=1e-8, msg=name)


def test_a_batch_of_two_is_two_batches_of_one(small_cascade: Build, awaken: Awaken):
    model = awaken(small_cascade())
    pair = torch.rand(2, 2, 128, 128)
    alone = [run(model, case[None]) for case in pair]
    for together, *separate in zip(run(model, pair), *alone):
        torch.testing.assert_close(together, torch.cat(separate), rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_bits(small_cascade: Build, awaken: Awaken, xrays):
    first, second = awaken(small_cascade()), awaken(small_cascade())
    assert digest(first) == digest(second)
    assert all(torch.equal(a, b) for a, b in zip(run(first, xrays), run(second, xrays)))


@pytest.mark.parametrize("view", [0, 1])
def test_both_xrays_shape_every_stage(small_cascade: Build, awaken: Awaken, xrays, view: int):
    model = awaken(small_cascade())
    other = xrays.clone()
    other[:, view] = other[:, view].flip(-1)
    for before, after in zip(run(model, xrays), run(model, other)):
        assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_of_the_encoder_moves_its_own_stage_and_none_before_it(
    small_cascade: Build, awaken: Awaken, xrays, level: int
):
    model = awaken(small_cascade())
    before = run(model, xrays)
    randomise(model.encoder.levels[level].parameters())
    changed = [not torch.equal(a, b) for a, b in zip(before, run(model, xrays))]
    assert changed == [stage >= level for stage in (0, 1, 2)]


def test_another_geometry_reads_the_xrays_elsewhere(small_cascade: Build, awaken: Awaken, geometry, xrays):
    model = awaken(small_cascade())
    opposite = BiplanarGeometry(detector_pixels=128, views=("AP", "RL"))
    with torch.no_grad():
        own, same, other = (model(xrays, g, stages=1)[0] for g in (None, geometry, opposite))
    assert torch.equal(own, same)
    assert not torch.allclose(own, other)
