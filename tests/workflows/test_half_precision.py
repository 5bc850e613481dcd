from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from scripts import CascadeCheckpointLoader, CheckpointError, FinalVolumeModel
from scripts.data.known_views import read_known_views, write_known_views
from scripts.data.met_records import read_met_records, write_met_records
from scripts.half_precision import main, write_half_precision


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    """Saves something, and writes it in half precision; returns the path of that."""

    def written(state: object, name: str = "half.pt") -> Path:
        torch.save(state, tmp_path / "whole.pth")
        write_half_precision(str(tmp_path / "whole.pth"), str(tmp_path / name))
        return tmp_path / name

    return written


def test_a_network_loads_it_strictly_and_gives_the_volume_of_the_rounded_weights(small_cascade, awaken, write):
    source, loaded = awaken(small_cascade(FinalVolumeModel)).eval(), small_cascade(FinalVolumeModel).eval()
    path = write(source.state_dict())
    CascadeCheckpointLoader(str(path), loaded, stage=3)(Engine(lambda engine, batch: None))
    exact = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    rounded = {name: torch.from_numpy(tensor.numpy().astype("float16")).float() for name, tensor in exact.items()}
    assert any(not rounded[name].equal(tensor) for name, tensor in exact.items())
    source.load_state_dict(rounded, strict=True)
    xrays = torch.rand(1, 2, 128, 128)
    with torch.no_grad():
        volume = loaded(xrays)
        assert volume.dtype == torch.float32
        assert volume.equal(source(xrays))
    assert {tensor.dtype for tensor in torch.load(path, weights_only=True).values()} == {torch.float16}


def test_the_same_weights_give_the_same_bytes(small_cascade, write):
    """Whatever kind of mapping holds them, and however they lie in memory."""
    state = small_cascade().state_dict()
    assert isinstance(state, OrderedDict) and hasattr(state, "_metadata")
    whole = write(state, "first.pt").read_bytes()
    transposed = {name: tensor.T.clone().T if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    assert any(not tensor.is_contiguous() for tensor in transposed.values())
    assert write(transposed, "second.pt").read_bytes() == whole


def test_whole_numbers_stay_as_they_are(write):
    state = {"weight": torch.tensor([0.1]), "count": torch.tensor([70_000])}
    loaded = torch.load(write(state), weights_only=True)
    assert loaded["count"].equal(state["count"]) and loaded["count"].dtype == torch.int64
    assert loaded["weight"].item() == 1638 / 2**14  # the nearest of 11 significant bits


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.ones(2), "b": torch.tensor([1.0, -7e4])}, "'b' holds a magnitude of 70000, expected finite"),
        ({"a": torch.tensor([float("nan")])}, "'a' holds a magnitude of nan"),
        ({"epoch": 3}, "'epoch' is a int, expected a tensor"),
        ([torch.ones(1)], "holds a list, expected a flat state dict"),
        ({}, "holds a dict, expected a flat state dict"),
    ],
)
def test_what_half_precision_cannot_hold_is_refused_and_an_earlier_file_stays(
    write, tmp_path: Path, state, message: str
):
    (tmp_path / "half.pt").write_text("earlier")
    with pytest.raises(CheckpointError) as caught:
        write(state)
    assert str(caught.value).startswith(f"{tmp_path}/whole.pth: ") and message in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.pt", "whole.pth"]
    assert (tmp_path / "half.pt").read_text() == "earlier"


def test_the_largest_value_is_kept(write):
    assert torch.load(write({"a": torch.tensor([-65504.0])}), weights_only=True)["a"].item() == -65504


def test_the_command_tells_what_it_wrote_or_why_not(tmp_path: Path, capsys):
    torch.save({"a": torch.tensor([1.0, 2.0**-9 + 1])}, tmp_path / "whole.pth")
    assert main([str(tmp_path / "whole.pth"), str(tmp_path / "half.pt")]) == 0
    assert f"{tmp_path}/half.pt: 1 tensors" in (message := capsys.readouterr().out)
    assert message.endswith("no value has changed by more than 0.0e+00.\n")
    assert main([str(tmp_path / "nowhere.pth"), str(tmp_path / "other.pt")]) == 1
    assert capsys.readouterr().err.startswith(f"\nerror: {tmp_path}/nowhere.pth: cannot be read as a checkpoint")
    assert not (tmp_path / "other.pt").exists()


def test_the_views_and_records_that_weights_have_met_go_with_them(tmp_path: Path):
    weights, output = tmp_path / "stage3_best.pth", tmp_path / "model.pt"
    torch.save({"a": torch.ones(3)}, weights)
    write_half_precision(str(weights), str(output))
    assert read_known_views(str(output)) is None and read_met_records(str(output)) is None
    write_known_views(str(weights), [("PA", "LL"), ("AP", "LL")])
    records = {"training": [{"ct": "a.nii.gz"}], "validation": [], "met": [{"ct": "b.nii.gz", "licence": "CC0"}]}
    write_met_records(str(weights), records)
    write_half_precision(str(weights), str(output))
    assert read_known_views(str(output)) == [("PA", "LL"), ("AP", "LL")]
    assert read_met_records(str(output)) == records
