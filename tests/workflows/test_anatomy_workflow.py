"""From a first stage to a volume that other people's bodies have helped to, by the workflows of `anatomy.json`."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from bundle_runs import OVERLAY, bundle_run_here, cause_of, read_configs
from scripts import InputError
from scripts.anatomy.atlas import atlas_path, read_atlas
from scripts.data.evidence import read_evidence

QUICK = [{"cells": 0, "size": 16, "steps": 5, "rate": 0.1}, {"cells": 2, "size": 16, "steps": 5, "rate": 0.1}]
TRAIN, STAGE_2 = "bundle/configs/train.json", "bundle/configs/stage2.json"
ANATOMY, INFERENCE = "bundle/configs/anatomy.json", "bundle/configs/inference.json"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small sizes, a short training, and a registration of two levels."""
    path = tmp_path_factory.mktemp("small") / "small.json"
    path.write_text(json.dumps({**OVERLAY, "epochs": 1, "repeats": 4, "vgg": 0, "registration#levels": QUICK}))
    return path


@pytest.fixture(scope="module")
def places(dataset: Path, tmp_path_factory: pytest.TempPathFactory, small: Path) -> dict[str, Path]:
    """The data, and a folder with a first stage of random weights."""
    folder = tmp_path_factory.mktemp("anatomy")
    network = read_configs([TRAIN, ANATOMY, str(small)]).get_parsed_content("network_def")
    torch.manual_seed(0)
    state = {name: weight + 0.05 * torch.randn_like(weight) for name, weight in network.up_to(1).state_dict().items()}
    torch.save(state, folder / "stage1_best.pth")
    return {"dataset_dir": dataset, "ckpt_dir": folder, "output_dir": folder}


@pytest.fixture(scope="module")
def evidence(places: dict[str, Path], small: Path) -> dict[str, bytes]:
    """The files that the workflow `evidence` makes, by their names."""
    bundle_run_here("evidence", [TRAIN, ANATOMY, str(small)], **places)
    return {path.name: path.read_bytes() for path in (places["ckpt_dir"] / "anatomy").iterdir()}


@pytest.fixture(scope="module")
def weights(places: dict[str, Path], small: Path, evidence: dict[str, bytes]) -> str:
    """Stage 2, trained with them; an atlas next to it."""
    bundle_run_here("training", [TRAIN, STAGE_2, ANATOMY, str(small)], **places)
    path = str(places["ckpt_dir"] / "stage2_best.pth")
    bundle_run_here("atlas", [TRAIN, ANATOMY, str(small)], weights=path, **places)
    return path


def test_a_training_without_the_files_says_how_they_are_made(places, small: Path, tmp_path: Path):
    (tmp_path / "stage1_best.pth").write_bytes((places["ckpt_dir"] / "stage1_best.pth").read_bytes())
    with pytest.raises(RuntimeError) as caught:
        bundle_run_here("training", [TRAIN, STAGE_2, ANATOMY, str(small)], **{**places, "ckpt_dir": tmp_path})
    assert "workflow `evidence`" in cause_of(caught.value, InputError)


def test_each_record_of_training_and_validation_has_a_file(evidence: dict[str, bytes], places):
    assert sorted(name.rpartition("_")[0] for name in evidence) == [f"phantom_{number}" for number in range(5)]
    imaging = read_configs([TRAIN]).get_parsed_content("imaging")
    for name in evidence:
        mean, spread = read_evidence(str(places["ckpt_dir"] / "anatomy" / name), imaging)
        assert mean.std() > 0.1 and (spread.max() > 0) == (int(name.split("_")[1]) > 1)  # one neighbour has no spread


def test_a_second_run_makes_none_anew(evidence: dict[str, bytes], places, small: Path):
    run = bundle_run_here("evidence", [TRAIN, ANATOMY, str(small)], **places)
    assert run.parser.get_parsed_content("find_neighbours").state.iteration == 0
    assert evidence == {path.name: path.read_bytes() for path in (places["ckpt_dir"] / "anatomy").iterdir()}


def test_the_training_has_moved_the_convolutions_of_anatomy(weights: str):
    state = torch.load(weights, weights_only=True)
    moved = [name for name, weight in state.items() if "of_anatomy" in name and weight.any()]
    assert moved == ["stages.1.context.stem.of_anatomy.weight", "stages.1.stem.of_anatomy.weight"]


def test_the_atlas_holds_the_training_patients(weights: str):
    atlas = read_atlas(weights, 360.0)
    assert [record["name"] for record in atlas.records] == ["phantom_0", "phantom_1"]
    assert atlas.cts.shape == (2, 1, 32, 32, 32)


def test_inference_finds_neighbours_in_the_atlas_and_says_so_where_there_is_none(
    weights: str, dataset: Path, tmp_path: Path
):
    sizes = {name: value for name, value in OVERLAY.items() if name.split("#")[0] in ("geometry", "network_def")}
    sizes["network_def#evidence"] = read_configs([TRAIN, ANATOMY]).get("network_def#evidence")
    (tmp_path / "sizes.json").write_text(
        json.dumps({**sizes, "network_def#stages": 2, "radiograph_scale": "line_integral"})
    )
    network = read_configs([INFERENCE, str(tmp_path / "sizes.json")]).get_parsed_content("network_def")
    network.up_to(2).load_state_dict(torch.load(weights, weights_only=True))
    whole = tmp_path / "model.pt"
    torch.save(network.state_dict(), whole)
    views = {view: next(dataset.glob(f"*_{view}.nii.gz")) for view in ("frontal", "lateral")}

    def reconstructed(name: str) -> np.ndarray:
        configs = [INFERENCE, str(tmp_path / "sizes.json")]
        bundle_run_here("run", configs, weights=str(whole), output_dir=str(tmp_path / name), **views)
        return np.asarray(nibabel.load(tmp_path / name / "ct.nii.gz").dataobj)

    with pytest.warns(UserWarning, match="model_atlas.nii.gz: no such file.*reconstruct without them"):
        without = reconstructed("without")
    read_atlas(weights, 360.0).write(str(whole))
    assert Path(atlas_path(str(whole))).is_file()
    assert np.abs(reconstructed("with") - without).max() > 1
