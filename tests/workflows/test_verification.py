"""MONAI's own verbs for bundles: verification, export, loading from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from monai.bundle import (
    ckpt_export,
    create_workflow,
    init_bundle,
    load,
    onnx_export,
    verify_metadata,
    verify_net_in_out,
)
from monai.data import load_net_with_metadata

from bundle_runs import ROOT, network_of
from fake_gpu import fake_gpu
from scripts import ProgressiveCascadeModel

METADATA = ROOT / "bundle" / "configs" / "metadata.json"
SCHEMA = Path(__file__).with_name("metadata_schema.json")


@pytest.fixture
def metadata() -> dict[str, Any]:
    return json.loads(METADATA.read_text(encoding="utf-8"))


def loaded(network: torch.nn.Module, bundle: Path) -> torch.nn.Module:
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True), strict=True)
    return network.eval()


def test_the_metadata_is_what_the_specification_asks_for():
    """By the tests' schema, which lies where MONAI would download its own to."""
    verify_metadata(str(METADATA), filepath=str(SCHEMA))


def test_the_network_takes_and_returns_what_the_metadata_says():
    """By tensors without values, see :mod:`fake_gpu`: shapes and types of the whole network are what is asked."""
    configs = ROOT / "bundle" / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    with fake_gpu():
        verify_net_in_out("network_def", device="cuda", **files)


@pytest.mark.parametrize(
    ("configs", "kind"),
    [(["train"], "train"), (["train", "stage2"], "train"), (["train", "stage3"], "train")]
    + [(["train", "evaluate"], "evaluation"), (["inference"], "inference")],
)
def test_a_workflow_has_every_property_that_monai_asks_for(
    tiny_bundle: Path, dataset: Path, tmp_path: Path, configs: list[str], kind: str
):
    files = [str(tiny_bundle / "configs" / f"{name}.json") for name in configs]
    places = {"dataset_dir": str(dataset), "output_dir": str(tmp_path)}
    draws = {"mean_volume_draws": 1} if "evaluate" in configs else {}
    workflow = create_workflow(config_file=files, workflow_type=kind, logging_file=False, **places, **draws)
    assert workflow.check_properties() == []


def test_an_exported_checkpoint_gives_the_volume_of_the_network(tiny_bundle: Path, tmp_path: Path):
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        config_file=str(tiny_bundle / "configs" / "inference.json"),
        bundle_root=str(tiny_bundle),
        use_trace=True,
        converter_kwargs={"check_trace": False},
    )
    exported, metadata, extra = load_net_with_metadata(str(tmp_path / "model.ts"), more_extra_files=["inference.json"])
    assert metadata["version"] == json.loads(METADATA.read_text(encoding="utf-8"))["version"]
    assert json.loads(extra["inference.json"])["network_def"]["_target_"] == "scripts.FinalVolumeModel"
    xrays, network = torch.rand(1, 2, 128, 128), loaded(network_of(tiny_bundle), tiny_bundle)
    with torch.no_grad():
        volume = network(xrays)
        torch.testing.assert_close(exported(xrays), volume, rtol=1e-5, atol=1e-5)
    assert volume.std() > 0.01


@pytest.mark.slow
def test_stage_1_exported_to_onnx_gives_the_networks_volume_in_onnx_runtime(tiny_bundle: Path, tmp_path: Path):
    onnx_export(
        "network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(tiny_bundle / "models" / "model.pt"),
        meta_file=str(tiny_bundle / "configs" / "metadata.json"),
        config_file=str(tiny_bundle / "configs" / "inference.json"),
        **{"network_def#stages": 1},
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    xrays, network = torch.rand(1, 2, 128, 128), loaded(network_of(tiny_bundle), tiny_bundle)
    (exported,) = session.run(None, {session.get_inputs()[0].name: xrays.numpy()})
    with torch.no_grad():
        volume = ProgressiveCascadeModel.forward(network, xrays, stages=1)[-1]
    torch.testing.assert_close(torch.from_numpy(exported), volume, rtol=1e-5, atol=1e-5)
    assert volume.std() > 0.01


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_a_bundle_is_loaded_from_python_with_its_weights(tiny_bundle: Path, kind: str):
    network = load(tiny_bundle.name, bundle_dir=str(tiny_bundle.parent), workflow_type=kind, device="cpu")
    assert isinstance(network, ProgressiveCascadeModel)
    weights = torch.load(tiny_bundle / "models" / "model.pt", weights_only=True)
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(found, weights[name]) for name, found in network.state_dict().items())


def test_a_new_bundle_starts_from_the_configs_and_weights_of_this_one(tiny_bundle: Path, metadata, tmp_path: Path):
    configs = tiny_bundle / "configs"
    init_bundle(
        tmp_path / "derived",
        ckpt_file=tiny_bundle / "models" / "model.pt",
        dataset_license=True,
        metadata_str=metadata,
        inference_str=(configs / "inference.json").read_text(encoding="utf-8"),
    )
    assert json.loads((tmp_path / "derived" / "configs" / "metadata.json").read_text()) == metadata
    network, source = (loaded(network_of(folder), folder) for folder in (tmp_path / "derived", tiny_bundle))
    xrays = torch.rand(1, 2, 128, 128)
    with torch.no_grad():
        assert torch.equal(network(xrays), source(xrays))
