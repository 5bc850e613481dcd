"""What a stage starts from, and what it cannot start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scripts import CheckpointError, ImagingModel, ProgressiveCascadeModel, start_from

Build = Callable[..., ProgressiveCascadeModel]


@pytest.fixture
def source(small_cascade: Build) -> ProgressiveCascadeModel:
    network = small_cascade()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_()
    return network


def written(state: object, folder: Path) -> str:
    torch.save(state, folder / "weights.pt")
    return str(folder / "weights.pt")


def started(network: ProgressiveCascadeModel, weights: str, stage: int) -> set[str]:
    """The parameters that are others than before."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start_from(weights, network, stage)
    return {name for name, value in network.state_dict().items() if not value.equal(before[name])}


def own_names(network: ProgressiveCascadeModel, stage: int) -> set[str]:
    before = set(network.up_to(stage - 1).state_dict()) if stage > 1 else set()
    return set(network.up_to(stage).state_dict()) - before


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_starts_from_its_own_part_alone(source, small_cascade: Build, tmp_path: Path, stage: int, capsys):
    """The stages before are those of this training, so that each learns on the volumes that it will get."""
    network, weights = small_cascade(), written(source.state_dict(), tmp_path)
    assert started(network, weights, stage) == own_names(network, stage)
    state = network.state_dict()
    assert all(
        state[name].equal(value) for name, value in source.state_dict().items() if name in own_names(source, stage)
    )
    assert capsys.readouterr().out == f"Stage {stage} starts from {weights}.\n"


def test_weights_of_half_precision_become_the_rounded_values(source, small_cascade: Build, tmp_path: Path):
    network = small_cascade()
    start_from(written({name: value.half() for name, value in source.state_dict().items()}, tmp_path), network, 1)
    for name, value in source.up_to(1).state_dict().items():
        assert network.state_dict()[name].equal(value.half().float())


def test_a_stage_that_the_weights_do_not_hold_is_left_untrained_and_told(source, small_cascade, tmp_path, capsys):
    network, weights = small_cascade(), written(source.up_to(2).state_dict(), tmp_path)
    assert started(network, weights, 2) and not started(network, weights, 3)
    assert f"Stage 3 starts untrained: {weights} holds stages 1 and 2 alone.\n" in capsys.readouterr().out


def test_weights_start_a_network_of_other_voxels_but_not_of_other_positions(small_cascade, geometry, tmp_path):
    """A map of the tokens' positions has as many as there are tokens; nothing else knows how large a volume is."""
    weights = written(small_cascade().state_dict(), tmp_path)
    finer = small_cascade(imaging=ImagingModel(geometry.with_pixels(256), (-1024, 1024), 8.0))
    start_from(weights, finer, 1)
    with pytest.raises(CheckpointError) as caught:
        start_from(weights, small_cascade(tokens=(4, 8, 8)), 1)
    told = f"{weights}: field 'stages.1.context.vit.token_position' has shape (4, 4, 4, 16), expected (8, 8, 8, 16). "
    assert str(caught.value).startswith(told) and "overlay.json" in str(caught.value)


@pytest.mark.parametrize("stage", [1, 3])
def test_what_does_not_fit_any_stage_is_told_before_the_first_is_trained(source, small_cascade, tmp_path, stage: int):
    state = source.state_dict()
    last = "stages.2.convolution.conv.weight"
    lacking = {name: value for name, value in state.items() if name != last}
    cases = {
        "field 'other.weight' is no parameter": state | {"other.weight": torch.zeros(1)},
        f"field '{last}' has shape (3,), expected": state | {last: torch.zeros(3)},
        f"field '{last}' holds values that are not finite": state | {last: state[last] * torch.nan},
        "holds no flat state dict of tensors": {"network": state},
        **({f"lacks field '{last}' of stage 3": lacking} if stage == 3 else {}),
    }
    for message, content in cases.items():
        network, weights = small_cascade(), written(content, tmp_path)
        before = {name: value.clone() for name, value in network.up_to(1).state_dict().items()}
        with pytest.raises(CheckpointError) as caught:
            start_from(weights, network, stage)
        assert str(caught.value).startswith(f"{weights}: {message}")
        assert all(value.equal(before[name]) for name, value in network.up_to(1).state_dict().items())


def test_a_folder_and_a_missing_file_are_named(small_cascade: Build, tmp_path: Path):
    for path, found in ((tmp_path, "is a folder"), (tmp_path / "none.pth", "no such file")):
        with pytest.raises(CheckpointError, match=f"{path}: {found}, expected weights to start from"):
            start_from(str(path), small_cascade(), 1)


def test_weights_without_others_bodies_start_a_network_that_reads_them(source, small_cascade, tmp_path: Path):
    network = small_cascade(evidence=("xrays", "features", "positions", "reprojection", "anatomy"))
    start_from(written(source.state_dict(), tmp_path), network, 2)
    assert network.stages[1].reads_anatomy and not network.stages[1].stem.of_anatomy.weight.any()
