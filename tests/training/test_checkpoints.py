from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from scripts import CascadeCheckpointLoader, CheckpointError, ProgressiveCascadeModel
from scripts.training.checkpoints import read_checkpoint

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


def as_it_fits(network: torch.nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def test_a_checkpoint_is_opened_once(small_cascade: Build, tmp_path: Path):
    """By Python's own record of what is opened."""
    network = small_cascade().up_to(1)
    path, opened = as_it_fits(network, tmp_path / "best.pth"), []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    start(CascadeCheckpointLoader(str(path), network, 1))
    assert opened.count(str(path)) == 1


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_short_is_damaged(small_cascade: Build, tmp_path: Path, kept: float):
    network = small_cascade().up_to(1)
    path = as_it_fits(network, tmp_path / "best.pth")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    message = refusal(path, network)
    assert "is damaged, it may be cut short" in message and "does not fit" not in message


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the count of bytes that were read is Linux's")
def test_the_bytes_of_a_checkpoint_are_read_once(tmp_path: Path):
    """By the kernel's own count for this process, whoever reads."""
    torch.save({"a": torch.rand(5_000_000)}, tmp_path / "best.pth")

    def read_so_far() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    before = read_so_far()
    read_checkpoint(str(tmp_path / "best.pth"))
    assert 1 <= (read_so_far() - before) / (tmp_path / "best.pth").stat().st_size < 1.1


@pytest.mark.parametrize("place", [0.3, 0.45, 0.6])
def test_a_damaged_checkpoint_is_told_from_one_that_does_not_fit(small_cascade: Build, tmp_path: Path, place: float):
    network = small_cascade().up_to(1)
    path = as_it_fits(network, tmp_path / "best.pth")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 255
    path.write_bytes(content)
    message = refusal(path, network)
    assert "damaged" in message and "does not fit the network" not in message
    assert "does not fit the network" in refusal(as_it_fits(small_cascade().up_to(2), path), network)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"<html><body>404</body></html>", "a web page"),
    ],
)
def test_what_lies_in_the_place_of_a_checkpoint_is_called_by_its_name(
    small_cascade, tmp_path, content: bytes, message: str
):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert message in refusal(path, small_cascade().up_to(1))


def test_nothing_compressed_is_inflated(small_cascade: Build, tmp_path: Path):
    """A stored checkpoint, packed anew: a few bytes of it could hold gigabytes."""
    network = small_cascade().up_to(1)
    source, packed = as_it_fits(network, tmp_path / "source.pth"), tmp_path / "packed.pth"
    with zipfile.ZipFile(source) as stored, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as deflated:
        for member in stored.namelist():
            deflated.writestr(member, stored.read(member))
    assert "is compressed" in refusal(packed, network)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(small_cascade: Build, tmp_path: Path, value: float):
    network = small_cascade().up_to(1)
    with torch.no_grad():
        network["stages"][0].to_volume.conv.bias.fill_(value)
    assert "'stages.0.to_volume.conv.bias' holds values that are not finite" in refusal(
        as_it_fits(network, tmp_path / "best.pth"), small_cascade().up_to(1)
    )
