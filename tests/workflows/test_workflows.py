from __future__ import annotations

import ast
import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bundle_runs import ROOT, bundle_run, bundle_run_here, cause_of, next_line, read_configs, stage_configs
from conftest import Trained
from scripts import CheckpointError, InputError

TERMS = {1: ["l1", "ssim"], 2: ["l1", "ssim", "vgg"], 3: ["l1", "ssim", "vgg", "gradient", "drr"]}
EPOCHS, STEPS = 2, 2


def checkpoint(trained: Trained, stage: int) -> dict[str, torch.Tensor]:
    return torch.load(trained.folder / f"stage{stage}_best.pth", weights_only=True)


def digest(tensors: list[torch.Tensor]) -> str:
    """SHA-256 of the bytes of all."""
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def train_here(stage: int, overlay: Path, dataset: Path, folder: Path, **overrides) -> ConfigWorkflow:
    places = {"dataset_dir": dataset, "ckpt_dir": folder, "output_dir": folder}
    return bundle_run_here("training", stage_configs(stage, overlay), **places, **overrides)


def validation_psnr(folder: Path, dataset: Path, overlay: Path, stage: int) -> float:
    """Mean PSNR in dB of a stage's checkpoint over the validation cases, by a formula of its own."""
    parser = read_configs(stage_configs(stage, overlay), dataset_dir=str(dataset))
    model = parser.get_parsed_content("network_def").eval()
    model.up_to(stage).load_state_dict(torch.load(folder / f"stage{stage}_best.pth", weights_only=True), strict=True)
    prepare, decibels = parser.get_parsed_content("validate#evaluator#prepare_batch"), []
    for batch in parser.get_parsed_content("validate#dataloader"):
        xrays, target, *_ = prepare(batch)
        with torch.no_grad():
            volume = model(xrays, stages=stage)[-1][0, 0].clamp(0, 1)
        factor = 64 // len(volume)
        blocks = target["ct"][0, 0].numpy().reshape(*[part for _ in range(3) for part in (len(volume), factor)])
        decibels.append(-10 * np.log10(np.mean((volume.numpy() - blocks.mean((1, 3, 5))) ** 2)))
    return float(np.mean(decibels))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_each_term_of_the_loss_is_in_the_log_of_every_epoch_by_name(trained: Trained, stage: int):
    summaries = re.findall(r"Metrics -- (.*loss.*)", trained.logs[stage - 1])
    assert len(summaries) == EPOCHS
    for summary in summaries:
        terms = {name: float(value) for name, value in re.findall(r"(\w+): (\S+)", summary)}
        assert set(terms) == {"loss", *TERMS[stage]}
        assert all(isfinite(value) and value > 0 for value in terms.values())


@pytest.mark.parametrize(("stage", "weights"), [(1, [1, 0.5]), (2, [1, 0.5, 0.1]), (3, [1, 0.5, 0.1, 0.2, 0.3])])
def test_the_logged_loss_is_the_sum_of_the_logged_terms_by_the_stages_weights(trained: Trained, stage: int, weights):
    for summary in re.findall(r"Metrics -- (.*loss.*)", trained.logs[stage - 1]):
        terms = {name: float(value) for name, value in re.findall(r"(\w+): (\S+)", summary)}
        total = sum(weight * terms[name] for name, weight in zip(TERMS[stage], weights))
        assert terms["loss"] == pytest.approx(total, abs=5e-4)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_progress_bar_names_the_stage_the_epoch_and_the_terms(trained: Trained, stage: int):
    for epoch in range(1, EPOCHS + 1):
        bars = re.findall(rf"Stage {stage} \[{epoch}/{EPOCHS}\]:[^\r\n]*", trained.logs[stage - 1])
        assert any(all(f"{name}=" in bar for name in ["loss", *TERMS[stage]]) for bar in bars)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_each_stage_writes_its_best_weights_and_nothing_else_of_its_kind(trained: Trained, stage: int):
    assert sorted(path.name for path in trained.folder.glob("*.p*t*")) == [f"stage{k}_best.pth" for k in (1, 2, 3)]
    parts = {name.split(".")[0] + "." + ".".join(name.split(".")[1:3]) for name in checkpoint(trained, stage)}
    expected = {f"encoder.levels.{k}" for k in range(stage)} | {f"stages.{k}" for k in range(stage)}
    assert {part if part.startswith("encoder") else part.rsplit(".", 1)[0] for part in parts} == expected


@pytest.mark.parametrize("stage", [1, 2])
def test_the_next_stages_training_leaves_every_bit_of_a_stages_parameters(trained: Trained, stage: int):
    before, after = checkpoint(trained, stage), checkpoint(trained, stage + 1)
    assert set(before) < set(after)
    assert digest(list(before.values())) == digest([after[name] for name in before])


@pytest.mark.parametrize("stage", [1, 2])
def test_the_next_stages_training_leaves_every_bit_of_a_stages_output(trained: Trained, small_cascade, stage: int):
    xrays = torch.rand(1, 2, 128, 128, generator=torch.Generator().manual_seed(1))
    outputs = []
    for trained_stage in (stage, stage + 1):
        model = small_cascade().eval()
        model.up_to(trained_stage).load_state_dict(checkpoint(trained, trained_stage), strict=True)
        with torch.no_grad():
            outputs.append(model(xrays, stages=stage))
    assert outputs[0][-1].std() > 0.01
    assert digest(outputs[0]) == digest(outputs[1])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_each_stage_has_learned(trained: Trained, small_cascade, stage: int):
    """From its start, which is zero in stage 1 and the upsampling of the stage before it in the others."""
    weight = checkpoint(trained, stage)[f"stages.{stage - 1}.to_volume.conv.weight"]
    assert not small_cascade().stages[stage - 1].to_volume.conv.weight.any()
    assert weight.any()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_best_weights_are_those_of_the_best_validation(trained: Trained, dataset: Path, overlay: Path, stage: int):
    logged = [float(value) for value in re.findall(r"Metrics -- psnr_db: (\S+)", trained.logs[stage - 1])]
    assert len(logged) == EPOCHS
    assert max(logged) == pytest.approx(validation_psnr(trained.folder, dataset, overlay, stage), abs=0.01)


@pytest.fixture(scope="module", params=[1, 2, 3])
def events(trained: Trained, request: pytest.FixtureRequest) -> tuple[int, EventAccumulator]:
    accumulator = EventAccumulator(str(trained.folder / "tensorboard" / f"stage{request.param}"))
    accumulator.Reload()
    return request.param, accumulator


def test_tensorboard_holds_each_term_at_each_step_and_the_psnr_of_each_epoch(events):
    stage, accumulator = events
    scalars = {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}
    assert set(scalars) == {"psnr_db", *(prefix + name for name in ["loss", *TERMS[stage]] for prefix in ("", "step/"))}
    for tag, found in scalars.items():
        assert [scalar.step for scalar in found] == list(range(1, (STEPS if "/" in tag else 1) * EPOCHS + 1)), tag
        assert all(isfinite(scalar.value) for scalar in found)
    for epoch, scalar in enumerate(scalars["l1"]):
        steps = scalars["step/l1"][epoch * STEPS : (epoch + 1) * STEPS]
        assert scalar.value == pytest.approx(np.mean([step.value for step in steps]), rel=1e-5)


def test_tensorboard_holds_the_slices_and_the_xrays_of_each_epoch(events):
    _, accumulator = events
    assert set(accumulator.Tags()["images"]) == {"slices", "X-rays and reprojections"}
    for tag in accumulator.Tags()["images"]:
        images = accumulator.Images(tag)
        assert [image.step for image in images] == list(range(1, EPOCHS + 1))
        assert all(min(image.width, image.height) > 300 for image in images)


def parts_of(line: str) -> tuple[list[str], dict[str, str]]:
    """The configs of a `monai.bundle run` line that was printed, and its other options."""
    words = shlex.split(line)
    options = dict(zip(words[words.index("--config_file") :: 2], words[words.index("--config_file") + 1 :: 2]))
    return ast.literal_eval(options.pop("--config_file")), {name[2:]: value for name, value in options.items()}


def test_the_last_stages_next_line_scores_its_weights(trained: Trained):
    configs, options = parts_of(next_line(trained.logs[-1]))
    assert options.pop("bundle_root") == "bundle"
    bundle_run_here("run", configs, **options, training_records=[])
    cases = json.loads((trained.folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))["cases"]
    assert {row["method"] for row in cases} >= {"stage 1", "stage 2", "stage 3"}


@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_of_other_sizes_stops_the_next_stage(
    trained: Trained, dataset: Path, overlay: Path, tmp_path: Path, stage: int
):
    path = tmp_path / f"stage{stage - 1}_best.pth"
    path.write_bytes((trained.folder / path.name).read_bytes())
    with pytest.raises(RuntimeError) as caught:
        train_here(stage, overlay, dataset, tmp_path, **{"network_def#hidden_size": 32})
    message = cause_of(caught.value, CheckpointError)
    assert message.startswith(f"{path}: does not fit the network")
    assert "size mismatch" in message
    assert [found.name for found in tmp_path.glob("*.pth")] == [path.name]


def test_the_checkpoint_of_another_stage_stops_the_next_stage(trained, dataset: Path, overlay: Path, tmp_path: Path):
    (tmp_path / "stage1_best.pth").write_bytes((trained.folder / "stage2_best.pth").read_bytes())
    with pytest.raises(RuntimeError) as caught:
        train_here(2, overlay, dataset, tmp_path)
    assert "stage1_best.pth: does not fit the network" in cause_of(caught.value, CheckpointError)


def test_a_ct_that_cannot_be_used_stops_training_by_its_name(dataset: Path, overlay: Path, tmp_path: Path):
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    records = {"training": [{"ct": "broken.nii.gz"}], "validation": [{"ct": str(dataset / "phantom_0.nii.gz")}]}
    (tmp_path / "datalist.json").write_text(json.dumps(records))
    with pytest.raises(RuntimeError) as caught:
        train_here(1, overlay, tmp_path, tmp_path / "output")
    message = cause_of(caught.value, InputError)
    assert message.startswith(f"{tmp_path}/broken.nii.gz: field 'ct' cannot be read as an image")


def test_a_batch_may_mix_records_with_radiographs_and_without(dataset: Path, overlay: Path):
    mixed = {"dataset_dir": str(dataset), "train#dataset#data": "$scripts.load_records(@datalist, 'test')"}
    batches = list(read_configs(stage_configs(1, overlay), **mixed).get_parsed_content("train#dataloader"))
    assert [(tuple(batch["xrays"].shape), tuple(batch["ct"].shape)) for batch in batches] == [
        ((2, 2, 128, 128), (2, 1, 64, 64, 64))
    ] * 2


def test_training_cts_are_registered_once_and_trained_on(dataset: Path, overlay: Path, tmp_path: Path):
    configs = [*stage_configs(1, overlay), "bundle/configs/anatomy.json", "bundle/configs/register.json"]
    levels = [{"cells": 0, "size": 16, "steps": 2, "rate": 0.1}, {"cells": 2, "size": 16, "steps": 2, "rate": 0.1}]
    sizes = {"volume_size": 16, "grid": 8, "registration#levels": levels}
    bundle_run_here("run", configs, dataset_dir=dataset, output_dir=tmp_path, **sizes)
    weights, datalist = ROOT / "bundle" / "configs" / "weights", str(dataset / "datalist.json")
    train = {"dataset_dir": str(dataset), "datalist": datalist, "shapes_dir": str(tmp_path)}
    parser = read_configs(stage_configs(1, weights, overlay), **train)
    (batch, *_) = parser.get_parsed_content("train#dataloader")
    assert tuple(batch["shapes"].shape) == (batch["ct"].shape[0], 1, 3, 8, 8, 8) and batch["shapes"].abs().max() > 1
    deform = parser.get_parsed_content("train#trainer#prepare_batch#augment").transforms[0]
    assert deform.between.most == 0.5
    validation = next(iter(parser.get_parsed_content("validate#dataloader")))
    assert "shapes" not in validation


STILL = {
    "augment": None,
    "augment_geometry": None,
    "geometry_error": None,
    "augment_xrays": None,
    "network_def#feature_dropout": 0.0,
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$list(@network_def.trainable_parameters())", "lr": 0.1},
}
"""
Without random numbers, which every process draws for itself, and without Adam, which makes a whole step of a gradient
that is zero but for rounding.
"""
MULTI_GPU = Path("bundle/configs/multi_gpu_train.json")


@dataclass
class TwoProcesses:
    """A training of stage 1 by two processes."""

    folder: Path
    overlay: Path
    log: str


@pytest.fixture(scope="module")
def two_processes(dataset: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoProcesses:
    folder = tmp_path_factory.mktemp("two_processes")
    still = folder / "still.json"
    still.write_text(json.dumps({**json.loads(overlay.read_text()), **STILL}))
    places = {"dataset_dir": dataset, "ckpt_dir": folder, "output_dir": folder}
    run = bundle_run("training", stage_configs(1, still, MULTI_GPU), processes=2, **places)
    assert run.returncode == 0, run.stdout[-3000:]
    return TwoProcesses(folder, still, run.stdout)


def test_two_processes_keep_one_set_of_logs_and_files(two_processes: TwoProcesses, dataset: Path):
    """Each of the three validation cases is scored once; the file's keys are those of a single process."""
    folder, log = two_processes.folder, two_processes.log
    writers = {path.name.split(".")[-2] for path in folder.rglob("events.out.tfevents*")}  # numbers of processes
    assert len(writers) == 1
    assert len(re.findall(r"Metrics -- .*loss", log)) == EPOCHS
    assert log.count("Stage 1 has ended after epoch 2") == 1
    assert len((folder / "stage1_epochs.jsonl").read_text().splitlines()) == EPOCHS
    logged = [float(value) for value in re.findall(r"Metrics -- psnr_db: (\S+)", log)]
    assert len(logged) == EPOCHS
    assert max(logged) == pytest.approx(validation_psnr(folder, dataset, two_processes.overlay, 1), abs=0.01)
    assert [path.name for path in folder.glob("*.pth")] == ["stage1_best.pth"]


def test_two_processes_learn_what_one_learns_from_the_doubled_batch(two_processes, dataset: Path, tmp_path: Path):
    train_here(1, two_processes.overlay, dataset, tmp_path, batch_size=4)
    together = checkpoint(Trained(two_processes.folder, []), 1)
    for name, alone in checkpoint(Trained(tmp_path, []), 1).items():
        torch.testing.assert_close(
            together[name], alone, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    lines = [
        [json.loads(line) for line in (folder / "stage1_epochs.jsonl").read_text().splitlines()]
        for folder in (two_processes.folder, tmp_path)
    ]
    for one, other in zip(*lines):
        assert {key: one[key] for key in ("epoch", "step")} == {key: other[key] for key in ("epoch", "step")}
        for key in ("loss", "l1", "ssim", "psnr_db"):
            assert one[key] == pytest.approx(other[key], rel=1e-4)


def test_a_worker_that_dies_is_restarted_and_goes_on(two_processes, dataset: Path, tmp_path: Path, monkeypatch):
    """One of two is killed after the second epoch's step, before that is saved; the bytes are as if it had not been."""
    killer = {"_target_": "killed_runs.Killer", "step": 2, "rank": 1}
    (tmp_path / "killer.json").write_text(json.dumps({"+train#handlers": [killer]}))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # see training.md
    configs = stage_configs(1, two_processes.overlay, MULTI_GPU, tmp_path / "killer.json")
    places = {"dataset_dir": dataset, "ckpt_dir": tmp_path, "output_dir": tmp_path}
    run = bundle_run("training", configs, processes=2, restarts=1, **places)
    assert run.returncode == 0, run.stdout
    assert "exitcode: -9" in run.stdout
    assert run.stdout.count("Goes on after epoch 1.") == 2  # each process says so
    for name in ("stage1_best.pth", "resume/stage1_epoch0002.pth"):
        assert (tmp_path / name).read_bytes() == (two_processes.folder / name).read_bytes(), name
