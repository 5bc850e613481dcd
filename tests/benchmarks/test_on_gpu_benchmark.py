"""The measurements for a GPU, tried out on the CPU, and the training in calls that end in time."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import list_data_collate
from monai.engines import SupervisedTrainer

from bundle_runs import OVERLAY, ROOT, bundle_run_here, stage_configs
from fake_gpu import fake_gpu
from scripts import BiplanarGeometry
from scripts.io.stage_overlays import configs_of

sys.path.insert(0, str(ROOT / "benchmarks"))

import on_gpu  # noqa: E402
import on_gpu_cases as cases  # noqa: E402
import processes  # noqa: E402

COMMAND = [sys.executable, "benchmarks/on_gpu.py"]
FOR_A_GPU = ROOT / "benchmarks" / "on_gpu_weights"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, __file__])
    pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""
"""A program that does not end when it is asked to, nor does the child that it starts."""


def is_running(pid: int) -> bool:
    """Whether it runs; one that has ended and that nobody has asked after does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def small_overlay(folder: Path, **further: Any) -> Path:
    path = folder / "small.json"
    path.write_text(json.dumps({**OVERLAY, "vgg": 0, "epochs": 3, **further}))
    return path


# measuring


@without_gpu
def test_without_a_gpu_it_says_how_to_try_it_out(capsys, tmp_path: Path):
    report = tmp_path / "report.json"
    assert on_gpu.main(["--output", str(report)]) == 1
    message = capsys.readouterr().err
    assert "no GPU" in message and "--device cpu --quick" in message
    assert not report.exists()
    assert on_gpu.main(["--device", "cuda", "--output", str(report)]) == 1
    assert "finds 0 of the kind 'cuda'" in capsys.readouterr().err


@pytest.mark.slow
def test_every_part_is_measured_on_the_cpu(tmp_path: Path, capsys):
    report = tmp_path / "report.json"
    assert on_gpu.main(["--device", "cpu", "--quick", "--output", str(report)]) == 0
    content = json.loads(report.read_text())
    assert content["finished"] and not content["errors"] and not content["left_out"]
    parts = content["parts"]
    assert [*parts, "compiled"] == list(on_gpu.PARTS)
    measured = [figures for part in on_gpu.PARTS[1:-1] for figures in parts[part]]
    units = [[value for name, value in figures.items() if name.endswith(("_s", "_bytes"))] for figures in measured]
    assert all(values and min(values) > 0 for values in units)
    steps = {step["what"]: step for step in parts["steps"]}
    assert steps["stage 3, crop 32, planned"]["planned_bytes"] < steps["stage 3, planned"]["planned_bytes"]
    assert parts["inference"][0]["largest_difference_hu"] == 0  # the CPU against itself
    assert {"date", "gpu", "driver", "cuda", "commit", "packages"} <= content["machine"].keys()
    assert content["machine"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    table = capsys.readouterr().out
    assert all(figures["what"] in table for figures in measured)


def test_the_step_is_the_trainers():
    """From the same weights, batch and random numbers it leaves the weights that MONAI's trainer leaves."""

    def new_step() -> cases.TrainingStep:
        config = cases.configuration(["train.json"], "cpu", quick=True)
        config.update({"vgg_weights": "untrained", "amp": False})
        return cases.TrainingStep(config, "cpu")

    batch = list_data_collate([cases.chest(cases.configuration(["train.json"], "cpu", quick=True))] * 2)
    measured, trained = new_step(), new_step()
    trained.network.load_state_dict(measured.network.state_dict())
    before = copy.deepcopy(measured.network.state_dict())
    torch.manual_seed(1)
    measured.take(measured.prepare(batch))
    measured()
    parts = {"network": trained.network, "optimizer": trained.optimizer, "loss_function": trained.loss}
    prepare = trained.prepare.func
    trainer = SupervisedTrainer("cpu", 1, [batch], **parts, prepare_batch=prepare, decollate=False)
    torch.manual_seed(1)
    trainer.run()
    after = trained.network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(value, after[name]) for name, value in measured.network.state_dict().items())


@pytest.mark.parametrize(("stage", "crop"), [(1, None), (2, None), (3, 32)])
def test_a_step_on_cubes_that_lie_on_the_gpu_mixes_no_devices(stage: int, crop: int | None):
    """By tensors without values, see :mod:`fake_gpu`; with the overlay that keeps the cubes on the GPU."""
    names = ["train.json", *([f"stage{stage}.json"] if stage > 1 else []), *configs_of(FOR_A_GPU, stage)]
    with fake_gpu():
        config = cases.configuration(names, "cuda", quick=True)
        config.update({"vgg_weights": "untrained", "amp": True, "crop": crop, "batch_size": 2})
        record = cases.chest(config)
        assert record["ct"].is_cuda and record["xrays"].is_cuda
        step = cases.TrainingStep(config, "cuda")
        step.take(step.prepare(list_data_collate([record] * 2)))
        step()
        assert step.xrays.is_cuda and step.loss_value == 1  # the value of every fake tensor


def test_inference_and_lift_mix_no_devices(monkeypatch: pytest.MonkeyPatch):
    def once(run: Callable[[], Any], device: str, repeats: int) -> tuple[float, dict[str, int]]:
        volume = run()
        return (0.0 if volume is None or volume.is_cuda else -1.0), {}

    monkeypatch.setattr(cases, "_measured", once)  # a fake GPU has no clock and no memory
    with fake_gpu():
        assert cases.inference("bfloat16", "cuda", quick=True, repeats=1)["run_s"] == 0.0
        features = torch.rand(1, 2, 3, 32, 32, device="cuda", requires_grad=True)
        assert cases.lift_features(features, BiplanarGeometry(detector_pixels=32), 16).is_cuda


def test_what_is_measured_on_is_a_chest():
    config = cases.configuration(["train.json"], "cpu", quick=True)
    chest = cases.chest(config)
    assert chest["ct"].shape == (1, 64, 64, 64) and chest["ct"].min() >= -1000 and chest["ct"].max() > 100
    xrays = config.get_parsed_content("imaging").project(chest["ct"].as_tensor()[None])[0]
    assert 0.5 < xrays.max() < 1.5


def test_what_fails_is_named_and_the_next_is_measured(tmp_path: Path):
    report = on_gpu.Report(tmp_path / "report.json")
    chosen = [
        on_gpu.Case("steps", "broken", json.loads, {"s": "nonsense"}),
        on_gpu.Case("steps", "peer", dict, {}, needs="package_that_nobody_has"),
        on_gpu.Case("steps", "sound", dict, {"run_s": 1.0}),
    ]
    on_gpu.measure(report, chosen, time.monotonic() + 60)
    on_gpu.measure(report, chosen[2:], time.monotonic() + 1)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["parts"] == {"steps": [{"what": "sound", "run_s": 1.0}]}
    message = content["errors"][0]["message"]
    assert message.startswith("Traceback") and "JSONDecodeError: Expecting value" in message
    assert content["missing"][0]["message"] == "package package_that_nobody_has is not installed"
    assert content["left_out"] == [{"part": "steps", "what": "sound", "message": "no time was left"}]
    assert not content["finished"]


def test_what_was_measured_is_in_the_file_when_it_is_killed(tmp_path: Path):
    report = tmp_path / "report.json"
    options = ["--device", "cpu", "--quick", "--parts", "inference", "projector", "--output", str(report)]
    process = subprocess.Popen([*COMMAND, *options], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (report.is_file() and json.loads(report.read_text())["parts"]):
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    content = json.loads(report.read_text())
    assert content["parts"]["inference"][0]["run_s"] > 0 and not content["finished"]


def test_a_worker_is_used_again_until_it_fails():
    worker = processes.Worker()
    first = worker.call(os.getpid, 60)
    assert worker.call(os.getpid, 60) == first != os.getpid()
    with pytest.raises(processes.WorkFailed, match="JSONDecodeError: Expecting value"):
        worker.call(json.loads, 60, s="nonsense")
    second = worker.call(os.getpid, 60)
    assert second != first and not is_running(first)
    with pytest.raises(processes.WorkFailed, match="took longer than the 0 s"):
        worker.call(signal.pause, 0.1)
    assert not is_running(second)
    with pytest.raises(processes.WorkFailed, match="its process ended with status 3"):
        worker.call(os._exit, 60, status=3)
    assert worker.call(os.getpid, 60) not in (first, second)
    worker.close()


# training


def test_nothing_of_a_command_is_left_when_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "GRACE", 0.5)
    program, child = tmp_path / "stubborn.py", tmp_path / "child"
    program.write_text(STUBBORN)
    with pytest.raises(processes.TimeUp):
        processes.run_until([sys.executable, str(program), str(child)], time.monotonic() + 3)
    assert not is_running(int(child.read_text()))


def test_a_commands_status_is_given():
    assert processes.run_until([sys.executable, "-c", "raise SystemExit(3)"], time.monotonic() + 60) == 3


@pytest.mark.parametrize("goes_on", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_training_is_stopped_and_ends_with_the_bytes_of_one_left_alone(
    dataset: Path, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch, goes_on: bool
):
    """Whether it is only stopped, as in the suite, or goes on as well."""
    monkeypatch.chdir(ROOT)
    out, alone = tmp_path / "out", tmp_path / "alone"
    overlay = tmp_path / "small.json"
    overlay.write_text(json.dumps({**OVERLAY, "vgg": 0, "epochs": 3}))
    options = ["--device", "cpu", "--output", str(out), "--overlay", str(FOR_A_GPU), str(overlay)]
    options += ["--datalist", str(dataset / "datalist.json")]
    places = ["--dataset_dir", str(dataset)]

    assert on_gpu.main(["--train", "1", *options]) == 1
    assert "has no cubes: say by --dataset_dir" in capfd.readouterr().err
    assert on_gpu.main(["--train", "0.0001", *options, *places]) == 75
    message = capfd.readouterr().out
    assert "Stage 1: none of 3 epochs" in message and "the same command goes on" in message
    fewer = json.loads((dataset / "datalist.json").read_text())
    fewer["training"].pop()
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    assert on_gpu.main(["--train", "5", *options[:-1], str(tmp_path / "fewer.json"), *places]) == 1
    assert "is of other records than" in capfd.readouterr().err
    line = [*COMMAND, "--train", "5", *options, *places]
    stopped = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while stopped.poll() is None and not (out / "stage1_epochs.jsonl").is_file():
        time.sleep(0.02)
    stopped.terminate()
    message, _ = stopped.communicate()
    assert stopped.returncode == 75 and "of 3 epochs" in message and not (out / "stage3_best.pth").exists()
    if not goes_on:
        return
    assert on_gpu.main(["--train", "5", *options]) == 0
    assert "The weights are in" in capfd.readouterr().out
    assert on_gpu.main(["--train", "0.0001", *options]) == 0

    for stage in (1, 2, 3):
        configs = stage_configs(stage, out / "on_gpu")
        bundle_run_here("training", configs, dataset_dir=out / "cubes", ckpt_dir=alone, output_dir=alone)
        assert (out / f"stage{stage}_best.pth").read_bytes() == (alone / f"stage{stage}_best.pth").read_bytes()

    overlay.write_text(json.dumps({**OVERLAY, "vgg": 0, "epochs": 4}))
    assert on_gpu.main(["--train", "5", *options]) == 1
    assert "has other values of epochs" in capfd.readouterr().err
