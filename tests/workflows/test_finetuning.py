"""A training of another anatomy and field of view that starts from weights, by the lines of the workflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from bundle_runs import OVERLAY, ROOT, bundle_run_here, cause_of, stage_configs, write_random_weights
from phantoms import write_knees
from scripts import CheckpointError
from scripts.data.met_records import write_met_records
from scripts.io.shared_overlay import shared_part
from scripts.training.checkpoints import read_checkpoint

KNEE = ROOT / "bundle" / "configs" / "knee.json"
SMALLER = {"geometry#detector_pixels": 96, "network_def#context_size": 12, "network_def#tokens": 3}
SMALLER |= {"repeats": 4, "vgg": 0}
"""Volumes of 12, 24 and 48 voxels."""


@pytest.fixture(scope="module")
def knees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("knees")
    write_knees(folder)
    return folder


@pytest.fixture(scope="module")
def small_knee(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset of the knee at small sizes."""
    path = tmp_path_factory.mktemp("configs") / "small_knee.json"
    path.write_text(json.dumps({**json.loads(KNEE.read_text()), **OVERLAY, **SMALLER}))
    return path


@pytest.fixture(scope="module")
def weights(small_knee: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That have met one of the test section's knees."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "overlay.json").write_text(json.dumps(shared_part(json.loads(small_knee.read_text()))))
    path = write_random_weights(folder / "stage3_best.pth", folder / "overlay.json")
    met = [{"ct": "elsewhere.nii.gz", "collection": "LIDC-IDRI", "licence": "CC BY 3.0"}, {"ct": "knee_3.nii.gz"}]
    write_met_records(str(path), {"training": met, "validation": [], "met": []})
    return path


def train(stage: int, overlay: Path, knees: Path, output: Path, weights: Path, **further) -> list[dict]:
    """Trains a stage from weights, and returns the log of its epochs."""
    places = {"dataset_dir": knees, "ckpt_dir": output, "output_dir": output, "start_from": weights}
    bundle_run_here("training", stage_configs(stage, overlay), **places, **further)
    return list(map(json.loads, (output / f"stage{stage}_epochs.jsonl").read_text().splitlines()))


@pytest.fixture(scope="module")
def tuned(small_knee: Path, knees: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of the first stage."""
    folder = tmp_path_factory.mktemp("tuned")
    train(1, small_knee, knees, folder, weights)
    return folder


def test_without_a_step_the_weights_are_those_that_it_started_from_with_the_trained_base(
    tuned: Path, small_knee: Path, knees: Path, weights: Path, tmp_path: Path
):
    for name in ("stage1_best.pth", "stage1_best_training.json"):
        (tmp_path / name).write_bytes((tuned / name).read_bytes())
    train(2, small_knee, knees, tmp_path, weights, learning_rate=0.0, epochs=1)
    base, start = read_checkpoint(str(tuned / "stage1_best.pth")), read_checkpoint(str(weights))
    found = read_checkpoint(str(tmp_path / "stage2_best.pth"))
    assert all(value.equal(base.get(name, start[name])) for name, value in found.items())
    assert any(not value.equal(start[name]) for name, value in base.items())


def test_a_stopped_training_goes_on_from_its_own_checkpoint(
    tuned: Path, small_knee: Path, knees: Path, weights: Path, tmp_path: Path
):
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "resume" / "stage1_epoch0002.pth"
    last.unlink()
    train(1, small_knee, knees, tmp_path, weights)
    for path in (last, tmp_path / "stage1_best.pth"):
        assert path.read_bytes() == (tuned / path.relative_to(tmp_path)).read_bytes()
    other = tmp_path / "other.pth"
    torch.save({name: value + 1 for name, value in read_checkpoint(str(weights)).items()}, other)
    for start in (other, None):
        with pytest.raises(RuntimeError) as caught:
            train(1, small_knee, knees, tmp_path, start)
        assert "belongs to a training with other settings: start_from was " in cause_of(caught.value, CheckpointError)


def test_it_learns_the_knee_and_says_whom_its_weights_have_met(tuned: Path, small_knee, knees, weights, tmp_path):
    (untrained,) = train(1, small_knee, knees, tmp_path, weights, learning_rate=0.0, epochs=1)
    epochs = list(map(json.loads, (tuned / "stage1_epochs.jsonl").read_text().splitlines()))
    assert epochs[-1]["psnr_db"] > untrained["psnr_db"] + 1
    sections = json.loads((tuned / "stage1_best_training.json").read_text())
    datalist, met = (
        json.loads((knees / "datalist.json").read_text()),
        json.loads(weights.with_name("stage3_best_training.json").read_text()),
    )
    assert [record["ct"] for record in sections["training"]] == ["knee_0.nii.gz", "knee_1.nii.gz"]
    assert [record["licence"] for record in sections["training"]] == ["CC BY 4.0"] * 2
    assert [record["ct"] for record in sections["validation"]] == [record["ct"] for record in datalist["validation"]]
    assert sections["met"] == met["training"]


def test_an_evaluation_scores_in_the_knees_window_and_leaves_out_whom_the_weights_have_met(
    tuned: Path, small_knee: Path, knees: Path, tmp_path: Path
):
    asked = {"dataset_dir": knees, "weights": tuned / "stage1_best.pth", "output_dir": tmp_path, "stage": 1}
    bundle_run_here("run", ["bundle/configs/train.json", "bundle/configs/evaluate.json", str(small_knee)], **asked)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert {case["case"] for case in report["worst_cases"]} == {"knee_4"}
    assert report["hu_window"] == [-1024, 2048]
