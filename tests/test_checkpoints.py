from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from scripts import CascadeCheckpointLoader, CheckpointError, ProgressiveCascadeModel

Build = Callable[..., ProgressiveCascadeModel]


def start(loader: CascadeCheckpointLoader) -> None:
    """Attaches the loader to an engine and runs that on one item."""
    engine = Engine(lambda engine, batch: None)
    engine.logger.disabled = True
    loader.attach(engine)
    engine.run([0], max_epochs=1)


def refusal(path: Path, network: torch.nn.Module, stage: int = 1) -> str:
    with pytest.raises(CheckpointError) as caught:
        start(CascadeCheckpointLoader(str(path), network, stage))
    assert str(path) in str(caught.value)
    assert "python -m monai.bundle run training" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_checkpoint_goes_into_the_cascade_when_the_engine_starts(small_cascade: Build, tmp_path: Path, stage: int):
    source, target = small_cascade(), small_cascade()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.uniform_()
    torch.save(source.up_to(stage).state_dict(), tmp_path / "best.pth")
    loader = CascadeCheckpointLoader(str(tmp_path / "best.pth"), target.up_to(stage), stage)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    start(loader)
    loaded = source.up_to(stage).state_dict()
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, loaded.get(name, before[name])), name
    assert 0 < len(loaded) < len(before)


def test_nothing_is_read_before_the_engine_starts(small_cascade: Build, tmp_path: Path):
    CascadeCheckpointLoader(str(tmp_path / "nowhere.pth"), small_cascade().up_to(1), 1)


def test_a_loaded_cascade_keeps_the_engines_epochs(small_cascade: Build, tmp_path: Path):
    network = small_cascade().up_to(1)
    torch.save(network.state_dict(), tmp_path / "best.pth")
    engine = Engine(lambda engine, batch: None)
    CascadeCheckpointLoader(str(tmp_path / "best.pth"), network, 1).attach(engine)
    assert engine.run([0, 1], max_epochs=3).epoch == 3


def test_a_missing_checkpoint_is_named_with_the_command_that_makes_it(small_cascade: Build, tmp_path: Path):
    path = tmp_path / "stage1_best.pth"
    assert "no such checkpoint" in refusal(path, small_cascade().up_to(1))
    assert "stage2.json" not in refusal(path, small_cascade().up_to(1), stage=1)
    assert "stage2.json" in refusal(path, small_cascade().up_to(2), stage=2)


def test_a_folder_is_no_checkpoint(small_cascade: Build, tmp_path: Path):
    refusal(tmp_path, small_cascade().up_to(1))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a checkpoint"])
def test_a_file_of_something_else_is_refused(small_cascade: Build, tmp_path: Path, content: bytes):
    path = tmp_path / "stage1_best.pth"
    path.write_bytes(content)
    refusal(path, small_cascade().up_to(1))


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {}, {"network": {}}, {"epoch": 3}])
def test_an_object_that_is_no_state_dict_of_the_network_is_refused(small_cascade: Build, tmp_path: Path, content):
    path = tmp_path / "stage1_best.pth"
    torch.save(content, path)
    refusal(path, small_cascade().up_to(1))


def test_a_checkpoint_of_another_width_is_refused_with_its_shapes(small_cascade: Build, tmp_path: Path):
    path = tmp_path / "stage1_best.pth"
    torch.save(small_cascade(hidden_size=32).up_to(1).state_dict(), path)
    message = refusal(path, small_cascade().up_to(1))
    assert "does not fit the network" in message
    assert "size mismatch" in message


def test_a_checkpoint_with_keys_that_the_network_lacks_is_refused(small_cascade: Build, tmp_path: Path):
    path = tmp_path / "stage1_best.pth"
    torch.save(small_cascade().up_to(1).state_dict() | {"surplus.weight": torch.zeros(1)}, path)
    assert "surplus.weight" in refusal(path, small_cascade().up_to(1))


def test_a_checkpoint_of_a_later_or_an_earlier_stage_is_refused(small_cascade: Build, tmp_path: Path):
    model = small_cascade()
    for saved, wanted in ((2, 1), (1, 2)):
        path = tmp_path / f"stage{saved}_best.pth"
        torch.save(model.up_to(saved).state_dict(), path)
        refusal(path, model.up_to(wanted), stage=wanted)


def test_a_long_list_of_differences_is_cut_short(small_cascade: Build, tmp_path: Path):
    path = tmp_path / "stage1_best.pth"
    torch.save(small_cascade().up_to(3).state_dict(), path)
    assert len(refusal(path, small_cascade().up_to(1))) < 2500
